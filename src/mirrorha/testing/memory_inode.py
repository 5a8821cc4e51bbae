"""A file of the disk in memory: what it holds now, what of it is durable, and what came between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec

if TYPE_CHECKING:
    import random

    from mirrorha.volume.disk import Kind

# A power loss keeps or loses what was written sector by sector.
SECTOR_BYTES: Final = 512


class Metadata(msgspec.Struct, frozen=True):
    """What a file has besides content, names and the time of its last change."""

    mode: int
    uid: int
    gid: int
    xattrs: dict[str, bytes]  # never changed in place
    atime_ns: int = 0


class Step(msgspec.Struct, frozen=True):
    """One change that is not durable yet. `data` None: no bytes, but perhaps another size."""

    offset: int
    data: bytes | None
    size_bytes: int  # after the change, as the time and the metadata
    mtime_ns: int
    metadata: Metadata


class Durable(msgspec.Struct, frozen=True):
    """What a changed file surely has after a power loss."""

    content: bytes
    mtime_ns: int
    metadata: Metadata


@final
class Inode:
    """A file of any kind, whatever its names are."""

    __slots__ = (
        "children",
        "content",
        "durable",
        "entries_change",
        "fid",
        "kind",
        "metadata",
        "mtime_ns",
        "names",
        "names_change",
        "rdev",
        "row",
        "steps",
        "target",
    )

    def __init__(self, fid: int, kind: Kind, metadata: Metadata, mtime_ns: int) -> None:
        self.fid = fid
        self.kind = kind
        self.metadata = metadata
        self.mtime_ns = mtime_ns
        self.content = bytearray()
        self.target = ""
        self.rdev = 0
        self.names: list[tuple[Inode, str]] = []
        self.children: dict[str, Inode] = {}
        self.names_change = 0  # when it got its latest name
        self.entries_change = 0  # of a directory: the latest change of what it holds
        self.row = 0  # the fid that the durable table of ids has for it
        self.durable: Durable | None = None  # None: everything
        self.steps: list[Step] = []

    def begin_change(self) -> None:
        """Call before the first change of content, time or metadata since the last sync."""
        self.durable = Durable(bytes(self.content), self.mtime_ns, self.metadata)

    def end_change(self, offset: int = 0, data: bytes | None = None) -> None:
        """Call after every change."""
        self.steps.append(Step(offset, data, len(self.content), self.mtime_ns, self.metadata))

    def flip(self, offset: int) -> None:
        """The device holds another byte than it was given: no change, and durable at once."""
        self.content[offset] ^= 0xFF
        if self.durable is not None and offset < len(self.durable.content):
            content = bytearray(self.durable.content)
            content[offset] ^= 0xFF
            self.durable = msgspec.structs.replace(self.durable, content=bytes(content))

    def sync(self) -> None:
        """Everything in it is durable from now on."""
        self.durable = None
        self.steps = []

    def sync_data(self) -> None:
        """Content and size are durable from now on; time and metadata as they were."""
        if self.durable is None:
            return
        content = bytes(self.content)
        self.durable = Durable(content, self.durable.mtime_ns, self.durable.metadata)
        self.steps = [
            Step(0, None, len(content), step.mtime_ns, step.metadata) for step in self.steps
        ]

    def tear(self, rng: random.Random) -> None:
        """Become what a power loss leaves: of what was not durable all, nothing, or some.

        Size, time and metadata become those after one of the changes. Of the bytes written, each
        sector has those of the first few writes, or of any of them: disks reorder.
        """
        if self.durable is None:
            return
        kept = rng.randint(0, len(self.steps))
        mtime_ns, metadata = self.durable.mtime_ns, self.durable.metadata
        size_bytes = len(self.durable.content)
        if kept:
            last = self.steps[kept - 1]
            size_bytes, mtime_ns, metadata = last.size_bytes, last.mtime_ns, last.metadata
        self.content = self._torn(bytearray(self.durable.content), kept, rng)[:size_bytes]
        self.content.extend(bytes(size_bytes - len(self.content)))
        self.mtime_ns = mtime_ns
        self.metadata = metadata
        self.sync()

    def _torn(self, content: bytearray, kept: int, rng: random.Random) -> bytearray:
        """The content as the writes that reached the disk leave it, whatever the size.

        A truncation is a change of metadata: it happened if it is one of the `kept`.
        """
        writes = [index for index, step in enumerate(self.steps) if step.data is not None]
        if not writes and not kept:
            return content
        content.extend(bytes(max(step.size_bytes for step in self.steps)))
        for start in range(0, len(content), SECTOR_BYTES):
            if rng.random() < 0.5:
                reached = set(writes[: rng.randint(0, len(writes))])
            else:
                reached = {index for index in writes if rng.random() < 0.5}
            sector = range(start, min(start + SECTOR_BYTES, len(content)))
            for index, step in enumerate(self.steps):
                if index in reached:
                    _write_in(content, step, sector)
                elif step.data is None and index < kept:
                    _cut_in(content, step, sector)
        return content


def _write_in(content: bytearray, step: Step, sector: range) -> None:
    data = step.data or b""
    first = max(sector.start, step.offset)
    last = min(sector.stop, step.offset + len(data))
    if first < last:
        content[first:last] = data[first - step.offset : last - step.offset]


def _cut_in(content: bytearray, step: Step, sector: range) -> None:
    first = max(sector.start, step.size_bytes)
    if first < sector.stop:
        content[first : sector.stop] = bytes(sector.stop - first)
