"""How a real disk applies ops to contents and attributes, and which part applies which op.

Whatever raises OSError here has left the volume as it was. The times in an op are set after the
change, on the file and on the directories that hold its names, so that both nodes have the same;
times of access stay as they are, unless an op says so.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, final

import msgspec

from mirrorha.errors import ensure
from mirrorha.volume.access_lists import ACL_ACCESS
from mirrorha.volume.disk import Kind, Outcome
from mirrorha.volume.local_disk.handles import OPENED_KINDS, as_owner, place_of
from mirrorha.volume.local_disk.syscalls import FATAL, NO_HOLES
from mirrorha.volume.names import bytes_of
from mirrorha.volume.op_checks import (
    MTIME_NS_MAX,
    MTIME_NS_MIN,
    OFFSET_MAX,
    check_attributes,
    check_fallocate,
    check_truncate,
    check_write,
    check_xattr,
    refusal,
)
from mirrorha.volume.ops import (
    FALLOCATE_KEEP_SIZE,
    FALLOCATE_PUNCH_HOLE,
    FALLOCATE_ZERO_RANGE,
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
_ZEROING: Final = FALLOCATE_PUNCH_HOLE | FALLOCATE_ZERO_RANGE
# A fallocate that fails so may have done a part of its work.
_MAY_BE_PARTIAL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EINTR, errno.ENOMEM})


@final
class OpApplier:
    """Applies ops to the files of one disk.

    Args:
        tree: Where every fid is.
        handles: The open descriptors.
        names: Applies the ops that change names.
        owners: Who may own files here.
        pwrite: Writes at an offset. Tests make it fail, as `fallocate`.
    """

    def __init__(
        self,
        tree: Tree,
        handles: Handles,
        names: NameApplier,
        owners: Owners,
        *,
        pwrite: Callable[[int, bytes, int], int],
        fallocate: Callable[[int, int, int, int], None],
    ) -> None:
        self._tree: Final = tree
        self._handles: Final = handles
        self._owners: Final = owners
        self._pwrite: Final = pwrite
        self._fallocate_fd: Final = fallocate
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
            Mknod: names.mknod,
            Fallocate: self._fallocate,
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
            os.utime(handle.fd, ns=(handle.atime_ns, handle.mtime_ns))
            raise
        if written < size_bytes:
            return self._finish_write(handle, op, written)
        if handle.fragile_mode:
            os.fchmod(handle.fd, handle.fragile_mode)
        os.utime(handle.fd, ns=(handle.atime_ns, mtime_ns))
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
        check_truncate(op)
        handle = self._file_to_change(op.fid)
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
            self._make_zeros(handle, request.offset, request.offset + length)
        finally:
            self._set_mtime(handle, handle.mtime_ns)

    def _fallocate(self, op: Fallocate) -> Outcome:
        handle = self._file_to_change(op.fid)
        check_fallocate(op)
        size_bytes = os.fstat(handle.fd).st_size
        try:
            self._fallocate_fd(handle.fd, op.mode, op.offset, op.length)
        except OSError as error:
            if error.errno in FATAL:
                raise
            if error.errno in NO_HOLES:
                self._fallocate_by_hand(handle, op, size_bytes)
            else:
                return self._undo_fallocate(handle, op, size_bytes, error)
        self._set_mtime(handle, op.mtime_ns)
        return Outcome(op)

    def _fallocate_by_hand(self, handle: Handle, op: Fallocate, size_bytes: int) -> None:
        """What a file system without it can do of it: what can be read is the same.

        Raises:
            OSError: ENOSPC, nothing has changed.
        """
        end = op.offset + op.length
        room = os.fstatvfs(handle.fd)
        if not op.mode & FALLOCATE_PUNCH_HOLE and op.length > room.f_bavail * room.f_frsize:
            raise refusal(errno.ENOSPC)
        if op.mode & _ZEROING:
            self._make_zeros(handle, op.offset, min(end, size_bytes))
        if not op.mode & FALLOCATE_KEEP_SIZE and end > size_bytes:
            os.ftruncate(handle.fd, end)

    def _undo_fallocate(
        self, handle: Handle, op: Fallocate, size_bytes: int, error: OSError
    ) -> Outcome:
        """It failed, and may have done a part: ext4 leaves a file that has grown.

        The size is put back. Zeros cannot be taken back: then all of the range becomes zeros, and
        that is what was done.
        """
        done = None
        if error.errno in _MAY_BE_PARTIAL:
            if os.fstat(handle.fd).st_size != size_bytes:
                os.ftruncate(handle.fd, size_bytes)
            if op.mode & _ZEROING and op.offset < size_bytes:
                length = min(op.length, size_bytes - op.offset)
                self._make_zeros(handle, op.offset, op.offset + length)
                mode = FALLOCATE_PUNCH_HOLE | FALLOCATE_KEEP_SIZE
                done = msgspec.structs.replace(op, mode=mode, length=length)
        self._set_mtime(handle, handle.mtime_ns if done is None else op.mtime_ns)
        return Outcome(done, error.errno or errno.EINVAL)

    def _make_zeros(self, handle: Handle, offset: int, end: int) -> None:
        """Make what can be read in a range zeros, as a hole where that can be had."""
        if offset >= end:
            return
        try:
            mode = FALLOCATE_PUNCH_HOLE | FALLOCATE_KEEP_SIZE
            self._fallocate_fd(handle.fd, mode, offset, end - offset)
        except OSError as error:
            if error.errno in FATAL:
                raise
            # No holes here, or, of all things, no room for one.
            for start in range(offset, end, BLOCK_BYTES):
                zeros = bytes(min(BLOCK_BYTES, end - start))
                self._write_all(handle, zeros, start)

    def _write_all(self, handle: Handle, data: bytes, offset: int) -> None:
        """Write what must not fail halfway: nobody could say what the file holds then."""
        try:
            written = self._pwrite(handle.fd, data, offset)
        except OSError as error:
            raise OSError(errno.EIO, f"zeros cannot be written: {error.strerror}") from error
        ensure(written == len(data), "zeros fit in a file")

    def _set_attributes(self, op: SetAttributes) -> Outcome:
        node = self._node_to_change(op.fid)
        check_attributes(op)
        if node.kind not in OPENED_KINDS:
            if op.mode is not None and node.kind is Kind.SYMLINK:
                raise refusal(errno.EOPNOTSUPP)
            with self._handles.pinned(node) as fd:
                outcome = self._change_attributes(place_of(fd), op)
            self._handles.mark_beside(node)
            return outcome
        handle = self._handles.get(node)
        outcome = self._change_attributes(handle.fd, op)
        done = outcome.done
        if isinstance(done, SetAttributes):
            if done.mode is not None:
                handle.note_mode(done.mode)
            if done.mtime_ns is not None:
                handle.mtime_ns = done.mtime_ns
            if done.atime_ns is not None:
                handle.atime_ns = done.atime_ns
        self._handles.mark_dirty(handle)
        return outcome

    def _change_attributes(self, target: int | str, op: SetAttributes) -> Outcome:
        done = SetAttributes(op.fid, None, None, None, None)
        try:
            uid, gid = self._owners.resolve(op.uid, op.gid)
            self._chown(target, uid, gid)
            done = msgspec.structs.replace(done, uid=uid, gid=gid)
            if op.mode is not None:
                os.chmod(target, op.mode)
                done = msgspec.structs.replace(done, mode=op.mode)
            if op.mtime_ns is not None or op.atime_ns is not None:
                _set_times(target, op)
                done = msgspec.structs.replace(done, mtime_ns=op.mtime_ns, atime_ns=op.atime_ns)
        except OSError as error:
            something = done.uid is not None or done.gid is not None or done.mode is not None
            if error.errno in FATAL or not something:
                raise
            return Outcome(done, error.errno or errno.EPERM)
        return Outcome(done)

    def _chown(self, target: int | str, uid: int | None, gid: int | None) -> None:
        if not self._owners.are_kept or (uid is None and gid is None):
            return
        mode = os.stat(target).st_mode
        os.chown(target, -1 if uid is None else uid, -1 if gid is None else gid)
        if mode & _KILLED_BY_CHOWN:
            # The kernel took them away. Whether that is wanted stands in the op, not here.
            os.chmod(target, stat.S_IMODE(mode))

    def _set_xattr(self, op: SetXattr) -> Outcome:
        node = self._node_to_change(op.fid)
        check_xattr(op)
        raw = bytes_of(op.name)
        if node.kind not in OPENED_KINDS:
            with self._handles.pinned(node) as fd:
                _change_xattr(place_of(fd), raw, op)
                mode = stat.S_IMODE(os.fstat(fd).st_mode)
            self._handles.mark_beside(node)
        else:
            handle = self._handles.get(node)
            as_owner(handle.fd, lambda: _change_xattr(handle.fd, raw, op))
            mode = stat.S_IMODE(os.fstat(handle.fd).st_mode)
            handle.note_mode(mode)
            handle.default_list = None
            self._handles.mark_dirty(handle)
        resulting = mode if op.name == ACL_ACCESS else None
        if (op.flags, op.mode) == (0, resulting):
            return Outcome(op)
        return Outcome(msgspec.structs.replace(op, flags=0, mode=resulting))

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
        os.utime(handle.fd, ns=(handle.atime_ns, mtime_ns))
        handle.mtime_ns = mtime_ns
        self._handles.mark_dirty(handle)


def _change_xattr(target: int | str, raw: bytes, op: SetXattr) -> None:
    if op.value is None:
        os.removexattr(target, raw)
    else:
        os.setxattr(target, raw, op.value, op.flags)


def _set_times(target: int | str, op: SetAttributes) -> None:
    now = os.stat(target)
    atime_ns = now.st_atime_ns if op.atime_ns is None else op.atime_ns
    mtime_ns = now.st_mtime_ns if op.mtime_ns is None else op.mtime_ns
    os.utime(target, ns=(atime_ns, mtime_ns))
