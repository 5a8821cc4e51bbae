"""How a real disk applies ops to contents and attributes, and which part applies which op.

Whatever raises OSError here has left the volume as it was. The times in an op are set after the
change, on the file and on the directories that hold its names, so that both nodes have the same.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, final

import msgspec

from mirrorha.errors import ensure
from mirrorha.volume.disk import Kind, Outcome
from mirrorha.volume.local_disk.handles import as_owner
from mirrorha.volume.local_disk.syscalls import FATAL, NO_HOLES, punch_hole
from mirrorha.volume.names import bytes_of
from mirrorha.volume.op_checks import (
    MTIME_NS_MAX,
    MTIME_NS_MIN,
    OFFSET_MAX,
    check_attributes,
    check_truncate,
    check_write,
    check_xattr,
    refusal,
)
from mirrorha.volume.ops import (
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
)
from mirrorha.wire.limits import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import PunchHole
    from mirrorha.volume.local_disk.handles import Handle, Handles
    from mirrorha.volume.local_disk.naming import NameApplier
    from mirrorha.volume.local_disk.owners import Owners
    from mirrorha.volume.local_disk.tree import Node, Tree

_KILLED_BY_CHOWN: Final = stat.S_ISUID | stat.S_ISGID


@final
class OpApplier:
    """Applies ops to the files of one disk.

    Args:
        tree: Where every fid is.
        handles: The open descriptors.
        names: Applies the ops that change names.
        owners: Who may own files here.
        pwrite: Writes at an offset. Tests make it fail.
    """

    def __init__(
        self,
        tree: Tree,
        handles: Handles,
        names: NameApplier,
        owners: Owners,
        *,
        pwrite: Callable[[int, bytes, int], int],
    ) -> None:
        self._tree: Final = tree
        self._handles: Final = handles
        self._owners: Final = owners
        self._pwrite: Final = pwrite
        self._table: Final[dict[type, Callable[..., Outcome]]] = {
            Write: self._write,
            Truncate: self._truncate,
            Create: names.create,
            Mkdir: names.mkdir,
            Symlink: names.symlink,
            Link: names.link,
            Unlink: names.unlink,
            Rmdir: names.rmdir,
            Rename: names.rename,
            SetAttributes: self._set_attributes,
            SetXattr: self._set_xattr,
        }

    def apply(self, op: AnyOp) -> Outcome:
        """Apply one op. Blocks.

        Raises:
            OSError: nothing has changed.
        """
        return self._table[type(op)](op)

    def _write(self, op: Write) -> Outcome:
        # The hot path: a write of a page should cost little more than its two system calls.
        handle = self._handles.open.get(op.fid)
        if handle is None or not handle.dirty or handle.node.kind is not Kind.FILE:
            handle = self._file_to_change(op.fid)
        mtime_ns = op.mtime_ns
        size_bytes = len(op.data)
        in_range = 0 <= op.offset <= OFFSET_MAX - size_bytes
        if not (in_range and size_bytes and MTIME_NS_MIN <= mtime_ns <= MTIME_NS_MAX):
            check_write(op)
            return Outcome(None)
        try:
            written = self._pwrite(handle.fd, op.data, op.offset)
        except OSError:
            # The kernel may have set the time before it found that there was no room.
            os.utime(handle.fd, ns=(handle.mtime_ns, handle.mtime_ns))
            raise
        if written < size_bytes:
            return self._finish_write(handle, op, written)
        if handle.fragile_mode:
            os.fchmod(handle.fd, handle.fragile_mode)
        os.utime(handle.fd, ns=(mtime_ns, mtime_ns))
        handle.mtime_ns = mtime_ns
        if not handle.dirty:
            self._handles.mark_dirty(handle)
        return Outcome(op)

    def _finish_write(self, handle: Handle, op: Write, written: int) -> Outcome:
        """Go on after a short write, up to the error that made it short."""
        number = 0
        while written < len(op.data) and not number:
            try:
                more = self._pwrite(handle.fd, op.data[written:], op.offset + written)
                ensure(more > 0, "a write that does not fail writes something")
                written += more
            except OSError as error:
                if error.errno is None or error.errno in FATAL:
                    raise
                number = error.errno
        self._set_mtime(handle, op.mtime_ns)
        done = op if not number else msgspec.structs.replace(op, data=op.data[:written])
        return Outcome(done, number)

    def _truncate(self, op: Truncate) -> Outcome:
        handle = self._file_to_change(op.fid)
        check_truncate(op)
        os.ftruncate(handle.fd, op.size_bytes)
        self._set_mtime(handle, op.mtime_ns)
        return Outcome(op)

    def punch_hole(self, request: PunchHole) -> None:
        """Make a range of a file zeros; its size and time stay.

        Raises:
            OSError: it could not be done; a part of the range may be zeros.
        """
        handle = self._file_to_change(request.fid, wrong_kind=errno.ESTALE)
        size_bytes = os.fstat(handle.fd).st_size
        length = min(request.length, size_bytes - request.offset)
        if request.offset < 0 or length <= 0:
            return
        try:
            punch_hole(handle.fd, request.offset, length)
        except OSError as error:
            if error.errno not in NO_HOLES:
                raise
            for start in range(request.offset, request.offset + length, BLOCK_BYTES):
                zeros = bytes(min(BLOCK_BYTES, request.offset + length - start))
                ensure(self._pwrite(handle.fd, zeros, start) == len(zeros), "zeros fit in a file")
        finally:
            self._set_mtime(handle, handle.mtime_ns)

    def _set_attributes(self, op: SetAttributes) -> Outcome:
        node = self._node_to_change(op.fid)
        check_attributes(op)
        if node.kind is Kind.SYMLINK:
            return self._set_attributes_of_symlink(node, op)
        handle = self._handles.get(node)
        done = SetAttributes(op.fid, None, None, None, None)
        try:
            uid, gid = self._owners.resolve(op.uid, op.gid)
            self._chown(handle, uid, gid)
            done = msgspec.structs.replace(done, uid=uid, gid=gid)
            if op.mode is not None:
                os.fchmod(handle.fd, op.mode)
                handle.note_mode(op.mode)
                done = msgspec.structs.replace(done, mode=op.mode)
            if op.mtime_ns is not None:
                self._set_mtime(handle, op.mtime_ns)
                done = msgspec.structs.replace(done, mtime_ns=op.mtime_ns)
        except OSError as error:
            something = done.uid is not None or done.gid is not None or done.mode is not None
            if error.errno in FATAL or not something:
                raise
            self._handles.mark_dirty(handle)
            return Outcome(done, error.errno or errno.EPERM)
        self._handles.mark_dirty(handle)
        return Outcome(done)

    def _chown(self, handle: Handle, uid: int | None, gid: int | None) -> None:
        if not self._owners.are_kept or (uid is None and gid is None):
            return
        mode = os.fstat(handle.fd).st_mode
        os.fchown(handle.fd, -1 if uid is None else uid, -1 if gid is None else gid)
        if mode & _KILLED_BY_CHOWN:
            # The kernel took them away. Whether that is wanted stands in the op, not here.
            os.fchmod(handle.fd, stat.S_IMODE(mode))

    def _set_attributes_of_symlink(self, node: Node, op: SetAttributes) -> Outcome:
        if op.mode is not None:
            raise refusal(errno.EOPNOTSUPP)
        name = node.names[0]
        directory = self._handles.get(name.parent)
        raw = bytes_of(name.name)
        uid, gid = self._owners.resolve(op.uid, op.gid)
        if self._owners.are_kept and (uid is not None or gid is not None):
            os.chown(
                raw,
                -1 if uid is None else uid,
                -1 if gid is None else gid,
                dir_fd=directory.fd,
                follow_symlinks=False,
            )
        if op.mtime_ns is not None:
            times = (op.mtime_ns, op.mtime_ns)
            os.utime(raw, ns=times, dir_fd=directory.fd, follow_symlinks=False)
        # A symlink cannot be opened, so its own inode cannot be synced: with the directory, the
        # journal of every file system in use takes it along.
        self._handles.mark_dirty(directory)
        return Outcome(msgspec.structs.replace(op, uid=uid, gid=gid))

    def _set_xattr(self, op: SetXattr) -> Outcome:
        node = self._node_to_change(op.fid)
        check_xattr(op)
        if node.kind is Kind.SYMLINK:
            raise refusal(errno.EPERM)
        handle = self._handles.get(node)
        raw = bytes_of(op.name)
        value = op.value
        if value is None:
            as_owner(handle.fd, lambda: os.removexattr(handle.fd, raw))
        else:
            as_owner(handle.fd, lambda: os.setxattr(handle.fd, raw, value))
        self._handles.mark_dirty(handle)
        return Outcome(op)

    def _node_to_change(self, fid: int) -> Node:
        node = self._tree.nodes.get(fid)
        if node is None:
            raise refusal(errno.ESTALE)
        return node

    def _file_to_change(self, fid: int, *, wrong_kind: int = 0) -> Handle:
        node = self._node_to_change(fid)
        if node.kind is not Kind.FILE:
            is_directory = node.kind is Kind.DIRECTORY
            raise refusal(wrong_kind or (errno.EISDIR if is_directory else errno.EINVAL))
        handle = self._handles.get(node)
        if not handle.is_owner:
            # Its time could not be set, and the nodes would differ.
            raise refusal(errno.EPERM)
        return handle

    def _set_mtime(self, handle: Handle, mtime_ns: int) -> None:
        if handle.fragile_mode:
            os.fchmod(handle.fd, handle.fragile_mode)
        os.utime(handle.fd, ns=(mtime_ns, mtime_ns))
        handle.mtime_ns = mtime_ns
        self._handles.mark_dirty(handle)
