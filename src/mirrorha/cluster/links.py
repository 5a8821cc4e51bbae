"""The sessions with the peer: one for control, and one for each volume's stream.

The node whose name sorts first dials, the other answers: so there are never two of a kind by
chance. Streams belong to a control session and end with it. What arrives newest counts: a session
that is still there when its successor comes is a leftover.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha.cluster.backoff import Backoff
from mirrorha.cluster.spoken import CODEC, check_message
from mirrorha.core.events import Heard, LinkClosed, LinkOpened
from mirrorha.errors import PeerError, PeerProtocolError, PeerRefusedError
from mirrorha.net.session_dial import AddressPair, dial, dial_raw
from mirrorha.net.session_server import serve_sessions
from mirrorha.wire.hello import CONTROL, Disagreement, Hello, compare
from mirrorha.wire.preface import encode_preface, stream_label

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from mirrorha.cluster.loop import Loop
    from mirrorha.cluster.stream_ends import StreamEnd
    from mirrorha.core.messages import AnyMessage
    from mirrorha.net.raw_stream import RawStream
    from mirrorha.net.session import Session
    from mirrorha.net.tls import PeerTls

_log: Final = logging.getLogger(__name__)

#: A lost peer is dialled again at once, then ever less often; heartbeats that come back end the
#: wait. A refusal needs a person, so there is no hurry.
RETRY_MS_MAX: Final = 2_000
REFUSED_MS_MAX: Final = 10_000
#: So many different reasons are told of between two sessions.
REASONS_MAX: Final = 16
_PORT: Final = re.compile(r"(the caller from \S+) port \d+")

#: Our address and the peer's.
Path = tuple[str | None, str]


@attrs.define(eq=False)
class _Control:
    """The current control session."""

    link: int
    incarnation: int
    session: Session[AnyMessage]
    scope: trio.CancelScope
    why: str = ""
    was_passable: bool = False

    @property
    def path(self) -> Path | None:
        return self.session.path


@attrs.define(eq=False)
class _Stream:
    """The current session of a volume."""

    path: Path | None
    scope: trio.CancelScope
    was_passable: bool = False


@final
class Links:
    """Dials or answers, and keeps the sessions that there are.

    Args:
        dials: whether this node is the one that does.
        addresses: the ways to the peer, in the order of preference.
        hello: what this node says, given kind and volume; asked at each connection.
        stream_end: the volume of this name, or None while it is not open.
        volumes: their names.
        peer: the other node's name.
        is_passable: whether heartbeats pass between two addresses, ours first, both ways.
        note: told of what a person should hear: a rule's name and a text.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        dials: bool,
        addresses: Sequence[AddressPair],
        tls: PeerTls | None,
        hello: Callable[[str, str], Hello],
        stream_end: Callable[[str], StreamEnd | None],
        volumes: Sequence[str],
        peer: str,
        is_passable: Callable[[Path], bool],
        note: Callable[[str, str], None],
        rng: random.Random,
    ) -> None:
        self._loop: Final = loop
        self._dials: Final = dials
        self._addresses: Final = tuple(addresses)
        self._tls: Final = tls
        self._hello: Final = hello
        self._stream_end: Final = stream_end
        self._labels: Final = {stream_label(each): each for each in volumes}
        self._peer: Final = peer
        self._is_passable: Final = is_passable
        self._note: Final = note
        self._rng: Final = rng
        self._links = 0
        self._control: _Control | None = None
        self._streams: dict[str, _Stream] = {}
        self._turns: dict[str, int] = {}
        self._changed: Final = trio.lowlevel.ParkingLot()
        self._nudged: Final = trio.lowlevel.ParkingLot()
        self._peer_hosts: Final = frozenset(each.host for each in addresses)
        self._refusals: set[str] = set()  # what was told of since the last session
        self.refusal = ""
        self.warnings: tuple[str, ...] = ()

    # ---- for the loop; never blocking ----

    @property
    def is_open(self) -> bool:
        """Whether the control session is up."""
        return self._control is not None

    @property
    def incarnation(self) -> int:
        """The peer's, as the control session has it; 0 without one."""
        return self._control.incarnation if self._control else 0

    def send(self, link: int, message: AnyMessage) -> None:
        """Send on the control session `link`, if it is still the current one."""
        control = self._control
        if control is None or control.link != link:
            return
        try:
            control.session.send_nowait(message)
        except trio.WouldBlock:
            self._end(control, "the peer takes less than it is sent")
        except PeerError as error:
            self._end(control, str(error))

    def drop(self, link: int, why: str) -> None:
        """Close the control session `link`; it is dialled again."""
        if self._control is not None and self._control.link == link:
            self._end(self._control, why)

    def drop_all(self, why: str) -> None:
        """Close whatever there is: it cannot be the peer's any more, or does not reach it."""
        if self._control is not None:
            self._end(self._control, why)

    def drop_stream(self, volume: str) -> None:
        """Close a volume's stream; it is dialled again, over the next pair of addresses."""
        if volume in self._streams:
            self._streams[volume].scope.cancel()

    def leave_lost_paths(self) -> None:
        """Close what this node dialled over addresses between which nothing passes any more.

        Only while it does between others, over which it is dialled again. TCP alone would notice
        after minutes. What was dialled where heartbeats do not pass stays: no connection could be
        made where they do.
        """
        if not any(self._passes(each) for each in self._addresses):
            return
        control = self._control
        if control is not None and self._is_lost(control):
            self._end(control, "nothing passes over its addresses any more")
            return
        for stream in self._streams.values():
            if self._is_lost(stream):
                stream.scope.cancel()

    def _is_lost(self, session: _Control | _Stream) -> bool:
        passes = session.path is None or self._is_passable(session.path)
        lost = session.was_passable and not passes
        session.was_passable = session.was_passable or passes
        return lost

    def _passes(self, address: AddressPair) -> bool:
        return self._is_passable((address.source, address.host))

    def nudge(self) -> None:
        """The peer was heard: if it is to be dialled, do it now."""
        self._nudged.unpark_all()

    # ---- tasks ----

    async def run(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Keep the sessions up until cancelled. Closes the listeners in the end.

        The node that dials listens as well: that its port refuses is how its death is proven.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, listeners)
            if self._dials:
                nursery.start_soon(self._dial_control)
                for volume in self._labels.values():
                    nursery.start_soon(self._dial_stream, volume)

    async def _serve(self, listeners: Sequence[trio.SocketListener]) -> None:
        await serve_sessions(
            listeners,
            tls=self._tls,
            hello_for=self._hello_for,
            codec=CODEC,
            on_session=self._run_control,
            on_stream=self._on_stream,
            turned_away=self._turned_away,
        )

    def _hello_for(self, theirs: Hello) -> Hello:
        if theirs.kind != CONTROL:
            raise PeerRefusedError(f"a connection of the kind '{theirs.kind}' is not made so")
        mine = self._hello(theirs.kind, theirs.volume)
        verdict = compare(mine, theirs)
        if isinstance(verdict, Disagreement):
            self._refused(verdict.reason)
        elif self._dials:
            raise PeerRefusedError(f"'{mine.node}' dials, its peer does not: the first name does")
        return mine

    async def _on_stream(self, label: str, raw: RawStream, admitted: Callable[[], None]) -> None:
        volume = self._labels.get(label)
        if volume is not None and not self._dials:
            await self._run_stream(volume, raw, admitted)

    async def _dial_control(self) -> None:
        backoff = Backoff(self._rng)
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    session = await dial(
                        self._working_first(self._addresses),
                        nursery=nursery,
                        tls=self._tls,
                        hello=self._hello(CONTROL, ""),
                        codec=CODEC,
                    )
                    backoff.reset()
                    await self._run_control(session)
                    nursery.cancel_scope.cancel()
            except* (PeerRefusedError, PeerProtocolError) as group:
                self._refused(_first(group))
                backoff.max_ms = REFUSED_MS_MAX
            except* PeerError as group:
                _log.debug("no session with the peer: %s", _first(group))
                backoff.max_ms = RETRY_MS_MAX
            with trio.move_on_after(backoff.next_ms() / 1000):
                await self._nudged.park()

    def _working_first(self, addresses: Sequence[AddressPair]) -> list[AddressPair]:
        """Those over which heartbeats pass come first; otherwise the order stays."""
        return sorted(addresses, key=lambda each: not self._passes(each))

    # ---- the control session ----

    async def _run_control(self, session: Session[AnyMessage]) -> None:
        """Be the current control session until it ends. Raises PeerError: why it ended."""
        with trio.CancelScope() as scope:
            control = self._open(session, scope)
            why = "this node ends"
            try:
                await self._hear(control)
            except PeerError as error:
                why = str(error)
                raise
            finally:
                self._close(control, control.why or why)
                await _close_now(session)

    async def _hear(self, control: _Control) -> None:
        while True:
            message = await control.session.receive()
            check_message(message)
            await self._loop.wait_room()
            if self._control is not control:
                return
            self._loop.give(Heard(message=message))

    def _open(self, session: Session[AnyMessage], scope: trio.CancelScope) -> _Control:
        incarnation = _incarnation_of(session)
        if self._control is not None:
            self._end(self._control, "a newer session has come")
        self._links += 1
        control = _Control(link=self._links, incarnation=incarnation, session=session, scope=scope)
        self._control = control
        self.refusal = ""
        self._refusals.clear()
        self.warnings = session.agreed.warnings
        self._turns.clear()
        for warning in self.warnings:
            self._note("settings-differ", warning)
        self._loop.give(LinkOpened(link=control.link, incarnation=incarnation))
        self._changed.unpark_all()
        return control

    def _end(self, control: _Control, why: str) -> None:
        control.why = why
        control.scope.cancel()
        self._close(control, why)

    def _close(self, control: _Control, why: str) -> None:
        """No more is sent or taken in on it. Idempotent."""
        if self._control is not control:
            return
        self._control = None
        for stream in self._streams.values():
            stream.scope.cancel()
        _log.info("the session with the peer ended: %s", why)
        self._loop.give(LinkClosed(link=control.link))

    # ---- streams ----

    async def _dial_stream(self, volume: str) -> None:
        backoff = Backoff(self._rng, max_ms=RETRY_MS_MAX)
        while True:
            while self._control is None or self._stream_end(volume) is None:
                await self._changed.park()
            try:
                raw = await dial_raw(
                    self._working_first(self._ways(volume)),
                    peer=self._peer,
                    preface=encode_preface(volume),
                )
                await self._run_stream(volume, raw, backoff.reset)
            except* PeerError as group:
                _log.info("the stream of %s: %s", volume, _first(group))
            self._turns[volume] = self._turns.get(volume, 0) + 1
            await trio.sleep(backoff.next_ms() / 1000)

    def _ways(self, volume: str) -> tuple[AddressPair, ...]:
        """The addresses, beginning with those of the control session: there, connections work.

        Then with the next ones, at each further attempt within that session.
        """
        path = self._control.session.path if self._control else None
        first = [i for i, each in enumerate(self._addresses) if (each.source, each.host) == path]
        turn = (sum(first) + self._turns.get(volume, 0)) % len(self._addresses)
        return self._addresses[turn:] + self._addresses[:turn]

    async def _run_stream(self, volume: str, raw: RawStream, admitted: Callable[[], None]) -> None:
        """Have the volume carry its stream over this until that ends; then it is closed.

        Raises:
            PeerError: why it ended; in a group perhaps.
        """
        try:
            end, control = self._stream_end(volume), self._control
            if end is None or control is None:
                return  # too early, or too late: it is dialled again
            with trio.CancelScope() as scope:
                stream = _Stream(raw.path, scope)

                def admit() -> None:
                    # Only now: whoever has not proved to be the peer displaces nothing.
                    if self._control is not control:
                        scope.cancel()
                        return
                    if volume in self._streams:
                        self._streams[volume].scope.cancel()
                    self._streams[volume] = stream
                    admitted()

                try:
                    await end.carry(raw, peer_incarnation=str(control.incarnation), admitted=admit)
                finally:
                    if self._streams.get(volume) is stream:
                        del self._streams[volume]
        finally:
            await trio.aclose_forcefully(raw.stream)

    def volumes_changed(self) -> None:
        """A volume was opened: its stream may be dialled."""
        self._changed.unpark_all()

    def note_beats_refused(self, reason: str) -> None:
        """The peer's heartbeats are refused. What a connection tells is more exact, and stands."""
        if self._control is None and not self.refusal:
            self._refused(reason)

    def _turned_away(self, host: str, error: PeerError) -> None:
        """A caller was not let in. From one of the peer's addresses it is the peer, most likely."""
        is_refused = isinstance(error, PeerRefusedError)  # all else, any program may have said
        if is_refused and host in self._peer_hosts and self._control is None:
            # Each call comes from another port: it must not look like another reason.
            self._refused(_PORT.sub(r"\1", str(error)))

    def _refused(self, reason: str) -> None:
        self.refusal = reason
        # Each reason once: two that alternate must not fill the log.
        if reason not in self._refusals and len(self._refusals) < REASONS_MAX:
            self._refusals.add(reason)
            self._note("peer-refused", reason)


async def _close_now(session: Session[AnyMessage]) -> None:
    """Without a farewell: whoever closes so has been answered, or is not heard any more."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await session.aclose()


def _incarnation_of(session: Session[AnyMessage]) -> int:
    text = session.agreed.peer.incarnation
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise PeerProtocolError(f"the peer's incarnation is {text!r}, which is no number")
    return int(text)


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
