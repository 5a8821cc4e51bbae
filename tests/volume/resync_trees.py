"""Random trees, and what an application does to them."""

from __future__ import annotations

import random
from collections.abc import Callable

from mirrorha.testing.memory_disk import MemoryDisk, Seen
from mirrorha.volume.access_lists import ACL_ACCESS, ACL_DEFAULT, ACLS, packed_list
from mirrorha.volume.disk import (
    Apply,
    Attributes,
    Disk,
    Kind,
    ListDirectory,
    Outcome,
    ReadAttributes,
    ReadBytes,
    SyncTree,
)
from mirrorha.volume.ops import (
    DEVICE_KINDS,
    FALLOCATE_KEEP_SIZE,
    FALLOCATE_PUNCH_HOLE,
    FALLOCATE_ZERO_RANGE,
    RENAME_EXCHANGE,
    ROOT_FID,
    SPECIAL_KINDS,
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
    make_fid,
)
from mirrorha.volume.touched import TouchKey, touches
from mirrorha.wire.limits import BLOCK_BYTES

NAMES = ("a", "b", "c", "d", "e")
SEGMENT_BLOCKS = 16
LIST = packed_list((1, 7, 0), (2, 6, 7), (4, 5, 0), (16, 3, 0), (32, 4, 0))
OTHER_LIST = packed_list((1, 7, 0), (4, 5, 0), (8, 1, 9), (16, 7, 0), (32, 0, 0))


