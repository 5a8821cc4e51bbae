"""A disk in memory, with the ways in which real ones lose what was not synced.

It passes the same suite as the real disk (`check_disk`), asks for no clock, thread or chance of
its own, and is quick enough to simulate thousands of crashes. Contents should be small.
"""

from __future__ import annotations

import copy
import errno
import itertools
from typing import TYPE_CHECKING, Final, final

import msgspec
import xxhash

from mirrorha.errors import ensure
from mirrorha.testing.memory_inode import Inode
from mirrorha.testing.memory_names import MemoryNames, NameStep
from mirrorha.testing.memory_ops import MemoryOps
from mirrorha.testing.memory_rescue import MemoryRescue
from mirrorha.volume.disk import (
    AnyRequest,
    Applied,
    Apply,
    ApplyAll,
    Attributes,
    ClearLimbo,
    ConfirmCheckpoint,
    DiskError,
    Entry,
    Found,
    HashBlocks,
    Kind,
    ListDirectory,
    LoadTouched,
    Locate,
    Many,
    Mark,
    MeasureSpace,
    Outcome,
    Place,
    PunchHole,
    ReadAnew,
    ReadAttributes,
    ReadBytes,
    RecordTouched,
    Relabel,
    Resolve,
    Restate,
    RetireTouched,
    SetAside,
    Space,
    SyncFiles,
    SyncTree,
)
from mirrorha.volume.names import checked_name
from mirrorha.volume.op_checks import OWN_USER, RESERVED_FID_MAX
from mirrorha.volume.ops import EPOCH_MAX, ROOT_FID, make_fid
from mirrorha.volume.restating import restated
from mirrorha.volume.touched import TouchedState
from mirrorha.wire.limits import BLOCK_BYTES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from mirrorha.volume.touched import TouchKey


# As much as there is room for in memory, if anybody asks.
_BYTES: Final = 1 << 40


class Seen(msgspec.Struct, frozen=True):
    """One path of a snapshot."""

    fid: int
    kind: Kind
    content: bytes
    attributes: Attributes


@final
class MemoryTouched:
    """The touched log. What is recorded in it is durable at once."""

    def __init__(self) -> None:
        self.keys: dict[TouchKey, None] = {}
        self.confirmed = (0, 0)
        self.retired = (0, 0)
        self.filled = (0, 0)
        self.damaged = False


@final
class Image:
    """A disk as it was: what it held, what of that was durable, and its touched log."""

    def __init__(
        self, names: MemoryNames, ops: MemoryOps, touched: MemoryTouched, rescue: MemoryRescue
    ) -> None:
        self.state: Final = copy.deepcopy((names, ops, touched, rescue))


