"""Who may talk to whom, without a loop: contexts of TLS 1.3, names in certificates, what failed.

Imports neither trio nor cryptography: a volume's worker uses this too, and is to stay small.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from mirrorha.errors import (
    LocalUsageError,
    PeerError,
    PeerLostError,
    PeerProtocolError,
    PeerRefusedError,
)

if TYPE_CHECKING:
    from pathlib import Path

DOMAIN: Final = "mirrorha"
WITNESS: Final = "witness"

# What OpenSSL calls an alert from the other side, and what it usually means between two nodes.
_ALERTS: Final = {
    "UNKNOWN_CA": "our certificate is not of its authority: its keys were made separately",
    "BAD_CERTIFICATE": "it does not accept our certificate",
    "CERTIFICATE_EXPIRED": "our certificate has expired by its clock",
    "CERTIFICATE_REQUIRED": "it demands a certificate, and we showed none",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "DECRYPT_ERROR": "our certificate is not of its authority: its keys were made separately",
    "PROTOCOL_VERSION": "it does not speak TLS 1.3",
}
_SAME_KEYS: Final = "make keys once with `mirrorha keys init` and carry each node its own file"


def node_dns_name(*, cluster: str, node: str) -> str:
    """The name in a node's certificate, and only there: it is never looked up."""
    return cluster if node == WITNESS else f"{node}.{cluster}.{DOMAIN}"


def server_side_context(*, authority_pem: str, path: Path) -> ssl.SSLContext:
    """For incoming connections. It lets every node of the cluster in, and its witness.

    Who it is must be checked after the handshake, with `check_peer_names`.

    Raises:
        LocalUsageError: the keys' file cannot be read.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, authority_pem, path)
    # A resumed connection would rest on a check of certificates made at another time.
    context.num_tickets = 0
    return context


def client_side_context(*, authority_pem: str, path: Path) -> ssl.SSLContext:
    """For outgoing connections. Give the stream the `server_hostname` of `node_dns_name`.

    Raises:
        LocalUsageError: the keys' file cannot be read.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, authority_pem, path)


def _context(protocol: int, authority_pem: str, path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # Python before 3.11.4 asks OpenSSL to take a connection that was cut off for one that ended.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    # The cluster's own authority and no other: the system's store is never loaded.
    context.load_verify_locations(cadata=authority_pem)
    try:
        context.load_cert_chain(path)
    except (OSError, ssl.SSLError) as error:
        raise LocalUsageError(
            f"the keys at {path} could be read a moment ago and now cannot: {error}"
        ) from error
    return context


def certificate_names(ssl_object: ssl.SSLObject) -> tuple[str, ...]:
    """The DNS names in the certificate that the other side has shown, and TLS has verified."""
    certificate = ssl_object.getpeercert() or {}
    names = certificate.get("subjectAltName", ())
    return tuple(str(entry[1]) for entry in names if entry[0] == "DNS")


def check_peer_names(ssl_object: ssl.SSLObject, *, cluster: str, node: str, peer: str) -> None:
    """Check that the other side has shown the certificate of `peer`, and no other.

    Args:
        node: this one.

    Raises:
        PeerRefusedError: it has not; the text says whose it is.
    """
    names = certificate_names(ssl_object)
    if names == (node_dns_name(cluster=cluster, node=peer),):
        return
    if names == (node_dns_name(cluster=cluster, node=node),):
        raise PeerRefusedError(
            f"both sides show the certificate of '{node}'; does an address of '{peer}' lead "
            "back to this machine, or were one node's keys copied to both?"
        )
    if names == (node_dns_name(cluster=cluster, node=WITNESS),):
        raise PeerRefusedError(
            f"the other side shows the witness's certificate, not that of '{peer}'"
        )
    shown = " and ".join(repr(name) for name in names) or "nobody"
    raise PeerRefusedError(f"the other side shows a certificate for {shown}, not for '{peer}'")


def peer_error_of(cause: BaseException | None, *, whom: str, else_: str) -> PeerError:
    """Say of what broke a connection whose fault it is.

    Args:
        cause: What OpenSSL or the operating system raised.
        whom: The other side, as people should read it.
        else_: What to say if there is no cause.
    """
    if isinstance(cause, ssl.SSLCertVerificationError):
        return PeerRefusedError(
            f"the certificate of {whom} is refused: {cause.verify_message}; {_SAME_KEYS}"
        )
    if isinstance(cause, ssl.SSLEOFError):
        return PeerLostError(f"{whom} ended the connection without a farewell")
    if not isinstance(cause, ssl.SSLError):
        return PeerLostError(f"the connection to {whom} broke: {cause or else_}")
    _, is_alert, alert = (cause.reason or "").partition("_ALERT_")
    if not is_alert:
        return PeerProtocolError(f"{whom} does not speak TLS 1.3 as we do: {cause.reason or cause}")
    meaning = _ALERTS.get(alert, alert.replace("_", " ").lower())
    return PeerRefusedError(f"{whom} refuses the connection: {meaning}; {_SAME_KEYS}")
