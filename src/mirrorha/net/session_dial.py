"""Calling the peer, over one address after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import trio

from mirrorha.errors import PeerError, PeerLostError, PeerProtocolError, PeerRefusedError, ensure
from mirrorha.net.frame_link import FrameLink, hang_up
from mirrorha.net.handshake import deadline, handshake
from mirrorha.net.keepalive import keep_alive
from mirrorha.net.raw_stream import RawStream
from mirrorha.net.session import Session
from mirrorha.net.tls import peer_error_from
from mirrorha.wire.greeting import HANDSHAKE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrorha.net.tls import PeerTls
    from mirrorha.wire.codec import Codec
    from mirrorha.wire.hello import Agreed, Hello

T = TypeVar("T")

# A host that is there answers within one round trip; one that is not costs this for each address.
CONNECT_S: Final = 2.0


class AddressPair(NamedTuple):
    """One way to the peer: from our address (None: whichever fits) to one of its."""

    source: str | None
    host: str
    port: int

    def __str__(self) -> str:
        via = f" from {self.source}" if self.source else ""
        return f"{self.host} port {self.port}{via}"


async def dial(
    addresses: Sequence[AddressPair],
    *,
    nursery: trio.Nursery,
    tls: PeerTls | None,
    hello: Hello,
    codec: Codec[T],
    connect_s: float = CONNECT_S,
    handshake_s: float = HANDSHAKE_S,
) -> Session[T]:
    """Connect to the peer over the first of `addresses` that works, and say hello.

    Takes at most connect_s + handshake_s seconds for each address.

    Args:
        addresses: In the order of preference.
        nursery: Where the session's writer runs. It raises nothing there.
        tls: None on a plain link, which only a trusted network justifies.
        hello: What this node says.
        codec: Of the control messages.

    Raises:
        PeerRefusedError: somebody answered with whom we do not belong together, at no address
            anybody else. The text says why, for each.
        PeerError: no address worked; the text says why, for each. Its cause is the first failure,
            whose own is the operating system's.
    """
    ensure(bool(addresses), "there is an address to dial")
    failures: list[PeerError] = []
    for address in addresses:
        try:
            link, agreed = await _dial_one(address, tls, hello, connect_s, handshake_s)
        except PeerError as error:
            failures.append(error)
        else:
            path = (address.source, address.host)
            session = Session(link, agreed=agreed, codec=codec, path=path)
            nursery.start_soon(session.run_writer)
            return session
    text = "; ".join(str(failure) for failure in failures)
    # A refusal needs a person, a broken connection only time: the former must not be hidden.
    for kind in (PeerRefusedError, PeerProtocolError):
        if any(isinstance(failure, kind) for failure in failures):
            raise kind(text) from failures[0]
    raise PeerLostError(text) from failures[0]


async def dial_raw(
    addresses: Sequence[AddressPair], *, peer: str, preface: bytes, connect_s: float = CONNECT_S
) -> RawStream:
    """Connect to `peer` over the first of `addresses` that works, and say the preface there.

    Takes at most connect_s seconds for each address.

    Raises:
        PeerLostError: no address worked; the text says why, for each.
    """
    ensure(bool(addresses), "there is an address to dial")
    failures: list[PeerError] = []
    for address in addresses:
        whom = f"node '{peer}' at {address}"
        try:
            stream = await _connect(address, connect_s, whom)
            await _say(stream, preface, whom)
        except PeerError as error:
            failures.append(error)
        else:
            path = (address.source, address.host)
            return RawStream(stream=stream, dials=True, whom=whom, path=path)
    raise PeerLostError("; ".join(str(failure) for failure in failures)) from failures[0]


async def greet(
    stream: trio.SocketStream,
    *,
    tls: PeerTls | None,
    hello: Hello,
    whom: str,
    handshake_s: float = HANDSHAKE_S,
) -> tuple[FrameLink, Agreed]:
    """Secure a connection that this node made, and say hello on it. It is closed if that fails.

    Raises:
        PeerError: as `dial`.
    """
    secured: trio.abc.Stream = stream
    try:
        with deadline(handshake_s, whom=whom):
            if tls is not None:
                secured = await _secure(stream, tls, whom)
            link = FrameLink(secured, whom=whom)
            return link, await handshake(link, hello=hello, deadline_s=handshake_s)
    except PeerError:
        await hang_up(secured)
        raise
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _dial_one(
    address: AddressPair, tls: PeerTls | None, hello: Hello, connect_s: float, handshake_s: float
) -> tuple[FrameLink, Agreed]:
    whom = f"node '{hello.peer}' at {address}"
    stream = await _connect(address, connect_s, whom)
    return await greet(stream, tls=tls, hello=hello, whom=whom, handshake_s=handshake_s)


async def _connect(address: AddressPair, connect_s: float, whom: str) -> trio.SocketStream:
    try:
        with trio.fail_after(connect_s):
            stream = await trio.open_tcp_stream(
                address.host, address.port, local_address=address.source
            )
    except trio.TooSlowError as error:
        raise PeerLostError(f"{whom} does not answer within {connect_s:g} s") from error
    except OSError as error:
        why = _first_cause(error)
        raise PeerLostError(f"{whom} cannot be reached: {why}") from why
    keep_alive(stream)
    return stream


async def _say(stream: trio.SocketStream, preface: bytes, whom: str) -> None:
    try:
        await stream.send_all(preface)  # of a new connection: there is room
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if isinstance(error, trio.BrokenResourceError):
            raise peer_error_from(error, whom=whom) from error
        raise


def _first_cause(error: BaseException) -> BaseException:
    """What lies behind trio's "all attempts failed", for there is one address mostly."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause


async def _secure(stream: trio.SocketStream, tls: PeerTls, whom: str) -> trio.abc.Stream:
    secured = tls.wrap_outgoing(stream)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        raise peer_error_from(error, whom=whom) from error
    tls.check(secured)
    return secured
