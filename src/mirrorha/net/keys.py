"""Keys and certificates of a cluster: made once, by `mirrorha keys init`, and read at every start.

One authority (a certificate and a key of its own) stands behind one cluster. Every node carries
one file, which nobody else needs: its certificate, its private key, the authority's certificate
and the key that heartbeats are authenticated with. A node never sees its peer's private key, and
nobody needs the authority's, except to make new certificates: it belongs offline.

Everything here blocks on the disk: call it before the loop runs, or from a thread.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime
import os
import re
import secrets
import stat
import time
from typing import TYPE_CHECKING, Final

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mirrorha.errors import LocalUsageError
from mirrorha.net.certificates import DOMAIN, WITNESS, node_dns_name
from mirrorha.wire.limits import LABEL_LENGTH_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

_AUTHORITY: Final = "ca"

DAYS_DEFAULT: Final = 3650
EXPIRY_WARNING_DAYS: Final = 30
HEARTBEAT_KEY_BYTES: Final = 32

# Certificates are good from a day before they were made: the other node's clock may be behind.
_BACKDATED: Final = datetime.timedelta(days=1)
_DAY_S: Final = 24 * 3600
_FILE_BYTES_MAX: Final = 64 * 1024
_GROUP_AND_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_LABEL: Final = re.compile(rf"[a-z0-9]([a-z0-9-]{{0,{LABEL_LENGTH_MAX - 2}}}[a-z0-9])?")
_HEARTBEAT_LABEL: Final = "MIRRORHA HEARTBEAT KEY"
_BLOCK: Final = re.compile(
    r"-----BEGIN ([A-Z ]{1,40})-----\n([A-Za-z0-9+/=\n]+)-----END \1-----", re.ASCII
)


@attrs.frozen(kw_only=True)
class KeysCreated:
    """What `create_keys` has made. All files have mode 0600."""

    bundles: Mapping[str, Path]  # by node; "witness" has one too
    authority_key: Path
    not_after_s: int


@attrs.frozen(kw_only=True)
class NodeKeys:
    """What one node's file holds, checked. The private key stays in the file.

    Attributes:
        cluster, node: whom the certificate names; the node can be "witness".
        path: the file, in the form that `ssl.SSLContext.load_cert_chain` reads.
        authority_pem: the certificate of the cluster's authority.
        not_after_s: when the node's or the authority's certificate expires, whichever is first,
            in seconds since 1970.
        heartbeat_key: 32 bytes; empty for the witness, which takes no part in heartbeats.
    """

    cluster: str
    node: str
    path: Path
    authority_pem: str
    not_after_s: int
    heartbeat_key: bytes = attrs.field(repr=False)

    def expires_in_days(self, *, now_s: float) -> int:
        """Whole days left. Fewer than EXPIRY_WARNING_DAYS deserve a warning; 0 is less than one."""
        return int((self.not_after_s - now_s) // _DAY_S)


@attrs.frozen(kw_only=True)
class _Authority:
    """Who signs, and what all certificates made with it have in common."""

    cluster: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    not_before: datetime.datetime
    not_after: datetime.datetime


def create_keys(
    directory: Path,
    *,
    cluster: str,
    nodes: Sequence[str],
    days: int = DAYS_DEFAULT,
    clock: Callable[[], float] = time.time,
) -> KeysCreated:
    """Make an authority, and a file of keys for every node and for a witness, in `directory`.

    All or nothing: after a failure none of the new files exists. The directory is made if it is
    missing, for its owner alone.

    Args:
        directory: Where the files go.
        cluster, nodes: Names, as in the configuration.
        days: How long the certificates are good.
        clock: Seconds since 1970.

    Raises:
        LocalUsageError: a name or `days` is out of bounds, a file exists already (nothing is ever
            overwritten), or the directory cannot be written to.
    """
    _check_names(cluster, nodes)
    if not 1 <= days <= 100 * 365:
        raise LocalUsageError(f"certificates cannot be good for {days} days; give 1 to 36500")
    names = (*nodes, WITNESS)
    bundles = {name: directory / _bundle_name(cluster, name) for name in names}
    authority_key = directory / f"{cluster}-{_AUTHORITY}.key"
    now = datetime.datetime.fromtimestamp(int(clock()), tz=datetime.UTC)
    authority = _make_authority(cluster, now - _BACKDATED, now + datetime.timedelta(days=days))
    heartbeat_key = secrets.token_bytes(HEARTBEAT_KEY_BYTES)
    contents = {authority_key: _authority_text(authority)}
    for name, path in bundles.items():
        contents[path] = _bundle_text(name, authority, heartbeat_key)
    _write_all(directory, contents)
    return KeysCreated(
        bundles=bundles,
        authority_key=authority_key,
        not_after_s=int(authority.not_after.timestamp()),
    )


def load_keys(
    path: Path,
    *,
    node: str,
    cluster: str | None = None,
    clock: Callable[[], float] = time.time,
) -> NodeKeys:
    """Read and check the keys of `node`.

    Args:
        path: The node's file, or a directory that holds it.
        node: Whose keys they must be; "witness" for the witness.
        cluster: Which cluster's they must be. None: whichever the file names; in a directory
            there must then be one only.
        clock: Seconds since 1970.

    Raises:
        LocalUsageError: the file is missing, readable for others, incomplete, damaged, another
            node's, or its certificate is not valid now. The text says which, and what to do.
    """
    file = _find(path, node=node, cluster=cluster)
    blocks = _blocks_of(file)
    certificate, authority = _certificates_of(file, blocks)
    _check_issuer(file, certificate, authority)
    _check_private_key(file, blocks, certificate)
    named_cluster = _check_subject(file, certificate, node=node, cluster=cluster)
    now_s = clock()
    for what, one in (("certificate", certificate), ("authority's certificate", authority)):
        _check_validity(file, what, one, now_s)
    not_after = min(certificate.not_valid_after_utc, authority.not_valid_after_utc)
    return NodeKeys(
        cluster=named_cluster,
        node=node,
        path=file,
        authority_pem=_pem(authority),
        not_after_s=int(not_after.timestamp()),
        heartbeat_key=_heartbeat_key_of(file, blocks, node),
    )


# Making.


def _check_names(cluster: str, nodes: Sequence[str]) -> None:
    for what, name in (("cluster", cluster), *(("node", node) for node in nodes)):
        if not _LABEL.fullmatch(name):
            raise LocalUsageError(
                f"the {what} name {name!r} cannot stand in a certificate; use at most "
                f"{LABEL_LENGTH_MAX} of a-z, 0-9 and '-', neither beginning nor ending with '-'"
            )
    for reserved in (WITNESS, _AUTHORITY):
        if reserved in nodes:
            raise LocalUsageError(f"no node can be called '{reserved}'; choose another name")
    if len(nodes) < 2 or len(set(nodes)) < len(nodes):
        raise LocalUsageError(f"a cluster has two nodes with different names, not {list(nodes)}")


def _bundle_name(cluster: str, node: str) -> str:
    return f"{cluster}-{node}.keys"


def _make_authority(
    cluster: str, not_before: datetime.datetime, not_after: datetime.datetime
) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(cluster, "authority")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Authority(
        cluster=cluster,
        certificate=certificate,
        key=key,
        not_before=not_before,
        not_after=not_after,
    )


def _make_certificate(
    node: str, public_key: ec.EllipticCurvePublicKey, authority: _Authority
) -> x509.Certificate:
    # Either node may call the other.
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    dns_name = x509.DNSName(node_dns_name(cluster=authority.cluster, node=node))
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_name(authority.cluster, node))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(authority.not_before)
        .not_valid_after(authority.not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName([dns_name]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _name(cluster: str, node: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
            x509.NameAttribute(NameOID.COMMON_NAME, node),
        ]
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _bundle_text(node: str, authority: _Authority, heartbeat_key: bytes) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    text = (
        f"Keys of '{node}' in the mirrorha cluster '{authority.cluster}', "
        f"good until {authority.not_after:%Y-%m-%d}.\n"
        "Carry this file to that machine and to no other; keep its mode 0600.\n"
        f"{_pem(_make_certificate(node, key.public_key(), authority))}"
        f"{_private_pem(key)}"
        f"{_pem(authority.certificate)}"
    )
    if node == WITNESS:
        return text
    encoded = base64.b64encode(heartbeat_key).decode("ascii")
    return (
        f"{text}-----BEGIN {_HEARTBEAT_LABEL}-----\n{encoded}\n-----END {_HEARTBEAT_LABEL}-----\n"
    )


def _authority_text(authority: _Authority) -> str:
    return (
        f"The authority of the mirrorha cluster '{authority.cluster}'. No node needs this file:\n"
        "keep it offline. Whoever has it can join the cluster.\n"
        f"{_pem(authority.certificate)}{_private_pem(authority.key)}"
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")


def _write_all(directory: Path, contents: Mapping[Path, str]) -> None:
    existing = [str(path) for path in contents if os.path.lexists(path)]
    if existing:
        raise LocalUsageError(
            f"nothing was made, for these exist already: {', '.join(existing)}; "
            "move them away if the cluster's keys are really to be replaced on every node"
        )
    made: list[Path] = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in contents.items():
            _write_new(path, text, made)
        _sync_directory(directory)
    except OSError as error:
        _remove(made)
        raise LocalUsageError(
            f"the keys cannot be written to {directory}: {error.strerror}; nothing was made"
        ) from error
    except BaseException:
        _remove(made)
        raise


def _write_new(path: Path, text: str, made: list[Path]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags, 0o600)
    made.append(path)
    with open(descriptor, "w", encoding="ascii", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(paths: Iterable[Path]) -> None:
    # The failure that brought us here is the one to report.
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


# Reading.


def _find(path: Path, *, node: str, cluster: str | None) -> Path:
    if not path.is_dir():
        return path
    if cluster is not None:
        return path / _bundle_name(cluster, node)
    # Names may contain '-', so this can find another cluster's as well: their certificates say.
    found = sorted(path.glob(_bundle_name("*", node)))
    if len(found) > 1:
        raise LocalUsageError(
            f"{path} holds several files of keys for a node '{node}': "
            f"{', '.join(file.name for file in found)}; name one of them"
        )
    return found[0] if found else path / _bundle_name("CLUSTER", node)


def _blocks_of(file: Path) -> dict[str, list[str]]:
    """Return the file's PEM blocks by label, each as text."""
    text = _read(file)
    blocks: dict[str, list[str]] = {}
    for match in _BLOCK.finditer(text):
        blocks.setdefault(match[1], []).append(match[0] + "\n")
    return blocks


