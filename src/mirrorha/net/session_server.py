"""Being called: by the peer, and by whoever else finds the port."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final, Generic, Never, TypeAlias, TypeVar, final

import attrs
import trio

from mirrorha.errors import (
    InvariantViolation,
    LocalUsageError,
    PeerError,
    PeerLostError,
    PeerProtocolError,
    PeerRefusedError,
)
from mirrorha.net.frame_link import FrameLink, hang_up
from mirrorha.net.handshake import answer, deadline, refuse
from mirrorha.net.keepalive import keep_alive
from mirrorha.net.raw_stream import RawStream, take_preface
from mirrorha.net.session import Session
from mirrorha.net.tls import peer_error_from
from mirrorha.wire.greeting import HANDSHAKE_S
from mirrorha.wire.limits import UNKNOWN_CONNECTIONS_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mirrorha.net.tls import PeerTls
    from mirrorha.wire.codec import Codec
    from mirrorha.wire.hello import Agreed, Hello

T = TypeVar("T")
#: Takes a connection for a stream; see `serve_sessions`.
OnStream: TypeAlias = "Callable[[str, RawStream, Callable[[], None]], Awaitable[None]]"

_log: Final = logging.getLogger(__name__)

# The same complaint about callers is logged no more often: strangers must not fill a disk.
_LOG_AGAIN_S: Final = 10.0


@attrs.define
class ServeCounts:
    """What has become of the connections made to this node. Each is counted once or twice.

    Attributes:
        called: all of them.
        admitted: those on which both said hello.
        evicted: strangers that had to go, for newer ones came.
        refused: who does not belong to us.
        violations: broken protocols: strangers, other programs, other versions.
        lost: connections that broke or took too long.
        faults: our own; each is in the log with its traceback.
    """

    called: int = 0
    admitted: int = 0
    evicted: int = 0
    refused: int = 0
    violations: int = 0
    lost: int = 0
    faults: int = 0


async def open_listeners(addresses: Sequence[str], port: int) -> list[trio.SocketListener]:
    """Listen on all `addresses`.

    Raises:
        LocalUsageError: one of them is not this machine's, or its port is taken.
    """
    listeners: list[trio.SocketListener] = []
    for address in addresses:
        try:
            listeners += await trio.open_tcp_listeners(port, host=address)
        except OSError as error:
            for listener in listeners:
                await trio.aclose_forcefully(listener)
            raise LocalUsageError(
                f"cannot listen on {address} port {port}: {error.strerror or error}; is the "
                "address this machine's, and no other node running on it?"
            ) from error
    return listeners


async def serve_sessions(
    listeners: Sequence[trio.SocketListener],
    *,
    tls: PeerTls | None,
    hello_for: Callable[[Hello], Hello],
    codec: Codec[T],
    on_session: Callable[[Session[T]], Awaitable[None]],
    on_stream: OnStream | None = None,
    turned_away: Callable[[str, PeerError], None] | None = None,
    handshake_s: float = HANDSHAKE_S,
    unknown_max: int = UNKNOWN_CONNECTIONS_MAX,
    counts: ServeCounts | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Accept connections until cancelled; run `on_session` for every one that is the peer's.

    Whatever a stranger does costs at most one of `unknown_max` places for handshake_s seconds and
    a line in the log now and then; the newcomer gets the place of who has had it longest, so that
    the peer gets in while somebody holds all of them. A session is closed when `on_session`
    returns, and cut off when it raises.

    Args:
        listeners: From `open_listeners`; closed in the end.
        tls: None on a plain link, which only a trusted network justifies.
        hello_for: As for `answer`.
        codec: Of the control messages.
        on_session: Called once for each session, concurrently. PeerErrors are expected of it;
            other exceptions end the session, and are counted as faults and logged.
        on_stream: Called with the label in a preface, the connection after it, and a function to
            call once the caller has proved to be the peer: until then it has a stranger's place
            and time. Cancelled, it is to give the connection up, which is closed after it in any
            case. Exceptions as for `on_session`. None: nobody takes such connections.
        turned_away: Told of each caller that was not let in: its host, and why. Never blocks.
        handshake_s: How long a stranger may take to become known.
        unknown_max: How many strangers there may be at once.
        counts: Counts what happens.
        task_status: For `nursery.start`.

    Raises:
        ExceptionGroup: of InvariantViolation, and only if `on_session` has raised that.
    """
    async with trio.open_nursery() as nursery:
        door = _Door(
            nursery=nursery,
            tls=tls,
            hello_for=hello_for,
            codec=codec,
            on_session=on_session,
            on_stream=on_stream,
            turned_away=turned_away or (lambda host, error: None),
            handshake_s=handshake_s,
            unknown_max=unknown_max,
            counts=counts or ServeCounts(),
        )
        task_status.started()
        await trio.serve_listeners(door.serve, list(listeners), handler_nursery=nursery)


async def answer_caller(
    stream: trio.SocketStream,
    *,
    tls: PeerTls | None,
    hello_for: Callable[[Hello], Hello],
    whom: str,
    handshake_s: float = HANDSHAKE_S,
) -> tuple[FrameLink, Agreed]:
    """Secure a connection made to this node, and answer the hello. It is closed if that fails.

    Raises:
        PeerError: why the caller is not let in.
    """
    secured: trio.abc.Stream = stream
    keep_alive(stream)
    try:
        with deadline(handshake_s, whom=whom):
            if tls is not None:
                secured = await _secure(stream, tls, whom)
            link = FrameLink(secured, whom=whom)
            agreed = await answer(link, hello_for=hello_for, deadline_s=handshake_s)
    except PeerError:
        await hang_up(secured)
        raise
    return link, agreed


