"""The touched log: where the two copies of a volume may differ.

Pure: the entries as this node knows them, and what is durable of them is asked of the disk by
requests (`RecordTouched`, `RetireTouched`, `LoadTouched`). An entry is durable before the op that
needs it is applied, and is forgotten only after a checkpoint that covers that op is durable on
both nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final, final

import msgspec

from mirrorha.errors import ensure
from mirrorha.volume.ops import (
    FALLOCATE_PUNCH_HOLE,
    FALLOCATE_ZERO_RANGE,
    AnyOp,
    Create,
    Fallocate,
    Link,
    Mkdir,
    Mknod,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.wire import limits

SEGMENT_SHIFT: Final = 20
SEGMENT_BYTES: Final = 1 << SEGMENT_SHIFT
ensure(SEGMENT_BYTES == limits.SEGMENT_BYTES, "a segment is one everywhere")

# What may differ: a fid, and a part of it. Parts from 0 are segments of its content; below are
# INODE, NAMES and the tails. Any entry of a fid also says: compare its size and attributes.
TouchKey = tuple[int, int]
INODE: Final = -1  # mode, owner, times, xattrs; of a new fid: all there is
NAMES: Final = -2  # the names in a directory
_TAILS: Final = -3

# How far ahead of a sequential writer, or of someone who creates file after file, entries are made
# durable: one commit serves so many segments, or files. Who has written more than that in a row is
# believed to write as much again: at a disk's full speed a commit waits for all that is under way.
RESERVED_SEGMENTS: Final = 8
RESERVED_SEGMENTS_MAX: Final = 64
RESERVED_FIDS: Final = 8
# A longer range of zeros is one entry: all from its first segment on.
ZEROED_SEGMENTS_MAX: Final = 64
# Forgotten at once: the commit stands in the way of the application's writes meanwhile.
RETIRED_MAX: Final = 4096


def tail(segment: int) -> int:
    """The part that means: everything from `segment` to the end of the file.

    A truncation needs it: the file may grow again, and then reads as zeros where the peer may
    still hold what was there before.
    """
    return _TAILS - segment


def tail_start(part: int) -> int | None:
    """The segment from which on the part counts, None if it is no tail."""
    return _TAILS - part if part <= _TAILS else None


def all_of(fid: int) -> list[TouchKey]:
    """Keys that cover all there is to a file or directory."""
    return [(fid, INODE), (fid, NAMES), (fid, tail(0))]


def touches(op: AnyOp) -> list[TouchKey]:
    """Everything that may differ between two nodes of which only one has applied `op`."""
    match op:
        case Write():
            first = op.offset >> SEGMENT_SHIFT
            last = (op.offset + max(len(op.data), 1) - 1) >> SEGMENT_SHIFT
            return [(op.fid, segment) for segment in range(first, last + 1)]
        case Truncate():
            return [(op.fid, tail(op.size_bytes >> SEGMENT_SHIFT))]
        case SetAttributes() | SetXattr():
            return [(op.fid, INODE)]
        case Fallocate():
            return _touched_range(op)
        case Create() | Mkdir() | Symlink() | Mknod():
            return [(op.parent, NAMES), (op.fid, INODE)]
        case Link() | Unlink() | Rmdir():
            # What the name stands for is the same file, or one that is gone from both in the end.
            return [(op.parent, NAMES)]
        case Rename():
            # Also of an exchange: the two directories hold all that it moves.
            return [(op.parent, NAMES), (op.new_parent, NAMES)]


def _touched_range(op: Fallocate) -> list[TouchKey]:
    if not op.mode & (FALLOCATE_PUNCH_HOLE | FALLOCATE_ZERO_RANGE):
        # No byte changes that both nodes have; sizes are compared with every entry, and so is
        # what one of them lacks at the end.
        return [(op.fid, INODE)]
    first = op.offset >> SEGMENT_SHIFT
    last = (op.offset + op.length - 1) >> SEGMENT_SHIFT
    if last - first >= ZEROED_SEGMENTS_MAX:
        return [(op.fid, tail(first))]
    return [(op.fid, segment) for segment in range(first, last + 1)]


class TouchedState(msgspec.Struct, frozen=True):
    """What `LoadTouched` found: the durable part of a touched log.

    A checkpoint is an (epoch, seq): everything up to there was durable on both nodes.
    `damaged`: entries may be missing; everything must be compared.
    `filled`: the last one up to which a resync filled this node. What that brought stands in the
    source's log, and never did in this one.
    """

    keys: list[TouchKey] = []
    confirmed: tuple[int, int] = (0, 0)  # the last checkpoint that this node said it holds
    retired: tuple[int, int] = (0, 0)  # the last one whose entries this node has forgotten
    damaged: bool = False
    filled: tuple[int, int] = (0, 0)

    @property
    def reaches_back_to(self) -> tuple[int, int]:
        """Of what came before, the log of a node that serves says nothing."""
        return max(self.retired, self.filled)


@final
class TouchedLog:
    """The entries, each with the stamp of the last op that needed it.

    Stamps are numbers that its owner gives to ops in the order of their application. An entry may
    be forgotten once every op up to its stamp is durable on both nodes; that is what pins it.
    """

    def __init__(self, state: TouchedState | None = None) -> None:
        state = state or TouchedState()
        self._stamps: dict[TouchKey, int] = dict.fromkeys(state.keys, 0)
        self.confirmed = state.confirmed
        self.retired = state.retired
        self.damaged = state.damaged
        self._filled = state.filled
        self._pinned: set[TouchKey] = set()

    def __len__(self) -> int:
        return len(self._stamps)

    def state(self) -> TouchedState:
        """All there is of it, as it would be found by whoever opens it now."""
        keys = list(self._stamps)
        return TouchedState(keys, self.confirmed, self.retired, self.damaged, self._filled)

    def fill(self, checkpoint: tuple[int, int]) -> None:
        """A resync has made this copy what the source's is there, and that is noted durably."""
        self.confirm(checkpoint)
        self._filled = checkpoint
        self.unpin()

    def confirm(self, checkpoint: tuple[int, int]) -> None:
        """This node holds everything up to there, and has noted so durably."""
        self.confirmed = max(self.confirmed, checkpoint)

    def retire(self, checkpoint: tuple[int, int]) -> None:
        """Both do, and this one has durably forgotten what that covers: nothing is missing more."""
        self.confirm(checkpoint)
        self.retired = max(self.retired, checkpoint)
        self.damaged = False

    def touch(self, op: AnyOp, stamp: int) -> list[TouchKey] | None:
        """Note that `op` is about to be applied as the `stamp`th.

        Returns:
            What must be made durable before that, or None: its entries are hot. Some of them may
            lie ahead of what `op` itself needs, so that its successors find theirs hot.
        """
        stamps = self._stamps
        if type(op) is Write:  # the hot path: one segment, already there
            key = (op.fid, op.offset >> SEGMENT_SHIFT)
            inside = (op.offset + len(op.data) - 1) >> SEGMENT_SHIFT == key[1]
            if inside and key in stamps:
                stamps[key] = stamp
                return None
        keys = touches(op)
        cold = [key for key in keys if key not in stamps]
        for key in keys:
            stamps[key] = stamp
        if not cold:
            return None
        ahead = [key for key in self._ahead(op) if key not in stamps]
        # Reserved as of now: the next checkpoint does not cover them, so it leaves them alone.
        stamps.update(dict.fromkeys(ahead, stamp))
        return cold + ahead

    def add(self, keys: Iterable[TouchKey], stamp: int) -> None:
        """Take up entries that somebody else has made durable."""
        self._stamps.update(dict.fromkeys(keys, stamp))

    def pin(self, keys: Iterable[TouchKey]) -> None:
        """Take up entries of what differs though both nodes have applied every op.

        No checkpoint covers that: they stay until `unpin`.
        """
        for key in keys:
            self._stamps.setdefault(key, 0)
            self._pinned.add(key)

    def unpin(self) -> None:
        """A resync has made both copies the same."""
        self._pinned.clear()

    def covered(self, stamp: int) -> list[TouchKey]:
        """The entries whose last op is the `stamp`th or an earlier one; RETIRED_MAX at most."""
        pinned = self._pinned
        found = (key for key, at in self._stamps.items() if at <= stamp and key not in pinned)
        return list(itertools.islice(found, RETIRED_MAX))

    def forget(self, keys: Iterable[TouchKey]) -> None:
        """Take entries out. An op that needs one later finds it cold."""
        for key in keys:
            self._stamps.pop(key, None)

    def cap(self, stamp: int) -> None:
        """No op after the `stamp`th has been applied: the numbering starts anew from there."""
        self._stamps = {key: min(last, stamp) for key, last in self._stamps.items()}

    def _run_before(self, fid: int, segment: int) -> int:
        """How many segments before this one have entries, in a row; at most what is reserved."""
        stamps, run = self._stamps, 0
        while run < RESERVED_SEGMENTS_MAX and (fid, segment - 1 - run) in stamps:
            run += 1
        return run

    def _ahead(self, op: AnyOp) -> list[TouchKey]:
        if type(op) is Write:
            last = (op.offset + max(len(op.data), 1) - 1) >> SEGMENT_SHIFT
            run = self._run_before(op.fid, op.offset >> SEGMENT_SHIFT)
            if not run:
                return []  # somebody who jumps about: no telling where he goes next
            further = max(run, RESERVED_SEGMENTS)
            return [(op.fid, segment) for segment in range(last + 1, last + 1 + further)]
        if type(op) is Create:
            # Ids are drawn one after the other. One that is never used costs a look-up in a resync.
            fids = range(op.fid, op.fid + RESERVED_FIDS)
            return [(fid, part) for fid in fids for part in (INODE, 0)]
        return []