@final
class MemoryDisk:
    """A volume's tree in memory.

    After a crash the simulated node calls `open_again`, as a real one opens its disk.

    Args:
        draw: Fids for files that the table of ids has lost. By default from the last epoch.
        keeps_owners: False behaves as a node that does not run as root.
    """

    def __init__(self, *, draw: Callable[[], int] | None = None, keeps_owners: bool = True) -> None:
        self._draw: Final = draw if draw is not None else _draws()
        self._names = MemoryNames(owner=0 if keeps_owners else OWN_USER)
        self._ops = MemoryOps(self._names, keeps_owners=keeps_owners)
        self._touched = MemoryTouched()
        self._rescue = MemoryRescue(self._names, self._ops)
        self._unknown: list[int] = []
        self._rebuilt = False
        self._found = Found()
        self._failure: str | None = None
        self._failure_text = ""
        self._requests_left: int | None = None
        self._aside = itertools.count()
        self._table: Final[dict[type, Callable[..., object]]] = {
            Many: self._perform_many,
            ApplyAll: self._apply_all,
            PunchHole: self._punch_hole,
            RecordTouched: self._record_touched,
            RetireTouched: self._retire_touched,
            ConfirmCheckpoint: self._confirm_checkpoint,
            LoadTouched: self._load_touched,
            MeasureSpace: self._measure_space,
            Mark: self._mark,
            SyncFiles: self._sync_files,
            SyncTree: self._sync_tree,
            ReadBytes: self._read_bytes,
            HashBlocks: self._hash_blocks,
            ListDirectory: self._list_directory,
            ReadAttributes: self._read_attributes,
            Resolve: self._resolve,
            Restate: self._restate,
            Locate: self._locate,
            ReadAnew: self._read_anew,
            SetAside: self._set_aside,
            Place: self._place,
            Relabel: self._relabel,
            ClearLimbo: self._clear_limbo,
        }

    @property
    def found(self) -> Found:
        """What was found when the disk was opened last."""
        return self._found

    def perform(self, request: AnyRequest) -> object:
        """Carry out one request. See `mirrorha.volume.disk`."""
        if self._requests_left is not None:
            self._count_down()
        if self._failure is not None:
            raise DiskError(self._failure)
        if type(request) is Apply:
            return self._apply(request)
        try:
            perform = self._table.get(type(request)) or self._rescue.performers()[type(request)]
            return perform(request)
        except OSError as error:
            self._failure = f"{type(request).__name__}: {error}"
            raise DiskError(self._failure) from error

    # What befalls it.

    def fill(self, free_bytes: int) -> None:
        """Let files grow by this much in all, then answer ENOSPC. What shrinks makes room."""
        self._ops.free_bytes = free_bytes

    def make_room(self) -> None:
        """Undo `fill`."""
        self._ops.free_bytes = None

    def fail(self, why: str = "it was told to fail", *, after: int = 0) -> None:
        """Raise DiskError for every request, `after` so many more."""
        self._failure_text = why
        self._requests_left = after

    @property
    def has_failed(self) -> bool:
        """Whether every request is answered with DiskError."""
        return self._failure is not None

    def flip(self, path: str, offset: int) -> None:
        """Change one byte of a file behind everybody's back, for good: its times stay as they are.

        Raises:
            ValueError: there is no such byte.
        """
        found = self._resolve(Resolve(path))
        inode = self._file(found[2]) if found is not None else None
        if inode is None or offset >= len(inode.content):
            raise ValueError(f"{path} has no byte {offset}")
        inode.flip(offset)

    def replace(self) -> None:
        """Undo `fail`, as a new disk with the same contents does."""
        self._failure = None
        self._requests_left = None

    def power_loss(self, rng: random.Random) -> None:
        """Lose the power: what was synced stays; of the rest all, nothing, or some."""
        self._unknown += self._names.lose(rng, self._draw)
        self._ops.tear(rng)
        self._rescue.lose_power()

    def process_crash(self) -> None:
        """End the process: the page cache keeps everything, synced or not."""

    def lose_ids(self) -> None:
        """Lose the table of ids: everything gets a new one."""
        self._unknown = self._names.forget_rows(self._draw)
        self._rebuilt = bool(self._unknown)

    def lose_touched(self) -> None:
        """Damage the touched log: its entries are gone, and it says so."""
        self._touched.keys.clear()
        self._touched.damaged = True

    def open_again(self) -> Found:
        """What the opening of a real disk does: see what is there, and sync it."""
        self._found = Found(
            rebuilt=self._rebuilt,
            unknown=tuple(self._unknown),
            limbo=len(self._names.limbo.children),
        )
        self._unknown, self._rebuilt = [], False
        self._sync_tree(SyncTree())
        return self._found

    def image(self) -> Image:
        """The disk as it is now. Of a running node's, restore it and lose the power."""
        return Image(self._names, self._ops, self._touched, self._rescue)

    def restore(self, image: Image) -> None:
        """Become the disk that the image was taken of."""
        self._names, self._ops, self._touched, self._rescue = copy.deepcopy(image.state)

    def snapshot(self) -> dict[str, Seen]:
        """Everything in the tree, by path; "" is the root."""
        found: dict[str, Seen] = {}
        todo = [("", self._names.root)]
        while todo:
            path, inode = todo.pop()
            attributes = self._attributes(inode)
            found[path] = Seen(inode.fid, inode.kind, bytes(inode.content), attributes)
            prefix = f"{path}/" if path else ""
            todo += [(prefix + name, child) for name, child in inode.children.items()]
        return found

    def rescued(self) -> list[bytes]:
        """What was kept of splits: the content of every file."""
        rescues = self._rescue.rescues.values()
        return [content for kept in rescues for content in kept.content.values()]

    def in_limbo(self) -> list[bytes]:
        """What an interrupted resync has moved aside, and neither placed nor kept yet."""
        files = self._names.limbo.children.values()
        return [bytes(inode.content) for inode in files if inode.kind is Kind.FILE]

    def durable_content(self, path: str) -> bytes:
        """What a file surely holds after a loss of power, if its name survives it."""
        found = self._resolve(Resolve(path))
        inode = self._file(found[2]) if found is not None else None
        if inode is None:
            return b""
        return bytes(inode.content) if inode.durable is None else inode.durable.content

    # Requests.

    def _apply(self, request: Apply) -> Outcome:
        try:
            return self._ops.apply(request.op)
        except OSError as error:
            return Outcome(None, error.errno or errno.EINVAL)

    def _perform_many(self, request: Many) -> list[object]:
        return [self.perform(one) for one in request.requests]

    def _apply_all(self, request: ApplyAll) -> Applied:
        for count, op in enumerate(request.ops):
            outcome = self._apply(Apply(op))
            if outcome.errno or outcome.done != op:
                return Applied(count, outcome.errno)
        return Applied(len(request.ops))

    def _punch_hole(self, request: PunchHole) -> Outcome:
        if self._file(request.fid) is None:
            return Outcome(None, errno.ESTALE)
        self._ops.punch_hole(request)
        return Outcome(None)

    def _record_touched(self, request: RecordTouched) -> None:
        self._touched.keys.update(dict.fromkeys(request.keys))

    def _retire_touched(self, request: RetireTouched) -> None:
        for key in request.keys:
            self._touched.keys.pop(key, None)
        checkpoint = (request.epoch, request.seq)
        self._touched.retired = checkpoint
        self._touched.confirmed = max(self._touched.confirmed, checkpoint)

    def _confirm_checkpoint(self, request: ConfirmCheckpoint) -> None:
        checkpoint = (request.epoch, request.seq)
        self._touched.confirmed = max(self._touched.confirmed, checkpoint)
        if request.is_filled:
            self._touched.filled = checkpoint

    def _mark(self, _: Mark) -> str:
        return ""

    def _measure_space(self, _: MeasureSpace) -> Space:
        return Space(_BYTES, _BYTES, _BYTES, files=0, files_free=0)

    def _load_touched(self, _: LoadTouched) -> TouchedState:
        touched = self._touched
        keys = list(touched.keys)
        return TouchedState(
            keys, touched.confirmed, touched.retired, touched.damaged, touched.filled
        )

    def _sync_files(self, request: SyncFiles) -> None:
        for fid in request.fids:
            inode = self._names.by_fid.get(fid)
            if inode is None:
                continue
            if fid in request.data_only and inode.kind is Kind.FILE:
                inode.sync_data()
            else:
                self._ops.sync(inode)
            self._names.sync(inode)

    def _sync_tree(self, _: SyncTree) -> None:
        self._ops.sync_all()
        self._names.sync_all()

    def _read_bytes(self, request: ReadBytes) -> bytes | None:
        inode = self._file(request.fid)
        if inode is None:
            return None
        return bytes(inode.content[request.offset : request.offset + request.length])

    def _hash_blocks(self, request: HashBlocks) -> list[bytes] | None:
        inode = self._file(request.fid)
        if inode is None:
            return None
        first = request.first * BLOCK_BYTES
        end = min(first + request.count * BLOCK_BYTES, len(inode.content))
        blocks = [
            bytes(inode.content[start : min(start + BLOCK_BYTES, end)])
            for start in range(first, end, BLOCK_BYTES)
        ]
        return [
            xxhash.xxh3_128_digest(block, request.seed) if block != bytes(len(block)) else b""
            for block in blocks
        ]

    def _list_directory(self, request: ListDirectory) -> list[Entry] | None:
        inode = self._names.listed(request.fid)
        if inode is None:
            return None
        return [Entry(name, child.fid, child.kind) for name, child in inode.children.items()]

    def _read_attributes(self, request: ReadAttributes) -> Attributes | None:
        inode = self._names.by_fid.get(request.fid)
        return None if inode is None else self._attributes(inode)

    def _resolve(self, request: Resolve) -> tuple[int, str, int] | None:
        names = [name for name in request.path.split("/") if name]
        if not names:
            return ROOT_FID, "", ROOT_FID
        directory: Inode | None = self._names.root
        for name in names[:-1]:
            directory = directory.children.get(name) if directory is not None else None
        if directory is None or directory.kind is not Kind.DIRECTORY:
            return None
        found = directory.children.get(names[-1])
        return directory.fid, names[-1], 0 if found is None else found.fid

    def _restate(self, request: Restate) -> Outcome:
        fid = request.op.fid
        return restated(
            request,
            self._read_attributes(ReadAttributes(fid)),
            lambda offset, length: self._read_bytes(ReadBytes(fid, offset, length)),
        )

    def _locate(self, request: Locate) -> str | None:
        inode = self._names.by_fid.get(request.fid)
        if inode is None:
            return None
        parts: list[str] = []
        while inode.names:
            inode, name = inode.names[0]
            parts.append(name)
        return "/".join(reversed(parts))

    def _read_anew(self, request: ReadAnew) -> None:
        """What it holds is what is read."""

    def _set_aside(self, request: SetAside) -> None:
        parent = self._names.by_fid.get(request.parent)
        inode = None if parent is None else parent.children.get(request.name)
        if parent is not None and inode is not None:
            self._names.change(
                NameStep(False, parent, request.name, inode),
                NameStep(True, self._names.limbo, str(next(self._aside)), inode),
            )

    def _place(self, request: Place) -> bool:
        inode = self._names.by_fid.get(request.fid)
        parent = self._names.by_fid.get(request.parent)
        if inode is None or parent is None or parent.kind is not Kind.DIRECTORY:
            return False
        try:
            checked_name(request.name)
        except OSError:
            return False
        if parent.children.get(request.name) is inode:
            return True
        if inode is self._names.root or self._names.contains(inode, parent):
            return False
        self._set_aside(SetAside(request.parent, request.name))
        leaves = [
            NameStep(False, directory, name, inode)
            for directory, name in inode.names
            if directory is self._names.limbo or inode.kind is Kind.DIRECTORY
        ]
        self._names.change(*leaves[:1], NameStep(True, parent, request.name, inode))
        return True

    def _relabel(self, request: Relabel) -> None:
        inode = self._names.by_fid.get(request.fid)
        if inode is not None and request.fid != request.new_fid:
            ensure(request.fid > RESERVED_FID_MAX, "the root keeps its id")
            ensure(request.new_fid > RESERVED_FID_MAX, "no file gets an id of our own")
            self._names.relabel(inode, request.new_fid)

    def _clear_limbo(self, _: ClearLimbo) -> int:
        todo = [self._names.limbo]
        steps: list[NameStep] = []
        while todo:
            directory = todo.pop()
            for name, inode in directory.children.items():
                steps.append(NameStep(False, directory, name, inode))
                todo.append(inode)
        for step in reversed(steps):
            self._names.change(step)
        return len(steps)

    def _file(self, fid: int) -> Inode | None:
        inode = self._names.by_fid.get(fid)
        return inode if inode is not None and inode.kind is Kind.FILE else None

    def _attributes(self, inode: Inode) -> Attributes:
        metadata = inode.metadata
        return Attributes(
            fid=inode.fid,
            kind=inode.kind,
            mode=metadata.mode,
            uid=metadata.uid,
            gid=metadata.gid,
            size_bytes=len(inode.content),
            mtime_ns=inode.mtime_ns,
            target=inode.target,
            xattrs=metadata.xattrs,
            links=1 if inode.kind is Kind.DIRECTORY else len(inode.names),
            rdev=inode.rdev,
            atime_ns=None if inode.kind is Kind.SYMLINK else metadata.atime_ns,
        )

    def _count_down(self) -> None:
        ensure(self._requests_left is not None, "a failure was ordered")
        if self._requests_left == 0:
            self._failure = self._failure_text
        elif self._requests_left is not None:
            self._requests_left -= 1


def _draws() -> Callable[[], int]:
    counter = itertools.count(1)
    return lambda: make_fid(epoch=EPOCH_MAX, counter=next(counter))
