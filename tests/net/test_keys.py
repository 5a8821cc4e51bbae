"""Keys: what is made can be loaded by the node it is for, and by nobody else."""

from __future__ import annotations

import os
import re
import resource
import stat
import time
from typing import TYPE_CHECKING, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from mirrorha.errors import LocalUsageError
from mirrorha.net.certificates import WITNESS
from mirrorha.net.keys import (
    HEARTBEAT_KEY_BYTES,
    KeysCreated,
    NodeKeys,
    create_keys,
    load_keys,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW_S: Final = 1_800_000_000.0
DAY_S: Final = 86_400
CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.S)
PRIVATE_KEY: Final = re.compile(r"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n", re.S)


def make(directory: Path, *, cluster: str = "orders", days: int = 100) -> KeysCreated:
    return create_keys(
        directory, cluster=cluster, nodes=["paris", "lyon"], days=days, clock=lambda: NOW_S
    )


def load(
    path: Path, node: str = "paris", *, cluster: str | None = None, after_days: float = 0
) -> NodeKeys:
    return load_keys(path, node=node, cluster=cluster, clock=lambda: NOW_S + after_days * DAY_S)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make(tmp_path / "keys")
    return tmp_path / "keys"


def test_every_node_gets_one_file(tmp_path: Path) -> None:
    created = make(tmp_path / "new" / "keys")
    assert sorted(path.name for path in (tmp_path / "new" / "keys").iterdir()) == [
        "orders-ca.key",
        "orders-lyon.keys",
        "orders-paris.keys",
        "orders-witness.keys",
    ]
    assert set(created.bundles) == {"paris", "lyon", WITNESS}
    assert created.not_after_s == NOW_S + 100 * DAY_S
    for path in (*created.bundles.values(), created.authority_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new" / "keys").stat().st_mode) == 0o700


def test_a_umask_does_not_open_the_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        created = make(tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE(created.bundles["paris"].stat().st_mode) == 0o600


def test_a_node_never_sees_another_private_key(directory: Path) -> None:
    texts = [path.read_text() for path in sorted(directory.iterdir())]
    keys = [key for text in texts for key in PRIVATE_KEY.findall(text)]
    assert len(keys) == len(texts) == len(set(keys)) == 4


@pytest.mark.parametrize("as_file", [True, False])
def test_keys_can_be_loaded(directory: Path, as_file: bool) -> None:
    keys = load(directory / "orders-lyon.keys" if as_file else directory, "lyon")
    assert (keys.cluster, keys.node) == ("orders", "lyon")
    assert keys.path == directory / "orders-lyon.keys"
    assert keys.not_after_s == NOW_S + 100 * DAY_S
    authority = x509.load_pem_x509_certificate(keys.authority_pem.encode())
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_nodes_share_the_heartbeat_key_and_the_witness_has_none(directory: Path) -> None:
    key = load(directory, "paris").heartbeat_key
    assert len(key) == HEARTBEAT_KEY_BYTES
    assert load(directory, "lyon").heartbeat_key == key
    assert load(directory, WITNESS).heartbeat_key == b""


def test_clusters_share_nothing(tmp_path: Path) -> None:
    make(tmp_path, cluster="orders")
    make(tmp_path, cluster="bills")
    orders = load(tmp_path, cluster="orders")
    bills = load(tmp_path, cluster="bills")
    assert orders.heartbeat_key != bills.heartbeat_key
    assert orders.authority_pem != bills.authority_pem


def test_secrets_do_not_show_in_a_repr(directory: Path) -> None:
    keys = load(directory)
    assert repr(keys.heartbeat_key) not in repr(keys)
    assert "PRIVATE" not in repr(keys)


@pytest.mark.parametrize(
    ("node", "name"),
    [("paris", "paris.orders.mirrorha"), ("lyon", "lyon.orders.mirrorha"), (WITNESS, "orders")],
)
def test_certificates_carry_names(directory: Path, node: str, name: str) -> None:
    pem = CERTIFICATE.findall((directory / f"orders-{node}.keys").read_text())[0]
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {use.dotted_string for use in uses} == {"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"}


def test_the_longest_names_are_possible(tmp_path: Path) -> None:
    cluster, node = "c" * 63, "n" * 63
    create_keys(tmp_path, cluster=cluster, nodes=[node, "b"], clock=lambda: NOW_S)
    assert load(tmp_path, node, cluster=cluster).node == node


# Nothing is ever overwritten.


@pytest.mark.parametrize("name", ["orders-paris.keys", "orders-witness.keys", "orders-ca.key"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(LocalUsageError, match=name):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "orders-paris.keys").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalUsageError, match=r"orders-paris\.keys"):
        make(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_all_that_exists_is_named_at_once(directory: Path) -> None:
    with pytest.raises(LocalUsageError) as caught:
        make(directory)
    for name in ("orders-paris.keys", "orders-lyon.keys", "orders-ca.key"):
        assert name in str(caught.value)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    # A file where a directory is needed: it fails for root as well.
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalUsageError, match="nothing was made"):
        make(tmp_path / "file" / "keys")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_up_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def limited_to(size_bytes: int) -> bool:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
        try:
            make(tmp_path)
        except LocalUsageError:
            return False
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return True

    # The authority's file is the first and the smallest: it still fits, a node's does not.
    assert not limited_to(1200)
    assert list(tmp_path.iterdir()) == []
    assert limited_to(4000)
    assert (tmp_path / "orders-ca.key").stat().st_size < 1200
    assert (tmp_path / "orders-paris.keys").stat().st_size > 1200


@pytest.mark.parametrize(
    ("cluster", "nodes"),
    [
        ("", ["a", "b"]),
        ("Orders", ["a", "b"]),
        ("orders", ["a.b", "c"]),
        ("orders", ["../a", "b"]),
        ("orders", ["-a", "b"]),
        ("orders", ["a-", "b"]),
        ("orders", ["a" * 64, "b"]),
        ("orders", ["a\n", "b"]),
        ("orders", ["a", "a"]),
        ("orders", ["a"]),
        ("orders", ["a", "witness"]),
        ("orders", ["a", "ca"]),
    ],
)
def test_impossible_names_are_refused(tmp_path: Path, cluster: str, nodes: list[str]) -> None:
    with pytest.raises(LocalUsageError):
        create_keys(tmp_path, cluster=cluster, nodes=nodes, clock=lambda: NOW_S)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_impossible_lifetimes_are_refused(tmp_path: Path, days: int) -> None:
    with pytest.raises(LocalUsageError, match="days"):
        make(tmp_path, days=days)


# What must not be loaded.


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o666])
def test_others_must_not_reach_the_file(directory: Path, mode: int) -> None:
    file = directory / "orders-paris.keys"
    file.chmod(mode)
    with pytest.raises(LocalUsageError, match=f"{mode:04o}.*chmod 600"):
        load(directory)
    file.chmod(0o400)
    assert load(directory).node == "paris"


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "orders-paris.keys"):
        with pytest.raises(LocalUsageError, match="mirrorha keys init"):
            load(path)


