"""A volume's machine: events in, effects out, nothing else.

It carries out the node's orders (`mirrorha.core.orders`) and never decides who may write. The work
is done by its two roles, `Source` and `Follower`, and by `Joining`; here events find their way to
them, and the orders their stance. After every event each of them does what has become possible.

Several events may be given at once: then what they make ready is sent together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, assert_never, final

from mirrorha.core.orders import (
    AnyVerifyOrder,
    BecomeTarget,
    Close,
    CutOver,
    Drain,
    Follow,
    Freeze,
    Frozen,
    ServeAlone,
    ServeMirror,
    SetResyncRate,
    StartResync,
    StopReason,
    StreamDown,
    StreamUp,
    Sync,
    Synced,
)
from mirrorha.core.words import Mode
from mirrorha.errors import ensure
from mirrorha.volume.disk import Space, SyncTree
from mirrorha.volume.events import (
    AnyEffect,
    AnyEvent,
    Change,
    DiskDone,
    Failure,
    Flush,
    Lane,
    LinkDown,
    LinkUp,
    Ordered,
    Received,
    SpaceSeen,
    Tick,
    Withdraw,
)
from mirrorha.volume.stream.follower import Follower
from mirrorha.volume.stream.joining import Joining
from mirrorha.volume.stream.messages import (
    Ack,
    AskAgain,
    At,
    Base,
    BaseDone,
    Begin,
    Checkpoint,
    CheckpointDone,
    FlushDone,
    FlushRequest,
    Nack,
    Ops,
    Ready,
    Retire,
    SpaceLeft,
)
from mirrorha.volume.stream.pending import (
    MIRRORING,
    SOURCE,
    Counts,
    Outbox,
    Position,
    Stance,
    VolumeSettings,
)
from mirrorha.volume.stream.resync_interface import Resyncs
from mirrorha.volume.stream.source import Source
from mirrorha.volume.stream.verifying import Verifying
from mirrorha.volume.touched import TouchedLog, TouchedState
from mirrorha.volume.verify.messages import Look, Looked, Soon

_MODES: Final = {
    Stance.LOG: Mode.LOG,
    Stance.MIRROR: Mode.MIRROR,
    Stance.DRAIN: Mode.MIRROR,
    Stance.CUT: Mode.FROZEN,
    Stance.FROZEN: Mode.FROZEN,
}
_ANY: Final[frozenset[Stance]] = frozenset()
_FOLLOW: Final = frozenset({Stance.FOLLOW})
_TARGET: Final = frozenset({Stance.TARGET})
_CUT: Final = frozenset({Stance.CUT})
_NOT_SERVING: Final = "this volume does not serve here"


@final
class Volume:
    """One volume on one node. Total: every event has a defined effect in every stance.

    Args:
        settings: see VolumeSettings. The same on both nodes, unless a node is being reconfigured.
        touched: what the disk's `LoadTouched` returned when the volume was opened.
        resyncs: makes the two sides of a resync.

    Once the disk has failed, nothing is acknowledged any more: a volume is then closed, and made
    anew on a disk that works. A `DiskError` is the driver's to tell (`DiskDone.failure`).
    """

    def __init__(
        self, settings: VolumeSettings, *, touched: TouchedState, resyncs: Resyncs
    ) -> None:
        self._out = Outbox(settings)
        self._out.on_failure = self._disk_failed
        self._position = Position()
        self._touched = TouchedLog(touched)
        self._source = Source(self._out, self._position, self._touched, settings)
        self._follower = Follower(self._out, self._position, self._touched)
        self._joining = Joining(self._out, self._position, self._touched, self._source, resyncs)
        self._verifying = Verifying(self._out, self._position, self._touched, self._source)
        self._stance = Stance.CLOSED
        self._epoch = 0
        self._connected = False
        self._why = _NOT_SERVING
        self._primary: str | None = None
        self._freeze: int | None = None
        self._syncs: list[tuple[int, int]] = []  # (token, what the tree must have finished)
        self._handlers: dict[type, Callable[[Any], None]] = {
            Change: self._change,
            DiskDone: self._out.done,
            Received: self._received,
            SpaceSeen: self._space_seen,
            Flush: self._flush,
            Withdraw: self._withdraw,
            Tick: self._tick,
            Ordered: self._ordered,
            LinkUp: self._link_up,
            LinkDown: self._link_down,
        }
        source, follower, joining = self._source, self._follower, self._joining
        verifying = self._verifying
        # What a message means to us, and when it means anything. For any stance: it may be early.
        self._routes: dict[type, tuple[frozenset[Stance], Callable[[Any], bool]]] = {
            Ops: (_FOLLOW, follower.on_ops),
            Ack: (MIRRORING, source.on_ack),
            FlushRequest: (_FOLLOW, follower.on_flush_request),
            FlushDone: (MIRRORING, source.on_flush_done),
            Checkpoint: (_FOLLOW, follower.on_checkpoint),
            CheckpointDone: (MIRRORING, source.on_checkpoint_done),
            Retire: (_FOLLOW, follower.on_retire),
            Nack: (MIRRORING, source.on_nack),
            Begin: (_ANY, follower.on_begin),
            At: (MIRRORING, source.on_at),
            AskAgain: (MIRRORING, source.on_ask_again),
            SpaceLeft: (MIRRORING, source.on_space_left),
            Look: (_FOLLOW, follower.on_look),
            Soon: (_FOLLOW, follower.on_soon),
            Looked: (MIRRORING, verifying.on_looked),
            Ready: (_ANY, joining.on_ready),
            Base: (_TARGET, joining.on_base),
            BaseDone: (_CUT, joining.on_base_done),
        }

    # ---- what others may look at -----------------------------------------------------------------

    @property
    def stance(self) -> Stance:
        """What the volume is doing, by its last order."""
        return self._stance

    @property
    def mode(self) -> Mode | None:
        """How changes are acknowledged; None if this volume does not serve."""
        return _MODES.get(self._stance)

    @property
    def seq(self) -> int:
        """The last op applied to this node's tree."""
        return self._position.seq

    @property
    def peer_seq(self) -> int | None:
        """The last op that the follower has acknowledged in this epoch; None if it said nothing."""
        mirrored = self._stance in MIRRORING and self._source.peer_seq >= 0
        return self._source.peer_seq if mirrored else None

    @property
    def peer_space(self) -> Space | None:
        """What the follower's file system has room for; None while it mirrors nothing."""
        return self._source.peer_space if self.streaming else None

    @property
    def streaming(self) -> bool:
        """Whether a follower has said where it is and takes what we send."""
        return self._source.terms.streaming

    @property
    def touched(self) -> TouchedLog:
        """The touched log, with the checkpoints confirmed and retired. To be read only."""
        return self._touched

    @property
    def waiting(self) -> int:
        """Changes and flushes that wait for room or for an order."""
        return self._source.waiting

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is under way that a tick would have to look after soon."""
        busy = self._joining.is_under_way or self._verifying.is_under_way
        busy = busy or self._freeze is not None or bool(self._syncs)
        return not busy and self._source.is_at_rest and self._out.tree_is_idle()

    @property
    def counts(self) -> Counts:
        """What was refused or ignored."""
        return self._out.counts

    # ---- events ----------------------------------------------------------------------------------

    def step(self, event: AnyEvent, now_ms: int) -> list[AnyEffect]:
        """Take one event; the effects are to be performed in their order."""
        return self.step_all((event,), now_ms)

    def step_all(self, events: Iterable[AnyEvent], now_ms: int) -> list[AnyEffect]:
        """Take several events that are there at the same time."""
        out, handlers = self._out, self._handlers
        ensure(now_ms >= out.now_ms, "time does not run backwards")
        out.now_ms = now_ms
        for event in events:
            handlers[type(event)](event)
        if self._stance in SOURCE:
            self._source.advance()
        else:
            self._follower.advance()
        if self._joining.has_session:
            self._joining.advance()
        if self._freeze is not None or self._syncs:
            self._advance_orders()
        return out.take()

    def _change(self, event: Change) -> None:
        if self._stance in SOURCE:
            self._source.change(event)
        else:
            self._out.refuse(event.token, Failure.NOT_PRIMARY, self._why, self._primary)

    def _flush(self, event: Flush) -> None:
        if self._stance in SOURCE:
            self._source.flush(event)
        else:
            self._out.refuse(event.token, Failure.NOT_PRIMARY, self._why, self._primary)

    def _withdraw(self, event: Withdraw) -> None:
        if self._stance in SOURCE:  # else nobody waits for anything
            self._source.withdraw(event.token)

    def _space_seen(self, event: SpaceSeen) -> None:
        if self._stance is Stance.FOLLOW:
            self._follower.see_space(event.space)

    def _tick(self, _event: Tick) -> None:
        self._out.watch_disk()
        if self._stance in SOURCE and not self._out.failure:
            self._source.tick()
        self._joining.tick()
        self._verifying.tick()

    def _link_up(self, _event: LinkUp) -> None:
        if self._connected:  # one connection has replaced another
            self._link_down(LinkDown())
        self._connected = self._out.link_up = True
        self._follower.link_up()
        self._joining.link_up()
        self._out.report(StreamUp())

    def _link_down(self, _event: LinkDown) -> None:
        if not self._connected:
            return
        self._connected = self._out.link_up = False
        self._verifying.stop("the stream to the follower broke")
        self._source.link_down()
        self._follower.link_down()
        self._joining.link_down()
        self._out.report(StreamDown())

    def _disk_failed(self, text: str) -> None:
        self._verifying.stop(text)
        self._source.disk_failed()
        self._follower.disk_failed(text)
        self._joining.disk_failed(text)

    # ---- messages --------------------------------------------------------------------------------

    def _received(self, event: Received) -> None:
        if not self._out.link_up or self._out.failure:
            return  # closed by us, or down: whatever still comes of it is void
        message: Any = event.message
        route = self._routes.get(type(message))
        if route is None:
            meant = self._joining.on_resync_message(message)
        else:
            stances, handle = route
            # What is for any stance is kept until our order comes.
            if message.epoch != self._epoch and (stances or message.epoch < self._epoch):
                self._out.counts.other_epoch += 1
                return
            meant = (not stances or self._stance in stances) and handle(message)
        if not meant:
            self._out.counts.out_of_place += 1

    # ---- orders ----------------------------------------------------------------------------------

    def _ordered(self, event: Ordered) -> None:
        order = event.order
        if isinstance(order, AnyVerifyOrder | SetResyncRate):
            self._order_beside(order)
            return
        if self._verifying.is_under_way and not isinstance(order, Sync):
            self._verifying.stop("the volume had something else to do")
        match order:
            case Freeze():
                self._order_freeze(order)
            case Sync():
                self._syncs.append((order.token, self._out.tree_issued))
            case Drain():
                self._source.drain(order.token)
                self._follow_source()
            case CutOver():
                self._joining.cut_over(order)
                self._follow_source()
            case StartResync():
                self._check_disk()
                self._joining.start(order)
            case Close():
                self._leave(order.why, order.primary)
                self._stance = Stance.CLOSED
            case ServeAlone() | ServeMirror() | Follow() | BecomeTarget():
                self._order_stance(order)
            case _:
                assert_never(order)

    def _order_beside(self, order: AnyVerifyOrder | SetResyncRate) -> None:
        """What changes nothing of what the volume is doing for the node."""
        if isinstance(order, SetResyncRate):
            self._joining.set_rate(order.rate_bytes_per_s)
        else:
            self._verifying.order(order)

    def _order_freeze(self, order: Freeze) -> None:
        self._freeze = order.token
        self._joining.drop()
        self._follower.halt()
        if self._stance in SOURCE:
            self._source.freeze()
            self._follow_source()

    def _order_stance(self, order: ServeAlone | ServeMirror | Follow | BecomeTarget) -> None:
        # Only a copy that is given up may come from a lower epoch: an operator forced a higher one.
        falls = order.epoch < self._epoch and not isinstance(order, BecomeTarget)
        ensure(not falls, "an order never names a lower epoch than the last one")
        self._epoch = order.epoch
        self._freeze = None
        self._check_disk()
        if not isinstance(order, BecomeTarget):
            self._joining.forget()
        match order:
            case ServeAlone() | ServeMirror():
                self._joining.drop()
                self._follower.halt()
                if isinstance(order, ServeAlone):
                    self._source.serve_alone(order)
                else:
                    self._source.serve_mirror(order)
                self._follow_source()
            case Follow():
                self._leave("another node serves now", None)
                self._stance = Stance.FOLLOW
                self._follower.follow(order)
            case BecomeTarget():
                self._leave("this node is being brought up to date", None)
                self._stance = Stance.TARGET
                self._joining.become_target(order)
            case _:
                assert_never(order)

    def _leave(self, why: str, primary: str | None) -> None:
        """Give up whatever the volume was doing."""
        self._why, self._primary = why or _NOT_SERVING, primary
        self._joining.drop()
        self._follower.halt()
        if self._stance in SOURCE:
            self._source.close(self._why, primary)

    def _follow_source(self) -> None:
        if self._source.stance in SOURCE:
            self._stance = self._source.stance

    def _check_disk(self) -> None:
        """Say again why an order that needs the disk will not be carried out."""
        if self._out.failure:
            self._out.trouble(StopReason.OWN_DISK, self._out.failure)

    def _advance_orders(self) -> None:
        out = self._out
        if self._freeze is not None and out.tree_is_idle():
            out.report(Frozen(self._freeze))
            self._freeze = None
        while self._syncs and self._syncs[0][1] <= out.tree_finished:
            token, _ = self._syncs.pop(0)
            out.call(Lane.SYNC, SyncTree(), self._synced, token)

    def _synced(self, token: int, _result: object) -> None:
        self._out.report(Synced(token))
