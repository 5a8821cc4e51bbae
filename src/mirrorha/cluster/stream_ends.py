"""Who carries a volume's stream: its driver in this process, or the worker behind its mount."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from mirrorha.cluster.spoken import CODEC
from mirrorha.errors import PeerLostError, PeerRefusedError
from mirrorha.net.session import Session
from mirrorha.net.session_dial import greet
from mirrorha.net.session_server import answer_caller
from mirrorha.volume.driver import StreamSocket
from mirrorha.volume.engine import Engine
from mirrorha.wire.greeting import HANDSHAKE_S
from mirrorha.wire.hello import STREAM, Hello, encode_hello

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.net.frame_link import FrameLink
    from mirrorha.net.raw_stream import RawStream
    from mirrorha.net.tls import PeerTls
    from mirrorha.volume.driver import WorkerDriver
    from mirrorha.wire.hello import Agreed


class StreamEnd(Protocol):
    """A volume, as the connections for its stream see it."""

    async def carry(
        self, raw: RawStream, *, peer_incarnation: str, admitted: Callable[[], None]
    ) -> None:
        """Make sure that the other side is the peer, then carry the volume's messages both ways.

        Until the stream ends or this is cancelled. Several connections may ask at once: a stream
        that there is ends only once a newer one is admitted.

        Args:
            peer_incarnation: whose stream this must be; another one's is a leftover, and refused.
            admitted: called once both have said hello.

        Raises:
            PeerError: why it was not let in, or ended.
        """
        ...


@final
class SessionEnd:
    """A volume that is driven in this process.

    Args:
        tls: None on a link that nobody authenticates: tests.
        hello: what this node says on this volume's stream.
        plain: whether TLS ends once both have said hello.
    """

    def __init__(
        self, engine: Engine, *, tls: PeerTls | None, hello: Callable[[], Hello], plain: bool
    ) -> None:
        self._engine: Final = engine
        self._plain: Final = plain
        self._tls: Final = tls
        self._hello: Final = hello

    async def carry(
        self, raw: RawStream, *, peer_incarnation: str, admitted: Callable[[], None]
    ) -> None:
        link, agreed = await self._greet(raw)
        try:
            if agreed.peer.incarnation != peer_incarnation:
                return  # of an earlier life, or of a later one whose control session is on its way
            if self._plain:
                await link.end_tls(deadline_s=HANDSHAKE_S)
            admitted()
            async with trio.open_nursery() as nursery:
                session = Session(link, agreed=agreed, codec=CODEC, path=raw.path)
                nursery.start_soon(session.run_writer)
                await self._engine.run_stream(session)
                nursery.cancel_scope.cancel()
        finally:
            # Without a farewell: whoever closes so has been answered, or is not heard any more.
            with trio.CancelScope() as at_once:
                at_once.cancel()
                await link.aclose()

    async def _greet(self, raw: RawStream) -> tuple[FrameLink, Agreed]:
        if raw.dials:
            return await greet(raw.stream, tls=self._tls, hello=self._hello(), whom=raw.whom)
        return await answer_caller(raw.stream, tls=self._tls, hello_for=self._answer, whom=raw.whom)

    def _answer(self, theirs: Hello) -> Hello:
        mine = self._hello()
        if (theirs.kind, theirs.volume) != (STREAM, mine.volume):
            raise PeerRefusedError("the preface and the hello speak of different things")
        return mine


@final
class WorkerEnd:
    """A volume that a worker process drives: the connection is handed to it as it is."""

    def __init__(self, driver: WorkerDriver, *, hello: Callable[[], Hello], plain: bool) -> None:
        self._driver: Final = driver
        self._plain: Final = plain
        self._hello: Final = hello

    async def carry(
        self, raw: RawStream, *, peer_incarnation: str, admitted: Callable[[], None]
    ) -> None:
        try:
            # trio's own socket cannot be given away: its loop would go on knowing it.
            copy = socket.socket(fileno=os.dup(raw.stream.socket.fileno()))
        except OSError as error:
            raise PeerLostError(f"{raw.whom} cannot be handed to the worker: {error}") from error
        handed = StreamSocket(
            socket=copy,
            dials=raw.dials,
            hello=encode_hello(self._hello()),
            peer_incarnation=peer_incarnation,
            whom=raw.whom,
        )
        try:
            await trio.aclose_forcefully(raw.stream)
            await self._driver.run_socket(handed, admitted=admitted, plain=self._plain)
        finally:
            handed.socket.close()


def stream_end_of(
    driver: Engine | WorkerDriver | None,
    volume: str,
    *,
    tls: PeerTls | None,
    hello: Callable[[str, str], Hello],
    plain: bool,
) -> StreamEnd | None:
    """The end of a volume's stream on this node, or None while the volume is not open."""

    def say() -> Hello:
        return hello(STREAM, volume)

    if driver is None:
        return None
    if isinstance(driver, Engine):
        return SessionEnd(driver, tls=tls, hello=say, plain=plain)
    return WorkerEnd(driver, hello=say, plain=plain)