@pytest.mark.parametrize("make_it", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, make_it: Callable[[Path], None]
) -> None:
    make_it(tmp_path / "orders-paris.keys")
    with pytest.raises(LocalUsageError):
        load(tmp_path)


def test_several_clusters_in_a_directory_need_a_choice(tmp_path: Path) -> None:
    make(tmp_path, cluster="orders")
    make(tmp_path, cluster="bills")
    with pytest.raises(LocalUsageError, match=r"bills-paris\.keys, orders-paris\.keys"):
        load(tmp_path)
    assert load(tmp_path, cluster="bills").cluster == "bills"


def test_another_nodes_file_is_refused(directory: Path) -> None:
    with pytest.raises(LocalUsageError, match="keys of 'lyon', but this is 'paris'"):
        load(directory / "orders-lyon.keys", "paris")
    with pytest.raises(LocalUsageError, match="keys of 'witness', but this is 'paris'"):
        load(directory / "orders-witness.keys", "paris")
    with pytest.raises(LocalUsageError, match="keys of 'paris', but this is 'witness'"):
        load(directory / "orders-paris.keys", WITNESS)


def test_another_clusters_file_is_refused(directory: Path) -> None:
    with pytest.raises(LocalUsageError, match="cluster 'orders', but this is 'bills'"):
        load(directory / "orders-paris.keys", cluster="bills")


