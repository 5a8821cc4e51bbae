"""What a resync asks of a real disk: names set aside, placed, and in the end deleted.

Limbo is a hidden directory in the root, on the same file system: moving something there costs a
rename. What a crash leaves in it keeps its ids and is found again at the next opening. None of this
changes the times of a directory: the resync sets them when all names are in place.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import ensure
from mirrorha.volume.disk import Kind
from mirrorha.volume.local_disk.handles import as_owner, move_as_owner
from mirrorha.volume.local_disk.syscalls import set_mtime
from mirrorha.volume.names import LIMBO_NAME, bytes_of, checked_name
from mirrorha.volume.op_checks import RESERVED_FID_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorha.volume.disk import Place, Relabel, SetAside
    from mirrorha.volume.local_disk.excluded import Excluded
    from mirrorha.volume.local_disk.handles import Handle, Handles
    from mirrorha.volume.local_disk.ids import IdTable
    from mirrorha.volume.local_disk.tree import Node, Tree

_RAW: Final = LIMBO_NAME.encode()


@final
class Limbo:
    """Moves names of one disk. All methods block, and raise OSError for what failed.

    Args:
        excluded: Keeps what is excluded in a directory that is deleted or moved; None: nothing is.
    """

    def __init__(
        self,
        tree: Tree,
        handles: Handles,
        ids: IdTable,
        *,
        excluded: Excluded | None = None,
    ) -> None:
        self._excluded: Final = excluded
        self._tree: Final = tree
        self._handles: Final = handles
        self._ids: Final = ids
        self._count = 0

    def set_aside(self, request: SetAside) -> None:
        parent = self._tree.nodes.get(request.parent)
        if parent is not None and request.name in parent.children:
            self._set_aside(parent, request.name)

    def place(self, request: Place) -> bool:
        node = self._tree.nodes.get(request.fid)
        parent = self._tree.nodes.get(request.parent)
        if node is None or parent is None or parent.kind is not Kind.DIRECTORY:
            return False
        try:
            raw = checked_name(request.name)
        except OSError:
            return False
        there = parent.children.get(request.name)
        if there is node:
            return True
        if node is self._tree.root or self._tree.contains(node, parent):
            return False
        if there is not None:
            self._set_aside(parent, request.name)
        elif self._excluded is not None:
            self._excluded.free_hidden(parent, request.name)
        name = node.names[0]
        in_limbo = [one for one in node.names if one.parent is self._tree.limbo]
        if in_limbo or node.kind is Kind.DIRECTORY:
            name = in_limbo[0] if in_limbo else name
            self._move(name.parent, name.name, parent, request.name)
            if self._excluded is not None and node.kind is Kind.DIRECTORY:
                self._settle(self._excluded, node, request)
            return True
        source = self._handles.get(name.parent)
        target = self._handles.get(parent)
        with keeping_times(target):
            link = partial(
                os.link,
                bytes_of(name.name),
                raw,
                src_dir_fd=source.fd,
                dst_dir_fd=target.fd,
                follow_symlinks=False,
            )
            as_owner(target.fd, link)
        with self._handles.lock:
            self._tree.add(node, parent, request.name)
            self._handles.mark_dirty_locked(target)
        return True

    def _settle(self, excluded: Excluded, node: Node, request: Place) -> None:
        try:
            excluded.settle(node)
        except OSError:
            # Not to be seen in its place before that: it would pass for what belongs there.
            self._set_aside(self._tree.nodes[request.parent], request.name)
            raise

    def relabel(self, request: Relabel) -> None:
        if request.fid not in self._tree.nodes or request.fid == request.new_fid:
            return
        ensure(request.fid > RESERVED_FID_MAX, "the root keeps its id")
        ensure(request.new_fid > RESERVED_FID_MAX, "no file gets an id of our own")
        with self._handles.lock:
            self._tree.relabel(request.fid, request.new_fid)
            self._handles.relabel_locked(request.fid, request.new_fid)
        self._ids.relabel(request.fid, request.new_fid)

    def clear(self) -> int:
        """Delete what is in limbo, and limbo itself; how many names that were."""
        if not self._tree.limbo.inode:
            return 0
        deleted = 0
        todo = [self._tree.limbo]
        while todo:
            self._handles.trim()
            directory = todo[-1]
            self._set_excluded_apart(directory)
            inner = [
                node
                for node in directory.children.values()
                if node.kind is Kind.DIRECTORY and node.children
            ]
            if inner:
                todo.extend(inner)
                continue
            deleted += self._empty(directory)
            todo.pop()
        with keeping_times(self._handles.root):
            os.rmdir(_RAW, dir_fd=self._handles.root.fd)
        with self._handles.lock:
            self._handles.forget_locked(self._tree.limbo.fid)
            self._handles.mark_dirty_locked(self._handles.root)
        self._tree.limbo.inode = 0
        return deleted

    def _set_excluded_apart(self, directory: Node) -> None:
        if self._excluded is None:
            return
        self._excluded.set_apart(directory)
        for node in directory.children.values():
            if node.kind is Kind.DIRECTORY:
                self._handles.trim()  # there may be more of them than descriptors
                self._excluded.set_apart(node)

    def _empty(self, directory: Node) -> int:
        """Delete everything in a directory, whose directories are empty already."""
        handle = self._handles.get(directory)
        nodes = dict(directory.children)
        for name, node in nodes.items():
            remove = os.rmdir if node.kind is Kind.DIRECTORY else os.unlink
            as_owner(handle.fd, partial(remove, bytes_of(name), dir_fd=handle.fd))
            fid = node.fid
            with self._handles.lock:
                gone = self._tree.remove(directory, name)
                if gone:
                    self._handles.forget_locked(fid)
            if gone:
                self._ids.remove(fid)
        self._handles.mark_dirty(handle)
        return len(nodes)

    def _set_aside(self, parent: Node, name: str) -> None:
        self._make_limbo()
        self._move(parent, name, self._tree.limbo, self._free_name())

    def _free_name(self) -> str:
        while str(self._count) in self._tree.limbo.children:
            self._count += 1
        return str(self._count)

    def _make_limbo(self) -> None:
        if self._tree.limbo.inode:
            return
        root = self._handles.root
        with keeping_times(root):
            os.mkdir(_RAW, 0o700, dir_fd=root.fd)
        self._tree.limbo.inode = os.stat(_RAW, dir_fd=root.fd, follow_symlinks=False).st_ino
        self._tree.limbo.synced_through = 0
        self._handles.mark_dirty(root)

    def _move(self, parent: Node, name: str, new_parent: Node, new_name: str) -> None:
        source = self._handles.get(parent)
        target = self._handles.get(new_parent)
        with keeping_times(source), keeping_times(target):
            move_as_owner(source.fd, bytes_of(name), target.fd, bytes_of(new_name))
        with self._handles.lock:
            self._tree.move(parent, name, new_parent, new_name)
            self._handles.mark_dirty_locked(source)
            self._handles.mark_dirty_locked(target)


@contextlib.contextmanager
def keeping_times(directory: Handle) -> Iterator[None]:
    """Have the directory look afterwards as if nothing had come or gone."""
    before_ns = os.fstat(directory.fd).st_mtime_ns
    try:
        yield
    finally:
        set_mtime(directory.fd, before_ns)
