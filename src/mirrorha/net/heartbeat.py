"""Heartbeats over UDP, in a thread and a trio loop of their own.

They go on while the application blocks its loop, and say for how long it has: such a node is
seen as *stalled*, not as dead. Nothing that the thread does waits for the application: beats are
handed over by replacing, so nothing grows while nobody takes them.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha.errors import InvariantViolation, PeerProtocolError, ensure
from mirrorha.net.paths import HeartbeatPath, family_of, socket_address
from mirrorha.wire.beat import BEAT_BYTES_MAX, Beat, Heart, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mirrorha.core.detector import PeerBeat

# Said more than once because datagrams get lost, and not in one burst because they get lost in
# bursts. Beats that follow carry the goodbye as well.
GOODBYE_PAUSES_MS: Final = (0, 5, 20)
# A flood on one path leaves the loop to the others after this many.
_DATAGRAMS_PER_WAKE_MAX: Final = 32
# A receive buffer of the usual size holds fewer.
_DATAGRAMS_BEFORE_MAX: Final = 1_000
# A socket whose address went away may need to be made anew to work again.
_SEND_FAILURES_MAX: Final = 4


def monotonic_ms() -> int:
    """The clock that heartbeats are timed with: milliseconds, the same in every thread."""
    return time.monotonic_ns() // 1_000_000


@attrs.frozen(kw_only=True)
class HeardBeat:
    """An admitted beat, on its way to the application's loop.

    Attributes:
        path: the name of the path.
        beat: what the datagram said.
        facts: what of it the detector needs.
        heard_at_ms: when it arrived, by the clock that the thread was started with.
    """

    path: str
    beat: Beat
    facts: PeerBeat
    heard_at_ms: int


# One or two are what a peer's earlier life left in the network.
_REFUSED_IN_A_ROW_MIN: Final = 4


@attrs.frozen(kw_only=True)
class PathStatistics:
    """One path, for the status document.

    Attributes:
        last_heard_s: seconds since the last admitted beat; None before the first.
        error: why nothing can be sent or received now, for people; "" if nothing is known.
        errors: how often a socket failed.
        refused: how many datagrams were not admitted; `refusal` says why the last one was not.
    """

    name: str
    local: str
    peer: str
    up: bool
    last_heard_s: float | None
    sent: int
    heard: int
    errors: int
    error: str
    refused: int
    refusal: str


@final
class _Handover:
    """The newest beat of each path, on its way from the heartbeat thread to the application's loop.

    There is no lock that a blocked application could hold: `put` and `take` are single operations
    on a dictionary, which are atomic. It holds one beat per path at most.
    """

    def __init__(self, paths: tuple[str, ...], token: trio.lowlevel.TrioToken) -> None:
        # Whose turn it is: no path's beats keep another's waiting.
        self._turns = collections.deque(paths)
        self._token = token
        self._waiting: dict[str, HeardBeat] = {}
        self._news = trio.Event()
        self._ended = False
        self._tried_out = False

    def put(self, heard: HeardBeat) -> None:
        """Called in the heartbeat thread. Never waits."""
        self._waiting[heard.path] = heard
        self.wake()
        self._tried_out = True

    def try_out(self) -> None:
        """See whether the application's loop still runs, unless a beat has just shown it.

        Called in the heartbeat thread. To wake a loop costs more than to send a beat.

        Raises:
            trio.RunFinishedError: the application's loop is over.
        """
        if not self._tried_out:
            self.wake()
        self._tried_out = False

    def wake(self) -> None:
        """Called in any thread.

        Raises:
            trio.RunFinishedError: the application's loop is over.
        """
        self._token.run_sync_soon(self._tell, idempotent=True)

    def end(self) -> None:
        """No more will come. Called in any thread."""
        self._ended = True
        self.wake()

    async def take(self) -> HeardBeat | None:
        """Wait for a beat, in the application's loop; None once all are taken and no more come."""
        await trio.lowlevel.checkpoint()
        while True:
            ended = self._ended  # looked at first: nothing is put after it is set
            for _ in range(len(self._turns)):
                heard = self._waiting.pop(self._turns[0], None)
                self._turns.rotate(-1)
                if heard is not None:
                    return heard
            if ended:
                return None
            self._news = trio.Event()
            await self._news.wait()

    def _tell(self) -> None:
        if self._waiting or self._ended:
            self._news.set()