def test_expiry(directory: Path) -> None:
    assert load(directory, after_days=99.9).expires_in_days(now_s=NOW_S + 99.9 * DAY_S) == 0
    with pytest.raises(LocalUsageError, match=r"expired on 2027-04-25.*mirrorha keys init"):
        load(directory, after_days=100)
    keys = load(directory)
    assert keys.expires_in_days(now_s=NOW_S) == 100
    assert keys.expires_in_days(now_s=NOW_S + 70.5 * DAY_S) == 29
    assert keys.expires_in_days(now_s=NOW_S + 101 * DAY_S) < 0


def test_a_clock_that_is_behind(directory: Path) -> None:
    assert load(directory, after_days=-0.9).node == "paris"
    with pytest.raises(LocalUsageError, match="clock"):
        load(directory, after_days=-1.1)
    with pytest.raises(LocalUsageError, match="clock"):
        load_keys(directory, node="paris", clock=lambda: 0.0)


def swap_private_key(text: str, other: str) -> str:
    return PRIVATE_KEY.sub(PRIVATE_KEY.findall(other)[0], text)


def swap_authority(text: str, other: str) -> str:
    mine, theirs = CERTIFICATE.findall(text)[1], CERTIFICATE.findall(other)[1]
    return text.replace(mine, theirs)


def swap_order(text: str, _: str) -> str:
    node, authority = CERTIFICATE.findall(text)
    return text.replace(node, "@").replace(authority, node).replace("@", authority)


def encrypt(text: str, _: str) -> str:
    key = serialization.load_pem_private_key(PRIVATE_KEY.findall(text)[0].encode(), None)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    return PRIVATE_KEY.sub(pem.decode(), text)


DAMAGE: Final[dict[str, tuple[Callable[[str, str], str], str]]] = {
    "empty": (lambda text, other: "", "0 certificates"),
    "cut off": (lambda text, other: text[: len(text) * 2 // 3], "certificates instead of two"),
    "no private key": (lambda text, other: PRIVATE_KEY.sub("", text), "0 private keys"),
    "an encrypted private key": (encrypt, "0 private keys"),
    "another's private key": (swap_private_key, "private key is not that of its certificate"),
    "another authority": (swap_authority, "not issued by the authority"),
    "certificates in the wrong order": (swap_order, "not issued by the authority"),
    "no heartbeat key": (lambda text, other: text.split("-----BEGIN MIRR")[0], "0 heartbeat keys"),
    "a short heartbeat key": (
        lambda text, other: re.sub(r"(?<=HEARTBEAT KEY-----\n).*", "AAAA", text, count=1),
        "has 3 bytes",
    ),
    "a broken heartbeat key": (
        lambda text, other: re.sub(r"(?<=HEARTBEAT KEY-----\n).*", "AAAAA", text, count=1),
        "heartbeat key cannot be read",
    ),
    "a broken certificate": (
        lambda text, other: text.replace(
            "-----BEGIN CERTIFICATE-----\nMII", "-----BEGIN CERTIFICATE-----\nAAA", 1
        ),
        "certificate cannot be read",
    ),
    "not text": (lambda text, other: text + "\u00e9", "not text"),
    "too long": (lambda text, other: text + " " * 70_000, "more than 65536 bytes"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_refused(directory: Path, tmp_path: Path, what: str) -> None:
    other = make(tmp_path / "other").bundles["paris"].read_text()
    damage, complaint = DAMAGE[what]
    file = directory / "orders-paris.keys"
    file.write_text(damage(file.read_text(), other))
    with pytest.raises(LocalUsageError, match=complaint):
        load(directory)


def test_line_ends_of_another_system_do_no_harm(directory: Path) -> None:
    file = directory / "orders-paris.keys"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert load(directory).node == "paris"


def test_the_default_lifetime_is_ten_years(tmp_path: Path) -> None:
    create_keys(tmp_path, cluster="o", nodes=["a", "b"])
    keys = load_keys(tmp_path, node="a")
    assert keys.expires_in_days(now_s=time.time()) in {3649, 3650}
