"""The witness with honest clients: conformance, durability, and each cluster for itself."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from mirrorha.arbiters import WitnessArbiter
from mirrorha.arbiters.witness_door import WitnessLimits
from mirrorha.arbiters.witness_server import serve_witness
from mirrorha.arbiters.witness_wire import Channel
from mirrorha.core.register import RECORD_BYTES_MAX
from mirrorha.errors import (
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    CommandRefusedError,
    ConfigError,
    LocalUsageError,
    PeerProtocolError,
)
from mirrorha.state.atomic import ReplacementUnknownError, write_atomically
from mirrorha.testing.check_arbiter import check_arbiter
from tests.arbiters.witness_rig import HELLO, Keys, keys_of, running_witness


def stored(state_dir: Path, cluster: str = "orders") -> dict[str, object]:
    found = json.loads((state_dir / f"{cluster}.json").read_bytes())
    assert isinstance(found, dict)
    return found


def spoil(state_dir: Path, change: Callable[[bytes], bytes], cluster: str = "orders") -> None:
    path = state_dir / f"{cluster}.json"
    path.write_bytes(change(path.read_bytes()))


async def test_conforms(tmp_path: Path) -> None:
    async with running_witness(tmp_path) as running:
        await check_arbiter(running.arbiter, races=20, contenders=6)


async def test_outlives_a_restart(tmp_path: Path) -> None:
    async with running_witness(tmp_path) as running:
        arbiter = running.arbiter()
        assert await arbiter.compare_and_swap(None, b"1")
        assert await arbiter.compare_and_swap(b"1", b"2")
    async with running_witness(tmp_path) as running:
        arbiter = running.arbiter()
        assert await arbiter.read() == b"2"
        assert not await arbiter.compare_and_swap(None, b"3")
        assert await arbiter.compare_and_swap(b"2", b"3")
    assert stored(tmp_path)["version"] == 3, "the version rises over restarts"


async def test_is_durable_before_it_is_answered(tmp_path: Path) -> None:
    written: list[bytes] = []

    def write(path: Path, data: bytes) -> None:
        write_atomically(path, data)
        written.append(data)

    async with running_witness(tmp_path, write=write) as running:
        arbiter = running.arbiter()
        for number in range(5):
            before = await arbiter.read()
            assert await arbiter.compare_and_swap(before, b"%d" % number)
            assert len(written) == number + 1
            assert not await arbiter.compare_and_swap(before, b"x")
            assert len(written) == number + 1, "what was refused is not written"


async def test_clusters_do_not_meet(tmp_path: Path) -> None:
    async with running_witness(tmp_path, ["orders", "stock"]) as running:
        orders, stock = running.arbiter("orders"), running.arbiter("stock")
        assert await orders.compare_and_swap(None, b"of orders")
        assert await stock.read() is None
        assert await stock.compare_and_swap(None, b"of stock")
        assert await orders.read() == b"of orders"
    assert stored(tmp_path, "orders") != stored(tmp_path, "stock")


async def test_a_node_of_one_cluster_is_refused_by_another(tmp_path: Path) -> None:
    async with running_witness(tmp_path, ["orders", "stock"]) as running:
        intruder = running.arbiter(
            "stock",
            context=running.keys["stock"].client(issuer=running.keys["orders"].authority),
        )
        with pytest.raises(ArbiterUnavailableError, match="does not accept this node's cert"):
            await intruder.read()
        with pytest.raises(ArbiterUnavailableError, match="does not accept this node's cert"):
            await intruder.compare_and_swap(None, b"mine")
        assert await running.arbiter("stock").read() is None


async def test_a_session_ticket_of_one_cluster_does_not_open_another(tmp_path: Path) -> None:
    """With one context for all names, a ticket of one tenant resumes a session of any other."""
    async with running_witness(tmp_path, ["orders", "stock"]) as running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for keys in running.keys.values():
            keys.authority.configure_trust(context)
        running.keys["orders"].authority.issue_cert("paris").configure_cert(context)
        first = await running.tls("orders", context=context)
        await Channel(first).send(HELLO)
        await Channel(first).receive()
        ticket = first.session
        assert ticket is not None
        assert ticket.has_ticket, "the test needs one"
        for cluster, is_resumed in (("stock", False), ("orders", True)):
            stream = await running.tls(cluster, context=context, session=ticket)
            assert stream.session_reused is is_resumed
            with pytest.raises((PeerProtocolError, trio.BrokenResourceError)):
                await Channel(stream).receive()
        assert running.witness.counts["not our protocol"] == 1, "one resumed its own session"
        assert running.witness.counts["broken"] == 1, "one had to prove what it could not"


async def test_says_when_it_does_not_serve_a_cluster(tmp_path: Path) -> None:
    async with running_witness(tmp_path, ["orders"]) as running:
        running.keys["stock"] = Keys("stock")
        with pytest.raises(ArbiterUnavailableError, match="does not serve cluster 'stock'"):
            await running.arbiter("stock").read()


async def test_a_witness_with_the_keys_of_another_is_not_believed(tmp_path: Path) -> None:
    async with running_witness(tmp_path, ["orders"]) as running:
        stranger = Keys("orders").client()
        with pytest.raises(ArbiterUnavailableError, match="not good for cluster 'orders'"):
            await running.arbiter("orders", context=stranger).read()


async def test_a_node_cannot_pass_for_the_witness(tmp_path: Path) -> None:
    """A node's certificate is by the right CA, and does not carry the cluster's name."""
    keys = keys_of(["orders"])["orders"]
    impostor = keys.server()
    keys.authority.issue_cert("lyon").configure_cert(impostor)
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.do_handshake()
            await trio.aclose_forcefully(stream)

        listeners = await nursery.start(
            partial(trio.serve_ssl_over_tcp, serve, 0, impostor, host="127.0.0.1")
        )
        port = listeners[0].transport_listener.socket.getsockname()[1]
        arbiter = WitnessArbiter(f"127.0.0.1:{port}", "orders", keys.client(), deadline_s=30)
        with pytest.raises(ArbiterUnavailableError, match="not good for cluster 'orders'"):
            await arbiter.read()
        nursery.cancel_scope.cancel()


SPOILT: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("emptied", lambda _raw: b"", "damaged"),
    ("cut", lambda raw: raw[:-20], "damaged"),
    ("zeroed", lambda raw: bytes(len(raw)), "damaged"),
    ("bit-flipped", lambda raw: raw.replace(b'"version":1', b'"version":9'), "checksum"),
    ("huge", lambda raw: raw + b" " * 100_000, "more than"),
    ("nested", lambda _raw: b'{"x":' + b"[" * 8000, "damaged"),
    ("not-utf8", lambda raw: raw.replace(b"orders", b"\xff" * 6), "damaged"),
    ("newer", lambda raw: raw.replace(b'"format":1', b'"format":2'), "format 2"),
]


@pytest.mark.parametrize(
    ("change", "text"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT]
)
async def test_a_damaged_record_is_refused_and_never_absent(
    tmp_path: Path, change: Callable[[bytes], bytes], text: str
) -> None:
    async with running_witness(tmp_path) as running:
        assert await running.arbiter().compare_and_swap(None, b"1")
    spoil(tmp_path, change)
    damaged = (tmp_path / "orders.json").read_bytes()
    async with running_witness(tmp_path, ["orders", "stock"]) as running:
        arbiter = running.arbiter()
        with pytest.raises(ArbiterUnavailableError, match=text):
            await arbiter.read()
        for expected in (None, b"1"):
            with pytest.raises(ArbiterUnavailableError, match="make the record anew"):
                await arbiter.compare_and_swap(expected, b"2")
        assert list(running.witness.problems()) == ["orders"]
        assert await running.arbiter("stock").compare_and_swap(None, b"well")
    assert (tmp_path / "orders.json").read_bytes() == damaged, "kept for a person to look at"


async def test_a_long_reason_is_cut_and_still_told(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["long" * 30] * 5)
    (deep / "orders.json").mkdir(parents=True)
    async with running_witness(deep) as running:
        with pytest.raises(ArbiterUnavailableError, match="cannot read its record") as caught:
            await running.arbiter().read()
    assert len(str(caught.value)) < 600


async def test_a_record_of_another_cluster_is_refused(tmp_path: Path) -> None:
    async with running_witness(tmp_path, ["stock"]) as running:
        assert await running.arbiter("stock").compare_and_swap(None, b"1")
    (tmp_path / "stock.json").rename(tmp_path / "orders.json")
    async with running_witness(tmp_path) as running:
        with pytest.raises(ArbiterUnavailableError, match="record of cluster 'stock'"):
            await running.arbiter().read()


async def test_an_unreadable_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "orders.json").mkdir()
    async with running_witness(tmp_path) as running:
        with pytest.raises(ArbiterUnavailableError, match="Is a directory"):
            await running.arbiter().read()


async def test_without_its_disk_it_answers_absent(tmp_path: Path) -> None:
    async with running_witness(tmp_path) as running:
        assert await running.arbiter().compare_and_swap(None, b"1")
    (tmp_path / "orders.json").unlink()
    async with running_witness(tmp_path) as running:
        assert await running.arbiter().read() is None


async def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".orders.json.0123456789abcdef.tmp"
    leftover.touch()
    async with running_witness(tmp_path):
        assert not leftover.exists()


async def test_two_witnesses_do_not_share_a_directory(tmp_path: Path) -> None:
    async with running_witness(tmp_path):
        with pytest.RaisesGroup(
            pytest.RaisesExc(CommandRefusedError, match="a witness is running on"),
            flatten_subgroups=True,
        ):
            async with running_witness(tmp_path):
                pytest.fail("it must not start")
    async with running_witness(tmp_path):
        pass  # once the first has ended, it may


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async with running_witness(tmp_path / "1") as running:
        keys = running.keys["orders"]
        with pytest.raises(CommandRefusedError, match="the witness cannot listen on"):
            await serve_witness(
                state_dir=tmp_path / "2",
                contexts={"orders": keys.server()},
                host="127.0.0.1",
                port=running.witness.port,
            )


async def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandRefusedError, match="the witness cannot use"):
        await serve_witness(
            state_dir=tmp_path / "file",
            contexts={"orders": keys_of(["orders"])["orders"].server()},
            host="127.0.0.1",
            port=0,
        )


def anonymous(context: ssl.SSLContext) -> ssl.SSLContext:
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def trusting_nobody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_contexts_that_do_not_keep_clusters_apart_are_refused(tmp_path: Path) -> None:
    orders, stock = keys_of(["orders", "stock"]).values()
    with pytest.raises(ConfigError) as caught:
        await serve_witness(
            state_dir=tmp_path,
            contexts={
                "orders": orders.server(),
                "twin": orders.server(),
                "stock": anonymous(stock.server()),
                "old": old(Keys("old").server()),
                "nobody": trusting_nobody(),
                "../up": Keys("up").server(),
                "10.0.0.1": Keys("ip").server(),
            },
            host="127.0.0.1",
            port=0,
        )
    assert [problem[:60] for problem in caught.value.problems] == [
        "clusters 'orders' and 'twin' trust the same CA: each could c",
        "cluster 'stock': its TLS context asks for no client certific",
        "cluster 'old': its TLS context allows less than TLS 1.3",
        "cluster 'nobody': its TLS context trusts no CA",
        "cluster name '../up': a witness knows clusters by DNS names:",
        "cluster name '10.0.0.1': it reads as an IP address, which TL",
    ]
    with pytest.raises(ConfigError, match="at least one cluster"):
        await serve_witness(state_dir=tmp_path, contexts={}, host="127.0.0.1", port=0)
    assert os.listdir(tmp_path) == []


async def test_a_full_disk_is_unavailable_and_passes(tmp_path: Path) -> None:
    is_full = True

    def write(path: Path, data: bytes) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomically(path, data)

    async with running_witness(tmp_path, write=write) as running:
        arbiter = running.arbiter()
        with pytest.raises(ArbiterUnavailableError, match="No space left"):
            await arbiter.compare_and_swap(None, b"1")
        assert await arbiter.read() is None
        is_full = False
        assert await arbiter.compare_and_swap(None, b"1")


async def test_a_disk_that_fails_in_the_rename_is_not_used_again(tmp_path: Path) -> None:
    def write(path: Path, data: bytes) -> None:
        write_atomically(path, data)
        raise ReplacementUnknownError(errno.EIO, "Input/output error")

    async with running_witness(tmp_path, write=write) as running:
        arbiter = running.arbiter()
        with pytest.raises(ArbiterOutcomeUnknownError, match="Input/output error"):
            await arbiter.compare_and_swap(None, b"1")
        for _ in range(2):
            with pytest.raises(ArbiterUnavailableError, match="start the witness again"):
                await arbiter.read()
            with pytest.raises(ArbiterUnavailableError, match="start the witness again"):
                await arbiter.compare_and_swap(None, b"2")
    async with running_witness(tmp_path) as running:
        assert await running.arbiter().read() == b"1"


async def patient_read(arbiter: WitnessArbiter) -> bytes | None:
    while True:
        with contextlib.suppress(ArbiterUnavailableError):
            return await arbiter.read()


class HangingDisk:
    """Hangs in the writes of cluster `orders` until it is woken."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.wakes = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def write(self, path: Path, data: bytes) -> None:
        if path.name == "orders.json":
            self._token.run_sync_soon(self.begun.set)
            self.wakes.wait(timeout=60)
        write_atomically(path, data)


