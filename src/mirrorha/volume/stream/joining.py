"""Bringing the peer's copy up to date, and the cut-over that makes a mirror of the two.

The comparing and copying is done by the two sides of a resync (`resync_interface`); here they are
started together, fed, and ended, and the pause at the end is carried out: changes are held, the
last pass is done, both trees are synced, and both count them as the same place in the stream.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, final

import attrs

from mirrorha.core.orders import BecomeTarget, CutDone, CutOver, ResyncFailed, StartResync
from mirrorha.volume.disk import ConfirmCheckpoint, RecordTouched, RetireTouched, SyncTree
from mirrorha.volume.events import DiskDone, Lane, Received, Reported, Send, Tick
from mirrorha.volume.stream.messages import Base, BaseDone, Ready
from mirrorha.volume.stream.pending import Outbox, Position, Stance
from mirrorha.volume.stream.resync_interface import (
    ResyncEffect,
    Resyncs,
    ResyncSide,
    ResyncSourceSide,
    ResyncStatus,
)
from mirrorha.volume.stream.source import Source
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.touched import TouchedLog


class _Phase(enum.Enum):
    """How far a session is on this node."""

    ORDERED = "ordered"  # the peer has not said `Ready`
    RUNNING = "running"
    HOLDING = "holding"  # cut-over: local changes are being applied to their end
    FINAL = "final"
    SYNCING = "syncing"
    DONE = "done"


# What a source's cut-over goes through, in this order.
_CUTTING: Final = frozenset({_Phase.HOLDING, _Phase.FINAL, _Phase.SYNCING})


@attrs.define(eq=False)
class _Session:
    number: int
    epoch: int
    order: StartResync | BecomeTarget
    phase: _Phase = _Phase.ORDERED
    said_ready: bool = False
    side: ResyncSide | None = None
    source_side: ResyncSourceSide | None = None  # the same object as `side`, on the source
    cut_token: int = 0
    synced: bool = False
    peer_synced: bool = False


@final
class Joining:
    """The resync sessions of a volume: at most one at a time, as the source or as the target."""

    def __init__(
        self,
        out: Outbox,
        position: Position,
        touched: TouchedLog,
        source: Source,
        resyncs: Resyncs,
    ) -> None:
        self._out = out
        self._position = position
        self._touched = touched
        self._source = source
        self._resyncs = resyncs
        self._session: _Session | None = None
        self.has_session = False  # looked at in every step: a call would cost
        self._peer_ready: Ready | None = None  # kept: it may come before our order does
        self._rate_bytes_per_s = 0
        # What sessions of one epoch have made equal in this tree; nothing else has happened since.
        self._filled = FidSet()
        self._filled_epoch = 0

    @property
    def is_under_way(self) -> bool:
        """Whether a session has begun, or is to, and has not ended."""
        return self._session is not None and self._session.phase is not _Phase.DONE

    # ---- orders --------------------------------------------------------------------------------

    def start(self, order: StartResync) -> None:
        """Make the peer's tree like ours. Replaces a session that was under way."""
        self.drop()
        if self._source.stance is not Stance.LOG or order.epoch != self._source.terms.epoch:
            text = f"this volume does not serve alone in epoch {order.epoch}"
            self._out.report(ResyncFailed(order.session, text))
            return
        self._open(order)

    def become_target(self, order: BecomeTarget) -> None:
        """Have our tree made like the peer's."""
        self.drop()
        # Our tree is at no place of any stream until we are told that it equals the peer's.
        self._position.mark(f"target {order.epoch} {order.session}")
        if order.epoch != self._filled_epoch:
            self._filled, self._filled_epoch = FidSet(), order.epoch
        self._open(order)

    def forget(self) -> None:
        """This tree is about to be changed by other things than a session: it is filled no more."""
        self._filled, self._filled_epoch = FidSet(), 0

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """Go through at most so much a second as the source of a resync, now and later; 0: any."""
        self._rate_bytes_per_s = rate_bytes_per_s
        if self._session is not None and self._session.source_side is not None:
            self._session.source_side.set_rate(rate_bytes_per_s)

    def cut_over(self, order: CutOver) -> None:
        """Pause changes and end the resync. Only while it runs."""
        session = self._session
        if session is None or session.phase is not _Phase.RUNNING or not session.source_side:
            number = session.number if session else 0
            self.drop()
            self._out.report(ResyncFailed(number, "no resync is under way that could be cut over"))
            return
        self._source.pause()
        session.cut_token = order.token
        session.phase = _Phase.HOLDING

    def drop(self) -> None:
        """Another order ends the session: no report. What its disk calls return is thrown away."""
        self._session = None
        self.has_session = False
        self._source.on_touched = None

    def link_up(self) -> None:
        self._peer_ready = None

    def link_down(self) -> None:
        """A session that waits for its beginning still may; one that runs has failed."""
        self._peer_ready = None
        session = self._session
        if session and session.phase is _Phase.ORDERED:
            session.said_ready = False
        elif session and session.phase is not _Phase.DONE:
            self._fail(session, "the stream broke")

    def disk_failed(self, text: str) -> None:
        if self._session is not None and self._session.phase is not _Phase.DONE:
            self._fail(self._session, text)

    def _open(self, order: StartResync | BecomeTarget) -> None:
        self._session = _Session(number=order.session, epoch=order.epoch, order=order)
        self.has_session = True

    def _fail(self, session: _Session, text: str, *, here: bool = False) -> None:
        self.drop()
        self._out.report(ResyncFailed(session.number, text, here))

    # ---- what the peer says --------------------------------------------------------------------

    def on_ready(self, message: Ready) -> bool:
        self._peer_ready = message
        session = self._session
        if session is not None and session.phase is _Phase.ORDERED and not self._out.failure:
            # Now, not after this event's fellows: what the peer's side says first is among them.
            self._meet(session)
        return True

    def on_resync_message(self, message: object) -> bool:
        """A message of the two sides, not ours. False: no session is running."""
        session = self._session
        if session is None or session.side is None or session.phase is _Phase.DONE:
            return False
        self._perform(session, session.side.step(Received(message), self._out.now_ms))
        return True

    def on_base(self, message: Base) -> bool:
        """The source: our trees are equal."""
        session = self._session
        if session is None or session.source_side is not None or session.side is None:
            return False
        if (message.epoch, message.session) != (session.epoch, session.number):
            return False
        if session.phase is not _Phase.RUNNING or session.side.status is not ResyncStatus.EQUAL:
            self._out.reset("the source speaks of equal trees, the resync does not")
            return True
        session.phase = _Phase.SYNCING
        self._out.call(Lane.SYNC, SyncTree(), self._base_synced, (session, message))
        return True

    def on_base_done(self, message: BaseDone) -> bool:
        session = self._session
        if session is None or session.source_side is None or session.phase is not _Phase.SYNCING:
            return False
        mine = (session.epoch, session.number, self._position.seq)
        if (message.epoch, message.session, message.seq) != mine:
            return False
        session.peer_synced = True
        return True

    # ---- going on ------------------------------------------------------------------------------

    def tick(self) -> None:
        session = self._session
        if session is not None and session.side is not None and session.phase is not _Phase.DONE:
            self._perform(session, session.side.step(Tick(), self._out.now_ms))

    def advance(self) -> None:
        """Do what the event just handled has made possible."""
        session = self._session
        if session is None or self._out.failure:
            return
        if session.phase is _Phase.ORDERED:
            self._meet(session)
        elif session.phase in _CUTTING and session.source_side is not None:
            self._advance_cut(session, session.source_side)

    def _meet(self, session: _Session) -> None:
        """Say that we are ready, once we are, and begin once both are."""
        # A target first ends what it was applying, as a source or a follower: it would come on
        # top of what is copied.
        is_target = isinstance(session.order, BecomeTarget)
        if not self._out.link_up or (is_target and not self._out.tree_is_idle()):
            return
        mine = Ready(session.epoch, session.number)
        if not session.said_ready:
            session.said_ready = True
            self._out.send(mine)
        if self._peer_ready == mine:
            self._begin(session)

    def _begin(self, session: _Session) -> None:
        session.phase = _Phase.RUNNING
        order = session.order
        if isinstance(order, StartResync):
            session.source_side = self._resyncs.source(order, self._touched.state())
            session.source_side.set_rate(self._rate_bytes_per_s)
            session.side = session.source_side
            self._source.on_touched = session.source_side.touched
        else:
            session.side = self._resyncs.target(order, self._touched.state(), self._filled)
        self._perform(session, session.side.start(self._out.now_ms))

    def _advance_cut(self, session: _Session, side: ResyncSourceSide) -> None:
        """Each phase begins once the one before it has ended."""
        position, epoch = self._position, session.epoch
        if session.phase is _Phase.HOLDING and not self._source.applying:
            session.phase = _Phase.FINAL
            self._perform(session, side.final_pass(self._out.now_ms))
            if session is not self._session:
                return
        if session.phase is _Phase.FINAL and side.status is ResyncStatus.EQUAL:
            session.phase = _Phase.SYNCING
            self._out.send(Base(epoch, session.number, position.seq, position.chain))
            self._out.call(Lane.SYNC, SyncTree(), self._cut_synced, session)
        if session.phase is _Phase.SYNCING and session.synced and session.peer_synced:
            session.phase = _Phase.DONE
            self._source.on_touched = None
            # The target has noted that it holds this; only then may our log rely on it.
            request = RetireTouched([], epoch, position.seq)
            self._out.call(Lane.TREE, request, self._cut_done, session)

    def _cut_synced(self, session: _Session, _result: object) -> None:
        session.synced = True

    def _cut_done(self, session: _Session, _result: object) -> None:
        self._touched.retire((session.epoch, self._position.seq))
        self._touched.unpin()
        if session is self._session and self._source.stance is Stance.CUT:
            self._out.report(CutDone(session.cut_token))

    def _base_synced(self, along: tuple[_Session, Base], _result: object) -> None:
        session, base = along
        if session is self._session:
            request = ConfirmCheckpoint(base.epoch, base.seq, is_filled=True)
            self._out.call(Lane.TREE, request, self._base_noted, along)

    def _base_noted(self, along: tuple[_Session, Base], _result: object) -> None:
        session, base = along
        if session is not self._session:
            return
        session.phase = _Phase.DONE
        self._position.adopt(base.seq, base.chain)
        self._touched.fill((base.epoch, base.seq))
        self._out.send(BaseDone(base.epoch, base.session, base.seq))

    # ---- the sides' effects --------------------------------------------------------------------

    def _perform(self, session: _Session, effects: Sequence[ResyncEffect]) -> None:
        out = self._out
        for effect in effects:
            match effect:
                case Send(message):
                    out.send(message)
                case Reported(report):
                    out.report(report)
                case _:
                    if isinstance(effect.request, RecordTouched):
                        self._touched.add(effect.request.keys, self._source.stamp)
                    along = (session, effect.token)
                    out.call(effect.lane, effect.request, self._disk_done, along)
        side = session.side
        if side is not None and side.status is ResyncStatus.FAILED and session is self._session:
            self._fail(session, side.failure, here=side.failed_here)

    def _disk_done(self, along: tuple[_Session, int], result: object) -> None:
        session, token = along
        if session is self._session and session.side is not None:
            self._perform(session, session.side.step(DiskDone(token, result), self._out.now_ms))
