"""What a disk in memory keeps of one side of a split: durable as soon as it is kept."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import ensure
from mirrorha.testing.memory_names import NameStep
from mirrorha.volume.disk import (
    BeginRescue,
    KeepAttributes,
    KeepFiles,
    KeepNames,
    Kind,
    NoteRenamed,
    NoteReplaced,
    Outcome,
    RescueSum,
    SumRescue,
)
from mirrorha.volume.names import LIMBO_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.testing.memory_inode import Inode
    from mirrorha.testing.memory_names import MemoryNames
    from mirrorha.testing.memory_ops import MemoryOps

# So many are kept by one request, so that those who ask have to ask again.
_AT_ONCE: Final = 4


@final
class Kept:
    """The rescue of one generation.

    Attributes:
        was: every file of the tree and of limbo when the rescue began, with its first path.
        content: what was kept, by path.
    """

    def __init__(self, was: dict[Inode, str]) -> None:
        self.was: Final = was
        self.is_complete = False
        self.content: Final[dict[str, bytes]] = {}
        self.inodes: Final[set[Inode]] = set()
        self.replaced: Final[set[str]] = set()


@final
class MemoryRescue:
    """Carries out the requests of a rescue on a tree in memory."""

    def __init__(self, names: MemoryNames, ops: MemoryOps) -> None:
        self._names: Final = names
        self._ops: Final = ops
        self.rescues: Final[dict[str, Kept]] = {}
        self._generation = ""

    def performers(self) -> dict[type, Callable[..., object]]:
        """What carries out each request."""
        return {
            BeginRescue: self._begin,
            KeepFiles: self._keep_files,
            KeepAttributes: self._keep_attributes,
            KeepNames: self._keep_names,
            NoteReplaced: self._note_replaced,
            NoteRenamed: self._note_renamed,
            SumRescue: self._sum,
        }

    def lose_power(self) -> None:
        """What was not noted durably yet is gone."""
        for generation, kept in list(self.rescues.items()):
            if not kept.is_complete:
                del self.rescues[generation]

    def _begin(self, request: BeginRescue) -> int:
        self._generation = request.generation
        kept = self.rescues.get(request.generation)
        if kept is None or not (kept.is_complete or request.again):
            kept = self.rescues[request.generation] = Kept(_paths(self._names))
            return max(1, len(kept.was))
        kept.is_complete = True
        return 0

    @property
    def _kept(self) -> Kept:
        kept = self.rescues.get(self._generation)
        ensure(kept is not None and kept.is_complete, "a rescue is begun before anything changes")
        return kept  # type: ignore[return-value]

    def _keep_files(self, request: KeepFiles) -> list[int] | Outcome:
        kept, now = self._kept, request.fids[:_AT_ONCE]
        for fid in now:
            inode = self._names.by_fid.get(fid)
            is_file = inode is not None and inode.kind is Kind.FILE
            if inode is None or not is_file or inode not in kept.was or inode in kept.inodes:
                continue
            if not self._has_room(len(inode.content)):
                return Outcome(None, errno.ENOSPC)
            kept.content[kept.was[inode]] = bytes(inode.content)
            kept.inodes.add(inode)
        return request.fids[_AT_ONCE:]

    def _has_room(self, content_bytes: int) -> bool:
        free_bytes = self._ops.free_bytes
        if free_bytes is None:
            return True
        if content_bytes > free_bytes:
            return False
        self._ops.free_bytes = free_bytes - content_bytes
        return True

    def _keep_attributes(self, _request: KeepAttributes) -> list[int]:
        ensure(self._kept.is_complete, "attributes were noted when the rescue began")
        return []

    def _keep_names(self, request: KeepNames) -> list[str]:
        kept, limbo = self._kept, self._names.limbo
        for name in request.names[:_AT_ONCE]:
            inode = limbo.children.get(name)
            if inode is None or inode not in kept.was or inode in kept.inodes:
                continue
            if any(directory is not limbo for directory, _ in inode.names):
                continue
            kept.inodes.add(inode)
            if inode.kind is not Kind.DIRECTORY:
                kept.content[kept.was[inode]] = bytes(inode.content)
                steps = [NameStep(False, *one, inode) for one in inode.names]
                self._names.change(*steps)
        return request.names[_AT_ONCE:]

    def _note_replaced(self, request: NoteReplaced) -> list[int]:
        inodes = [self._names.by_fid.get(fid) for fid in request.fids]
        paths = [self._kept.was.get(inode) for inode in inodes if inode is not None]
        self._kept.replaced.update(path for path in paths if path in self._kept.content)
        return []

    def _note_renamed(self, _request: NoteRenamed) -> int:
        ensure(self._kept.is_complete, "names were noted when the rescue began")
        return 0

    def _sum(self, _request: SumRescue) -> RescueSum:
        content = self._kept.content
        return RescueSum(
            directory=self._generation,
            files=len(content),
            content_bytes=sum(map(len, content.values())),
        )


def _paths(names: MemoryNames) -> dict[Inode, str]:
    found: dict[Inode, str] = {}
    # What an earlier rescue was interrupted with is owed as well.
    todo = [(LIMBO_NAME, names.limbo), ("", names.root)]
    while todo:
        above, directory = todo.pop()
        for name, inode in directory.children.items():
            path = os.path.join(above, name)
            found.setdefault(inode, path)
            todo.append((path, inode))
    return found