class Application:
    """Draws ops that mostly succeed, in a small tree of few names.

    Args:
        rng: All chance comes from here.
        disk: What it changes.
        epoch: Of the files it makes.
        large: How often a write goes to a far block.
        owner_bits: The mode that everything has at least, where not even devices can be made.
    """

    def __init__(
        self, rng: random.Random, disk: Disk, *, epoch: int, large: float = 0.2, owner_bits: int = 0
    ) -> None:
        self.rng = rng
        self.disk = disk
        self.epoch = epoch
        self.large = large
        self.owner_bits = owner_bits
        self.special_kinds = sorted(
            SPECIAL_KINDS if not owner_bits else SPECIAL_KINDS - DEVICE_KINDS
        )
        self.counter = 0
        self.time_ns = epoch * 1_000_000_000
        self.kinds: list[tuple[Callable[[], AnyOp | None], int]] = [
            (self.write, 20),
            (self.zeros, 4),
            (self.truncate, 8),
            (self.create, 18),
            (self.mkdir, 9),
            (self.symlink, 3),
            (self.link, 6),
            (self.remove, 14),
            (self.rename, 24),
            (self.set_attributes, 6),
            (self.set_xattr, 7),
            (self.mknod, 6),
            (self.fallocate, 6),
            (self.exchange, 6),
        ]

    def __call__(self) -> AnyOp:
        self.seen = snapshot(self.disk)
        self.by_kind: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        for path, one in self.seen.items():
            self.by_kind[one.kind].append(path)
        draws, weights = zip(*self.kinds, strict=True)
        while True:
            op = self.rng.choices(draws, weights)[0]()
            if op is not None:
                return op

    def mtime(self) -> int:
        self.time_ns += self.rng.randrange(1, 1000)
        return self.time_ns

    def fid(self) -> int:
        self.counter += 1
        return make_fid(epoch=self.epoch, counter=self.counter)

    def directory(self) -> int:
        return self.seen[self.rng.choice(self.by_kind[Kind.DIRECTORY])].fid

    def file(self) -> int | None:
        files = self.by_kind[Kind.FILE]
        return self.seen[self.rng.choice(files)].fid if files else None

    def entry(self) -> tuple[str, int, str] | None:
        """A path, the fid of its directory, and its name there."""
        paths = [path for path in self.seen if path]
        if not paths:
            return None
        path = self.rng.choice(paths)
        parent, _, name = path.rpartition("/")
        return path, self.seen[parent].fid, name

    def offset(self) -> int:
        if self.rng.random() < self.large:
            blocks = self.rng.choice((1, 2, SEGMENT_BLOCKS, SEGMENT_BLOCKS + 1))
            return blocks * BLOCK_BYTES - self.rng.choice((0, 0, 1, 7))
        return self.rng.choice((0, 3))

    def content(self) -> bytes:
        length = self.rng.choice((1, 10, 30, BLOCK_BYTES, BLOCK_BYTES + 1))
        return bytes([self.rng.randrange(1, 256)]) * length

    def write(self) -> AnyOp | None:
        fid = self.file()
        return None if fid is None else Write(fid, self.offset(), self.content(), self.mtime())

    def zeros(self) -> AnyOp | None:
        fid = self.file()
        return None if fid is None else Write(fid, self.offset(), bytes(BLOCK_BYTES), self.mtime())

    def truncate(self) -> AnyOp | None:
        fid = self.file()
        size = self.rng.choice((0, self.offset(), self.offset() + 5))
        return None if fid is None else Truncate(fid, size, self.mtime())

    def create(self) -> AnyOp | None:
        mode = self.rng.choice((0o644, 0o444, 0o4755)) | self.owner_bits
        uid = self.rng.choice((0, 7))
        return Create(self.fid(), self.directory(), self.name(), mode, uid, 3, self.mtime())

    def mkdir(self) -> AnyOp | None:
        mode = self.rng.choice((0o755, 0o555)) | self.owner_bits
        return Mkdir(self.fid(), self.directory(), self.name(), mode, 5, 5, self.mtime())

    def symlink(self) -> AnyOp | None:
        target = self.rng.choice(("a", "../b", "x" * 300))
        return Symlink(self.fid(), self.directory(), self.name(), target, 5, 5, self.mtime())

    def link(self) -> AnyOp | None:
        fid = self.file()
        return None if fid is None else Link(fid, self.directory(), self.name(), self.mtime())

    def remove(self) -> AnyOp | None:
        entry = self.entry()
        if entry is None:
            return None
        path, parent, name = entry
        kind = Rmdir if self.seen[path].kind is Kind.DIRECTORY else Unlink
        return kind(self.seen[path].fid, parent, name, self.mtime())

    def rename(self) -> AnyOp | None:
        entry = self.entry()
        if entry is None:
            return None
        path, parent, name = entry
        fid = self.seen[path].fid
        return Rename(fid, parent, name, self.directory(), self.name(), 0, self.mtime())

    def exchange(self) -> AnyOp | None:
        entry, other = self.entry(), self.entry()
        if entry is None or other is None:
            return None
        fids = (self.seen[entry[0]].fid, self.seen[other[0]].fid)
        (_, parent, name), (_, new_parent, new_name) = entry, other
        time_ns, flags = self.mtime(), RENAME_EXCHANGE
        return Rename(fids[0], parent, name, new_parent, new_name, fids[1], time_ns, flags)

    def mknod(self) -> AnyOp | None:
        kind = self.rng.choice(self.special_kinds)
        rdev = self.rng.choice((259, 1 << 30)) if kind in DEVICE_KINDS else 0
        fid, parent, time_ns = self.fid(), self.directory(), self.mtime()
        return Mknod(fid, parent, self.name(), kind, 0o640, rdev, 5, 6, time_ns, 0o22)

    def fallocate(self) -> AnyOp | None:
        fid = self.file()
        keep, punch, zero = FALLOCATE_KEEP_SIZE, FALLOCATE_PUNCH_HOLE, FALLOCATE_ZERO_RANGE
        mode = self.rng.choice((0, keep, punch | keep, punch | keep, zero, zero | keep))
        length = self.rng.choice((5, BLOCK_BYTES, 3 * BLOCK_BYTES))
        return None if fid is None else Fallocate(fid, mode, self.offset(), length, self.mtime())

    def set_attributes(self) -> AnyOp | None:
        one = self.rng.choice(list(self.seen.values()))
        modes = (None,) if one.kind is Kind.SYMLINK else (None, 0o600, 0o2755)
        mode = self.rng.choice(modes)
        mode = None if mode is None else mode | self.owner_bits
        owner, atime_ns = self.rng.choice((None, 9)), self.rng.choice((None, self.mtime()))
        return SetAttributes(one.fid, mode, owner, None, self.mtime(), atime_ns)

    def set_xattr(self) -> AnyOp | None:
        one = self.rng.choice(list(self.seen.values()))
        name = self.rng.choice(("user.a", "user.b", ACL_ACCESS, ACL_DEFAULT))
        if name in ACLS:
            return SetXattr(one.fid, name, self.rng.choice((LIST, OTHER_LIST, None)))
        return SetXattr(one.fid, name, self.rng.choice((b"", b"value", None)))

    def name(self) -> str:
        return self.rng.choice(NAMES)

    def live(self, steps: int, log: set[TouchKey] | None = None) -> None:
        """Do so much, keeping a touched log."""
        for _ in range(steps):
            outcome = self.disk.perform(Apply(self()))
            assert isinstance(outcome, Outcome)
            if outcome.done is not None and log is not None:
                log.update(touches(outcome.done))


def snapshot(disk: Disk) -> dict[str, Seen]:
    """Everything in a tree, by path; "" is the root."""
    if isinstance(disk, MemoryDisk):
        return disk.snapshot()
    found: dict[str, Seen] = {}
    todo = [("", ROOT_FID)]
    while todo:
        path, fid = todo.pop()
        attributes = disk.perform(ReadAttributes(fid))
        assert isinstance(attributes, Attributes)
        content = disk.perform(ReadBytes(fid, 0, attributes.size_bytes))
        assert content is None or isinstance(content, bytes)
        found[path] = Seen(fid, attributes.kind, content or b"", attributes)
        entries = disk.perform(ListDirectory(fid)) or []
        assert isinstance(entries, list)
        prefix = f"{path}/" if path else ""
        todo += [(prefix + entry.name, entry.fid) for entry in entries]
    return found


def twin(disk: MemoryDisk, *, draw: Callable[[], int] | None = None) -> MemoryDisk:
    """A second disk that holds the same, all of it durable."""
    disk.perform(SyncTree())
    other = MemoryDisk(draw=draw)
    other.restore(disk.image())
    return other
