"""How a real disk applies the ops that make, move and remove names."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, final

import msgspec

from mirrorha.volume.disk import Kind, Outcome
from mirrorha.volume.local_disk.handles import OPEN_DIRECTORY, OPEN_FILE, Handle
from mirrorha.volume.local_disk.ids import Row
from mirrorha.volume.local_disk.syscalls import identify
from mirrorha.volume.local_disk.tree import Node
from mirrorha.volume.names import bytes_of, checked_name, checked_target
from mirrorha.volume.op_checks import check_birth, check_mtime, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.local_disk.handles import Handles
    from mirrorha.volume.local_disk.ids import IdTable
    from mirrorha.volume.local_disk.owners import Owners
    from mirrorha.volume.local_disk.tree import Tree
    from mirrorha.volume.ops import Create, Link, Mkdir, Rename, Rmdir, Symlink, Unlink

# Until they have their owner, nobody else may use them.
_NEW_FILE_MODE: Final = stat.S_IFREG | 0o600
_NEW_DIRECTORY_MODE: Final = 0o700


@final
class NameApplier:
    """Applies the ops on names, and keeps tree, descriptors and table of ids in step.

    All methods block, and raise OSError if they have changed nothing.
    """

    def __init__(self, tree: Tree, handles: Handles, ids: IdTable, owners: Owners) -> None:
        self._tree: Final = tree
        self._handles: Final = handles
        self._ids: Final = ids
        self._owners: Final = owners

    def create(self, op: Create) -> Outcome:
        def make(raw: bytes, directory_fd: int) -> None:
            os.mknod(raw, _NEW_FILE_MODE, dir_fd=directory_fd)

        return self._make(op, Kind.FILE, make)

    def mkdir(self, op: Mkdir) -> Outcome:
        def make(raw: bytes, directory_fd: int) -> None:
            os.mkdir(raw, _NEW_DIRECTORY_MODE, dir_fd=directory_fd)

        return self._make(op, Kind.DIRECTORY, make)

    def symlink(self, op: Symlink) -> Outcome:
        parent, raw = self._free_place(op)
        target = checked_target(op.target)
        directory = self._handles.get(parent)
        before_ns = os.fstat(directory.fd).st_mtime_ns
        os.symlink(target, raw, dir_fd=directory.fd)
        try:
            uid, gid = self._owners.of(op)
            if self._owners.are_kept:
                os.chown(raw, uid, gid, dir_fd=directory.fd, follow_symlinks=False)
            times = (op.mtime_ns, op.mtime_ns)
            os.utime(raw, ns=times, dir_fd=directory.fd, follow_symlinks=False)
            seen = identify(directory.fd, raw)
        except BaseException:
            os.unlink(raw, dir_fd=directory.fd)
            _set_times(directory, before_ns)
            raise
        _set_times(directory, op.mtime_ns)
        node = Node(op.fid, Kind.SYMLINK, seen.inode)
        with self._handles.lock:
            self._tree.add(node, parent, op.name)
            self._handles.mark_dirty_locked(directory)
        self._ids.add(Row(op.fid, seen.inode, seen.birth_ns, Kind.SYMLINK))
        return Outcome(msgspec.structs.replace(op, uid=uid, gid=gid))

    def link(self, op: Link) -> Outcome:
        check_mtime(op.mtime_ns)
        node = self._tree.nodes.get(op.fid)
        if node is None:
            raise refusal(errno.ESTALE)
        parent = self._tree.directory(op.parent)
        raw = checked_name(op.name)
        if op.name in parent.children:
            raise refusal(errno.EEXIST)
        if node.kind is Kind.DIRECTORY:
            raise refusal(errno.EPERM)
        name = node.names[0]
        source = self._handles.get(name.parent)
        directory = self._handles.get(parent)
        os.link(
            bytes_of(name.name),
            raw,
            src_dir_fd=source.fd,
            dst_dir_fd=directory.fd,
            follow_symlinks=False,
        )
        _set_times(directory, op.mtime_ns)
        with self._handles.lock:
            self._tree.add(node, parent, op.name)
            self._handles.mark_dirty_locked(directory)
        return Outcome(op)

    def unlink(self, op: Unlink) -> Outcome:
        parent, node = self._to_remove(op)
        if node.kind is Kind.DIRECTORY:
            raise refusal(errno.EISDIR)
        return self._remove(op, parent, node, os.unlink)

    def rmdir(self, op: Rmdir) -> Outcome:
        parent, node = self._to_remove(op)
        if node.kind is not Kind.DIRECTORY:
            raise refusal(errno.ENOTDIR)
        return self._remove(op, parent, node, os.rmdir)

    def rename(self, op: Rename) -> Outcome:
        check_mtime(op.mtime_ns)
        parent = self._tree.directory(op.parent)
        new_parent = self._tree.directory(op.new_parent)
        node = parent.children.get(op.name)
        if node is None:
            raise refusal(errno.ENOENT)
        new_raw = checked_name(op.new_name)
        there = new_parent.children.get(op.new_name)
        replaced = there.fid if there is not None else 0
        if op.fid not in {0, node.fid} or op.replaced not in {0, replaced}:
            raise refusal(errno.ESTALE)
        if there is node:
            return Outcome(None)
        source = self._handles.get(parent)
        target = self._handles.get(new_parent)
        os.rename(bytes_of(op.name), new_raw, src_dir_fd=source.fd, dst_dir_fd=target.fd)
        _set_times(source, op.mtime_ns)
        _set_times(target, op.mtime_ns)
        with self._handles.lock:
            gone = there is not None and self._tree.remove(new_parent, op.new_name)
            if gone:
                self._handles.forget_locked(replaced)
            self._tree.move(parent, op.name, new_parent, op.new_name)
            self._handles.mark_dirty_locked(source)
            self._handles.mark_dirty_locked(target)
        if gone:
            self._ids.remove(replaced)
        if (op.fid, op.replaced) == (node.fid, replaced):
            return Outcome(op)
        return Outcome(msgspec.structs.replace(op, fid=node.fid, replaced=replaced))

    def _make(self, op: Create | Mkdir, kind: Kind, make: Callable[[bytes, int], None]) -> Outcome:
        parent, raw = self._free_place(op)
        directory = self._handles.get(parent)
        before_ns = os.fstat(directory.fd).st_mtime_ns
        make(raw, directory.fd)
        fd = -1
        try:
            flags = OPEN_FILE if kind is Kind.FILE else OPEN_DIRECTORY
            fd = os.open(raw, flags, dir_fd=directory.fd)
            done = self._dress(fd, op)
            seen = identify(fd)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            (os.unlink if kind is Kind.FILE else os.rmdir)(raw, dir_fd=directory.fd)
            _set_times(directory, before_ns)
            raise
        _set_times(directory, op.mtime_ns)
        node = Node(op.fid, kind, seen.inode)
        handle = Handle(node, fd, mode=op.mode, mtime_ns=op.mtime_ns, is_owner=True)
        self._handles.adopt(handle)
        with self._handles.lock:
            self._tree.add(node, parent, op.name)
            self._handles.mark_dirty_locked(handle)
            self._handles.mark_dirty_locked(directory)
        self._ids.add(Row(op.fid, seen.inode, seen.birth_ns, kind))
        return Outcome(done)

    def _dress(self, fd: int, op: Create | Mkdir) -> Create | Mkdir:
        """Give a new file what the op says; the op as it was done."""
        uid, gid = self._owners.of(op)
        if self._owners.are_kept:
            os.fchown(fd, uid, gid)
        os.fchmod(fd, op.mode)
        os.utime(fd, ns=(op.mtime_ns, op.mtime_ns))
        if (uid, gid) == (op.uid, op.gid):
            return op
        return msgspec.structs.replace(op, uid=uid, gid=gid)

    def _free_place(self, op: Create | Mkdir | Symlink) -> tuple[Node, bytes]:
        check_birth(op)
        parent = self._tree.directory(op.parent)
        raw = checked_name(op.name)
        if op.name in parent.children or op.fid in self._tree.nodes:
            raise refusal(errno.EEXIST)
        return parent, raw

    def _to_remove(self, op: Unlink | Rmdir) -> tuple[Node, Node]:
        check_mtime(op.mtime_ns)
        parent = self._tree.listed(op.parent) or self._tree.directory(op.parent)
        node = parent.children.get(op.name)
        if node is None:
            raise refusal(errno.ENOENT)
        if op.fid not in {0, node.fid}:
            raise refusal(errno.ESTALE)
        return parent, node

    def _remove(
        self, op: Unlink | Rmdir, parent: Node, node: Node, remove: Callable[..., None]
    ) -> Outcome:
        directory = self._handles.get(parent)
        remove(bytes_of(op.name), dir_fd=directory.fd)
        _set_times(directory, op.mtime_ns)
        fid = node.fid
        with self._handles.lock:
            gone = self._tree.remove(parent, op.name)
            if gone:
                self._handles.forget_locked(fid)
            self._handles.mark_dirty_locked(directory)
        if gone:
            self._ids.remove(fid)
        return Outcome(op if op.fid == fid else msgspec.structs.replace(op, fid=fid))


def _set_times(directory: Handle, mtime_ns: int) -> None:
    os.utime(directory.fd, ns=(mtime_ns, mtime_ns))
