"""The trio driver of a volume's machine: its disk in threads, its stream in a session.

One trio loop owns the machine. Every event is given to it at once, the changes of several callers
once a turn, and its effects are performed in order. Nothing here waits for the network, and for the
disk only a moment (`DiskThread.submit_and_wait`).
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Protocol, final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from mirrorha.core.orders import AnyOrder, AnyReport, Close
from mirrorha.errors import (
    InvariantViolation,
    NotPrimaryError,
    PeerError,
    VolumeError,
    ensure,
)
from mirrorha.volume.codec import decode, encode
from mirrorha.volume.disk import ApplyHere, MeasureSpace, Outcome, Space, SyncFiles
from mirrorha.volume.disk_thread import is_short
from mirrorha.volume.driver import DriverStatus
from mirrorha.volume.events import (
    AnyEvent,
    Change,
    DiskCall,
    DiskDone,
    Failure,
    Flush,
    Lane,
    LinkDown,
    LinkUp,
    Ordered,
    Received,
    Reply,
    Reported,
    ResetLink,
    Send,
    SpaceSeen,
    Tick,
    outcome,
)
from mirrorha.volume.lane_thread import LaneThread
from mirrorha.volume.op_rules import NAMING
from mirrorha.volume.ops import is_local
from mirrorha.volume.stream.pending import Stance

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest, Disk
    from mirrorha.volume.disk_thread import Call
    from mirrorha.volume.ops import AnyOp
    from mirrorha.volume.stream.machine import Volume
    from mirrorha.wire.frames import Frame

_log: Final = logging.getLogger(__name__)

TICK_S: Final = 0.1
#: While nothing is under way. What begins is looked after that much later, once.
REST_TICK_S: Final = 0.5
#: How often a follower looks how much room it has.
SPACE_MS: Final = 5_000
_SPACE_TOKEN: Final = 0
#: How long the end of a volume waits for its threads. What hangs longer hangs in the kernel.
END_S: Final = 5.0
#: So many short requests to the disk go together, and come back together.
_CALLS_MAX: Final = 16
#: So often a step waits for the disk. What that leads to is then handed back, as ever: between two
#: steps the other tasks of this loop have a turn.
_WAITS_MAX: Final = 4


class StreamSession(Protocol):
    """What a volume needs of the session that carries its stream."""

    def send_frame_nowait(self, kind: int, *parts: bytes | memoryview) -> None: ...
    async def send_frame(self, kind: int, *parts: bytes | memoryview) -> None: ...
    async def receive_frame(self) -> Frame: ...


@attrs.define(eq=False)
class _Waiter:
    """A caller, and what came of what it asked for."""

    done: trio.Event = attrs.field(factory=trio.Event)
    reply: Reply | None = None
    result: object = None
    failure: str = ""


@attrs.define(eq=False)
class _StreamLink:
    """The session in use, and what waits for room in it."""

    session: StreamSession
    scope: trio.CancelScope
    waiting: deque[tuple[int, tuple[bytes, ...]]] = attrs.field(factory=deque)
    has_waiting: trio.Event = attrs.field(factory=trio.Event)


@final
class Engine:
    """Runs one volume on one node, in one trio loop.

    Args:
        name: for threads and logs.
        machine: the volume's decisions. Its disk's touched log was loaded into it.
        disk: performs requests, in threads of this engine, the syncs beside the rest.
        clock_ms: the clock of everything that the machine is told.
        report: takes what the node must know. Never blocks.
        primary: the node that may write now, as far as is known, for who came to the wrong one.
        excludes: some of the volume stays on this node: its disk knows what.
        end_s: how long the end waits for the threads.
    """

    def __init__(
        self,
        name: str,
        machine: Volume,
        disk: Disk,
        *,
        clock_ms: Callable[[], int],
        report: Callable[[AnyReport], None],
        primary: Callable[[], str | None] = lambda: None,
        excludes: bool = False,
        end_s: float = END_S,
    ) -> None:
        self.name: Final = name
        self._machine: Final = machine
        self._disk: Final = disk
        self._clock_ms: Final = clock_ms
        self._report: Final = report
        self._primary: Final = primary
        self._excludes: Final = excludes
        self._end_s: Final = end_s
        self._tokens = 0
        self._waiters: dict[int, _Waiter] = {}
        self._link: _StreamLink | None = None
        self._lanes: tuple[LaneThread, ...] = ()
        self._events: list[AnyEvent] = []  # for the machine's next step
        self._calls: list[Call] = []  # for the disk's tree, from the last one
        self._bulk: deque[Call] = deque()  # of a resync: one at a time, when there is nothing else
        self._bulk_token: int | None = None  # that one's
        self._is_stepping = False
        self._measured_ms = 0
        self._is_measuring = False
        self._closed = ""
        self._fault: BaseException | None = None
        self._broken: Final = trio.Event()
        self._performers: Final[dict[type, Callable[..., None]]] = {
            Send: self._send,
            DiskCall: self._call,
            Reply: self._reply,
            Reported: self._tell,
            ResetLink: self._reset,
        }

    # ---- the node's side; never blocking ----

    @property
    def status(self) -> DriverStatus:
        """The volume as it is now."""
        machine = self._machine
        return DriverStatus(
            mode=machine.mode,
            seq=machine.seq,
            peer_seq=machine.peer_seq,
            waiting=machine.waiting,
        )

    def order(self, order: AnyOrder) -> None:
        """Carry out an order of the node. Once closed for good, orders are void."""
        if not self._closed:
            self._step(Ordered(order))

    def close(self, why: str) -> None:
        """Acknowledge nothing any more, for good: everything pending is answered now.

        Never blocks, and never fails: also for a node that must not go on.
        """
        if self._closed:
            return
        self._step(Ordered(Close(why=why, primary=None)))
        self._closed = why or "the volume was closed"
        self._abandon(self._closed)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the volume until cancelled; then close it and wait for its threads, bounded.

        Raises:
            InvariantViolation: the machine found a bug; everything pending has been answered.
            VolumeError: cancelled, and a thread hangs in the kernel: the directory is still in
                use by this process.
        """
        tree = LaneThread(f"{self.name}-tree", perform=self._disk.perform, deliver=self._take)
        sync = LaneThread(f"{self.name}-sync", perform=self._disk.perform, deliver=self._take)
        self._lanes = (tree, sync)
        try:
            task_status.started()
            await self._tick()
        finally:
            self.close("this node ends")
            await self._end()

    async def run_stream(self, session: StreamSession) -> None:
        """Carry the stream both ways until the session ends or is cancelled.

        Raises:
            PeerError: why it ended; in a group perhaps.
        """
        with trio.CancelScope() as scope:
            link = _StreamLink(session, scope)
            if self._link is not None:
                self._unlink(self._link)
            self._link = link
            self._step(LinkUp())
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_waiting, link)
                    await self._receive(session)
            finally:
                self._unlink(link)

    # ---- callers ----

    async def change(self, op: AnyOp) -> AnyOp | None:
        """Make a change; return what was done, once it is acknowledged.

        Cancelled, it may still be made.

        Raises:
            OSError: the file system refused it.
            NotPrimaryError: this node does not serve; nothing was changed.
            OutcomeUnknownError: it may or may not survive.
        """
        if self._excludes and (is_local(op.fid) or type(op) in NAMING):
            here = await self._change_here(op)
            if here is not None:
                return outcome(here, primary=self._primary())
        return outcome(await self._ask(lambda token: Change(token, op)), primary=self._primary())

    async def flush(self, fid: int, *, data_only: bool = False) -> None:
        """Return once `fid` is durable, on both disks where there are two. Raises as `change`.

        `data_only`: of a file content and size suffice.
        """
        if is_local(fid):
            await self._request(Lane.SYNC, SyncFiles([fid], [fid] if data_only else []))
            return
        reply = await self._ask(lambda token: Flush(token, fid, data_only))
        outcome(reply, primary=self._primary())

    async def query(self, request: AnyRequest) -> object:
        """Perform a request that changes nothing, after every change made before it.

        Raises:
            OSError: the disk failed, or the volume is closed.
        """
        return await self._request(Lane.TREE, request)

    async def _change_here(self, op: AnyOp) -> Reply | None:
        """Make a change on this node alone; None if it is to be mirrored."""
        if self._closed or self._machine.mode is None:
            why = self._closed or "this volume does not serve here"
            raise NotPrimaryError(primary=self._primary(), why=why)
        done = await self._request(Lane.TREE, ApplyHere(op))
        if done is None:
            return None
        ensure(isinstance(done, Outcome), "what is applied has an outcome")
        failure = Failure.ERRNO if done.errno else Failure.NONE  # type: ignore[attr-defined]
        return Reply(0, failure, done.errno, done.done)  # type: ignore[attr-defined]

    async def _request(self, lane: Lane, request: AnyRequest) -> object:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed or not self._lanes:
            raise OSError(errno.EIO, self._closed or "the volume is not open yet")
        self._tokens -= 1
        token = self._tokens
        has_company = bool(self._waiters)
        waiter = self._waiters[token] = _Waiter()
        self._submit(lane, token, request, waits=is_short(request) and not has_company)
        await self._wait(token, waiter)
        if waiter.failure:
            raise OSError(errno.EIO, waiter.failure)
        return waiter.result

    @enable_ki_protection  # as `_step`
    def _submit(self, lane: Lane, token: int, request: AnyRequest, *, waits: bool) -> None:
        self._step()  # the changes of this turn come first
        call = (token, request)
        if waits:
            self._take(self._lanes[lane].submit_and_wait(call))
        else:  # where several ask, the thread is at work while the loop goes on
            self._lanes[lane].submit(call)

    async def _ask(self, make: Callable[[int], Change | Flush]) -> Reply:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise NotPrimaryError(primary=self._primary(), why=self._closed)
        self._tokens -= 1
        token = -self._tokens
        has_company = bool(self._waiters)
        waiter = self._waiters[token] = _Waiter()
        if has_company:
            # Where several ask, more of them do in this turn: what they want goes together.
            self._events.append(make(token))
            if len(self._events) == 1:  # else that is due already
                trio.lowlevel.current_trio_token().run_sync_soon(self._step)
        else:
            self._step(make(token))
        await self._wait(token, waiter)
        ensure(waiter.reply is not None, "a caller is woken with a reply")
        return waiter.reply  # type: ignore[return-value]

    async def _wait(self, token: int, waiter: _Waiter) -> None:
        try:
            await waiter.done.wait()
        finally:
            self._waiters.pop(token, None)

    # ---- the machine ----

    @enable_ki_protection  # interrupted, it would lose what the disk did, and wait for it for ever
    def _step(self, *events: AnyEvent) -> None:
        """Give events to the machine and perform what it asks for. Never raises."""
        if self._fault is not None:
            return
        self._events += events
        if self._is_stepping:
            return
        self._is_stepping = True
        waits_left = _WAITS_MAX
        try:
            while self._events or self._calls:
                taken, self._events = self._events, []
                if taken:
                    for effect in self._machine.step_all(taken, self._clock_ms()):
                        self._performers[type(effect)](effect)
                if self._calls:
                    self._begin_calls(waits=waits_left > 0)
                    waits_left -= 1
            self._begin_bulk()
        except Exception as error:
            self._break(error)
        finally:
            self._is_stepping = False

    def _break(self, error: Exception) -> None:
        """A bug: whatever the machine would say now means nothing. Nothing is acknowledged."""
        self._fault = error
        self._abandon("a bug in mirrorha stopped this volume")
        if self._link is not None:
            self._link.scope.cancel()
        self._broken.set()

    def _abandon(self, why: str) -> None:
        for token, waiter in self._waiters.items():
            if token > 0:
                waiter.reply = waiter.reply or Reply(token, Failure.UNKNOWN, why=why)
            else:
                waiter.failure = waiter.failure or why
            waiter.done.set()

    def _reply(self, effect: Reply) -> None:
        waiter = self._waiters.get(effect.token)
        if waiter is not None:  # else it was cancelled
            waiter.reply = effect
            waiter.done.set()

    def _tell(self, effect: Reported) -> None:
        self._report(effect.report)

    async def _tick(self) -> None:
        while self._fault is None:
            with trio.move_on_after(REST_TICK_S if self._machine.is_at_rest else TICK_S):
                await self._broken.wait()
            self._step(Tick())
            if self._machine.stance is Stance.FOLLOW:
                self._measure()
        raise InvariantViolation(f"{self.name}: {self._fault}") from self._fault

    def _measure(self) -> None:
        now_ms = self._clock_ms()
        if not self._is_measuring and now_ms - self._measured_ms >= SPACE_MS:
            self._is_measuring, self._measured_ms = True, now_ms
            self._lanes[Lane.TREE].submit((_SPACE_TOKEN, MeasureSpace()))

    def _see_space(self, done: DiskDone) -> None:
        self._is_measuring = False
        if isinstance(done.result, Space):
            self._step(SpaceSeen(done.result))

    async def _end(self) -> None:
        for lane in self._lanes:
            lane.stop()
        with trio.CancelScope(shield=True), trio.move_on_after(self._end_s) as scope:
            for lane in self._lanes:
                await lane.wait_ended()
        if scope.cancelled_caught:
            raise VolumeError(f"{self.name}: a request to the disk hangs; the volume stays in use")

    # ---- the disk ----

    def _call(self, effect: DiskCall) -> None:
        if effect.lane is Lane.SYNC:
            self._lanes[Lane.SYNC].submit((effect.token, effect.request))
        elif effect.lane is Lane.BULK:
            self._bulk.append((effect.token, effect.request))
        else:
            self._calls.append((effect.token, effect.request))

    def _begin_calls(self, *, waits: bool) -> None:
        """Submit the first of what was asked for: short requests together, and waited for."""
        lane = self._lanes[Lane.TREE]
        short = list(takewhile(lambda call: is_short(call[1]), self._calls[:_CALLS_MAX]))
        calls = short or self._calls[:1]
        if short and waits:
            self._events += lane.submit_and_wait(*short)
        else:
            lane.submit(*calls)
        del self._calls[: len(calls)]

    def _begin_bulk(self) -> None:
        """Submit what a resync wants to read next: whoever changes something waits for no more."""
        if self._bulk_token is None and self._bulk:
            call = self._bulk.popleft()
            self._bulk_token = call[0]
            self._lanes[Lane.TREE].submit(call)

    def _take(self, done: list[DiskDone]) -> None:
        mine = [each for each in done if each.token > 0]
        if any(each.token == self._bulk_token for each in mine):
            self._bulk_token = None
        for each in done:
            if each.token == _SPACE_TOKEN:
                self._see_space(each)
            waiter = self._waiters.get(each.token) if each.token < 0 else None
            if waiter is not None:
                waiter.result, waiter.failure = each.result, each.failure
                waiter.done.set()
        if mine:
            self._step(*mine)

    # ---- the stream ----

    def _send(self, effect: Send) -> None:
        link = self._link
        if link is None:
            return
        kind, parts = encode(effect.message)  # type: ignore[arg-type]
        if not link.waiting:
            try:
                link.session.send_frame_nowait(kind, *parts)
            except trio.WouldBlock:
                pass
            except PeerError:
                return  # whoever receives there learns of it
            else:
                return
        link.waiting.append((kind, parts))
        link.has_waiting.set()

    async def _send_waiting(self, link: _StreamLink) -> None:
        """Send what found no room. The machine's windows bound how much that is."""
        while True:
            await link.has_waiting.wait()
            link.has_waiting = trio.Event()
            while link.waiting:
                kind, parts = link.waiting[0]
                await link.session.send_frame(kind, *parts)
                link.waiting.popleft()

    async def _receive(self, session: StreamSession) -> None:
        while True:
            self._step(Received(decode(await session.receive_frame())))

    def _unlink(self, link: _StreamLink) -> None:
        if self._link is link:
            self._link = None
            self._step(LinkDown())

    def _reset(self, effect: ResetLink) -> None:
        _log.warning("%s: the stream is closed: %s", self.name, effect.why)
        if self._link is not None:
            self._link.scope.cancel()
