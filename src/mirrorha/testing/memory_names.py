"""The names of the disk in memory, and the table of ids beside them.

Changes of names are a journal: each is atomic, and a power loss keeps a beginning of those that
are not durable, as the file systems in use do. The table of ids lies on another disk and lags
behind by itself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

import msgspec

from mirrorha.errors import ensure
from mirrorha.testing.memory_inode import Inode, Metadata
from mirrorha.volume.disk import LIMBO_FID, Kind
from mirrorha.volume.ops import ROOT_FID

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


class NameStep(msgspec.Struct, frozen=True):
    """One name that comes (`adds`) or goes."""

    adds: bool
    directory: Inode
    name: str
    inode: Inode


@final
class MemoryNames:
    """Which fid is where; what of it is durable."""

    def __init__(self, *, owner: int) -> None:
        metadata = Metadata(0o755, owner, owner, {})
        self.root: Final = Inode(ROOT_FID, Kind.DIRECTORY, metadata, 0)
        self.limbo: Final = Inode(LIMBO_FID, Kind.DIRECTORY, metadata, 0)
        self.by_fid: dict[int, Inode] = {ROOT_FID: self.root}
        self._change = 0
        self._journal: Final[deque[tuple[int, tuple[NameStep, ...]]]] = deque()
        self._rows: list[tuple[Inode, int]] = []  # what the durable table of ids has not got yet

    def change(self, *steps: NameStep) -> None:
        """Change names, as one."""
        self._change += 1
        self._journal.append((self._change, steps))
        for step in steps:
            _do(step)
            step.directory.entries_change = self._change
            if step.adds:
                step.inode.names_change = self._change
        for step in steps:
            self._note_row(step.inode)

    def relabel(self, inode: Inode, new_fid: int) -> None:
        """Call `inode` `new_fid` from now on."""
        ensure(new_fid not in self.by_fid, "a new id is not in use")
        del self.by_fid[inode.fid]
        inode.fid = new_fid
        self.by_fid[new_fid] = inode
        self._rows.append((inode, new_fid))

    def sync(self, inode: Inode) -> None:
        """Make every name that leads to `inode` durable, and of a directory what it holds.

        And all that was changed before the last of these: a journal has no gaps.
        """
        through = inode.entries_change
        todo, seen = [inode], {inode.fid}
        while todo:
            one = todo.pop()
            through = max(through, one.names_change)
            for directory, _ in one.names:
                if directory.fid not in seen:
                    seen.add(directory.fid)
                    todo.append(directory)
        while self._journal and self._journal[0][0] <= through:
            self._journal.popleft()
        self.sync_rows()

    def sync_all(self) -> None:
        """Make everything durable."""
        self._journal.clear()
        self.sync_rows()

    def sync_rows(self) -> None:
        """Make the table of ids durable."""
        for inode, fid in self._rows:
            inode.row = fid
        self._rows.clear()

    def lose(self, rng: random.Random, draw: Callable[[], int]) -> list[int]:
        """Become what a power loss leaves; the fids drawn for what the table does not know."""
        for _ in range(rng.randint(0, len(self._journal))):
            for step in reversed(self._journal.pop()[1]):
                _undo(step)
        self._journal.clear()
        del self._rows[rng.randint(0, len(self._rows)) :]
        self.sync_rows()
        return self._read_rows(draw)

    def forget_rows(self, draw: Callable[[], int]) -> list[int]:
        """Lose the table of ids: all new fids."""
        for inode in self.inodes():
            inode.row = 0
        self._rows.clear()
        return self._read_rows(draw)

    def inodes(self) -> list[Inode]:
        """Everything that has a name, limbo's included, the root not. Each once."""
        found: dict[Inode, None] = {}
        todo = [self.root, self.limbo]
        while todo:
            for inode in todo.pop().children.values():
                if inode not in found:
                    found[inode] = None
                    todo.append(inode)
        return list(found)

    def listed(self, fid: int) -> Inode | None:
        """The directory `fid`, limbo included, where names can be seen and removed."""
        if fid == LIMBO_FID:
            return self.limbo
        inode = self.by_fid.get(fid)
        return inode if inode is not None and inode.kind is Kind.DIRECTORY else None

    def contains(self, inode: Inode, inner: Inode) -> bool:
        """Whether the directory `inner` is `inode`, or lies below it."""
        while inner is not inode and inner.names:
            inner = inner.names[0][0]
        return inner is inode

    def _note_row(self, inode: Inode) -> None:
        is_known = self.by_fid.get(inode.fid) is inode
        if inode.names and not is_known:
            self.by_fid[inode.fid] = inode
            self._rows.append((inode, inode.fid))
        elif is_known and not inode.names:
            del self.by_fid[inode.fid]
            self._rows.append((inode, 0))

    def _read_rows(self, draw: Callable[[], int]) -> list[int]:
        self.by_fid = {ROOT_FID: self.root}
        unknown = []
        for inode in self.inodes():
            if not inode.row:
                inode.row = draw()
                unknown.append(inode.row)
            inode.fid = inode.row
            ensure(inode.fid not in self.by_fid, "no two files have one id")
            self.by_fid[inode.fid] = inode
        return unknown


def _do(step: NameStep) -> None:
    if step.adds:
        step.directory.children[step.name] = step.inode
        step.inode.names.append((step.directory, step.name))
    else:
        del step.directory.children[step.name]
        step.inode.names.remove((step.directory, step.name))


def _undo(step: NameStep) -> None:
    _do(NameStep(not step.adds, step.directory, step.name, step.inode))
