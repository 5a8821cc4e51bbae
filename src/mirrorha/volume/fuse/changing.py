"""Requests that change names and attributes: each becomes ops, and is answered once they are made.

What is made belongs to the caller; what it inherits from its directory, the disk finds out. A new
owner or another size takes set-user-id bits away, which the kernel leaves to us. Each handler
answers, asks for a change, or raises OSError, which becomes the answer.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import unreachable
from mirrorha.volume.fuse.kernel import (
    CREATE_IN,
    FSYNC_FDATASYNC,
    FSYNC_IN,
    LINK_IN,
    MKDIR_IN,
    MKNOD_IN,
    OPEN_IN,
    OPEN_KILL_SUIDGID,
    RENAME2_IN,
    RENAME_IN,
    SETATTR_IN,
    SETXATTR_ACL_KILL_SGID,
    SETXATTR_IN,
    Fattr,
    Opcode,
)
from mirrorha.volume.fuse.privileges import without_set_id
from mirrorha.volume.fuse.requests import as_name, name_in, raw_names
from mirrorha.volume.names import text_of
from mirrorha.volume.op_checks import MTIME_NS_MIN
from mirrorha.volume.ops import (
    DEVICE_KINDS,
    Create,
    Kind,
    Link,
    Mkdir,
    Mknod,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Unlink,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.fuse.pending import Pending
    from mirrorha.volume.fuse.privileges import Privileges
    from mirrorha.volume.fuse.replies import Desk
    from mirrorha.volume.fuse.requests import Request
    from mirrorha.volume.fuse.writing import Writing
    from mirrorha.volume.ops import AnyOp

_NS: Final = 1_000_000_000
_ANY: Final = 0  # as a fid: whatever the name stands for; in what is made: to be drawn
_OWNER: Final = Fattr.UID | Fattr.GID
_NO_UMASK: Final = 0
_TIME_NS_MAX: Final = (1 << 63) - 1  # as ops hold it: a day in 2262
_SPECIAL_KINDS: Final = {
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


@final
class Changing:
    """Handles changes of names and attributes, and what is opened."""

    def __init__(
        self,
        desk: Desk,
        pending: Pending,
        privileges: Privileges,
        writing: Writing,
        clock_ns: Callable[[], int],
    ) -> None:
        self._desk: Final = desk
        self._view: Final = desk.view
        self._pending: Final = pending
        self._privileges: Final = privileges
        self._writing: Final = writing
        self._clock_ns: Final = clock_ns

    def handlers(self) -> dict[int, Callable[[Request], None]]:
        """Who handles what."""
        return {
            Opcode.OPEN: self._open,
            Opcode.CREATE: self._create,
            Opcode.MKNOD: self._mknod,
            Opcode.MKDIR: self._mkdir,
            Opcode.SYMLINK: self._symlink,
            Opcode.LINK: self._link,
            Opcode.UNLINK: self._unlink,
            Opcode.RMDIR: self._rmdir,
            Opcode.RENAME: self._rename,
            Opcode.RENAME2: self._rename2,
            Opcode.SETATTR: self._setattr,
            Opcode.SETXATTR: self._setxattr,
            Opcode.REMOVEXATTR: self._removexattr,
            Opcode.FSYNC: self._fsync,
            Opcode.FSYNCDIR: self._fsyncdir,
        }

    # ---- what is opened and made ---------------------------------------------------------------

    def _open(self, request: Request) -> None:
        flags, open_flags = OPEN_IN.unpack_from(request.body)
        unique, fid = request.unique, request.fid
        is_to_write = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if is_to_write and not self._desk.serving:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if flags & os.O_TRUNC:
            kill = bool(open_flags & OPEN_KILL_SUIDGID)
            self._resize(unique, fid, 0, kill=kill, then=lambda: self._answer_open(unique, fid))
        else:
            self._answer_open(unique, fid)

    def _answer_open(self, unique: int, fid: int) -> None:
        self._view.open(fid)
        if not self._desk.opened(unique, fid):
            self._view.release(fid)

    def _create(self, request: Request) -> None:
        flags, mode, umask, open_flags = CREATE_IN.unpack_from(request.body)
        name = name_in(request.body[CREATE_IN.size :])
        unique = request.unique
        there = self._view.lookup(request.fid, name)
        if there and not flags & os.O_EXCL:
            if flags & os.O_TRUNC:
                kill = bool(open_flags & OPEN_KILL_SUIDGID)
                self._resize(
                    unique, there, 0, kill=kill, then=lambda: self._answer_create(unique, there)
                )
            else:
                self._answer_create(unique, there)
            return
        self._make_file(request, name, mode, umask, lambda fid: self._answer_create(unique, fid))

    def _answer_create(self, unique: int, fid: int) -> None:
        self._view.open(fid)
        is_heard = False
        try:
            is_heard = self._desk.created(unique, fid)
        finally:
            if not is_heard:
                self._view.release(fid)

    def _mknod(self, request: Request) -> None:
        mode, rdev, umask = MKNOD_IN.unpack_from(request.body)
        name = name_in(request.body[MKNOD_IN.size :])
        unique, bits, now_ns = request.unique, stat.S_IMODE(mode), self._clock_ns()
        if stat.S_ISREG(mode):
            self._make_file(request, name, mode, umask, lambda fid: self._desk.entry(unique, fid))
            return
        kind = _SPECIAL_KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if kind not in DEVICE_KINDS:
            rdev = 0
        owners = request.uid, request.gid
        op = Mknod(_ANY, request.fid, name, kind, bits, rdev, *owners, now_ns, umask)
        self._make_entry(unique, op)

    def _make_file(
        self, request: Request, name: str, mode: int, umask: int, then: Callable[[int], None]
    ) -> None:
        bits, now_ns = stat.S_IMODE(mode), self._clock_ns()
        op = Create(_ANY, request.fid, name, bits, request.uid, request.gid, now_ns, umask)
        self._make(request.unique, op, then)

    def _mkdir(self, request: Request) -> None:
        mode, umask = MKDIR_IN.unpack_from(request.body)
        name = name_in(request.body[MKDIR_IN.size :])
        bits, now_ns = stat.S_IMODE(mode), self._clock_ns()
        op = Mkdir(_ANY, request.fid, name, bits, request.uid, request.gid, now_ns, umask)
        self._make_entry(request.unique, op)

    def _symlink(self, request: Request) -> None:
        raw_name, target = raw_names(request.body, 2)
        name, now_ns = as_name(raw_name), self._clock_ns()
        owners = request.uid, request.gid
        op = Symlink(_ANY, request.fid, name, text_of(target), *owners, now_ns, _NO_UMASK)
        self._make_entry(request.unique, op)

    def _make_entry(self, unique: int, op: AnyOp) -> None:
        self._make(unique, op, lambda fid: self._desk.entry(unique, fid))

    def _make(self, unique: int, op: AnyOp, then: Callable[[int], None]) -> None:
        def done(made: AnyOp | None) -> None:
            if made is None:
                unreachable("what makes something says what it made")
            then(made.fid)

        self._pending.change(unique, op, done)

    # ---- names ---------------------------------------------------------------------------------

    def _link(self, request: Request) -> None:
        (fid,) = LINK_IN.unpack_from(request.body)
        name = name_in(request.body[LINK_IN.size :])
        unique = request.unique
        if self._view.is_orphan(fid):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        op = Link(fid, request.fid, name, self._clock_ns())
        self._pending.change(unique, op, lambda _: self._desk.entry(unique, fid))

    def _unlink(self, request: Request) -> None:
        self._remove(request, Unlink(_ANY, request.fid, name_in(request.body), self._clock_ns()))

    def _rmdir(self, request: Request) -> None:
        self._remove(request, Rmdir(_ANY, request.fid, name_in(request.body), self._clock_ns()))

    def _remove(self, request: Request, op: Unlink | Rmdir) -> None:
        self._pending.change(request.unique, op, self._farewell(request.unique, op.parent, op.name))

    def _farewell(self, unique: int, parent: int, name: str) -> Callable[[AnyOp | None], None]:
        """To be called when what `name` stands for now has lost this name."""
        fid = self._view.lookup(parent, name)
        if not fid:
            return lambda _: self._desk.error(unique, 0)
        status = self._view.status(fid)[0]

        def done(_: AnyOp | None) -> None:
            self._desk.depart(fid, status)
            self._desk.error(unique, 0)

        return done

    def _rename(self, request: Request) -> None:
        (new_parent,) = RENAME_IN.unpack_from(request.body)
        self._move(request, new_parent, request.body[RENAME_IN.size :], 0)

    def _rename2(self, request: Request) -> None:
        new_parent, flags = RENAME2_IN.unpack_from(request.body)
        self._move(request, new_parent, request.body[RENAME2_IN.size :], flags)

    def _move(self, request: Request, new_parent: int, names: memoryview, flags: int) -> None:
        name, new_name = (as_name(raw) for raw in raw_names(names, 2))
        now_ns = self._clock_ns()
        op = Rename(_ANY, request.fid, name, new_parent, new_name, _ANY, now_ns, flags)
        done = self._farewell(request.unique, new_parent, new_name)
        self._pending.change(request.unique, op, done)

    # ---- attributes ----------------------------------------------------------------------------

    def _setattr(self, request: Request) -> None:
        fields = SETATTR_IN.unpack_from(request.body)
        valid, size_bytes, unique, fid = fields[0], fields[2], request.unique, request.fid
        op = self._attributes_op(request, fields)

        def then(*, is_first: bool) -> None:
            if op is None:
                self._desk.attributes(unique, fid)
                return
            self._privileges.changed(fid)
            self._pending.change(
                unique, op, lambda _: self._answer_attributes(unique, fid), is_first=is_first
            )

        if valid & Fattr.SIZE:
            kill = bool(valid & Fattr.KILL_SUIDGID)
            self._resize(unique, fid, size_bytes, kill=kill, then=lambda: then(is_first=False))
        else:
            then(is_first=True)

    def _answer_attributes(self, unique: int, fid: int) -> None:
        self._privileges.changed(fid)  # whoever looked before this was done saw something else
        self._desk.attributes(unique, fid)

    def _resize(
        self, unique: int, fid: int, size_bytes: int, *, kill: bool, then: Callable[[], None]
    ) -> None:
        if kill:
            self._writing.without_privileges(
                unique, fid, lambda _: self._writing.truncate(unique, fid, size_bytes, then)
            )
        else:
            self._writing.truncate(unique, fid, size_bytes, then)

    def _attributes_op(self, request: Request, fields: tuple[int, ...]) -> SetAttributes | None:
        """What a SETATTR changes besides the size; None if nothing."""
        fid = request.fid
        valid, _, _, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, uid, gid = fields
        if not valid:
            return self._no_new_owner(request)
        new_mode = stat.S_IMODE(mode) if valid & Fattr.MODE else None
        if new_mode is None and valid & _OWNER:
            new_mode = self._mode_left(fid)
        new_atime_ns = new_mtime_ns = None
        if valid & Fattr.ATIME:
            new_atime_ns = self._time_ns(atime, atime_ns, is_now=bool(valid & Fattr.ATIME_NOW))
        if valid & Fattr.MTIME and not valid & Fattr.SIZE:  # a new size sets it anyway
            new_mtime_ns = self._time_ns(mtime, mtime_ns, is_now=bool(valid & Fattr.MTIME_NOW))
        op = SetAttributes(
            fid,
            new_mode,
            uid if valid & Fattr.UID else None,
            gid if valid & Fattr.GID else None,
            new_mtime_ns,
            new_atime_ns,
        )
        return None if op == SetAttributes(fid, None, None, None, None) else op

    def _no_new_owner(self, request: Request) -> SetAttributes | None:
        """What a chown to -1, -1 changes: set-user-id bits, or only when the file was changed.

        The kernel says the same of who is about to write to an open file: then the WRITE takes them
        away. So what is open is left as it is by who does not own it, and the WRITE, if there is
        one, does it.

        Raises:
            OSError: EPERM, somebody else than the owner would take bits away.
        """
        fid = request.fid
        status = self._view.status(fid)[0]
        if stat.S_ISLNK(status.st_mode):  # which has no mode to set again
            return SetAttributes(fid, None, None, None, status.st_mtime_ns)
        left = self._mode_left(fid)
        if left is None or request.uid in (0, status.st_uid):
            mode = stat.S_IMODE(status.st_mode) if left is None else left
            return SetAttributes(fid, mode, None, None, None)
        if not self._view.is_open(fid):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return None

    def _mode_left(self, fid: int) -> int | None:
        """The mode without set-user-id bits; None if nothing changes."""
        mode = self._view.status(fid)[0].st_mode
        left = without_set_id(mode)
        return None if stat.S_ISDIR(mode) or left == stat.S_IMODE(mode) else left

    def _time_ns(self, seconds: int, nanoseconds: int, *, is_now: bool) -> int:
        if is_now:
            return self._clock_ns()
        # As file systems do with times that they cannot hold.
        return min(max(seconds * _NS + nanoseconds, MTIME_NS_MIN), _TIME_NS_MAX)

    def _setxattr(self, request: Request) -> None:
        size, flags, extra = SETXATTR_IN.unpack_from(request.body)
        rest = request.body[SETXATTR_IN.size :]
        raw = raw_names(rest, 1)[0]
        unique, fid, name = request.unique, request.fid, text_of(raw)
        value = bytes(rest[len(raw) + 1 : len(raw) + 1 + size])
        op = SetXattr(fid, name, value, flags)
        self._privileges.changed(fid)

        def done(_: AnyOp | None) -> None:
            self._privileges.changed(fid)
            mode = self._view.status(fid)[0].st_mode
            if extra & SETXATTR_ACL_KILL_SGID and mode & stat.S_ISGID:
                left = stat.S_IMODE(mode) & ~stat.S_ISGID
                kill = SetAttributes(fid, left, None, None, None)
                self._pending.change(
                    unique, kill, lambda _: self._desk.error(unique, 0), is_first=False
                )
            else:
                self._desk.error(unique, 0)

        self._pending.change(unique, op, done)

    def _removexattr(self, request: Request) -> None:
        unique = request.unique
        op = SetXattr(request.fid, text_of(raw_names(request.body, 1)[0]), None)
        self._pending.change(unique, op, lambda _: self._desk.error(unique, 0))

    # ---- the rest ------------------------------------------------------------------------------

    def _fsync(self, request: Request) -> None:
        _, flags = FSYNC_IN.unpack_from(request.body)
        data_only = bool(flags & FSYNC_FDATASYNC)
        self._pending.flush(request.unique, request.fid, data_only=data_only)

    def _fsyncdir(self, request: Request) -> None:
        # The names in a directory are its data: there is nothing less to do.
        self._pending.flush(request.unique, request.fid, data_only=False)
