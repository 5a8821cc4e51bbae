"""What drives a mounted volume's machine: changes in, its effects performed, in one thread.

What one turn of the loop brings is given to the machine together, by `pump`. Requests to the tree
are performed at once, in between; what a resync reads in slices, when there is nothing else to do;
syncs in a thread, but for short ones that nobody has to wait for (`ShortSyncs`).

The kernel has cached what this node served. So before the machine takes another node's changes in,
everything pending is answered, and then the kernel is made to forget: in a thread that serves no
requests, for it blocks behind changes under way. Orders wait as long.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from mirrorha.core.orders import (
    AnyOrder,
    AnyReport,
    BecomeTarget,
    Close,
    Follow,
    StopReason,
    Trouble,
)
from mirrorha.volume.codec import decode, encode
from mirrorha.volume.disk import MeasureSpace, RecordTouched, RetireTouched, Space, SyncFiles
from mirrorha.volume.disk_thread import DiskThread, perform_one
from mirrorha.volume.events import (
    AnyEffect,
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
    Withdraw,
)
from mirrorha.volume.stream.pending import SOURCE, Stance
from mirrorha.volume.worker.messages import Status
from mirrorha.volume.worker.short_syncs import ShortSyncs

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import Disk
    from mirrorha.volume.fuse.interface import Front, Known
    from mirrorha.volume.ops import AnyOp
    from mirrorha.volume.stream.machine import Volume
    from mirrorha.volume.worker.loop import Loop
    from mirrorha.volume.worker.stream_socket import PeerStream
    from mirrorha.wire.frames import Frame

    Then: TypeAlias = Callable[[Reply], None]

_log: Final = logging.getLogger(__name__)

TICK_MS: Final = 100
#: While nothing is under way. What begins is looked after that much later, once.
REST_TICK_MS: Final = 500
#: How often a follower looks how much room it has.
SPACE_MS: Final = 1_000
#: After so long in one turn, what has arrived meanwhile comes first.
SLICE_MS: Final = 20
#: The kernel lets go of its caches within milliseconds; if not, somebody should know.
INVALIDATE_MAX_MS: Final = 10_000
_NO_TOKEN: Final = 0
_TREE: Final = Lane.TREE
_OVER: Final = "this volume was closed"
_LEAVING: Final = (Close, Follow, BecomeTarget)


@final
class Driver:
    """Drives one machine. Implements `mirrorha.volume.fuse.interface.Changes`.

    Everything but the constructor's callables runs in the loop's thread. Nothing raises: a bug in
    the machine ends in `on_fault`, after which nothing is acknowledged.

    Args:
        machine: its disk's touched log was loaded into it.
        report: takes what the node must know.
        on_fault: the machine broke a rule; everything pending was answered.
        reset: the peer broke the protocol: its connection is to be closed.
        freeze_max_ms: how long changes are held without anybody who says what becomes of them.
        short_syncs: decides who makes a sync. Tests bring a clock of their own.
    """

    def __init__(
        self,
        machine: Volume,
        disk: Disk,
        loop: Loop,
        *,
        report: Callable[[AnyReport], None],
        on_fault: Callable[[Exception], None],
        reset: Callable[[str], None],
        freeze_max_ms: int,
        short_syncs: ShortSyncs | None = None,
    ) -> None:
        self._machine: Final = machine
        self._disk_perform: Final = disk.perform
        self._loop: Final = loop
        self._report: Final = report
        self._on_fault: Final = on_fault
        self._reset_link: Final = reset
        self._freeze_max_ms: Final = freeze_max_ms
        self._front: Front | None = None
        self._stream: PeerStream | None = None
        self._events: list[AnyEvent] = []
        self._bulk: deque[DiskCall] = deque()
        self._syncs: list[DiskCall] = []
        #: One sync is under way at a time: the loop, too, would wait for the end of these.
        self.syncs_in_threads = 0
        self._short_syncs: Final = short_syncs or ShortSyncs()
        self._thens: dict[int, Then] = {}
        self._token = 0
        self._is_pumping = False
        self._is_over = False
        self._orders: deque[AnyOrder] | None = None  # held while the kernel forgets
        self._has_served = False  # since the kernel last forgot everything
        self._measured_ms = 0
        #: Since when changes are held; None while they flow, or are refused.
        self.held_since_ms: int | None = None
        self._lane: Final = DiskThread(
            "sync", perform=disk.perform, deliver=self._take_done, hand_over=loop.from_thread
        )
        self._performers: Final[dict[type, Callable[[Any], None]]] = {
            Send: self._send,
            DiskCall: self._call,
            Reply: self._reply,
            Reported: self._tell,
            ResetLink: self._reset,
        }
        loop.on_turn = self.pump
        loop.after(TICK_MS, self._tick)

    def attach(self, front: Front) -> None:
        """The volume is mounted: this is who brings its changes."""
        self._front = front
        front.serving = self._machine.stance in SOURCE

    @property
    def serves(self) -> bool:
        """Whether changes are made here: now, or once they need not be held any more."""
        return not self._is_over and self._machine.stance in SOURCE

    # ---- changes, for the front ------------------------------------------------------------------

    def change(self, op: AnyOp, then: Then) -> int:
        """See `Changes.change`."""
        self._token = token = self._token + 1
        if self._is_over:
            then(Reply(token, Failure.UNKNOWN, why=_OVER))
        else:
            self._thens[token] = then
            self._events.append(Change(token, op))
        return token

    def flush(self, fid: int, then: Then, *, data_only: bool = False) -> int:
        """See `Changes.flush`."""
        self._token = token = self._token + 1
        if self._is_over:
            then(Reply(token, Failure.UNKNOWN, why=_OVER))
        else:
            self._thens[token] = then
            self._events.append(Flush(token, fid, data_only))
        return token

    def withdraw(self, token: int) -> bool:
        """See `Changes.withdraw`."""
        then = self._thens.get(token)
        if then is None or self._is_pumping:
            return False
        was_withdrawn = False

        def note(reply: Reply) -> None:
            nonlocal was_withdrawn
            was_withdrawn = reply.failure is Failure.WITHDRAWN
            if not was_withdrawn:
                then(reply)

        self._thens[token] = note
        self._events.append(Withdraw(token))
        self.pump()
        if token in self._thens:
            self._thens[token] = then
        return was_withdrawn

    def peer_space(self) -> Space | None:
        """What the peer has room for; None unless it mirrors what is changed here."""
        return self._machine.peer_space

    # ---- the node --------------------------------------------------------------------------------

    def order(self, order: AnyOrder) -> None:
        """Carry out an order, once the kernel has forgotten what an earlier one demands."""
        if self._is_over:
            return
        if self._orders is not None:
            self._orders.append(order)
        elif self._has_served and isinstance(order, _LEAVING):
            self._leave(order)
        else:
            self._give(order)

    def close(self, why: str) -> None:
        """Answer everybody now, whatever waits; nothing is acknowledged after this. Idempotent."""
        if self._front is not None:
            self._front.fail_pending(errno.EIO)
        if not self._is_over:
            self._give(Close(why=why, primary=None))
        self._is_over = True
        self._abandon(why)
        if self._front is not None:
            self._front.serving = False

    def end(self, wait_s: float) -> bool:
        """After `close`: end the thread. Whether nothing uses the disk any more."""
        self._lane.stop()
        return self._lane.join(wait_s)

    def status(self, *, faults: int, turn_ms_max: int) -> Status:
        """How the volume is now."""
        machine = self._machine
        touched = machine.touched
        return Status(
            mode=machine.mode,
            seq=machine.seq,
            peer_seq=machine.peer_seq,
            waiting=machine.waiting,
            pending=len(self._thens),
            touched=len(touched),
            confirmed=touched.confirmed,
            retired=touched.retired,
            connected=self._stream is not None,
            faults=faults,
            turn_ms_max=turn_ms_max,
        )

    # ---- the stream ------------------------------------------------------------------------------

    def link_up(self, stream: PeerStream) -> None:
        """A connection to the peer carries the stream from now on; another one is void."""
        self._stream = stream
        self._events.append(LinkUp())

    def link_down(self) -> None:
        """It is over."""
        self._stream = None
        self._events.append(LinkDown())

    def take(self, frame: Frame) -> None:
        """A frame has arrived. Raises PeerProtocolError: it is none of a stream."""
        self._events.append(Received(decode(frame)))

    # ---- the machine -----------------------------------------------------------------------------

    def pump(self) -> None:
        """Give the machine what has come together, and perform what it asks for. Never raises."""
        if not self._events and not self._bulk:
            return
        if self._is_pumping or self._is_over:
            return
        self._is_pumping = True
        try:
            self._pump()
        except Exception as error:
            self._break(error)
        finally:
            self._is_pumping = False

    def _pump(self) -> None:
        clock_ms, machine, performers = self._loop.clock_ms, self._machine, self._performers
        now_ms = clock_ms()
        until_ms = now_ms + SLICE_MS
        while self._events:
            events, self._events = self._events, []
            effects = machine.step_all(events, now_ms)
            if len(effects) > 1:
                effects = recorded_together(effects)
            for effect in effects:
                performers[type(effect)](effect)
            if self._stream is not None:
                self._stream.flush()
            if self._syncs:
                self._begin_syncs()
            if self._events:
                now_ms = clock_ms()
                if now_ms >= until_ms:
                    break
        if self._bulk and not self._events:
            call = self._bulk.popleft()
            self._events.append(perform_one(self._disk_perform, call.token, call.request))
        if self._events or self._bulk:
            self._loop.soon(_nothing)

    def _give(self, order: AnyOrder) -> None:
        self._short_syncs.forget()
        self._events.append(Ordered(order))
        self.pump()
        self._note_role()

    def _note_role(self) -> None:
        """After an order, or when time has passed: what the kernel may cache, and what is held."""
        machine = self._machine
        stance = machine.stance
        serves = stance in SOURCE
        if self._front is not None and self._front.serving is not serves:
            self._front.serving = serves
        self._has_served = self._has_served or (serves and self._front is not None)
        mirrors = stance is Stance.MIRROR and machine.streaming
        if not serves or mirrors or stance is Stance.LOG:
            self.held_since_ms = None
        elif self.held_since_ms is None:
            self.held_since_ms = self._loop.clock_ms()

    def _tick(self) -> None:
        if self._is_over:
            return
        self._events.append(Tick())
        if self._machine.stance is Stance.FOLLOW:
            self._measure()
        self.pump()
        self._note_role()
        self._watch_held()
        self._loop.after(REST_TICK_MS if self._machine.is_at_rest else TICK_MS, self._tick)

    def _measure(self) -> None:
        now_ms = self._loop.clock_ms()
        if now_ms - self._measured_ms >= SPACE_MS:
            self._measured_ms = now_ms
            seen = perform_one(self._disk_perform, _NO_TOKEN, MeasureSpace()).result
            if isinstance(seen, Space):  # else the next change finds out
                self._events.append(SpaceSeen(seen))

    def _watch_held(self) -> None:
        """Answer whom nobody has said anything about for too long: they cannot even be killed."""
        since_ms = self.held_since_ms
        if since_ms is None or not self._thens:
            return
        held_ms = self._loop.clock_ms() - since_ms
        if held_ms < self._freeze_max_ms:
            return
        why = f"changes were held for {held_ms} ms and no order has released them"
        _log.error("%s: they are answered with an error now", why)
        if self._front is not None:
            self._front.fail_pending(errno.EIO)
        self.order(Close(why=why, primary=None))
        self._report(Trouble(StopReason.NOT_DRIVEN, why))

    def _break(self, error: Exception) -> None:
        """A bug: whatever the machine would say now means nothing. Nothing is acknowledged."""
        self._is_over = True
        if self._front is not None:
            self._front.fail_pending(errno.EIO)
            self._front.serving = False
        self._abandon("a bug in mirrorha stopped this volume")
        self._on_fault(error)

    def _abandon(self, why: str) -> None:
        thens, self._thens = self._thens, {}
        for token, then in thens.items():
            then(Reply(token, Failure.UNKNOWN, why=why))

    # ---- leaving a serving role ------------------------------------------------------------------

    def _leave(self, order: AnyOrder) -> None:
        """Answer everybody, have the kernel forget, and only then carry out `order`."""
        front = self._front
        why = "another node serves now" if not isinstance(order, Close) else order.why
        self._orders = deque()
        self._give(order if isinstance(order, Close) else Close(why=why, primary=None))
        if not isinstance(order, Close):
            self._orders.append(order)
        if front is None:
            self._forgotten()
            return
        front.serving = False
        known = front.known()
        overdue = self._loop.after(INVALIDATE_MAX_MS, self._say_overdue)

        def forgotten() -> None:
            overdue.cancel()
            self._forgotten()

        threading.Thread(
            target=self._invalidate, args=(front, known, forgotten), daemon=True
        ).start()

    def _invalidate(self, front: Front, known: Known, then: Callable[[], None]) -> None:
        try:
            front.invalidate(known)
        except OSError as error:  # the mount is gone, and its caches with it
            _log.warning("the kernel was not made to forget: %s", error)
        self._loop.from_thread(then)

    def _say_overdue(self) -> None:
        text = f"the kernel has not let go of its caches for {INVALIDATE_MAX_MS} ms"
        self._report(Trouble(StopReason.NOT_DRIVEN, text))

    def _forgotten(self) -> None:
        self._has_served = False
        orders, self._orders = self._orders or deque(), None
        for order in orders:
            self.order(order)

    # ---- effects ---------------------------------------------------------------------------------

    def _send(self, effect: Send) -> None:
        if self._stream is not None:
            kind, parts = encode(effect.message)  # type: ignore[arg-type]
            self._stream.send(kind, *parts)

    def _call(self, effect: DiskCall) -> None:
        if effect.lane is _TREE:
            request = effect.request
            if request is not _RECORDED:
                done = perform_one(self._disk_perform, effect.token, request)
            else:
                done = DiskDone(effect.token, None)
            self._events.append(done)
        elif effect.lane is Lane.SYNC:
            self._syncs.append(effect)
        else:
            self._bulk.append(effect)

    def _begin_syncs(self) -> None:
        # After what was sent: the peer, if it is to sync as well, has further to go.
        syncs, self._syncs = self._syncs, []
        first, fid = syncs[0], self._lone_file(syncs)
        if fid is not None and self._short_syncs.begin(fid, self._machine.seq):
            done = self._short_syncs.perform(
                lambda: perform_one(self._disk_perform, first.token, first.request),
                has_somebody_come=self._has_somebody_come,
            )
            self._events.append(done)
            return
        self.syncs_in_threads += len(syncs)
        for call in syncs:
            self._lane.submit((call.token, call.request))

    def _lone_file(self, syncs: list[DiskCall]) -> int | None:
        """The one file to sync, if whoever asked is the only one who waits for anything."""
        sync = syncs[0].request
        if len(syncs) > 1 or type(sync) is not SyncFiles or len(sync.fids) != 1:
            return None
        is_alone = not self.syncs_in_threads and len(self._thens) <= 1
        return sync.fids[0] if is_alone else None

    def _has_somebody_come(self) -> bool:
        """Whether anybody would have been served, had the loop not synced."""
        come = self._loop.arrived()
        if self._thens and self._stream is not None:
            come.discard(self._stream.fileno())  # the peer, who was asked for the same
        return bool(come)

    def _reply(self, effect: Reply) -> None:
        then = self._thens.pop(effect.token, None)
        if then is not None:
            then(effect)

    def _tell(self, effect: Reported) -> None:
        self._report(effect.report)

    def _reset(self, effect: ResetLink) -> None:
        self._reset_link(effect.why)

    def _take_done(self, done: list[DiskDone]) -> None:
        self.syncs_in_threads -= len(done)
        self._short_syncs.end()
        self._events += done


_RECORDED: Final = RecordTouched([])


def recorded_together(effects: list[AnyEffect]) -> list[AnyEffect]:
    """Have all entries of the touched log made durable by the first request that makes any.

    Each is made earlier than asked for, which is always right; one commit costs as much as
    hundreds of writes. Not past a request that takes entries out.
    """
    records: list[int] = []
    keys: list[Any] = []
    for index, effect in enumerate(effects):
        if type(effect) is not DiskCall:
            continue
        request = effect.request
        if type(request) is RecordTouched:
            records.append(index)
            keys += request.keys
        elif type(request) is RetireTouched:
            break
    if len(records) < 2:
        return effects
    together = list(effects)
    for index in records:
        call = together[index]
        if isinstance(call, DiskCall):
            request = RecordTouched(keys) if index == records[0] else _RECORDED
            together[index] = DiskCall(call.token, call.lane, request)
    return together


def _nothing() -> None:
    """Another turn is due."""
