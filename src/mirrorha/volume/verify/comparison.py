"""Comparing a volume's two copies while its application writes, without a false alarm. Pure.

The source asks the follower for hashes of what it holds, and compares them with those of its own
copy. The two differ all the time, by what is under way; so they are compared at one place of the
stream. Why what is found to differ does differ:

- The source's disk performs the requests of a lane in the order in which they are emitted, and
  answers in that order. A question is one request in the lane in which changes are applied. So what
  it answers is the source's tree after exactly those changes whose results came before its own:
  when its result comes, that is the place `seq`.
- Before anything else happens `Look(seq)` is put into the stream: behind the op `seq`, which is
  sent before it, and ahead of the next one, which is not applied yet.
- The follower applies ops in the order of the stream. It takes `Look(seq)` only as the message that
  follows op `seq`, ends the batch under way there, and asks its own disk, in the lane in which it
  applies, before it emits op `seq + 1`. So what it answers is its tree after exactly the ops up to
  `seq`.
- A follower holds an exact prefix of its source's stream (I5): after the same ops the two trees are
  the same in everything that is compared. If they are not, then not because of anything under way.

No clock, no second look and no pause is needed, and nothing depends on who writes what meanwhile.
When the stream breaks, or the node has other plans for the volume, the comparison ends and says so;
answers of an earlier one have another session or number.

Why nothing is missed that differs from the beginning to the end. Every directory is listed, and
every file of a listing compared. A name can move from a directory that was not listed yet to one
that was; but then the latter was touched, and is listed again, in the end. Content is compared up
to the size that the file had; what lies beyond was written meanwhile, on both. What differs only
for a while (it was overwritten) may be found, or not.

A repair restates what the source holds: its disk says at some place what there is, and that very
op gets this place in the stream, changes nothing here, and brings it about on the follower. So it
cannot undo anybody's change, whatever is written meanwhile. Then both are asked again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, final

from mirrorha.core.orders import AnyReport, StartVerify, VerifyEnded, VerifyFound
from mirrorha.errors import PeerProtocolError
from mirrorha.volume.disk import Entry, Kind, Locate, RecordTouched
from mirrorha.volume.events import DiskDone, Lane, Received, Reported, Send, Tick
from mirrorha.volume.ops import ROOT_FID
from mirrorha.volume.tasks.allowance import Allowance
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.tasks.task import Call, Pool, Steps, Take, TaskEffect, Tasks
from mirrorha.volume.touched import NAMES, TouchKey, all_of
from mirrorha.volume.verify.differences import Difference, differing_blocks, differing_fields
from mirrorha.volume.verify.exchange import Both, Exchange
from mirrorha.volume.verify.messages import (
    BLOCKS_MAX,
    ITEMS_MAX,
    LOOKS_MAX,
    Attributes,
    Blocks,
    Looked,
    Names,
    SeenAttributes,
    SeenNames,
    Soon,
)
from mirrorha.volume.verify.naming import named_differences
from mirrorha.volume.verify.repair import Line, Repair
from mirrorha.volume.verify.seeing import reads_of
from mirrorha.volume.verify.tally import Tally
from mirrorha.wire.limits import BLOCK_BYTES, KIB

# What a name and its attributes count for in the limit of bytes a second: two pages of a disk.
NAME_BYTES: Final = KIB
# One of a file that nobody has used for long is a read of the disk, for which changes wait.
ATTRIBUTES_AT_ONCE: Final = 16
# Directories into which something was moved are listed again, and those that come of that. A tree
# in which files move all the time is not followed for ever.
ROUNDS_MAX: Final = 16

Event = Received | DiskDone | Tick


@final
class Comparison:
    """The source's side of one comparison, from `start` to its `VerifyEnded`.

    Args:
        epoch: of the source. Answers of another one are none.
        line: where the source is in its stream; a repair gets its place there.
    """

    def __init__(self, order: StartVerify, *, epoch: int, line: Line) -> None:
        self._order: Final = order
        self._epoch: Final = epoch
        self._tasks: Final = Tasks(Lane.TREE)
        self._tally: Final = Tally(order.session)
        self._exchange: Final = Exchange(
            self._tasks,
            epoch=epoch,
            session=order.session,
            seed=order.seed,
            seq=lambda: line.seq,
        )
        self._repair: Final = Repair(self._tasks, self._exchange, line)
        self._allowance: Final = Allowance(self._tasks, burst_bytes_min=BLOCKS_MAX * BLOCK_BYTES)
        self._places: Final = Pool(self._tasks, LOOKS_MAX)
        self._directories: Final = [ROOT_FID]
        self._listed: Final = FidSet()
        self._seen: Final = FidSet()
        self._moved: Final[set[int]] = set()
        self._files: Final = array("q")  # with content, and
        self._sizes: Final = array("q")  # how much
        self.is_over = False
        self.set_rate(order.rate_bytes_per_s)

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """Read at most so much content a second on either node, 0: as fast as can be. At once."""
        self._allowance.set_rate(rate_bytes_per_s)

    def touched(self, keys: Iterable[TouchKey]) -> None:
        """A local op that touched `keys` has just been applied."""
        for fid, part in keys:
            if part == NAMES and fid in self._listed:
                self._moved.add(fid)

    def start(self, now_ms: int) -> list[TaskEffect]:
        """Begin. The follower follows, and the stream flows."""
        self._allowance.refill(now_ms)
        self._tasks.spawn(self._run())
        return self._go_on(now_ms)

    def step(self, event: Event, now_ms: int) -> list[TaskEffect]:
        """Take in an event. After the last report nothing is done any more."""
        if self.is_over:
            return []
        self._exchange.now_ms = now_ms
        self._allowance.refill(now_ms)
        try:
            match event:
                case Received(message):
                    if isinstance(message, Looked):
                        self._exchange.take(message)
                case DiskDone():
                    self._tasks.finish(event.token, event.result)
                case Tick():
                    self._exchange.watch()
                    self._repair.tick()
        except PeerProtocolError as error:
            return self.stop(str(error))
        return self._go_on(now_ms)

    def stop(self, why: str) -> list[TaskEffect]:
        """End it before its time. What its disk calls bring after that is nobody's."""
        if self.is_over:
            return []
        self.is_over = True
        return [Reported(self._tally.ended(why))]

    def _go_on(self, now_ms: int) -> list[TaskEffect]:
        self._exchange.now_ms = now_ms
        effects = self._tasks.run()
        progress = None if self.is_over else self._tally.progress(now_ms)
        return effects if progress is None else [*effects, Reported(progress)]

    def _run(self) -> Steps[None]:
        if self._order.fids:
            yield from self._compare_again(list(dict.fromkeys(self._order.fids)))
        else:
            yield from self._compare_names()
        yield from self._compare_content()
        self.is_over = True
        ended: VerifyEnded = self._tally.ended("")
        yield Reported(ended)

    def _wait_all(self) -> Steps[None]:
        """Until nothing that was begun is under way."""
        yield Take(self._places, LOOKS_MAX)
        self._places.put(LOOKS_MAX)

    # ---- names and attributes ----

    def _compare_names(self) -> Steps[None]:
        for _ in range(ROUNDS_MAX):
            while self._directories:
                fid = self._directories.pop()
                if fid not in self._listed:
                    self._listed.add(fid)
                    yield Take(self._places, 1)
                    self._tasks.spawn(self._list(fid))
                if not self._directories:
                    yield from self._wait_all()  # they may find more
            if not self._moved:
                return
            self._directories.extend(sorted(self._moved))
            for fid in self._directories:
                self._listed.discard(fid)
            self._moved.clear()

    def _list(self, fid: int) -> Steps[None]:
        yield from self._allowance.take(NAME_BYTES)
        names, attributes = yield from self._exchange.ask([Names(fid), Attributes(fid)])
        if names.found is not None:  # else it is gone
            entries: list[Entry] = names.found
            yield from self._allowance.take(NAME_BYTES * len(entries))
            yield from self._judge_names(names)
            yield from self._judge_attributes(attributes)
            yield from self._compare_entries(entries)
        self._places.put(1)

    def _compare_entries(self, entries: list[Entry]) -> Steps[None]:
        others: list[int] = []
        for entry in entries:
            if entry.kind is Kind.DIRECTORY:
                self._directories.append(entry.fid)
            elif entry.fid not in self._seen:
                self._seen.add(entry.fid)
                others.append(entry.fid)
        yield from self._compare_attributes(others)

    def _compare_again(self, fids: Sequence[int]) -> Steps[None]:
        """Of some files and directories all there is, but nothing below them."""
        for fid in fids:
            names, attributes = yield from self._exchange.ask([Names(fid), Attributes(fid)])
            yield from self._judge_names(names)
            yield from self._judge_attributes(attributes)
            self._note_file(attributes)

    def _compare_attributes(self, fids: Sequence[int]) -> Steps[None]:
        for at in range(0, len(fids), ATTRIBUTES_AT_ONCE):
            items = [Attributes(fid) for fid in fids[at : at + ATTRIBUTES_AT_ONCE]]
            for both in (yield from self._exchange.ask(items)):
                yield from self._judge_attributes(both)
                self._note_file(both)

    def _note_file(self, both: Both) -> None:
        mine = both.mine
        if not isinstance(mine, SeenAttributes) or mine.kind is not Kind.FILE:
            return
        self._tally.expect(mine.size_bytes)
        if both.theirs is not None and mine.size_bytes:
            self._files.append(both.item.fid)
            self._sizes.append(mine.size_bytes)
        else:
            self._tally.compared(1, mine.size_bytes)

    def _judge_names(self, both: Both) -> Steps[None]:
        if not both.differ:
            return
        mine, theirs = both.mine, both.theirs
        if isinstance(mine, SeenNames) and isinstance(theirs, SeenNames):
            for one in (yield from named_differences(self._exchange, mine, theirs, both.item.fid)):
                yield from self._tell(one, repaired=False)
        # A directory that the follower does not know is told of by its attributes.

    def _judge_attributes(self, both: Both) -> Steps[None]:
        if both.mine is None or not both.differ:
            return  # gone here: then it is told of by the directory that still has it there
        differences = differing_fields(both)
        repaired = self._order.repair and (yield from self._repair.attributes(both))
        for one in differences:
            yield from self._tell(one, repaired=repaired)

    # ---- content ----

    def _compare_content(self) -> Steps[None]:
        for group in self._groups():
            yield Take(self._places, 1)
            self._tasks.spawn(self._compare_group(group))
        yield from self._wait_all()

    def _groups(self) -> Iterator[list[tuple[Blocks, int]]]:
        """All blocks of all files, so many as one question may ask for; with the bytes of each."""
        group: list[tuple[Blocks, int]] = []
        room = BLOCKS_MAX
        for fid, size_bytes in zip(self._files, self._sizes, strict=True):
            first, blocks = 0, -(-size_bytes // BLOCK_BYTES)
            while first < blocks:
                count = min(room, blocks - first)
                end_bytes = min((first + count) * BLOCK_BYTES, size_bytes)
                group.append((Blocks(fid, first, count), end_bytes - first * BLOCK_BYTES))
                first, room = first + count, room - count
                if not room or len(group) == ITEMS_MAX:
                    yield group
                    group, room = [], BLOCKS_MAX
        if group:
            yield group

    def _compare_group(self, group: list[tuple[Blocks, int]]) -> Steps[None]:
        items = [item for item, _ in group]
        content_bytes = sum(size_bytes for _, size_bytes in group)
        # Read from the device, not from memory; and before the question, which holds up changes.
        yield Send(Soon(self._epoch, self._order.session, items))
        yield Call(reads_of(items), Lane.BULK)
        yield from self._allowance.take(content_bytes)
        for both in (yield from self._exchange.ask(items)):
            for one in differing_blocks(both):
                repaired = self._order.repair and (yield from self._repair.block(one))
                yield from self._tell(one, repaired=repaired)
        whole = sum(item.first == 0 for item in items)
        self._tally.compared(whole, content_bytes)
        self._places.put(1)

    # ---- what is found ----

    def _tell(self, one: Difference, *, repaired: bool) -> Steps[None]:
        if self._order.repair and not repaired:
            yield Call(RecordTouched(all_of(one.fid)))
        if not self._tally.differs(one.fid, repaired=repaired):
            return
        path: str | None = yield Call(Locate(one.fid))
        parts = [part for part in (path, one.name) if part]
        found: AnyReport = VerifyFound(
            session=self._order.session,
            fid=one.fid,
            path="/".join(parts),
            what=one.what,
            mine=one.mine,
            theirs=one.theirs,
            offset=one.offset,
            length=one.length,
            repaired=repaired,
        )
        yield Reported(found)