async def _secure(stream: trio.SocketStream, tls: PeerTls, whom: str) -> trio.abc.Stream:
    secured = tls.wrap_incoming(stream)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        raise peer_error_from(error, whom=whom) from error
    try:
        tls.check(secured)
    except PeerRefusedError as refusal:
        # It is of our cluster: so it deserves to know.
        await refuse(FrameLink(secured, whom=whom), refusal)
        await hang_up(secured)
        raise
    return secured


@final
@attrs.define(eq=False)
class _Caller:
    """Somebody who has called. Until it is known it has a place among the strangers."""

    host: str
    whom: str
    is_known: bool = False


@final
@attrs.frozen(kw_only=True)
class _Door(Generic[T]):
    """Who is let in. `serve` is the boundary: no exception of a connection leaves it."""

    nursery: trio.Nursery
    tls: PeerTls | None
    hello_for: Callable[[Hello], Hello]
    codec: Codec[T]
    on_session: Callable[[Session[T]], Awaitable[None]]
    on_stream: OnStream | None
    turned_away: Callable[[str, PeerError], None]
    handshake_s: float
    unknown_max: int
    counts: ServeCounts
    _unknown: dict[_Caller, trio.CancelScope] = attrs.field(factory=dict)
    _logged_at: dict[type[BaseException], float] = attrs.field(factory=dict)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.counts.called += 1
        caller = _caller(stream)
        try:
            session = await self._let_in(stream, caller)
            if session is not None:
                self.nursery.start_soon(session.run_writer)
                await self.on_session(session)
                # Not if it has raised: a farewell would delay that, and, if cancelled, replace it.
                # trio closes the socket in any case, and the writer ends with it.
                await session.aclose()
        # With a star, for `on_session` may well have a nursery.
        except* Exception as group:
            # A stranger cannot be given a way to stop the node, should it find a bug of ours.
            if caller.is_known and group.subgroup(InvariantViolation) is not None:
                raise
            for error in _leaves(group):
                self._complain(error, caller.whom)
                if not caller.is_known and isinstance(error, PeerError):
                    self.turned_away(caller.host, error)

    async def _let_in(self, stream: trio.SocketStream, caller: _Caller) -> Session[T] | None:
        """Return a session once the caller has proved to be the peer.

        None: it was evicted, or it called for a stream, and that has ended.
        """
        if len(self._unknown) >= self.unknown_max:
            self.counts.evicted += 1
            self._unknown.pop(next(iter(self._unknown))).cancel()
        with trio.CancelScope() as scope:
            self._unknown[caller] = scope
            try:
                label = await self._take_preface(stream, caller)
                if label is None:
                    return await self._begin_session(stream, caller)
                await self._carry(label, stream, caller, scope)
            finally:
                self._unknown.pop(caller, None)
        if trio.current_time() >= scope.deadline:
            raise PeerLostError(f"{caller.whom} did not say hello within {self.handshake_s:g} s")
        return None

    async def _take_preface(self, stream: trio.SocketStream, caller: _Caller) -> str | None:
        if self.on_stream is None:
            return None
        with deadline(self.handshake_s, whom=caller.whom):
            return await take_preface(stream, whom=caller.whom)

    async def _begin_session(self, stream: trio.SocketStream, caller: _Caller) -> Session[T]:
        link, agreed = await answer_caller(
            stream,
            tls=self.tls,
            hello_for=self.hello_for,
            whom=caller.whom,
            handshake_s=self.handshake_s,
        )
        self._admit(caller)
        return Session(link, agreed=agreed, codec=self.codec)

    async def _carry(
        self, label: str, stream: trio.SocketStream, caller: _Caller, place: trio.CancelScope
    ) -> None:
        """Have a stream carried over the connection, by whoever does that."""
        if self.on_stream is None:
            return

        def admit() -> None:
            self._admit(caller)
            place.deadline = math.inf

        place.deadline = trio.current_time() + self.handshake_s
        keep_alive(stream)
        await self.on_stream(label, RawStream(stream=stream, dials=False, whom=caller.whom), admit)

    def _admit(self, caller: _Caller) -> None:
        caller.is_known = True
        self.counts.admitted += 1
        self._unknown.pop(caller, None)

    def _complain(self, error: BaseException, whom: str) -> None:
        level, is_fault = logging.INFO, False
        match error:
            case PeerRefusedError():
                self.counts.refused += 1
                level = logging.WARNING
            case PeerProtocolError():
                self.counts.violations += 1
            case PeerLostError():
                self.counts.lost += 1
            case _:
                self.counts.faults += 1
                level, is_fault = logging.ERROR, True
        now_s = trio.current_time()
        if now_s - self._logged_at.get(type(error), float("-inf")) < _LOG_AGAIN_S:
            return
        self._logged_at[type(error)] = now_s
        _log.log(level, "%s: %s", whom, error, exc_info=error if is_fault else None)


def _caller(stream: trio.SocketStream) -> _Caller:
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return _Caller("", "a caller that is gone")
    return _Caller(host, f"the caller from {host} port {port}")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