def _read(file: Path) -> str:
    try:
        # Without O_NONBLOCK a FIFO at this place would block the start for ever.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            # Of the file that is open, not of the one that has the name by now.
            _check_status(file, os.fstat(descriptor))
            with open(descriptor, "rb", closefd=False) as stream:
                raw = stream.read(_FILE_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise LocalUsageError(
            f"there are no keys at {file}; make them with `mirrorha keys init` on one machine "
            "and carry this node's file here"
        ) from error
    except OSError as error:
        raise LocalUsageError(f"the keys at {file} cannot be read: {error.strerror}") from error
    if len(raw) > _FILE_BYTES_MAX:
        raise _damaged(file, f"it has more than {_FILE_BYTES_MAX} bytes")
    try:
        return raw.decode("ascii").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _damaged(file, "it is not text") from error


def _check_status(file: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise LocalUsageError(f"{file} is no regular file, so it cannot hold keys")
    if os.name == "posix" and status.st_mode & _GROUP_AND_OTHERS:
        raise LocalUsageError(
            f"{file} has mode {stat.S_IMODE(status.st_mode):04o}: others than its owner may "
            f"use this node's private key; run `chmod 600 {file}`"
        )


def _certificates_of(
    file: Path, blocks: Mapping[str, Sequence[str]]
) -> tuple[x509.Certificate, x509.Certificate]:
    """Return the node's and the authority's certificate, which stand in this order."""
    found = blocks.get("CERTIFICATE", ())
    if len(found) != 2:
        raise _damaged(file, f"it holds {len(found)} certificates instead of two")
    try:
        node, authority = (x509.load_pem_x509_certificate(pem.encode("ascii")) for pem in found)
    except ValueError as error:
        raise _damaged(file, "a certificate cannot be read") from error
    return node, authority


def _check_issuer(file: Path, certificate: x509.Certificate, authority: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _damaged(
            file, "its certificate was not issued by the authority beside it; are parts mixed up?"
        ) from error


def _check_private_key(
    file: Path, blocks: Mapping[str, Sequence[str]], certificate: x509.Certificate
) -> None:
    found = blocks.get("PRIVATE KEY", ())
    if len(found) != 1:
        raise _damaged(file, f"it holds {len(found)} private keys instead of one")
    try:
        key = serialization.load_pem_private_key(found[0].encode("ascii"), password=None)
    except (ValueError, TypeError) as error:
        raise _damaged(file, "the private key cannot be read") from error
    if key.public_key() != certificate.public_key():
        raise _damaged(file, "its private key is not that of its certificate; are parts mixed up?")


def _check_subject(
    file: Path, certificate: x509.Certificate, *, node: str, cluster: str | None
) -> str:
    """Check whom the certificate names, and return the cluster."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise _damaged(file, "its certificate names nobody") from error
    named = [_node_and_cluster(name) for name in names]
    if len(named) != 1 or named[0] is None:
        raise _damaged(file, f"its certificate is for {names}, which is no node")
    named_node, named_cluster = named[0]
    if named_node != node:
        raise LocalUsageError(
            f"{file} holds the keys of '{named_node}', but this is '{node}'; "
            "carry each node's own file to it"
        )
    if cluster is not None and named_cluster != cluster:
        raise LocalUsageError(
            f"{file} holds keys of the cluster '{named_cluster}', but this is '{cluster}'"
        )
    return named_cluster


def _node_and_cluster(dns_name: str) -> tuple[str, str] | None:
    match dns_name.split("."):
        case [cluster]:
            return WITNESS, cluster
        case [node, cluster, domain] if domain == DOMAIN:
            return node, cluster
        case _:
            return None


def _check_validity(file: Path, what: str, certificate: x509.Certificate, now_s: float) -> None:
    # Compared as numbers: a clock that is far off may lie outside what a datetime can say.
    if now_s >= certificate.not_valid_after_utc.timestamp():
        raise LocalUsageError(
            f"the {what} in {file} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; "
            "make new keys with `mirrorha keys init` and carry them to every node"
        )
    if now_s < certificate.not_valid_before_utc.timestamp():
        raise LocalUsageError(
            f"the {what} in {file} is good from {certificate.not_valid_before_utc:%Y-%m-%d} on; "
            "is this machine's clock right?"
        )


def _heartbeat_key_of(file: Path, blocks: Mapping[str, Sequence[str]], node: str) -> bytes:
    found = blocks.get(_HEARTBEAT_LABEL, ())
    if node == WITNESS:
        return b""
    if len(found) != 1:
        raise _damaged(file, f"it holds {len(found)} heartbeat keys instead of one")
    try:
        key = base64.b64decode(found[0].split("\n")[1], validate=True)
    except binascii.Error as error:
        raise _damaged(file, "the heartbeat key cannot be read") from error
    if len(key) != HEARTBEAT_KEY_BYTES:
        raise _damaged(file, f"the heartbeat key has {len(key)} bytes, not {HEARTBEAT_KEY_BYTES}")
    return key


def _damaged(file: Path, how: str) -> LocalUsageError:
    return LocalUsageError(
        f"{file} is no complete file of keys: {how}; "
        "carry it here again from where `mirrorha keys init` made it"
    )
