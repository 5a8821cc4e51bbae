"""How a real disk applies the ops that make, move and remove names.

A new file is made with a mode that nothing else has, gets all that the op says, and its real mode
last: what a crash leaves in between is told by that mode when the disk is opened again, and
removed. A symlink has no mode, and what is excluded no id by which it could be told from others
that look the same: those get their names last.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, TypeVar, final

import msgspec

from mirrorha.volume.access_lists import ACL_ACCESS, ACL_DEFAULT, ACLS, with_mode
from mirrorha.volume.births import settled
from mirrorha.volume.disk import Kind, Outcome
from mirrorha.volume.local_disk.handles import (
    OPEN_DIRECTORY,
    OPEN_FILE,
    OPEN_PLACE,
    OPENED_KINDS,
    Handle,
    as_owner,
    open_quietly,
    place_of,
)
from mirrorha.volume.local_disk.ids import Row
from mirrorha.volume.local_disk.syscalls import NO_XATTR, identify, mtime_setter, rename
from mirrorha.volume.local_disk.tree import Node
from mirrorha.volume.names import HALF_MADE_PREFIX, bytes_of, checked_name, checked_target
from mirrorha.volume.op_checks import (
    HALF_MADE_DIRECTORY_MODE,
    HALF_MADE_MODE,
    OWN_USER,
    RESERVED_FID_MAX,
    check_birth,
    check_mtime,
    check_rename,
    missing,
    refusal,
)
from mirrorha.volume.ops import DEVICE_KINDS, RENAME_EXCHANGE, RENAME_NOREPLACE, is_local

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.local_disk.handles import Handles
    from mirrorha.volume.local_disk.ids import IdTable
    from mirrorha.volume.local_disk.owners import Owners
    from mirrorha.volume.local_disk.tree import Tree
    from mirrorha.volume.ops import (
        Birth,
        Create,
        Link,
        Mkdir,
        Mknod,
        Rename,
        Rmdir,
        Symlink,
        Unlink,
    )

_Made = TypeVar("_Made", bound="Birth")
# In the place of one that is lawful on this node alone.
_SOME_FID: Final = RESERVED_FID_MAX + 1
_OPENING: Final = {Kind.FILE: OPEN_FILE, Kind.DIRECTORY: OPEN_DIRECTORY}
_FORMATS: Final = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}


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
        self._set_mtime: Final = mtime_setter()

    def create(self, op: Create) -> Outcome:
        def make(raw: bytes, directory_fd: int) -> None:
            os.mknod(raw, stat.S_IFREG | HALF_MADE_MODE, dir_fd=directory_fd)

        return self._make(op, Kind.FILE, make)

    def mkdir(self, op: Mkdir) -> Outcome:
        def make(raw: bytes, directory_fd: int) -> None:
            os.mkdir(raw, HALF_MADE_DIRECTORY_MODE, dir_fd=directory_fd)

        return self._make(op, Kind.DIRECTORY, make)

    def mknod(self, op: Mknod) -> Outcome:
        def make(raw: bytes, directory_fd: int) -> None:
            os.mknod(raw, _FORMATS[op.kind] | HALF_MADE_MODE, op.rdev, dir_fd=directory_fd)

        if op.kind in DEVICE_KINDS and not self._owners.are_kept:
            raise refusal(errno.EPERM)
        return self._make(op, op.kind, make)

    def symlink(self, op: Symlink) -> Outcome:
        target = checked_target(op.target)
        parent, raw = self._free_place(op)
        directory = self._handles.get(parent)
        done = self._settled(op, directory)
        before_ns = os.fstat(directory.fd).st_mtime_ns
        half_made = _half_made(op.fid)
        as_owner(directory.fd, lambda: os.symlink(target, half_made, dir_fd=directory.fd))
        try:
            if self._owners.are_kept:
                uid, gid = done.uid, done.gid
                os.chown(half_made, uid, gid, dir_fd=directory.fd, follow_symlinks=False)
            times = (op.mtime_ns, op.mtime_ns)
            os.utime(half_made, ns=times, dir_fd=directory.fd, follow_symlinks=False)
            seen = identify(directory.fd, half_made)
            as_owner(directory.fd, lambda: _give_name(Kind.SYMLINK, half_made, raw, directory.fd))
        except BaseException:
            os.unlink(half_made, dir_fd=directory.fd)
            self._set_mtime(directory.fd, before_ns)
            raise
        self._set_mtime(directory.fd, _time_after(directory, op.fid, op.mtime_ns, before_ns))
        node = Node(op.fid, Kind.SYMLINK, seen.inode)
        with self._handles.lock:
            self._tree.add(node, parent, op.name)
            self._handles.mark_dirty_locked(directory)
        self._add_id(Row(op.fid, seen.inode, seen.birth_ns, Kind.SYMLINK))
        return Outcome(done)

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
        time_ns = _time_after(directory, op.fid, op.mtime_ns)
        os.link(
            bytes_of(name.name),
            raw,
            src_dir_fd=source.fd,
            dst_dir_fd=directory.fd,
            follow_symlinks=False,
        )
        self._set_mtime(directory.fd, time_ns)
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
        check_rename(op)
        parent = self._tree.directory(op.parent)
        new_parent = self._tree.directory(op.new_parent)
        node = parent.children.get(op.name)
        if node is None:
            raise missing(op.name)
        new_raw = checked_name(op.new_name)
        there = new_parent.children.get(op.new_name)
        if there is None and op.flags == RENAME_EXCHANGE:
            raise refusal(errno.ENOENT)
        if there is not None and op.flags == RENAME_NOREPLACE:
            raise refusal(errno.EEXIST)
        replaced = there.fid if there is not None else 0
        if op.fid not in {0, node.fid} or op.replaced not in {0, replaced}:
            raise refusal(errno.ESTALE)
        if there is node:
            return Outcome(None)
        source = self._handles.get(parent)
        target = self._handles.get(new_parent)
        source_ns = _time_after(source, node.fid, op.mtime_ns)
        target_ns = _time_after(target, node.fid, op.mtime_ns)
        rename(source.fd, bytes_of(op.name), target.fd, new_raw, op.flags)
        self._set_mtime(source.fd, source_ns)
        self._set_mtime(target.fd, target_ns)
        done = op
        if (op.fid, op.replaced) != (node.fid, replaced):
            done = msgspec.structs.replace(op, fid=node.fid, replaced=replaced)
        self._note_rename(done, (parent, source), (new_parent, target))
        return Outcome(done)

    def _note_rename(
        self, op: Rename, old_place: tuple[Node, Handle], new_place: tuple[Node, Handle]
    ) -> None:
        parent, source = old_place
        new_parent, target = new_place
        gone = False
        with self._handles.lock:
            if op.flags == RENAME_EXCHANGE:
                self._tree.exchange(parent, op.name, new_parent, op.new_name)
            else:
                gone = bool(op.replaced) and self._tree.remove(new_parent, op.new_name)
                if gone:
                    self._handles.forget_locked(op.replaced)
                self._tree.move(parent, op.name, new_parent, op.new_name)
            self._handles.mark_dirty_locked(source)
            self._handles.mark_dirty_locked(target)
        if gone:
            self._remove_id(op.replaced)

    def _make(
        self, op: Create | Mkdir | Mknod, kind: Kind, make: Callable[[bytes, int], None]
    ) -> Outcome:
        parent, raw = self._free_place(op)
        directory = self._handles.get(parent)
        default_list = directory.default_list
        if default_list is None:
            default_list = directory.default_list = _default_list(directory.fd)
        done = self._settled(op, directory, default_list)
        before_ns = os.fstat(directory.fd).st_mtime_ns
        made = _half_made(op.fid) if is_local(op.fid) else raw
        as_owner(directory.fd, lambda: make(made, directory.fd))
        fd = -1
        try:
            fd = open_quietly(made, _OPENING.get(kind, OPEN_PLACE), directory.fd)
            _dress(fd if kind in OPENED_KINDS else place_of(fd), done, undress=bool(default_list))
            seen = identify(fd)
            if made != raw:
                as_owner(directory.fd, lambda: _give_name(kind, made, raw, directory.fd))
        except BaseException:
            if fd >= 0:
                os.close(fd)
            (os.rmdir if kind is Kind.DIRECTORY else os.unlink)(made, dir_fd=directory.fd)
            self._set_mtime(directory.fd, before_ns)
            raise
        self._set_mtime(directory.fd, _time_after(directory, op.fid, op.mtime_ns, before_ns))
        self._take_up(Node(op.fid, kind, seen.inode), fd, done, parent)
        self._add_id(Row(op.fid, seen.inode, seen.birth_ns, kind))
        return Outcome(done)

    def _take_up(self, node: Node, fd: int, op: Create | Mkdir | Mknod, parent: Node) -> None:
        """Make the new file a part of the tree. Its descriptor is kept, or closed."""
        handle = None
        if node.kind in OPENED_KINDS:
            times = {"mtime_ns": op.mtime_ns, "atime_ns": op.mtime_ns}
            handle = Handle(node, fd, mode=op.mode, **times, is_owner=True)
            self._handles.adopt(handle)
        else:
            os.close(fd)
        directory = self._handles.get(parent)
        with self._handles.lock:
            self._tree.add(node, parent, op.name)
            if handle is not None:
                self._handles.mark_dirty_locked(handle)
            self._handles.mark_dirty_locked(directory)

    def _settled(self, op: _Made, directory: Handle, default_list: bytes = b"") -> _Made:
        """The op as it will be done here."""
        if op.umask is not None:
            status = os.fstat(directory.fd)
            _, gid = self._owners.seen(status.st_uid, status.st_gid)
            mode = stat.S_IMODE(status.st_mode)
            op = settled(op, mode=mode, gid=gid, default_list=default_list)
        uid, gid = self._owners.of(op)
        return (
            op if (uid, gid) == (op.uid, op.gid) else msgspec.structs.replace(op, uid=uid, gid=gid)
        )

    def _free_place(self, op: Birth) -> tuple[Node, bytes]:
        check_birth(msgspec.structs.replace(op, fid=_SOME_FID) if is_local(op.fid) else op)
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
            raise missing(op.name)
        if op.fid not in {0, node.fid}:
            raise refusal(errno.ESTALE)
        return parent, node

    def _remove(
        self, op: Unlink | Rmdir, parent: Node, node: Node, remove: Callable[..., None]
    ) -> Outcome:
        directory = self._handles.get(parent)
        fid = node.fid
        time_ns = _time_after(directory, fid, op.mtime_ns)
        remove(bytes_of(op.name), dir_fd=directory.fd)
        self._set_mtime(directory.fd, time_ns)
        with self._handles.lock:
            gone = self._tree.remove(parent, op.name)
            if gone:
                self._handles.forget_locked(fid)
            self._handles.mark_dirty_locked(directory)
        if gone:
            self._remove_id(fid)
        return Outcome(op if op.fid == fid else msgspec.structs.replace(op, fid=fid))

    def _add_id(self, row: Row) -> None:
        if not is_local(row.fid):  # those are drawn anew at each opening
            self._ids.add(row)

    def _remove_id(self, fid: int) -> None:
        if not is_local(fid):
            self._ids.remove(fid)


def _time_after(directory: Handle, fid: int, mtime_ns: int, before_ns: int | None = None) -> int:
    """The time of a directory once a name of `fid` has come or gone there. Asked before that.

    What stays on this node leaves no trace in a directory that is mirrored: the other node does not
    hear of it, and the two would differ.
    """
    if not is_local(fid) or is_local(directory.node.fid):
        return mtime_ns
    return os.fstat(directory.fd).st_mtime_ns if before_ns is None else before_ns


def _half_made(fid: int) -> bytes:
    """What is called so as long as it has not got its name."""
    return f"{HALF_MADE_PREFIX}{fid:x}".encode()


def _give_name(kind: Kind, half_made: bytes, raw: bytes, directory_fd: int) -> None:
    """Give what is whole its name, and replace nothing that somebody put there behind our back.

    Raises:
        OSError: it has not got it.
    """
    there = {"src_dir_fd": directory_fd, "dst_dir_fd": directory_fd}
    if kind is Kind.DIRECTORY:
        os.rename(half_made, raw, **there)  # over an empty directory at most
    else:
        os.link(half_made, raw, **there, follow_symlinks=False)
        os.unlink(half_made, dir_fd=directory_fd)


def _dress(target: int | str, op: Create | Mkdir | Mknod, *, undress: bool) -> None:
    """Give a new file what the op says, its mode last. `undress`: it has inherited something."""
    if undress:
        for name in ACLS:
            _remove_list(target, name)
    if op.uid != OWN_USER:
        os.chown(target, op.uid, op.gid)
    for name, value in op.xattrs.items():
        # It must not look finished by its list. The mode gives the list what is missing.
        held = with_mode(value, HALF_MADE_MODE) if name == ACL_ACCESS else value
        os.setxattr(target, bytes_of(name), held)
    os.utime(target, ns=(op.mtime_ns, op.mtime_ns))
    os.chmod(target, op.mode)


def _remove_list(target: int | str, name: str) -> None:
    try:
        os.removexattr(target, name)
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise


def _default_list(directory_fd: int) -> bytes:
    """The access list that new files in a directory inherit, b"" if there is none."""
    try:
        return os.getxattr(directory_fd, ACL_DEFAULT)
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
    return b""
