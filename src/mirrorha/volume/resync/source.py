"""The source of a resync: lists, answers, and sends what differs, while its application writes.

A resync is a sequence of passes. Each takes what was touched before it began, lists the
directories and names the files among that, answers what the target asks, and ends when the target
has done everything. What is touched meanwhile is the next pass's work. So passes become shorter;
once little is left the node is told, and orders the last one, during which changes are held.

Why both trees are the same after that. A touched key says where the two may differ. At the
beginning everything in which they do is covered by the keys of either side, whose union is in our
touched log before we list anything; or everything is compared. Let a pass begin with the keys K,
and D be those touched while it lasts. Then, once the target has `Settled`, they differ at most in
D:

- A directory in K is listed as it is at some time during the pass; the target gives it exactly
  those names. If they are others at the end, its key is in D. What the target could not place yet
  is listed again, or the key is put into D.
- A file in K is read at some time during the pass: the same holds for its content, block by block,
  and its attributes.
- A fid that the target does not know is outside of all that was said of K: its content was never
  on both sides. It is compared whole, with everything below it, whatever K says. The target
  creates it only once our log has a key for all of it: should the session break off in between,
  the next one will not take the half-made file for one that both had.
- A fid that the target knows, and that is not in K, is the same on both sides, whatever name it
  has. That is why names may be moved before their files are compared, and why no file may be left
  in limbo when the trees are equal: it could lag behind unnoticed.
- When everything is compared there is no K, but a set of those that were. A file that is renamed
  from a directory that was not yet listed to one that was is missed; but its new directory is then
  in D, and what a directory in D holds and was not compared is compared then.

In the last pass nothing is touched, so D is empty.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final, final

from mirrorha.core.orders import NearlyEqual, Progress, StartResync, Widened
from mirrorha.errors import PeerProtocolError, VolumeError
from mirrorha.volume.disk import ReadBytes, RecordTouched, SyncTree
from mirrorha.volume.events import Lane, Reported
from mirrorha.volume.ops import FID_COUNTER_BITS, ROOT_FID
from mirrorha.volume.resync.disk_steps import attributes_of_all, bytes_of_all, hashes_of
from mirrorha.volume.resync.listing import Lister
from mirrorha.volume.resync.messages import (
    CONTENT_BLOCKS_MAX,
    HASHED_BLOCKS_MAX,
    HASHES_WINDOW,
    KEYS_MAX,
    Ask,
    Barrier,
    Checked,
    Compare,
    Content,
    Done,
    Equal,
    Hashes,
    Hello,
    Reached,
    ResyncMessage,
    Settle,
    Settled,
    Touched,
    Zeros,
    check_from_target,
)
from mirrorha.volume.resync.outgoing import Counts, Outgoing
from mirrorha.volume.resync.pace import Pace
from mirrorha.volume.resync.plan import (
    Plan,
    batches,
    chunks,
    differences,
    left_bytes,
    part_bytes,
    parts_of,
    pieces_without_zeros,
    plan_of,
)
from mirrorha.volume.resync.session import Session
from mirrorha.volume.stream.resync_interface import ResyncEffect, ResyncEvent, ResyncStatus
from mirrorha.volume.tasks.task import Box, Call, Pool, Receive, Steps, Take
from mirrorha.volume.touched import NAMES, TouchedState, TouchKey, all_of
from mirrorha.wire.limits import BLOCK_BYTES

# "Little is left": a pass over so much takes less than a tenth of a second.
LITTLE_BYTES: Final = 4 * 1024 * 1024
LITTLE_FILES: Final = 200
# Passes that did not shrink what is left by a fifth, until we say that it will not become less.
STUBBORN_PASSES: Final = 3
# While the node makes up its mind, a pass is made when so many keys are touched, or so often.
REST_KEYS: Final = 64
REST_MS: Final = 1_000
# A directory whose names cannot be placed is listed again so often, and left to the next pass;
# so many last passes may be made, during which changes are held.
TRIES: Final = 3
FINAL_PASSES_MAX: Final = 3
# Hashes that are answered at the same time, and attributes that are read by one batch.
_ANSWERED_AT_ONCE: Final = 16
_READ_AT_ONCE: Final = 128
# How many files are remembered to have large holes.
_SPARSE_MAX: Final = 1000
# A peer whose touched log is longer than this does not keep one.
_TOUCHED_MAX: Final = 1 << 26


@final
class ResyncSource:
    """Makes the target's tree equal to this node's.

    Args:
        order: Which session, in which epoch, and what is to be compared.
        touched: This node's touched log.
    """

    def __init__(self, order: StartResync, touched: TouchedState) -> None:
        self._order: Final = order
        self._session: Final = Session(
            epoch=order.epoch,
            number=order.session,
            lane=Lane.BULK,
            receive=self._receive,
            finish_step=self._finish_step,
        )
        tasks = self._session.tasks
        self._counts: Final = Counts(order.session)
        self._outgoing: Final = Outgoing(tasks)
        self._pace: Final = Pace(tasks)
        self._lister: Final = Lister(
            session=self._session,
            outgoing=self._outgoing,
            pace=self._pace,
            counts=self._counts,
            record=self._record,
        )
        self._greeted: Final[Box[Touched]] = Box(tasks)
        self._reached: Final[Box[Reached | None]] = Box(tasks)  # None: something was asked for
        self._settled: Final[Box[Settled]] = Box(tasks)
        self._woken: Final[Box[None]] = Box(tasks)
        self._answered: Final = Pool(tasks, _ANSWERED_AT_ONCE)
        self._expected: type[ResyncMessage] | None = None
        self._asked = 0  # `Ask`s, and
        self._hashed = 0  # `Hashes`, that are not answered yet
        self._touched: Final = touched
        self._recorded: Final = set(touched.keys)
        self._dirty: set[TouchKey] = set()
        self._sparse: Final[set[int]] = set()
        self._is_held = False
        self._is_nearly = False
        self._resting_since_ms: int | None = None

    @property
    def status(self) -> ResyncStatus:
        return self._session.status

    @property
    def failure(self) -> str:
        return self._session.failure

    @property
    def failed_here(self) -> bool:
        return self._session.failed_here

    @property
    def is_nearly_equal(self) -> bool:
        """Whether the last pass would be short, or at least will not become shorter."""
        return self._is_nearly

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._counts.progress()

    @property
    def rate_bytes_per_s(self) -> int:
        """How much content may be gone through in a second, 0: there is no limit."""
        return self._pace.rate_bytes_per_s

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """See `Pace.set_rate`. The last pass is not limited, for the application waits."""
        if not self._is_held:
            self._pace.set_rate(rate_bytes_per_s)

    def start(self, now_ms: int) -> Sequence[ResyncEffect]:
        """Begin. The target side is there already."""
        self._pace.refill(now_ms)
        self._session.tasks.spawn(self._run())
        return self._session.start(now_ms)

    def step(self, event: ResyncEvent, now_ms: int) -> Sequence[ResyncEffect]:
        """See `ResyncSide`."""
        self._pace.refill(now_ms)
        return self._session.step(event, now_ms)

    def touched(self, keys: Iterable[TouchKey]) -> None:
        """A local op that touched `keys` has been given to the disk: compare them again."""
        self._dirty.update(keys)
        self._pace.note_change()

    def final_pass(self, now_ms: int) -> Sequence[ResyncEffect]:
        """Changes are held, none is being applied: finish this pass, do a last one, be EQUAL."""
        self.set_rate(0)
        self._is_held = True
        return self._session.go_on(now_ms)

    # What comes in.

    def _receive(self, message: ResyncMessage) -> None:
        check_from_target(message)
        match message:
            case Done():
                self._outgoing.take_back(message)
                self._counts.finished(message.files)
                self._counts.skipped(message.skipped_bytes)
            case Hashes() if self._hashed < HASHES_WINDOW:
                self._hashed += 1
                self._session.tasks.spawn(self._answer_hashes(message))
            case Ask() if not self._asked:
                self._asked += 1
                self._session.tasks.spawn(self._answer_ask(message))
            case Touched() if self._expected is Touched:
                self._expected = None if message.last else Touched
                self._greeted.put(message)
            case Reached() if self._expected is Reached:
                self._expected = None
                self._reached.put(message)
            case Settled() if self._expected is Settled:
                self._expected = None
                self._settled.put(message)
            case _:
                raise PeerProtocolError(f"the target sent a {type(message).__name__} out of turn")

    def _finish_step(self) -> None:
        if self._resting_since_ms is not None and self._has_rested(self._resting_since_ms):
            self._resting_since_ms = None
            self._woken.put(None)
        is_over = self._session.status is not ResyncStatus.RUNNING
        self._counts.limit_bytes_per_s = self._pace.rate_bytes_per_s
        progress = self._counts.report(self._session.now_ms, at_once=is_over)
        if progress is not None:
            self._session.tasks.emit(Reported(progress))

    def _has_rested(self, since_ms: int) -> bool:
        is_late = self._session.now_ms - since_ms >= REST_MS
        return self._is_held or len(self._dirty) >= (1 if is_late else REST_KEYS)

    # Passes.

    def _run(self) -> Steps[None]:
        yield from self._agree()
        is_first, final_passes = True, 0
        stubborn, before = 0, sys.maxsize
        while True:
            is_final = self._is_held
            final_passes += is_final
            keys, self._dirty = self._dirty, set()
            yield from self._pass(keys, is_first=is_first, is_final=is_final)
            is_first = False
            if is_final and not self._dirty:
                break
            if final_passes == FINAL_PASSES_MAX:
                raise VolumeError("changes were held, and yet the copies do not become equal")
            left, is_little = yield from self._left()
            stubborn = stubborn + 1 if left * 5 > before * 4 else 0
            before = left
            if stubborn >= STUBBORN_PASSES and self._pace.rate_bytes_per_s:
                # It is the limit that keeps us from ever coming to an end.
                self._pace.give_way()
                stubborn = 0
            if (is_little or stubborn >= STUBBORN_PASSES) and not self._is_held:
                yield from self._rest(is_little=is_little)
        yield self._session.message(Equal)
        self._session.status = ResyncStatus.EQUAL

    def _agree(self) -> Steps[None]:
        """Learn whether the two logs say where the copies may differ, or else compare all."""
        mine, seed = self._touched, self._order.seed
        everything = self._order.everything or mine.damaged
        self._expected = Touched
        covers, since = not mine.damaged, mine.reaches_back_to
        yield self._session.message(Hello, everything, seed, mine.confirmed, since, covers)
        doubt = yield from self._take_touched(everything=everything)
        if mine.damaged:
            doubt = "the touched log of the node that serves was damaged"
        self._lister.everything = everything or bool(doubt)
        if not self._lister.everything:
            self._dirty.update(self._recorded)
        elif not self._order.everything:
            yield Reported(Widened(self._order.session, doubt))

    def _take_touched(self, *, everything: bool) -> Steps[str]:
        """Take in what the target has touched; from now on our log covers it too.

        Returns:
            Its doubt.
        """
        while True:
            message: Touched = yield Receive(self._greeted)
            self._lister.target_is_empty = message.empty
            if not everything:
                self._dirty.update(message.keys)
                yield from self._record(message.keys)
            if len(self._recorded) > _TOUCHED_MAX:
                raise PeerProtocolError("the target's touched log never ends")
            if message.last:
                if message.resumes:
                    self._dirty.update(self._touched.keys)
                return message.doubt

    def _record(self, keys: Iterable[TouchKey]) -> Steps[None]:
        new = list(dict.fromkeys(key for key in keys if key not in self._recorded))
        for batch in batches(new, KEYS_MAX):
            yield Call(RecordTouched(list(batch)), Lane.TREE)
        self._recorded.update(new)

    def _pass(self, keys: set[TouchKey], *, is_first: bool, is_final: bool) -> Steps[None]:
        plan = plan_of(keys)
        if is_first and self._lister.everything:
            self._lister.begin_pass(frozenset())
            self._lister.queue(ROOT_FID)
        else:
            yield from self._plan_names(plan)
        yield from self._lister.run()
        yield from self._send_parts(plan)
        yield from self._reach()
        self._lister.target_is_empty = False
        self._expected = Settled
        yield self._session.message(Settle, is_final)
        yield Receive(self._settled)
        self._counts.end_pass()

    def _plan_names(self, plan: Plan) -> Steps[None]:
        """Queue the directories of a plan, and say what in them may be new to the target."""
        # Made in this epoch, that is while the target was away or in this very resync. A guess:
        # it saves a question, and costs entries in the log.
        fresh = frozenset(
            fid for fid in plan.inodes if fid >> FID_COUNTER_BITS == self._order.epoch
        )
        if not self._lister.everything:
            yield from self._record(key for fid in fresh for key in all_of(fid))
        self._lister.begin_pass(fresh)
        for fid in reversed(plan.names):
            self._lister.queue(fid)

    def _send_parts(self, plan: Plan) -> Steps[None]:
        for fids in self._pace.batches(list(plan.files), _READ_AT_ONCE):
            found = yield from attributes_of_all(fids)
            alive = [one for one in found if one is not None]
            parts = [part for one in alive for part in parts_of(one, plan.files[one.fid])]
            for part in parts:
                self._counts.found(left_bytes(part.ranges, part.attributes.size_bytes))
            for chunk in chunks(parts, bytes_of=part_bytes):
                yield from self._outgoing.take_entries(len(chunk))
                yield self._session.message(Compare, chunk)

    def _reach(self) -> Steps[None]:
        """Wait until the target has carried out all listings, and those that they led to."""
        tries: dict[int, int] = {}
        while True:
            self._expected = Reached
            yield self._session.message(Barrier)
            is_over = True
            while (reached := (yield Receive(self._reached))) is None:
                is_over = False
                yield from self._lister.run()
            for fid in {*reached.dropped, *reached.blocked}:
                tries[fid] = tries.get(fid, 0) + 1
                if tries[fid] <= TRIES:
                    self._lister.queue_again(fid, was_dropped=fid in reached.dropped)
                else:
                    self._dirty.add((fid, NAMES))
            if is_over and not self._lister.has_more:
                return
            yield from self._lister.run()

    def _left(self) -> Steps[tuple[int, bool]]:
        """How much the next pass has to do, in bytes, and whether that is little."""
        plan = plan_of(self._dirty)
        many = len(plan.names) + len(plan.files)
        if many > LITTLE_FILES:
            return many * LITTLE_BYTES, False
        found = yield from attributes_of_all(list(plan.files))
        left = sum(
            left_bytes(plan.files[one.fid], one.size_bytes) for one in found if one is not None
        )
        return left, left <= LITTLE_BYTES

    def _rest(self, *, is_little: bool) -> Steps[None]:
        """Say that little is left, and wait for the order to finish or for something to do."""
        if not self._is_nearly:
            # So that the sync at the end, with the application waiting, is short.
            yield Call(SyncTree(), Lane.SYNC)
            self._is_nearly = True
            yield Reported(NearlyEqual(self._order.session))
        if is_little:
            self._resting_since_ms = self._session.now_ms
            yield Receive(self._woken)

    # Answers.

    def _answer_ask(self, ask: Ask) -> Steps[None]:
        yield from self._lister.answer(ask)
        self._asked -= 1
        if self._lister.has_more:
            self._reached.put(None)

    def _answer_hashes(self, hashes: Hashes) -> Steps[None]:
        yield Take(self._answered, 1)
        if hashes.digests or hashes.fid in self._sparse:
            is_there = yield from self._send_differences(hashes)
        else:
            is_there = yield from self._send_all(hashes)
        yield self._session.message(Checked, hashes.ticket, not is_there)
        self._hashed -= 1
        self._answered.put(1)

    def _send_differences(self, hashes: Hashes) -> Steps[bool]:
        """Send what differs from what the target has. False if there is no such file."""
        pieces = self._pace.pieces(hashes.first, hashes.count, blocks_max=HASHED_BLOCKS_MAX)
        for first, count in pieces:
            mine = yield from self._hash(hashes, first, count)
            if mine is None:
                return False
            at = first - hashes.first
            for run in differences(first, mine, hashes.digests[at : at + count]):
                if run.are_zeros:
                    yield self._session.message(Zeros, hashes.ticket, run.first, run.blocks)
                else:
                    yield from self._send_content(hashes, run.first, run.blocks)
            self._counts.compared(_length(hashes, first, count))
        return True

    def _hash(self, hashes: Hashes, first: int, count: int) -> Steps[list[bytes] | None]:
        """What is here, at the pace of this resync. None: no such file."""
        yield from self._pace.take(_length(hashes, first, count))
        mine = yield from hashes_of(hashes.fid, first, count, self._order.seed)
        read = sum(map(bool, mine or ()))
        self._pace.give_back(max(0, _length(hashes, first, count) - read * BLOCK_BYTES))
        return mine

    def _send_all(self, hashes: Hashes) -> Steps[bool]:
        """Send what the target has nothing of: to read it is enough. False: no such file.

        Holes are not sent. The next blocks of a file that has large ones are hashed nevertheless,
        for a disk knows where holes are, and reads them as zeros only if it must.
        """
        pieces = self._pace.pieces(hashes.first, hashes.count, blocks_max=CONTENT_BLOCKS_MAX)
        for first, blocks in pieces:
            length = _length(hashes, first, blocks)
            yield from self._pace.take(length)
            read_bytes = yield from self._send_content(hashes, first, blocks)
            self._pace.give_back(max(0, length - (read_bytes or 0)))
            self._counts.compared(length)
            if read_bytes is None:
                return False
            if read_bytes < blocks * BLOCK_BYTES:
                break
        return True

    def _send_content(self, hashes: Hashes, first: int, blocks: int) -> Steps[int | None]:
        """Send some blocks, those that are not zeros. Returns how much was read, None: no file."""
        offset, length = first * BLOCK_BYTES, blocks * BLOCK_BYTES
        yield from self._outgoing.take_bytes(length)
        (data,) = yield from bytes_of_all([ReadBytes(hashes.fid, offset, length)])
        # Shorter, or nothing, at the end of the file, or if it has changed: then it is touched.
        sent_bytes = 0
        for at, piece in pieces_without_zeros(data or b""):
            sent_bytes += len(piece)
            self._counts.sent(len(piece))
            yield self._session.message(Content, hashes.ticket, offset + at, piece)
        self._outgoing.give_back(length - sent_bytes)
        if data and not sent_bytes:
            self._note_sparse(hashes.fid)
        return None if data is None else len(data)

    def _note_sparse(self, fid: int) -> None:
        if len(self._sparse) == _SPARSE_MAX:
            self._sparse.clear()
        self._sparse.add(fid)


def _length(hashes: Hashes, first: int, count: int) -> int:
    """How much content some blocks are, of those that are asked for."""
    if hashes.size_bytes < 0:  # by a node of before, which does not say
        return count * BLOCK_BYTES
    return left_bytes([(first, count)], hashes.size_bytes)
