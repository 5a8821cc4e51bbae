"""Who may talk to whom: TLS 1.3 with certificates of the cluster's own authority on both sides."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import (
    LocalUsageError,
    PeerError,
    PeerLostError,
    PeerProtocolError,
    PeerRefusedError,
    ensure,
)
from mirrorha.net.keys import WITNESS, NodeKeys, node_dns_name
from mirrorha.net.tls_stream import RECORDS_MAX, TlsStream

if TYPE_CHECKING:
    import trio

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


@final
class PeerTls:
    """How this node and its peer secure what they say to each other. Made once, for all links.

    Args:
        keys: This node's.
        peer: The other node's name. Nobody else is accepted, whichever side calls.

    Raises:
        LocalUsageError: the keys' file changed since it was checked.
    """

    def __init__(self, keys: NodeKeys, *, peer: str) -> None:
        ensure(peer not in {keys.node, WITNESS}, "the peer is the other node")
        self.keys: Final = keys
        self.peer: Final = peer
        self.records_max = RECORDS_MAX  # of each stream made from now on
        self._server: Final = server_context(keys)
        self._client: Final = client_context(keys)

    def wrap_outgoing(self, transport: trio.abc.Stream) -> TlsStream:
        """Prepare a connection that this node made."""
        name = node_dns_name(cluster=self.keys.cluster, node=self.peer)
        return TlsStream(
            transport, self._client, server_hostname=name, records_max=self.records_max
        )

    def wrap_incoming(self, transport: trio.abc.Stream) -> TlsStream:
        """Prepare a connection that somebody made to this node."""
        return TlsStream(transport, self._server, server_side=True, records_max=self.records_max)

    def check(self, stream: TlsStream) -> None:
        """Check, after the handshake, that the other side is the peer.

        Raises:
            PeerRefusedError: it is somebody else.
        """
        check_peer_certificate(stream.ssl_object, self.keys, self.peer)


def server_context(keys: NodeKeys) -> ssl.SSLContext:
    """For incoming connections. It lets every node of the cluster in, and its witness.

    Who it is must be checked after the handshake, with `check_peer_certificate`.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, keys)
    # A resumed connection would rest on a check of certificates made at another time.
    context.num_tickets = 0
    return context


def client_context(keys: NodeKeys) -> ssl.SSLContext:
    """For outgoing connections. Give the stream the `server_hostname` of `node_dns_name`."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, keys)
    ensure(context.check_hostname, "a client's context checks the name")
    return context


def witness_server_context(keys: NodeKeys) -> ssl.SSLContext:
    """For the witness, with the keys of "witness". After the handshake: `calling_node`."""
    ensure(keys.node == WITNESS, "the witness shows its own certificate")
    return server_context(keys)


def witness_client_context(keys: NodeKeys) -> ssl.SSLContext:
    """For a node that calls the witness; `server_hostname` is the cluster's name."""
    ensure(keys.node != WITNESS, "a node calls the witness")
    return client_context(keys)


def _context(protocol: int, keys: NodeKeys) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # Python before 3.11.4 asks OpenSSL to take a connection that was cut off for one that ended.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    # The cluster's own authority and no other: the system's store is never loaded.
    context.load_verify_locations(cadata=keys.authority_pem)
    try:
        context.load_cert_chain(keys.path)
    except (OSError, ssl.SSLError) as error:
        raise LocalUsageError(
            f"the keys at {keys.path} could be read a moment ago and now cannot: {error}"
        ) from error
    return context


def certificate_names(ssl_object: ssl.SSLObject) -> tuple[str, ...]:
    """The DNS names in the certificate that the other side has shown, and TLS has verified."""
    certificate = ssl_object.getpeercert() or {}
    names = certificate.get("subjectAltName", ())
    return tuple(str(entry[1]) for entry in names if entry[0] == "DNS")


def check_peer_certificate(ssl_object: ssl.SSLObject, keys: NodeKeys, peer: str) -> None:
    """Check that the other side has shown the certificate of `peer`, and no other.

    Raises:
        PeerRefusedError: it has not; the text says whose it is.
    """
    names = certificate_names(ssl_object)
    if names == (node_dns_name(cluster=keys.cluster, node=peer),):
        return
    if names == (node_dns_name(cluster=keys.cluster, node=keys.node),):
        raise PeerRefusedError(
            f"both sides show the certificate of '{keys.node}'; does an address of '{peer}' lead "
            "back to this machine, or were one node's keys copied to both?"
        )
    if names == (node_dns_name(cluster=keys.cluster, node=WITNESS),):
        raise PeerRefusedError(
            f"the other side shows the witness's certificate, not that of '{peer}'"
        )
    shown = " and ".join(repr(name) for name in names) or "nobody"
    raise PeerRefusedError(f"the other side shows a certificate for {shown}, not for '{peer}'")


def calling_node(ssl_object: ssl.SSLObject, keys: NodeKeys) -> str:
    """The name of the node that has called the witness.

    Raises:
        PeerRefusedError: the caller is no node of the cluster.
    """
    names = certificate_names(ssl_object)
    node = names[0].partition(".")[0] if len(names) == 1 else WITNESS
    if node != WITNESS and names[0] == node_dns_name(cluster=keys.cluster, node=node):
        return node
    raise PeerRefusedError(f"the caller's certificate is for {list(names)}, which is no node")


def peer_error_from(error: BaseException, *, whom: str) -> PeerError:
    """Say of a trio stream's failure whose fault it is.

    Args:
        error: A `trio.BrokenResourceError` or `trio.ClosedResourceError`; its cause counts.
        whom: The other side, as people should read it.
    """
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return PeerRefusedError(
            f"the certificate of {whom} is refused: {cause.verify_message}; {_SAME_KEYS}"
        )
    if isinstance(cause, ssl.SSLEOFError):
        return PeerLostError(f"{whom} ended the connection without a farewell")
    if not isinstance(cause, ssl.SSLError):
        return PeerLostError(f"the connection to {whom} broke: {cause or error}")
    _, is_alert, alert = (cause.reason or "").partition("_ALERT_")
    if not is_alert:
        return PeerProtocolError(f"{whom} does not speak TLS 1.3 as we do: {cause.reason or cause}")
    meaning = _ALERTS.get(alert, alert.replace("_", " ").lower())
    return PeerRefusedError(f"{whom} refuses the connection: {meaning}; {_SAME_KEYS}")