@final
@attrs.define(kw_only=True, eq=False)
class _Link:
    """One path's socket and figures. Changed by the heartbeat thread only, read by any."""

    path: HeartbeatPath
    shares_port: bool
    sock: socket.socket | None = None
    scope: trio.CancelScope | None = None
    last_heard_ms: int | None = None
    sent: int = 0
    heard: int = 0
    errors: int = 0
    error: str = ""
    refused: int = 0
    refused_in_a_row: int = 0
    refusal: str = ""
    send_failures: int = 0

    def open(self) -> socket.socket:
        """Make a socket, connected: so the kernel drops strangers' datagrams and tells refusals."""
        path = self.path
        family = family_of(path.local)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if self.shares_port:
                # Several peers' addresses seen from one of ours: connected sockets on one port.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(socket_address(path.local, path.local_port))
            sock.connect(socket_address(path.peer, path.peer_port))
            _forget_what_came(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def send(self, raw: bytes) -> bool:
        """Send now or not at all. Returns whether the kernel took it."""
        if self.sock is None:
            return False
        try:
            self.sock.send(raw)
        except OSError as error:
            self.note(error)
            # A refusal answers an earlier beat: the socket itself is well.
            if error.errno != errno.ECONNREFUSED:
                self.send_failures += 1
            if self.send_failures >= _SEND_FAILURES_MAX and self.scope is not None:
                self.scope.cancel()
            return False
        self.sent += 1
        self.send_failures = 0
        return True

    def note(self, error: OSError) -> None:
        self.errors += 1
        self.error = _say(error, self.path)

    def refuse(self, error: PeerProtocolError) -> None:
        self.refused += 1
        self.refused_in_a_row += 1
        self.refusal = str(error)
        self.error = ""  # somebody is there, whatever the kernel said before

    def admit(self, *, now_ms: int) -> None:
        self.heard += 1
        self.refused_in_a_row = 0
        self.last_heard_ms = now_ms
        self.error = ""


@final
class HeartbeatThread:
    """Sends and hears beats on every path. Made by `start`, in the application's trio loop.

    Iterate over it (`async for heard in heartbeats`) in that loop to take the beats; call
    `note_alive` from that loop each pulse or more often; give `listened_at_ms` to `Detector.tick`.
    When that loop ends, the beats end. Socket errors end nothing: they are tried again each
    pulse, counted and shown by `statistics`.
    """

    def __init__(
        self,
        paths: Sequence[HeartbeatPath],
        heart: Heart,
        *,
        pulse_ms: int,
        timeout_ms: int,
        token: trio.lowlevel.TrioToken,
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        ensure(len(paths) > 0, "there is at least one heartbeat path")
        ensure(pulse_ms > 0, "the pulse is positive")
        self._links = tuple(
            _Link(path=path, shares_port=_shares_port(path, paths)) for path in paths
        )
        self._heart = heart
        self._pulse_ms = pulse_ms
        self._timeout_ms = timeout_ms
        self._clock_ms = clock_ms
        self._handover = _Handover(tuple(path.name for path in paths), token)
        self._status = Status()
        self._alive_at_ms = self._listened_at_ms = clock_ms()
        self._goodbye_of: int | None = None
        self._goodbye_asked = trio.Event()
        self._goodbye_sent = threading.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope | None = None
        self._thread = threading.Thread(target=self._main, name="mirrorha-heartbeat", daemon=True)

    @classmethod
    def start(
        cls,
        paths: Sequence[HeartbeatPath],
        heart: Heart,
        *,
        pulse_ms: int,
        timeout_ms: int,
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> HeartbeatThread:
        """Start beating. Called in the application's trio loop; does not block.

        Args:
            paths: from `heartbeat_paths`.
            heart: this node's side of the exchange; from now on the thread's own.
            pulse_ms: how often a beat is sent on each path.
            timeout_ms: silence for this long shows a path as down.
            clock_ms: the clock of `HeardBeat.heard_at_ms`; it must be callable in any thread, and
                be the one that the detector's `now_ms` comes from. (`trio.current_time` is
                neither.)
        """
        token = trio.lowlevel.current_trio_token()
        self = cls(
            paths, heart, pulse_ms=pulse_ms, timeout_ms=timeout_ms, token=token, clock_ms=clock_ms
        )
        self._thread.start()
        return self

    # For the application's loop.

    def __aiter__(self) -> HeartbeatThread:
        return self

    async def __anext__(self) -> HeardBeat:
        """Wait for a beat. What was not taken in time is replaced by newer ones of its path.

        Raises:
            StopAsyncIteration: the thread was stopped.
            InvariantViolation: the thread failed; this node sends no beats any more.
        """
        heard = await self._handover.take()
        if heard is not None:
            return heard
        if self._failure is not None:
            raise InvariantViolation(f"the heartbeat thread failed: {self._failure!r}")
        raise StopAsyncIteration

    def note_alive(self, now_ms: int | None = None) -> None:
        """The application's loop turns. Call it there each pulse or more often, as with each tick.

        A task of its own for it, that sleeps for 100 ms, costs as much as the beats themselves.
        """
        self._alive_at_ms = self._clock_ms() if now_ms is None else now_ms

    # For any thread.

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def listened_at_ms(self) -> int:
        """When the heartbeat thread last ran, at most a pulse ago if it is well."""
        return self._listened_at_ms

    def set_status(self, status: Status) -> None:
        """What the next beats tell of this node."""
        self._status = status

    def say_goodbye(self, *, wait_ms: int = 0) -> bool:
        """Tell the peer to go on without this incarnation: at once, thrice, on every path.

        Every later beat says it too, until `renew`. Blocks the calling thread for at most
        `wait_ms`, and works while the application's loop is blocked. Returns whether the kernel
        took it on at least one path within that time; with 0 that is usually not known yet.
        """
        self._goodbye_of = self._heart.incarnation
        self._ask(self._begin_goodbyes)
        return self._goodbye_sent.wait(wait_ms / 1000)

    def renew(self, incarnation: int) -> None:
        """Go on as a newer incarnation, which is durably counted already: ends a goodbye."""
        self._heart.renew(incarnation)
        self._goodbye_sent = threading.Event()

    def stop(self, *, wait_ms: int = 1_000) -> bool:
        """End the beats, without a goodbye. Idempotent.

        Blocks the calling thread for at most `wait_ms`; returns whether the thread has ended.
        """
        self._stopping = True
        self._ask(self._cancel)
        if self._thread.ident is not None:
            self._thread.join(wait_ms / 1000)
        return not self._thread.is_alive()

    @property
    def refusal(self) -> str:
        """Why nothing but refused datagrams has come lately on some path, or ""."""
        for link in self._links:
            if link.refused_in_a_row >= _REFUSED_IN_A_ROW_MIN:
                return link.refusal
        return ""

    def statistics(self) -> tuple[PathStatistics, ...]:
        """Every path as it is now, in the order given."""
        now_ms = self._clock_ms()
        return tuple(self._statistics_of(link, now_ms) for link in self._links)

    def _statistics_of(self, link: _Link, now_ms: int) -> PathStatistics:
        heard_ms = link.last_heard_ms
        age_ms = None if heard_ms is None else max(0, now_ms - heard_ms)
        return PathStatistics(
            name=link.path.name,
            local=link.path.local,
            peer=link.path.peer,
            up=age_ms is not None and age_ms < self._timeout_ms,
            last_heard_s=None if age_ms is None else age_ms / 1000,
            sent=link.sent,
            heard=link.heard,
            errors=link.errors,
            error=link.error,
            refused=link.refused,
            refusal=link.refusal,
        )

    def _ask(self, request: Callable[[], object]) -> None:
        """Have `request` called in the heartbeat loop. One that has not begun looks by itself."""
        token = self._token
        if token is None:
            return
        try:
            token.run_sync_soon(request)
        except trio.RunFinishedError:
            return  # it is over, which every request is content with

    def _begin_goodbyes(self) -> None:
        self._goodbye_asked.set()

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    # In the heartbeat thread.

    def _main(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as error:
            self._failure = error
        try:
            self._handover.end()
        except trio.RunFinishedError:
            return  # nobody is left to be told

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            self._token = trio.lowlevel.current_trio_token()
            # Asked for before there was a loop to ask.
            if self._stopping:
                return
            if self._goodbye_of is not None:
                self._goodbye_asked.set()
            for link in self._links:
                nursery.start_soon(self._listen, link)
            nursery.start_soon(self._say_goodbyes)
            await self._pulse()
            nursery.cancel_scope.cancel()

    async def _pulse(self) -> None:
        """Send on every path each pulse, until the application's loop is over.

        A path's first beat is sent when its socket is made, so this begins with a wait.
        """
        now_ms = next_ms = self._clock_ms()
        while True:
            self._listened_at_ms = now_ms
            # On a steady grid; but beats that were missed are not made up for.
            next_ms = max(next_ms + self._pulse_ms, now_ms + self._pulse_ms // 2)
            await trio.sleep((next_ms - now_ms) / 1000)
            now_ms = self._clock_ms()
            self._send(self._links, now_ms=now_ms)
            try:
                # Also without news: a node whose loop is over must not look alive.
                self._handover.try_out()
            except trio.RunFinishedError:
                return

    async def _say_goodbyes(self) -> None:
        while True:
            await self._goodbye_asked.wait()
            self._goodbye_asked = trio.Event()
            for pause_ms in GOODBYE_PAUSES_MS:
                await trio.sleep(pause_ms / 1000)
                self._send(self._links, now_ms=self._clock_ms())

    def _send(self, links: Sequence[_Link], *, now_ms: int) -> None:
        """Send a beat on each of `links` that has a socket now."""
        goodbye_sent = self._goodbye_sent
        loop_age_ms = max(0, now_ms - self._alive_at_ms)
        goodbye = self._goodbye_of == self._heart.incarnation
        for link in links:
            raw = self._heart.beat(
                link.path.index,
                now_ms=now_ms,
                loop_age_ms=loop_age_ms,
                status=self._status,
                goodbye=goodbye,
            )
            if link.send(raw) and goodbye:
                goodbye_sent.set()

    async def _listen(self, link: _Link) -> None:
        """Keep the path's socket open and hear what comes, whatever fails."""
        while True:
            try:
                with link.open() as sock:
                    await self._hear(link, sock)
            except OSError as error:
                link.note(error)
            await trio.sleep(self._pulse_ms / 1000)

    async def _hear(self, link: _Link, sock: socket.socket) -> None:
        """Hear until the socket fails (OSError) or sending on it does."""
        if link.send_failures == 0:
            link.error = ""  # what was wrong was the opening
        with trio.CancelScope() as link.scope:
            link.sock = sock
            self._send([link], now_ms=self._clock_ms())
            try:
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    self._take_waiting(link, sock)
            finally:
                link.sock = None

    def _take_waiting(self, link: _Link, sock: socket.socket) -> None:
        for _ in range(_DATAGRAMS_PER_WAKE_MAX):
            try:
                raw = sock.recv(BEAT_BYTES_MAX + 1)
            except BlockingIOError:
                return
            except ConnectionRefusedError as error:
                link.note(error)
                continue
            self._take(link, raw)

    def _take(self, link: _Link, raw: bytes) -> None:
        now_ms = self._clock_ms()
        try:
            beat = self._heart.hear(link.path.index, raw, now_ms=now_ms)
        except PeerProtocolError as error:
            link.refuse(error)
            return
        link.admit(now_ms=now_ms)
        facts = beat.for_detector(incarnation=self._heart.incarnation)
        heard = HeardBeat(path=link.path.name, beat=beat, facts=facts, heard_at_ms=now_ms)
        try:
            self._handover.put(heard)
        except trio.RunFinishedError:
            self._cancel()


def _forget_what_came(sock: socket.socket) -> None:
    """Before it was connected a socket was given anybody's datagrams, also of its sister paths."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(_DATAGRAMS_BEFORE_MAX):
            sock.recv(1)


def _shares_port(path: HeartbeatPath, paths: Sequence[HeartbeatPath]) -> bool:
    return sum(other.local == path.local for other in paths) > 1


_TEXT_OF_ERRNO: Final[Mapping[int, str]] = {
    errno.EADDRNOTAVAIL: "{local} is not an address of this machine now; is its interface up?",
    errno.EADDRINUSE: "port {local_port} of {local} is taken by another program",
    errno.ECONNREFUSED: "{peer} refuses port {peer_port}; does mirrorha run there?",
    errno.ENETUNREACH: "there is no route from {local} to {peer}",
    errno.EHOSTUNREACH: "{peer} cannot be reached from {local}",
    errno.EPERM: "this machine's firewall forbids sending from {local} to {peer}",
    errno.EACCES: "this machine's firewall forbids sending from {local} to {peer}",
}


def _say(error: OSError, path: HeartbeatPath) -> str:
    text = _TEXT_OF_ERRNO.get(error.errno or 0)
    if text is None:
        return f"{path.name}: {error.strerror or error}"
    return text.format(**attrs.asdict(path))
