"""The side of a volume that follows: ops in, in order, applied, acknowledged.

A follower holds an exact prefix of its source's stream. It takes an op only if it is the next and
its predecessors hash to what this node holds; it applies in batches, one at a time, and a batch
ends at the first op that does not turn out exactly as it says.
"""

from __future__ import annotations

import enum
import errno
from collections import deque
from typing import Final, final

from mirrorha.core.orders import Follow
from mirrorha.errors import unreachable
from mirrorha.volume.disk import (
    Applied,
    ApplyAll,
    ConfirmCheckpoint,
    Many,
    RecordTouched,
    RetireTouched,
    Space,
    SyncFiles,
    SyncTree,
)
from mirrorha.volume.events import Lane
from mirrorha.volume.op_rules import size_bytes, travel_flaw
from mirrorha.volume.ops import AnyOp
from mirrorha.volume.stream.flushing import FILES_MAX
from mirrorha.volume.stream.messages import (
    Ack,
    AskAgain,
    At,
    Begin,
    Checkpoint,
    CheckpointDone,
    FlushDone,
    FlushRequest,
    Nack,
    Ops,
    Retire,
    SpaceLeft,
    chain,
)
from mirrorha.volume.stream.pending import Outbox, Position
from mirrorha.volume.touched import TouchedLog, TouchKey
from mirrorha.volume.verify.messages import LOOKS_MAX, Look, Looked, Soon, flaw
from mirrorha.volume.verify.seeing import reads_of, requests_of, seen_of_all
from mirrorha.wire.limits import MIB

# A source sends no more than its window; whatever it was configured to, it is less than this.
QUEUE_OPS_MAX: Final = 1 << 17
QUEUE_BYTES_MAX: Final = 256 * MIB
JOBS_MAX: Final = 1024

# One disk request: long enough to be worth it, short enough not to hold up acknowledgements.
BATCH_OPS_MAX: Final = 256
BATCH_BYTES_MAX: Final = 4 * MIB

# Every change of this share of the whole is told at once, a smaller one now and then.
SPACE_SHARE: Final = 100
SPACE_MS: Final = 5_000


class Stage(enum.Enum):
    """How far a follower is."""

    HALTED = "halted"  # takes nothing before the next `Follow`
    AWAITING = "awaiting"  # ordered; takes nothing before the source's `Begin`
    ACTIVE = "active"
    BROKEN = "broken"  # an op failed: nothing after it may be applied


_Link = tuple[AnyOp, int, int]  # an op, the hash of the stream up to it, what it counts for
_Batch = tuple[int, list[_Link]]  # the turn it belongs to


