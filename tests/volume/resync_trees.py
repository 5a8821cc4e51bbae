"""Random trees, and what an application does to them."""

from __future__ import annotations

import random
from collections.abc import Callable

from mirrorha.testing.memory_disk import MemoryDisk, Seen
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
    ROOT_FID,
    AnyOp,
    Create,
    Link,
    Mkdir,
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


class Application:
    """Draws ops that mostly succeed, in a small tree of few names.

    Args:
        rng: All chance comes from here.
        disk: What it changes.
        epoch: Of the files it makes.
        large: How often a write goes to a far block.
        owner_bits: The mode that everything has at least.
    """

    def __init__(
        self, rng: random.Random, disk: Disk, *, epoch: int, large: float = 0.2, owner_bits: int = 0
    ) -> None:
        self.rng = rng
        self.disk = disk
        self.epoch = epoch
        self.large = large
        self.owner_bits = owner_bits
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
            (self.set_attributes, 5),
            (self.set_xattr, 4),
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

    def set_attributes(self) -> AnyOp | None:
        one = self.rng.choice(list(self.seen.values()))
        modes = (None,) if one.kind is Kind.SYMLINK else (None, 0o600, 0o2755)
        mode = self.rng.choice(modes)
        mode = None if mode is None else mode | self.owner_bits
        return SetAttributes(one.fid, mode, self.rng.choice((None, 9)), None, self.mtime())

    def set_xattr(self) -> AnyOp | None:
        fid = self.file() or ROOT_FID
        name = self.rng.choice(("user.a", "user.b"))
        return SetXattr(fid, name, self.rng.choice((b"", b"value", None)))

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
