"""Who may talk to a witness, and how many at once: TLS by cluster, and the bounds."""

from __future__ import annotations

import collections
import ipaddress
import ssl
from typing import TYPE_CHECKING, Final, final

import attrs
import trio
from trio.abc import Stream

from mirrorha.arbiters.witness_sni import UNRECOGNIZED_NAME, find_client_hello, server_name
from mirrorha.arbiters.witness_wire import problem_with_cluster_name
from mirrorha.errors import ConfigError, LocalUsageError, PeerProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# A client's first message is a few hundred bytes, up to some thousand with post-quantum keys.
_RECEIVE_BYTES: Final = 4 * 1024
_IPV6_NETWORK_BITS: Final = 64


@final
@attrs.frozen(kw_only=True)
class WitnessLimits:
    """What one client, or many, may cost a witness.

    Attributes:
        handshaking_max: connections that have not shown yet who they are. Of more, the oldest
            is dropped, of the source that has the most: a flood delays an honest client from
            elsewhere, and does not keep it out.
        handshaking_per_source_max: those of one IPv4 address, or one IPv6 network of 64 bits.
        per_cluster_max: connections of one cluster. Of more, the one that has been idle the
            longest is dropped; a node needs one.
        connections_max: all connections.
        handshake_s: from accept to the end of `Hello`.
        request_s: from the first byte of a request to its last.
        disk_s: how long a request waits for those before it. Less than the two seconds after
            which a client gives up, so that it is told why.
        reply_s: until a client has taken its reply.
        idle_s: between two requests.
    """

    handshaking_max: int = 64
    handshaking_per_source_max: int = 16
    per_cluster_max: int = 8
    connections_max: int = 512
    handshake_s: float = 5.0
    request_s: float = 2.0
    disk_s: float = 1.5
    reply_s: float = 2.0
    idle_s: float = 300.0

    def __attrs_post_init__(self) -> None:
        if min(attrs.astuple(self)) <= 0:
            raise LocalUsageError(f"every limit of a witness is above zero, unlike in {self}")


def check_contexts(contexts: Mapping[str, ssl.SSLContext]) -> None:
    """Refuse contexts by which one cluster's node could pass for another's.

    Raises:
        ConfigError: names everything that is wrong.
    """
    problems = []
    owners: dict[bytes, str] = {}
    for cluster, context in contexts.items():
        if problem := problem_with_cluster_name(cluster):
            problems.append(f"cluster name '{cluster}': {problem}")
        if context.verify_mode is not ssl.CERT_REQUIRED:
            problems.append(f"cluster '{cluster}': its TLS context asks for no client certificate")
        if context.minimum_version < ssl.TLSVersion.TLSv1_3:
            problems.append(f"cluster '{cluster}': its TLS context allows less than TLS 1.3")
        authorities = context.get_ca_certs(binary_form=True)
        if not authorities:
            problems.append(f"cluster '{cluster}': its TLS context trusts no CA")
        for authority in authorities:
            if (owner := owners.setdefault(authority, cluster)) != cluster:
                problems.append(
                    f"clusters '{owner}' and '{cluster}' trust the same CA: each could change "
                    "the other's record. Make keys of its own for each cluster."
                )
    if not contexts:
        problems.append("a witness needs at least one cluster to serve")
    if problems:
        raise ConfigError(tuple(problems))