@final
class Follower:
    """The mirrored side. `stage` is HALTED whenever the volume is anything else."""

    def __init__(self, out: Outbox, position: Position, touched: TouchedLog) -> None:
        self.stage = Stage.HALTED
        self.epoch = 0
        self._generation = ""
        self._out = out
        self._position = position
        self._touched = touched
        self._round = 0
        self._begin: Begin | None = None  # kept: it may come before our order does
        self._answered: Begin | None = None  # the last one that we answered on this connection
        self._queue: deque[_Link] = deque()
        self._queue_bytes = 0
        self._tail_seq = 0  # where the stream stands once all that was taken is applied
        self._tail_chain = 0
        self._applying = False
        self._jobs: deque[FlushRequest | Checkpoint] = deque()
        self._looks: deque[Look] = deque()  # at places that are not reached yet
        # Counts orders and interruptions: what a disk call of another turn returns is not told.
        self._turn = 0
        self._told: tuple[Space, int] | None = None  # in this round, and when

    # ---- orders --------------------------------------------------------------------------------

    def follow(self, order: Follow) -> None:
        """Answer the source's question of this round; then apply what it sends."""
        self.halt()
        self.epoch, self._generation, self._round = order.epoch, order.generation, order.round
        self.stage = Stage.AWAITING
        answered = self._answered
        if answered is not None and (answered.epoch, answered.round) == (order.epoch, order.round):
            # We were halted since. What the source has sent in this round is lost.
            self._out.send(AskAgain(order.epoch, order.round))

    def halt(self) -> None:
        """Take, acknowledge and answer nothing more. The batch under way is applied to its end."""
        self.stage = Stage.HALTED
        self._turn += 1
        self._queue.clear()
        self._queue_bytes = 0
        self._jobs.clear()
        self._looks.clear()

    def link_up(self) -> None:
        """A new connection: what was asked on another is void."""
        self._begin = self._answered = None

    def link_down(self) -> None:
        """Acknowledge nothing before the next order. What was taken is still applied."""
        self._begin = self._answered = None
        self.stage = Stage.HALTED
        self._turn += 1
        self._jobs.clear()
        self._looks.clear()

    def see_space(self, space: Space) -> None:
        """Tell the source what there is room for here, unless that is what it knows."""
        if self.stage is not Stage.ACTIVE:
            return
        if self._told is not None:
            told, told_ms = self._told
            is_due = space != told and self._out.now_ms - told_ms >= SPACE_MS
            if not is_due and not _differ_much(space, told):
                return
        self._told = space, self._out.now_ms
        self._out.send(SpaceLeft(self.epoch, space))

    # ---- what the source says ------------------------------------------------------------------

    def on_begin(self, message: Begin) -> bool:
        """Kept until it can be answered: our order, and what is being applied, come first."""
        self._begin = message
        if self.stage is Stage.ACTIVE:  # the round that we were in is over
            epoch_and_round = (message.epoch, message.round)
            again = epoch_and_round == (self.epoch, self._round)
            self.halt()
            if again:
                self.stage = Stage.AWAITING
        return True

    def on_ops(self, message: Ops) -> bool:
        if self.stage is not Stage.ACTIVE:
            return False
        if message.generation != self._generation:
            self._reset(f"ops of generation {message.generation!r}, not {self._generation!r}")
        elif message.first_seq < 1 or not message.ops:
            self._reset("a message of ops that says nothing")
        elif message.first_seq > self._tail_seq + 1:
            self._reset(f"op {message.first_seq} does not follow {self._tail_seq}")
        else:
            self._take(message)
        return True

    def on_flush_request(self, message: FlushRequest) -> bool:
        good = len(message.fids) <= FILES_MAX and all(fid > 0 for fid in message.fids)
        good = good and set(message.data_only) <= set(message.fids)
        return self._on_job(message, message.after_seq, good=good)

    def on_checkpoint(self, message: Checkpoint) -> bool:
        return self._on_job(message, message.seq, good=True)

    def on_retire(self, message: Retire) -> bool:
        """Forget the entries that a checkpoint covers which both nodes hold."""
        if self.stage is not Stage.ACTIVE:
            return False
        checkpoint = (message.epoch, message.seq)
        if checkpoint > self._touched.confirmed:
            self._reset(f"checkpoint {checkpoint} is to be retired and was never confirmed")
            return True
        keys = self._touched.covered(message.seq)
        self._touched.forget(keys)
        self._out.call(Lane.TREE, RetireTouched(keys, *checkpoint), self._retired, checkpoint)
        return True

    def on_look(self, message: Look) -> bool:
        """What do we hold after the op that was taken last, and before the next one?"""
        if self.stage is not Stage.ACTIVE:
            return False
        wrong = flaw(message)
        if message.seq != self._tail_seq:
            wrong = f"it is to be after op {message.seq}, and comes after {self._tail_seq}"
        elif len(self._looks) >= LOOKS_MAX:
            wrong = "there are too many of them"
        if wrong:
            self._reset(f"a question that cannot be meant: {wrong}")
        else:
            self._looks.append(message)
        return True

    def on_soon(self, message: Soon) -> bool:
        """Some of what we hold is to be read anew."""
        if self.stage is not Stage.ACTIVE:
            return False
        wrong = flaw(message)
        if wrong:
            self._reset(f"a question that cannot be meant: {wrong}")
        else:
            # In the lane of the question itself, which then reads what is on the device.
            self._out.call(Lane.TREE, reads_of(message.blocks), _nothing)
        return True

    def _on_job(self, message: FlushRequest | Checkpoint, after_seq: int, *, good: bool) -> bool:
        if self.stage is not Stage.ACTIVE:
            return False
        if not good or not 0 <= after_seq <= self._tail_seq or len(self._jobs) >= JOBS_MAX:
            self._reset(f"a request that cannot be meant: {message}")
        else:
            self._jobs.append(message)
        return True

    def _reset(self, why: str) -> None:
        self.stage = Stage.HALTED
        self._turn += 1
        self._jobs.clear()
        self._looks.clear()
        self._out.reset(why)

    def _take(self, message: Ops) -> None:
        """Queue what is new in the message. What we hold already is only acknowledged again."""
        known = self._tail_seq + 1 - message.first_seq
        hash_ = message.prev
        for op in message.ops[:known] if known else ():
            if travel_flaw(op):  # it cannot be one that we hold
                self._reset("an op that no file system could carry out")
                return
            hash_ = chain(op, hash_)
        fresh = message.ops[known:] if known else message.ops
        if fresh:
            if hash_ != self._tail_chain:
                self._reset(f"what comes before op {self._tail_seq + 1} is not what we hold")
                return
            self._queue_up(fresh)
        elif not self._applying:
            self._out.send(Ack(self.epoch, self._position.seq))

    def _queue_up(self, ops: list[AnyOp]) -> None:
        queue, hash_ = self._queue, self._tail_chain
        for op in ops:
            if travel_flaw(op):
                self._reset("an op that no file system could carry out")
                return
            hash_ = chain(op, hash_)
            op_bytes = size_bytes(op)
            queue.append((op, hash_, op_bytes))
            self._queue_bytes += op_bytes
            self._tail_seq += 1
            self._tail_chain = hash_
        if len(queue) > QUEUE_OPS_MAX or self._queue_bytes > QUEUE_BYTES_MAX:
            self._reset("more was sent than any window holds")

    # ---- applying ------------------------------------------------------------------------------

    def advance(self) -> None:
        """Do what the event just handled has made possible."""
        if self._looks and not self._applying:
            self._begin_looks()
        if self._queue and not self._applying:
            self._apply_next()
        if self._jobs:
            self._begin_jobs()
        if self._begin is not None:
            self._answer(self._begin)

    def _answer(self, begin: Begin) -> None:
        """Say where we are, once that is certain, if our order is of the same epoch."""
        ours = (begin.epoch, begin.round) == (self.epoch, self._round)
        if not ours or self.stage is not Stage.AWAITING or self._out.failure:
            return
        if self._queue or not self._out.tree_is_idle():
            return
        self._begin, self._answered, self._told = None, begin, None
        if begin.generation != self._generation:
            self._reset(f"the source is of generation {begin.generation!r}, not ours")
            return
        self.stage = Stage.ACTIVE
        self._tail_seq, self._tail_chain = self._position.seq, self._position.chain
        self._touched.cap(self._position.seq)  # stamps are seqs from here on
        at = At(self.epoch, begin.round, self._position.seq, self._position.chain)
        self._out.send(at)

    def _apply_next(self) -> None:
        queue = self._queue
        batch: list[_Link] = []
        ops: list[AnyOp] = []
        size = 0
        cold: list[TouchKey] = []
        seq = self._position.seq
        ops_max = self._ops_to_next_look()
        while queue and len(batch) < ops_max and size < BATCH_BYTES_MAX:
            link = queue.popleft()
            batch.append(link)
            op = link[0]
            ops.append(op)
            size += link[2]
            seq += 1
            new = self._touched.touch(op, seq)
            if new is not None:
                cold += new
        self._queue_bytes -= size
        if cold:
            self._out.call(Lane.TREE, RecordTouched(cold), _nothing)
        self._applying = True
        self._out.call(Lane.TREE, ApplyAll(ops), self._applied, (self._turn, batch))

    def _ops_to_next_look(self) -> int:
        """How many ops the next batch may have: it ends where the disk is to be looked at."""
        if not self._looks:
            return BATCH_OPS_MAX
        return min(BATCH_OPS_MAX, self._looks[0].seq - self._position.seq)

    def _begin_looks(self) -> None:
        """Look at what is to be seen here, before anything more is applied."""
        while self._looks and self._looks[0].seq <= self._position.seq:
            look = self._looks.popleft()
            request = Many(requests_of(look.items, look.seed))
            self._out.call(Lane.TREE, request, self._looked, (self._turn, look))

    def _looked(self, along: tuple[int, Look], result: object) -> None:
        turn, look = along
        if turn == self._turn:
            seen = seen_of_all(look.items, result, look.seed)
            self._out.send(Looked(self.epoch, look.session, look.number, seen))

    def _applied(self, along: _Batch, result: object) -> None:
        if not isinstance(result, Applied):
            unreachable("ApplyAll gives an Applied")
        turn, batch = along
        self._applying = False
        done = batch[: result.count]
        if turn != self._turn:
            # The line may have been marked meanwhile, so the hashes are counted anew.
            for link in done:
                self._position.advance(link[0])
        elif done:
            self._position.adopt(self._position.seq + len(done), done[-1][1])
        if self.stage is Stage.ACTIVE and turn == self._turn and done:
            self._out.send(Ack(self.epoch, self._position.seq))
        if len(done) < len(batch):
            self._queue.clear()  # nothing may be applied on top of what is missing
            self._queue_bytes = 0
            if turn == self._turn:
                self._break(result.errno or errno.EIO, "on the follower's disk")

    def disk_failed(self, text: str) -> None:
        """Nothing more will be applied: tell the source, which waits for it."""
        self._queue.clear()
        self._queue_bytes = 0
        if self.stage is not Stage.HALTED:
            self._break(errno.EIO, text)

    def _break(self, errno_: int, text: str) -> None:
        if self.stage is Stage.ACTIVE:
            self._out.send(Nack(self.epoch, self._position.seq + 1, errno_, text))
        self.stage = Stage.BROKEN
        self._turn += 1
        self._jobs.clear()
        self._looks.clear()

    # ---- making durable ------------------------------------------------------------------------

    def _begin_jobs(self) -> None:
        """Begin those whose ops are all applied. They end in the order in which they came."""
        while self._jobs:
            job = self._jobs[0]
            after_seq = job.after_seq if isinstance(job, FlushRequest) else job.seq
            if after_seq > self._position.seq:
                return
            self._jobs.popleft()
            request: SyncFiles | SyncTree = SyncTree()
            if isinstance(job, FlushRequest) and job.fids:
                request = SyncFiles(job.fids, job.data_only)
            self._out.call(Lane.SYNC, request, self._synced, (self._turn, job))

    def _synced(self, along: tuple[int, FlushRequest | Checkpoint], _result: object) -> None:
        turn, job = along
        if turn != self._turn:
            return
        if isinstance(job, FlushRequest):
            self._out.send(FlushDone(self.epoch, job.flush))
        else:
            request = ConfirmCheckpoint(job.epoch, job.seq)
            self._out.call(Lane.TREE, request, self._confirmed, along)

    def _confirmed(self, along: tuple[int, Checkpoint], _result: object) -> None:
        turn, job = along
        self._touched.confirm((job.epoch, job.seq))
        if turn == self._turn:
            self._out.send(CheckpointDone(self.epoch, job.seq))

    def _retired(self, checkpoint: tuple[int, int], _result: object) -> None:
        self._touched.retire(checkpoint)


def _differ_much(space: Space, other: Space) -> bool:
    """Whether what is left differs by more than a hundredth of the whole."""
    moved_bytes = max(
        abs(space.free_bytes - other.free_bytes),
        abs(space.available_bytes - other.available_bytes),
    )
    moved_files = abs(space.files_free - other.files_free)
    return (
        space.total_bytes != other.total_bytes
        or moved_bytes * SPACE_SHARE > space.total_bytes
        or moved_files * SPACE_SHARE > space.files
    )


def _nothing(_along: object, _result: object) -> None:
    """The lane keeps order: what needed this request follows it."""
