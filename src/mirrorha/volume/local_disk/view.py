"""A real disk's tree as a mount shows it, and the open files in it that have no name any more.

See `mirrorha.volume.fuse.interface.View`. Attributes come from a descriptor that is open already or
through that of the directory above: to look at a file does not open it.

The marker of the volume and our own directories are in no directory of the tree that this shows.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, final

import msgspec

from mirrorha.volume.disk import LIMBO_FID, Kind
from mirrorha.volume.local_disk.handles import OPENED_KINDS, as_owner, place_of, read_range
from mirrorha.volume.local_disk.syscalls import fallocate, set_mtime
from mirrorha.volume.names import bytes_of, check_xattr_name, is_mirrored_xattr, text_of
from mirrorha.volume.op_checks import (
    check_attributes,
    check_fallocate,
    check_truncate,
    check_write,
    check_xattr,
    refusal,
)
from mirrorha.volume.ops import AnyOp, Fallocate, SetAttributes, SetXattr, Truncate, Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.local_disk.handles import Handles
    from mirrorha.volume.local_disk.tree import Node, Tree

T = TypeVar("T")

#: The type bits of a mode, where `d_type` has them.
_TYPES: Final = {
    Kind.FILE: stat.S_IFREG >> 12,
    Kind.DIRECTORY: stat.S_IFDIR >> 12,
    Kind.SYMLINK: stat.S_IFLNK >> 12,
    Kind.FIFO: stat.S_IFIFO >> 12,
    Kind.SOCKET: stat.S_IFSOCK >> 12,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR >> 12,
    Kind.BLOCK_DEVICE: stat.S_IFBLK >> 12,
}
_DESCRIPTORS_GONE: Final = frozenset({errno.EMFILE, errno.ENFILE})
_UNCHANGED: Final = -1
_COLD: Final = -1
#: Of a file system that does not say whether a read would wait.
_CANNOT_TELL: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP})


class Listed(NamedTuple):
    """One name in a directory. `type` is as `d_type` has it."""

    name: str
    fid: int
    type: int


class _Held:
    """A file or directory that somebody has open, by a descriptor of our own."""

    __slots__ = ("count", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.count = 1


@final
class DiskView:
    """Shows what `tree` and `handles` have, and keeps open what is to outlive its names.

    In the thread that changes the tree; its descriptors are closed by `close`.

    Args:
        held_max: As many files are kept open at a time. With the last free descriptor, changes of
            files that are open already would fail.
    """

    def __init__(self, tree: Tree, handles: Handles, *, held_max: int) -> None:
        self._tree: Final = tree
        self._nodes: Final = tree.nodes
        self._handles: Final = handles
        self._held: Final[dict[int, _Held]] = {}
        self._held_max: Final = held_max
        self._at_hand = getattr(os, "RWF_NOWAIT", 0)

    # ---- names ---------------------------------------------------------------------------------

    def lookup(self, parent: int, name: str) -> int:
        node = self._directory(parent).children.get(name)
        return 0 if node is None else node.fid

    def parent(self, fid: int) -> int:
        node = self._node(fid)
        if not node.names:
            return fid
        above = node.names[0].parent.fid
        return self._tree.root.fid if above == LIMBO_FID else above

    def names(self, fid: int) -> list[tuple[int, str]]:
        node = self._nodes.get(fid)
        if node is None:
            return []
        limbo = self._tree.limbo
        return [(name.parent.fid, name.name) for name in node.names if name.parent is not limbo]

    def list_directory(self, fid: int) -> list[Listed]:
        node = self._nodes.get(fid)
        if node is None and fid in self._held:
            return []
        children = self._directory(fid).children
        types = _TYPES
        return [Listed(name, node.fid, types.get(node.kind, 0)) for name, node in children.items()]

    # ---- what is open --------------------------------------------------------------------------

    def open(self, fid: int) -> None:
        held = self._held.get(fid)
        if held is not None:
            held.count += 1
            return
        if len(self._held) >= self._held_max:
            raise refusal(errno.ENFILE)
        try:
            fd = self._descriptor(self._node(fid))
            self._held[fid] = _Held(os.dup(fd))
        except OSError as error:
            if error.errno in _DESCRIPTORS_GONE:
                raise refusal(errno.ENFILE) from error
            raise

    def release(self, fid: int) -> None:
        held = self._held.get(fid)
        if held is None:
            return
        held.count -= 1
        if not held.count:
            del self._held[fid]
            os.close(held.fd)

    def close(self) -> None:
        """Close everything that is open. Orphans are gone then."""
        for held in self._held.values():
            os.close(held.fd)
        self._held.clear()

    def is_open(self, fid: int) -> bool:
        return fid in self._held

    def is_orphan(self, fid: int) -> bool:
        return fid in self._held and fid not in self._nodes

    # ---- contents ------------------------------------------------------------------------------

    def status(self, fid: int) -> tuple[os.stat_result, int]:
        node = self._nodes.get(fid)
        if node is None:
            held = self._held.get(fid)
            if held is None:
                raise refusal(errno.ESTALE)
            status = os.fstat(held.fd)
            return status, status.st_nlink
        handle = self._handles.open.get(fid)
        if handle is not None:
            status = os.fstat(handle.fd)
        else:
            name = node.names[0]
            self._handles.close_idle()
            above = self._handles.get(name.parent)
            status = os.stat(bytes_of(name.name), dir_fd=above.fd, follow_symlinks=False)
            if status.st_ino != node.inode:
                raise refusal(errno.ESTALE)
        if node.kind is Kind.DIRECTORY:
            return status, status.st_nlink - self._hidden_links(node)
        return status, len(node.names)

    def read_at_hand(self, fid: int, offset: int, into: memoryview) -> int:
        fd, length = self._file(fid), len(into)
        try:
            got = count = os.preadv(fd, (into,), offset, self._at_hand)
            while got < length and count:
                count = os.preadv(fd, (into[got:],), offset + got, self._at_hand)
                got += count
            return got
        except BlockingIOError:
            return _COLD
        except OSError as error:
            if error.errno not in _CANNOT_TELL or not self._at_hand:
                raise
        self._at_hand = 0  # a file system that waits, or one in memory
        return self.read_at_hand(fid, offset, into)

    def pin(self, fid: int) -> int:
        return os.dup(self._file(fid))

    def read_pinned(self, fd: int, offset: int, length: int) -> bytes:
        try:
            return read_range(fd, offset, length)
        finally:
            os.close(fd)

    def seek(self, fid: int, offset: int, whence: int) -> int:
        return os.lseek(self._file(fid), offset, whence)

    def readlink(self, fid: int) -> bytes:
        node = self._node(fid)
        if node.kind is not Kind.SYMLINK:
            raise refusal(errno.EINVAL)
        name = node.names[0]
        self._handles.close_idle()
        return os.readlink(bytes_of(name.name), dir_fd=self._handles.get(name.parent).fd)

    def xattr(self, fid: int, name: str) -> bytes:
        if name.startswith(("security.", "trusted.")) and not is_mirrored_xattr(name):
            raise refusal(errno.ENODATA)  # the node below may have one; here is none
        check_xattr_name(name)
        raw = bytes_of(name)
        return self._look_at(fid, lambda target: os.getxattr(target, raw))

    def xattrs(self, fid: int) -> list[str]:
        try:
            raws = self._look_at(fid, os.listxattr)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise
        names = [text_of(os.fsencode(raw)) for raw in raws]
        return [name for name in names if is_mirrored_xattr(name)]

    def statfs(self) -> os.statvfs_result:
        return os.fstatvfs(self._handles.root.fd)

    # ---- orphans -------------------------------------------------------------------------------

    def change_orphan(self, op: AnyOp) -> AnyOp:
        held = self._held.get(op.fid)
        if held is None or op.fid in self._nodes:
            raise refusal(errno.ESTALE)
        match op:
            case Write():
                return _write_orphan(held.fd, op)
            case Truncate():
                check_truncate(op)
                os.ftruncate(held.fd, op.size_bytes)
                set_mtime(held.fd, op.mtime_ns)
            case Fallocate():
                check_fallocate(op)
                fallocate(held.fd, op.mode, op.offset, op.length)
                set_mtime(held.fd, op.mtime_ns)
            case SetAttributes():
                _set_attributes(held.fd, op)
            case SetXattr():
                _set_xattr(held.fd, op)
            case _:
                raise refusal(errno.ESTALE)
        return op

    # ---- within --------------------------------------------------------------------------------

    def _node(self, fid: int) -> Node:
        node = self._nodes.get(fid)
        if node is None:
            raise refusal(errno.ESTALE)
        return node

    def _directory(self, fid: int) -> Node:
        node = self._node(fid)
        if node.kind is not Kind.DIRECTORY:
            raise refusal(errno.ENOTDIR)
        return node

    def _file(self, fid: int) -> int:
        """A descriptor of a file, open or an orphan."""
        held = self._held.get(fid)
        if held is not None:
            return held.fd
        node = self._node(fid)
        if node.kind is not Kind.FILE:
            raise refusal(errno.EISDIR if node.kind is Kind.DIRECTORY else errno.EINVAL)
        return self._descriptor(node)

    def _look_at(self, fid: int, look: Callable[[int | str], T]) -> T:
        """Call `look` with a descriptor of what is opened, or with a path to what is not."""
        held = self._held.get(fid)
        if held is not None:
            return as_owner(held.fd, lambda: look(held.fd))
        node = self._node(fid)
        if node.kind in OPENED_KINDS:
            fd = self._descriptor(node)
            return as_owner(fd, lambda: look(fd))
        self._handles.close_idle()
        with self._handles.pinned(node) as place:
            return look(place_of(place))

    def _descriptor(self, node: Node) -> int:
        """One that is good until the next is asked for."""
        self._handles.close_idle()
        return self._handles.get(node).fd

    def _hidden_links(self, node: Node) -> int:
        """Directories in this one that nobody sees, each of which is a link to it."""
        if node is not self._tree.root:
            return 0
        return bool(self._tree.limbo.inode) + self._tree.has_kept + self._tree.has_rescue


def _write_orphan(fd: int, op: Write) -> Write:
    check_write(op)
    written = 0
    while written < len(op.data):
        try:
            written += os.pwrite(fd, op.data[written:], op.offset + written)
        except OSError:
            if not written:
                raise
            break
    set_mtime(fd, op.mtime_ns)
    return op if written == len(op.data) else msgspec.structs.replace(op, data=op.data[:written])


def _set_attributes(fd: int, op: SetAttributes) -> None:
    check_attributes(op)
    if os.geteuid() == 0 and (op.uid is not None or op.gid is not None):
        mode = os.fstat(fd).st_mode
        uid = _UNCHANGED if op.uid is None else op.uid
        os.fchown(fd, uid, _UNCHANGED if op.gid is None else op.gid)
        os.fchmod(fd, stat.S_IMODE(mode))  # whether bits go with the owner stands in the op
    if op.mode is not None:
        os.fchmod(fd, op.mode)
    now = os.fstat(fd)
    atime_ns = now.st_atime_ns if op.atime_ns is None else op.atime_ns
    os.utime(fd, ns=(atime_ns, now.st_mtime_ns if op.mtime_ns is None else op.mtime_ns))


def _set_xattr(fd: int, op: SetXattr) -> None:
    check_xattr(op)
    raw, value = bytes_of(op.name), op.value
    if value is None:
        as_owner(fd, lambda: os.removexattr(fd, raw))
    else:
        as_owner(fd, lambda: os.setxattr(fd, raw, value, op.flags))