async def test_a_hanging_disk_holds_up_its_own_cluster_only(tmp_path: Path) -> None:
    disk, limits = HangingDisk(), WitnessLimits(disk_s=0.05)
    async with (
        running_witness(tmp_path, ["orders", "stock"], write=disk.write, limits=limits) as running,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(running.arbiter().compare_and_swap, None, b"1")
        await disk.begun.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            for _ in range(10):
                with pytest.raises(ArbiterUnavailableError, match="did not answer within"):
                    await running.arbiter().read()
            with pytest.raises(ArbiterUnavailableError, match="did not answer within"):
                await running.arbiter().compare_and_swap(None, b"2")
            assert await running.arbiter("stock").compare_and_swap(None, b"well")
            disk.wakes.set()
            # It lands late, as the contract allows.
            assert await patient_read(running.arbiter()) == b"1"


async def test_a_stopped_witness_waits_for_the_write_that_has_begun(tmp_path: Path) -> None:
    """Otherwise the next one could read a record that is replaced behind its back."""
    disk = HangingDisk()

    async def swap(arbiter: WitnessArbiter) -> None:
        with pytest.raises(ArbiterOutcomeUnknownError):
            await arbiter.compare_and_swap(None, b"1")

    async with (
        trio.open_nursery() as nursery,
        running_witness(tmp_path, write=disk.write) as running,
    ):
        nursery.start_soon(swap, running.arbiter())
        await disk.begun.wait()
        threading.Timer(0.1, disk.wakes.set).start()
    async with running_witness(tmp_path) as running:
        assert await running.arbiter().read() == b"1"


async def test_large_records_and_no_larger(tmp_path: Path) -> None:
    async with running_witness(tmp_path) as running:
        arbiter = running.arbiter()
        one, two = b"\xff" * RECORD_BYTES_MAX, b"\xfe" * RECORD_BYTES_MAX
        assert await arbiter.compare_and_swap(None, one)
        assert await arbiter.compare_and_swap(one, two)
        for expected, new in ((two, two + b"x"), (two + b"x", two)):
            with pytest.raises(LocalUsageError, match="not of 4097"):
                await arbiter.compare_and_swap(expected, new)
        assert await arbiter.read() == two
    async with running_witness(tmp_path) as running:
        assert await running.arbiter().read() == two
