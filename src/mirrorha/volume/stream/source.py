"""The side of a volume that serves: changes in, acknowledgements out.

A change is *admitted* (it has room, and an order lets it), its touched entries are durable, it is
*applied* here, gets its place in the stream, is sent, and is *acknowledged* once the peer has
applied it (MIRROR) or at once (LOG). Between being applied and being acknowledged it is in the
window. What may not be admitted waits, in order. A flush goes the same way, by `Flusher`.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Final, final

import msgspec

from mirrorha.core.orders import Drained, Replayed, ServeAlone, ServeMirror, StopReason
from mirrorha.core.words import Ack as Level
from mirrorha.errors import ensure, unreachable
from mirrorha.volume.disk import AnyRequest, Apply, Outcome, RecordTouched, Restate, Space
from mirrorha.volume.events import Change, Failure, Flush, Lane
from mirrorha.volume.op_rules import MAKING, flaw, size_bytes
from mirrorha.volume.ops import AnyOp, Birth, SetAttributes, Truncate, Write, make_fid
from mirrorha.volume.stream.checkpoint import Checkpointer
from mirrorha.volume.stream.flushing import Flusher
from mirrorha.volume.stream.messages import (
    Ack,
    AskAgain,
    At,
    Begin,
    CheckpointDone,
    FlushDone,
    Nack,
    Ops,
    SpaceLeft,
)
from mirrorha.volume.stream.pending import (
    MIRRORING,
    SOURCE,
    Outbox,
    Position,
    Stance,
    Terms,
    VolumeSettings,
)
from mirrorha.volume.touched import TouchedLog, TouchKey, touches

_NOBODY: Final = -1  # no follower has said anything in this epoch: below every seq
_OUR_OWN: Final = -1  # in the place of a caller's token: no caller waits for this change


class _Entry(msgspec.Struct):
    """A local change that was admitted and is not answered yet."""

    token: int
    op: AnyOp
    size_bytes: int
    stamp: int
    since_ms: int
    # From here on known only once it is applied.
    before: int = 0  # the seq it was applied on top of
    seq: int = 0  # its own; the same as `before` if it changed nothing, and so is not sent
    prev: int = 0  # the hash up to `before`
    done: AnyOp | None = None
    errno: int = 0


@final
class Source:
    """The mirroring side. Its stance is one of SOURCE; any other means that it is not serving."""

    def __init__(
        self, out: Outbox, position: Position, touched: TouchedLog, settings: VolumeSettings
    ) -> None:
        self.stance = Stance.CLOSED
        self.terms = Terms()
        self.peer_seq = _NOBODY
        self.peer_space: Space | None = None  # as it was told in this round
        self.on_touched: Callable[[list[TouchKey]], None] | None = None  # of a resync under way
        self._out = out
        self._position = position
        self._touched = touched
        self._settings = settings
        self._durable = settings.ack is Level.DURABLE
        self._flusher = Flusher(
            out,
            self.terms,
            position,
            settings,
            durable=self._release,
            drained=self._flushed_for_drain,
        )
        self._checkpointer = Checkpointer(out, self.terms, touched, settings)
        self._waiting: deque[tuple[Change | Flush, int]] = deque()  # with its time of arrival
        self._applying: deque[_Entry] = deque()
        self._window: deque[_Entry] = deque()
        self._pending_bytes = 0
        self._unsent: list[_Entry] = []
        self._stamp = 0
        self._fid_epoch = 0
        self._fids = 0
        self._round = 0
        self._begin_due = False
        self._replaying = False  # since the order, until the follower has all that was pending
        self._replay_to = 0
        self._progress_ms = self._watched_ms = 0
        self._slow_reported = self._stuck_reported = False

    # ---- orders --------------------------------------------------------------------------------

    def serve_alone(self, order: ServeAlone) -> None:
        """Everything applied is acknowledged, what waits is admitted."""
        self._take_up(Stance.LOG, order.epoch, order.generation)
        # Whoever held our position until now does not know what we do from here on.
        self._position.mark(f"alone {order.epoch} {order.generation}")
        self._release()

    def serve_mirror(self, order: ServeMirror) -> None:
        """Ask the follower where it is; nothing is admitted before it has answered."""
        self._take_up(Stance.MIRROR, order.epoch, order.generation)
        self._round = order.round
        self._ask()

    def freeze(self) -> None:
        self._set_stance(Stance.FROZEN)
        self._interrupt()

    def pause(self) -> None:
        """For a cut-over: like frozen, until further orders."""
        self._set_stance(Stance.CUT)

    def drain(self, token: int) -> None:
        """Admit nothing; once the follower holds all and both have synced: `Drained`."""
        if self.stance in MIRRORING:
            self._set_stance(Stance.DRAIN)
            # A flush of the whole tree: it begins once all that was admitted is applied, and the
            # follower answers once it has applied that.
            self._flusher.ask_tree(token)

    def close(self, why: str, primary: str | None) -> None:
        """Answer every caller: nothing of theirs is in our hands any more."""
        self._set_stance(Stance.CLOSED)
        self._interrupt()
        pending = (*self._window, *self._applying)
        unknown = [entry.token for entry in pending if entry.token != _OUR_OWN]
        for token in unknown + self._flusher.abandon():
            self._out.refuse(token, Failure.UNKNOWN, why, primary)
        for event, _ in self._waiting:
            self._out.refuse(event.token, Failure.NOT_PRIMARY, why, primary)
        self._window.clear()
        self._applying.clear()  # what still comes back counts in the stream, for nobody
        self._waiting.clear()
        self._pending_bytes = 0

    def disk_failed(self) -> None:
        """Nothing is acknowledged or sent any more; callers are answered by `close`."""
        self._interrupt()

    def link_down(self) -> None:
        """Nothing flows until the next order, even if the link comes back at once."""
        begin_due = self._begin_due  # ordered, and nothing was sent yet: still in force
        self._interrupt()
        self._begin_due = begin_due

    def _take_up(self, stance: Stance, epoch: int, generation: str) -> None:
        self._interrupt()
        self.terms.epoch = epoch
        self.terms.generation = generation
        self.peer_seq = _NOBODY
        # What was applied as a follower, or is being applied, has its seq for a stamp.
        self._stamp = max(self._stamp, self._position.seq)
        if self._fid_epoch != epoch:
            self._fid_epoch, self._fids = epoch, 0
        self._set_stance(stance)

    def _ask(self) -> None:
        self._interrupt()
        self._begin_due = self._replaying = True
        self._note_progress()

    def _set_stance(self, stance: Stance) -> None:
        self.stance = stance
        self.terms.mirrored = stance in MIRRORING
        self.terms.answering = stance is Stance.LOG or stance in MIRRORING

    def _interrupt(self) -> None:
        self.terms.streaming = False
        self._begin_due = False
        self._replaying = False
        self.peer_space = None
        self._unsent.clear()

    # ---- callers -------------------------------------------------------------------------------

    @property
    def admitting(self) -> bool:
        stance = self.stance
        open_ = stance is Stance.LOG or (stance is Stance.MIRROR and self.terms.streaming)
        return open_ and not self._out.failure

    @property
    def waiting(self) -> int:
        """Changes and flushes that are not admitted yet."""
        return len(self._waiting)

    @property
    def is_at_rest(self) -> bool:
        """Whether no change and no flush waits for anything, the follower included."""
        owed = self._window or self._flusher.waits_for_peer_since_ms is not None
        return not (self._waiting or self._applying or owed)

    @property
    def applying(self) -> int:
        """Changes that were admitted and are not applied yet."""
        return len(self._applying)

    @property
    def stamp(self) -> int:
        """The touched log's number of the last change admitted."""
        return self._stamp

    def change(self, event: Change) -> None:
        """A caller wants something changed."""
        op = event.op
        wrong = flaw(op)
        if wrong:
            self._out.acknowledge(event.token, None, wrong)
        elif self._waiting or not self.admitting or not self._admit(event.token, op):
            self._wait(event)

    def flush(self, event: Flush) -> None:
        """A caller wants something durable."""
        if event.fid <= 0:
            self._out.acknowledge(event.token, None, errno.EINVAL)
        elif not self._waiting and self.admitting:
            self._flusher.ask(event.token, event.fid, data_only=event.data_only)
        else:
            self._wait(event)

    def withdraw(self, token: int) -> None:
        """A caller takes back what it asked for, if that was not admitted."""
        for index, (event, _) in enumerate(self._waiting):
            if event.token == token:
                del self._waiting[index]
                self._out.refuse(token, Failure.WITHDRAWN, "interrupted", None)
                return

    def _wait(self, event: Change | Flush) -> None:
        if len(self._waiting) >= self._settings.waiting_max:
            self._out.acknowledge(event.token, None, errno.EAGAIN)
        else:
            self._waiting.append((event, self._out.now_ms))

    def _has_room(self, size: int) -> bool:
        pending = len(self._window) + len(self._applying)
        if pending >= self._settings.window_ops_max:
            return False
        room = self._pending_bytes + size <= self._settings.window_bytes_max
        return room or not pending  # a single one is let through, however large it is

    def _admit_waiting(self) -> None:
        waiting = self._waiting
        while waiting and self.admitting:
            event = waiting[0][0]
            if isinstance(event, Change):
                if not self._admit(event.token, event.op):
                    return
            else:
                self._flusher.ask(event.token, event.fid, data_only=event.data_only)
            waiting.popleft()

    def restate(self, op: Write | Truncate | SetAttributes) -> bool:
        """Send what this node holds of what `op` is about, as an op that changes nothing here.

        It gets its place as a change does, and is applied by the follower as one. False: not now,
        for changes wait, or would have to.
        """
        if self._waiting or not self.terms.streaming or not self.admitting:
            return False
        return self._admit(_OUR_OWN, op, Restate(op))

    def send_applied(self) -> None:
        """Send every change that has been applied, if the follower takes any."""
        if self._unsent:
            self._send(self._unsent)
            self._unsent = []

    def _admit(self, token: int, op: AnyOp, request: AnyRequest | None = None) -> bool:
        """Have `op` applied, by `request` if that is given. False: there is no room for it now."""
        size = size_bytes(op)
        if not self._has_room(size):
            return False
        if type(op) in MAKING:
            op = self._with_new_fid(op)
        out = self._out
        self._stamp += 1
        cold = self._touched.touch(op, self._stamp)
        if cold is not None:
            out.call(Lane.TREE, RecordTouched(cold), _nothing)
        entry = _Entry(token, op, size, self._stamp, out.now_ms)
        self._pending_bytes += size
        self._applying.append(entry)
        out.call(Lane.TREE, request or Apply(op), self._applied, entry)
        return True

    def _with_new_fid(self, op: AnyOp) -> AnyOp:
        ensure(isinstance(op, Birth), "only what is made gets a new id")
        self._fids += 1
        return msgspec.structs.replace(op, fid=make_fid(epoch=self._fid_epoch, counter=self._fids))

    # ---- from applied to acknowledged ----------------------------------------------------------

    def _applied(self, entry: _Entry, result: object) -> None:
        if not isinstance(result, Outcome):
            unreachable("Apply gives an Outcome")
        done = result.done
        position = self._position
        entry.before, entry.prev = position.seq, position.chain
        if done is not None:
            position.advance(done)
            if self.on_touched is not None or type(done) is not type(entry.op):
                self._note_touched(entry, done)
        if not self._applying or self._applying[0] is not entry:
            return  # its caller was answered by `close`
        self._applying.popleft()
        if done is None and result.errno:
            self._pending_bytes -= entry.size_bytes
            if entry.token != _OUR_OWN:
                self._out.acknowledge(entry.token, None, result.errno)
            return
        # What changed nothing says something about the state before it: it is flushed as well.
        if self._durable:
            self._flusher.changed(done or entry.op)
        entry.seq = position.seq
        entry.done, entry.errno = done, result.errno
        self._window.append(entry)
        if done is not None and self.terms.streaming:
            self._unsent.append(entry)
        if self.stance is Stance.LOG or done is None:
            self._release()

    def _note_touched(self, entry: _Entry, done: AnyOp) -> None:
        """What was done may be something else than what was asked: a failed op's result."""
        if type(done) is not type(entry.op):
            cold = self._touched.touch(done, self._stamp)
            if cold is not None:
                self._out.call(Lane.TREE, RecordTouched(cold), _nothing)
        if self.on_touched is not None:
            self.on_touched(touches(done))

    def _release(self) -> None:
        """Acknowledge what may be acknowledged now."""
        if not self.terms.answering or self._out.failure:
            return
        limit = self.peer_seq if self.terms.mirrored else self._position.seq
        if self._durable:
            limit = min(limit, self._flusher.durable_seq)
        window, acknowledge = self._window, self._out.acknowledge
        while window and window[0].seq <= limit:
            entry = window.popleft()
            self._pending_bytes -= entry.size_bytes
            if entry.token != _OUR_OWN:
                acknowledge(entry.token, entry.done, entry.errno)

    def advance(self) -> None:
        """Do what the event just handled has made possible."""
        if self._unsent:
            self.send_applied()
        self._flusher.advance()  # it makes room in the window
        if self._waiting:
            self._admit_waiting()
            self._flusher.advance()
        if self._begin_due and self._out.link_up and self._out.tree_is_idle():
            self._begin_due = False
            self._out.send(Begin(self.terms.epoch, self.terms.generation, self._round))

    def _send(self, entries: list[_Entry]) -> None:
        """Send them, in as few messages as their size allows."""
        if len(entries) == 1:
            self._send_one(entries)
            return
        first = 0
        size = 0
        for index, entry in enumerate(entries):
            if size and size + entry.size_bytes > self._settings.message_bytes_max:
                self._send_one(entries[first:index])
                first, size = index, 0
            size += entry.size_bytes
        self._send_one(entries[first:])

    def _send_one(self, entries: list[_Entry]) -> None:
        terms, first = self.terms, entries[0]
        ops = [entry.done for entry in entries if entry.done is not None]
        self._out.send(Ops(terms.epoch, terms.generation, first.seq, first.prev, ops))

    def _flushed_for_drain(self, token: int) -> None:
        if self.stance is Stance.DRAIN and not self._window:
            self._out.report(Drained(token))

    # ---- what the follower says ----------------------------------------------------------------

    def on_at(self, message: At) -> bool:
        """The follower says where it is. False: nobody asked it."""
        asked = self.terms.mirrored and not self.terms.streaming and not self._begin_due
        if not asked or message.round != self._round or self._out.failure:
            return False
        if self._hash_at(message.seq) != message.chain:
            mine = f"{self._acknowledged_seq()} to {self._position.seq}"
            text = f"the follower stands at {message.seq}, which is not a place in ours ({mine})"
            self._out.trouble(StopReason.PEER_DISK, text)
            self._out.reset(text)
            return True
        self.terms.streaming = True
        self.peer_seq = message.seq
        self._note_progress()
        self._release()
        missing = [e for e in self._window if e.seq > message.seq and e.done is not None]
        if missing:
            self._send(missing)
        self._flusher.resend()
        self._checkpointer.restart()
        self._replay_to = self._position.seq
        self._report_replayed()
        return True

    def on_ask_again(self, message: AskAgain) -> bool:
        """The follower was halted in this round and ordered anew: what it was sent is lost."""
        if not self.terms.streaming or message.round != self._round:
            return False
        self._ask()
        return True

    def on_ack(self, message: Ack) -> bool:
        if not self.terms.streaming:
            return False
        if message.seq > self._position.seq:
            self._out.reset(f"the follower acknowledges {message.seq}, which was never sent")
            self.terms.streaming = False
        elif message.seq > self.peer_seq:
            self.peer_seq = message.seq
            self._note_progress()
            self._release()
            if self._replaying:
                self._report_replayed()
        return True

    def on_nack(self, message: Nack) -> bool:
        if not self.terms.streaming:
            return False
        self.terms.streaming = False  # it will apply nothing more
        name = errno.errorcode.get(message.errno, str(message.errno))
        text = f"the follower could not apply op {message.seq}: {name} {message.text}".rstrip()
        self._out.trouble(StopReason.PEER_DISK, text)
        return True

    def on_flush_done(self, message: FlushDone) -> bool:
        if not self.terms.streaming or not self._flusher.peer_done(message.flush):
            return False
        self._note_progress()
        return True

    def on_checkpoint_done(self, message: CheckpointDone) -> bool:
        return self.terms.streaming and self._checkpointer.peer_done(message.seq)

    def on_space_left(self, message: SpaceLeft) -> bool:
        space = message.space
        if not self.terms.streaming or min(msgspec.structs.astuple(space)) < 0:
            return False
        self.peer_space = space
        return True

    def _acknowledged_seq(self) -> int:
        return self._window[0].before if self._window else self._position.seq

    def _hash_at(self, seq: int) -> int | None:
        """The hash of our stream up to `seq`, None if it is not a place we remember."""
        if seq == self._position.seq:
            return self._position.chain
        return next((entry.prev for entry in self._window if entry.before == seq), None)

    def _report_replayed(self) -> None:
        if self._replaying and self.peer_seq >= self._replay_to:
            self._replaying = False
            self._out.report(Replayed(self.terms.epoch))

    # ---- time ----------------------------------------------------------------------------------

    def tick(self) -> None:
        self._watch_peer()
        if self.stance is Stance.MIRROR:
            self._checkpointer.tick(seq=self._covered_seq(), stamp=self._covered_stamp())

    def _covered_seq(self) -> int:
        """Up to where both nodes have applied everything."""
        return min(self._acknowledged_seq(), self.peer_seq)

    def _covered_stamp(self) -> int:
        if self._window:
            return self._window[0].stamp - 1
        return self._applying[0].stamp - 1 if self._applying else self._stamp

    def _note_progress(self) -> None:
        self._progress_ms = self._out.now_ms
        self._slow_reported = self._stuck_reported = False

    def _watch_peer(self) -> None:
        """Report a follower, or a stream, that leaves us waiting.

        Not when this loop was late itself: what the follower said may lie there unread. It is
        judged from now on.
        """
        late_ms = self._out.now_ms - self._watched_ms
        self._watched_ms = self._out.now_ms
        if 2 * late_ms >= self._settings.peer_slow_max_ms:
            self._progress_ms = self._out.now_ms
        since_ms = self._peer_owes_since_ms() if self.stance in MIRRORING else None
        if since_ms is None:
            return
        waited_ms = self._out.now_ms - max(since_ms, self._progress_ms)
        limit_ms = self._settings.peer_slow_max_ms
        text = f"no progress with the follower for {waited_ms} ms"
        if 2 * waited_ms >= limit_ms and not self._slow_reported:
            self._slow_reported = True
            self._out.trouble(StopReason.STREAM_SLOW, text)
        if waited_ms >= limit_ms and not self._stuck_reported:
            self._stuck_reported = True
            self._out.trouble(StopReason.PEER_STUCK, text)

    def _peer_owes_since_ms(self) -> int | None:
        """The time of the oldest thing that waits for the follower."""
        times = []
        if self._window and self._window[0].seq > self.peer_seq:
            times.append(self._window[0].since_ms)
        flush_ms = self._flusher.waits_for_peer_since_ms
        if flush_ms is not None:
            times.append(flush_ms)
        if self._waiting and not self.terms.streaming:
            times.append(self._waiting[0][1])
        return min(times, default=None)


def _nothing(_along: object, _result: object) -> None:
    """The lane keeps order: what needed this request follows it."""


ensure(Stance.CLOSED not in SOURCE, "a source that closed has no callers left")
