"""Who may talk to whom: TLS 1.3 with certificates of the cluster's own authority on both sides."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import PeerError, PeerRefusedError, ensure
from mirrorha.net.certificates import (
    WITNESS,
    certificate_names,
    check_peer_names,
    client_side_context,
    node_dns_name,
    peer_error_of,
    server_side_context,
)
from mirrorha.net.keys import NodeKeys
from mirrorha.net.tls_stream import TlsStream
from mirrorha.wire.limits import TLS_RECORDS_MAX

if TYPE_CHECKING:
    import trio


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
        self.records_max = TLS_RECORDS_MAX  # of each stream made from now on
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
    return server_side_context(authority_pem=keys.authority_pem, path=keys.path)


def client_context(keys: NodeKeys) -> ssl.SSLContext:
    """For outgoing connections. Give the stream the `server_hostname` of `node_dns_name`."""
    context = client_side_context(authority_pem=keys.authority_pem, path=keys.path)
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


def check_peer_certificate(ssl_object: ssl.SSLObject, keys: NodeKeys, peer: str) -> None:
    """Check that the other side has shown the certificate of `peer`, and no other.

    Raises:
        PeerRefusedError: it has not; the text says whose it is.
    """
    check_peer_names(ssl_object, cluster=keys.cluster, node=keys.node, peer=peer)


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
    return peer_error_of(error.__cause__, whom=whom, else_=str(error))