def source_of(address: str) -> str:
    """The part of an IP address that whoever sends from it cannot vary at will."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK_BITS), strict=False))


async def handshake(
    transport: Stream, contexts: Mapping[str, ssl.SSLContext], turn: trio.Lock
) -> tuple[str, trio.SSLStream[Stream]]:
    """Do the TLS handshake; return the cluster that the client is proven to belong to.

    The name that the client gives picks the context *before* the handshake begins. Switching
    contexts in the middle of one, as an `sni_callback` may, would leave the first context's
    verification flags and session tickets in force for all clusters.

    Args:
        transport: The connection.
        contexts: By cluster.
        turn: Shared by all handshakes: they begin one after the other, and other tasks run
            between two. A handshake keeps the processor for milliseconds, and many at once
            would keep it from accepting, and dropping, whatever floods it.

    Raises:
        PeerProtocolError: it is no TLS, or names no cluster that is served here.
        trio.BrokenResourceError: the handshake failed, for example for its certificate.
    """
    received = bytearray()
    while (client_hello := find_client_hello(received)) is None:
        some = await transport.receive_some(_RECEIVE_BYTES)
        if not some:
            raise PeerProtocolError("the connection was closed before the TLS handshake")
        received += some
    name = server_name(client_hello)
    context = contexts.get(name) if name is not None else None
    if name is None or context is None:
        await transport.send_all(UNRECOGNIZED_NAME)
        raise PeerProtocolError(
            "the client names no cluster" if name is None else f"no cluster {name[:80]!r} here"
        )
    replayed: Stream = _Replayed(bytes(received), transport)
    stream = trio.SSLStream(replayed, context, server_side=True)
    async with turn:
        await trio.lowlevel.checkpoint()
    await stream.do_handshake()
    if stream.session_reused:
        # Our clients never do so. A ticket proves a certificate that was good some time ago.
        raise PeerProtocolError("the client resumed a session, in place of proving who it is")
    return name, stream


@final
class _Replayed(Stream):
    """A stream of which some was received already, from its beginning again."""

    def __init__(self, received: bytes, transport: Stream) -> None:
        self._received = received
        self._transport = transport

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._received:
            return await self._transport.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        size = len(self._received) if max_bytes is None else max_bytes
        some, self._received = self._received[:size], self._received[size:]
        return some

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._transport.aclose()


@final
@attrs.define(eq=False)
class Connection:
    """One connection, as far as the bounds are concerned.

    Attributes:
        drop: ends it, at once.
        source: where it comes from, see `source_of`.
        cluster: whose it is, once that is proven.
        is_idle: waits for a request.
    """

    drop: Callable[[], None]
    source: str
    cluster: str | None = None
    is_idle: bool = False


@final
class Connections:
    """All connections of a witness, the longest untouched first; keeps to the limits."""

    def __init__(self, limits: WitnessLimits) -> None:
        self._limits = limits
        # A dict, for its order: `touch` moves a connection to the end.
        self._all: dict[Connection, None] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, connection: Connection) -> bool:
        """Take in a new connection, of nobody yet; False: there is no room."""
        handshaking = [other for other in self._all if other.cluster is None]
        same = [other for other in handshaking if other.source == connection.source]
        is_full = len(self._all) >= self._limits.connections_max
        if len(same) >= self._limits.handshaking_per_source_max:
            self._drop(same[0])
        elif handshaking and (is_full or len(handshaking) >= self._limits.handshaking_max):
            sources = collections.Counter(other.source for other in handshaking)
            self._drop(max(handshaking, key=lambda other: sources[other.source]))
        elif is_full:
            return False
        self._all[connection] = None
        return True

    def join(self, connection: Connection, cluster: str) -> bool:
        """Note whose connection it is; False: all connections of this cluster are busy."""
        others = [other for other in self._all if other.cluster == cluster]
        if len(others) >= self._limits.per_cluster_max:
            idle = [other for other in others if other.is_idle]
            if not idle:
                return False
            self._drop(idle[0])
        connection.cluster = cluster
        self.touch(connection)
        return True

    def touch(self, connection: Connection) -> None:
        """Note that it was of use just now."""
        if connection in self._all:
            del self._all[connection]
            self._all[connection] = None

    def leave(self, connection: Connection) -> None:
        """Forget it. Idempotent."""
        self._all.pop(connection, None)

    def _drop(self, connection: Connection) -> None:
        connection.drop()
        self.leave(connection)
        self.dropped += 1
