"""What an op asks for, as plain system calls on a directory of its own."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import msgspec

from mirrorha.volume.disk import Kind, ReadAttributes
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.ops import (
    ROOT_FID,
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

FORMATS = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
_libc = ctypes.CDLL(None, use_errno=True)


class Look(msgspec.Struct, frozen=True):
    """What can be told apart of a file, whatever its times and its inode."""

    mode: int
    uid: int
    gid: int
    rdev: int
    links: int
    size_bytes: int
    content: bytes
    target: str
    xattrs: dict[str, bytes]


def look(path: Path) -> Look:
    status = path.lstat()
    is_file = stat.S_ISREG(status.st_mode)
    is_link = stat.S_ISLNK(status.st_mode)
    return Look(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        rdev=status.st_rdev,
        links=status.st_nlink,
        size_bytes=status.st_size if is_file else 0,
        content=path.read_bytes() if is_file else b"",
        target=os.readlink(path) if is_link else "",
        xattrs={
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        },
    )


def look_at_all(root: Path) -> dict[str, Look]:
    """Everything below `root`, and itself."""
    found = {"": look(root)}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = look(path)
    return found


@final
class Kernel:
    """The directory `root`, where each op is carried out as a program would that knows no op.

    Args:
        paths: Where a fid is, relative to the root; None: nowhere.
    """

    def __init__(self, root: Path, paths: Callable[[int], str | None]) -> None:
        self._root = root
        self._paths = paths

    def names_what_is_there(self, op: AnyOp) -> bool:
        """Whether the op is about files that a path leads to: others a program cannot name."""
        fids = [getattr(op, name, ROOT_FID) for name in ("parent", "new_parent")]
        if not isinstance(op, Create | Mkdir | Mknod | Symlink | Unlink | Rmdir | Rename):
            fids.append(op.fid)
        if not all(self._paths(fid) is not None for fid in fids):
            return False
        # A symlink as a directory would be followed.
        return not any(self.at(fid).is_symlink() for fid in fids[:2])

    def perform(self, op: AnyOp) -> int:
        """The errno that comes of it."""
        handler: Any = getattr(self, f"_{type(op).__name__.lower()}")
        try:
            handler(op)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def at(self, fid: int) -> Path:
        path = self._paths(fid)
        assert path is not None
        return self._root / path

    def _in(self, op: Any, name: str) -> str:
        # Not a Path: it would swallow what makes no sense.
        return f"{self.at(op.parent)}/{name}"

    def _write(self, op: Write) -> None:
        fd = os.open(self.at(op.fid), os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.pwrite(fd, op.data, op.offset)
        finally:
            os.close(fd)

    def _truncate(self, op: Truncate) -> None:
        os.truncate(self.at(op.fid), op.size_bytes)

    def _fallocate(self, op: Fallocate) -> None:
        fd = os.open(self.at(op.fid), os.O_WRONLY | os.O_NOFOLLOW)
        try:
            offset, length = ctypes.c_int64(op.offset), ctypes.c_int64(op.length)
            _check(_libc.fallocate64(fd, op.mode, offset, length))
        finally:
            os.close(fd)

    def _create(self, op: Create) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        os.close(_masked(op.umask, lambda: os.open(self._in(op, op.name), flags, op.mode)))

    def _mkdir(self, op: Mkdir) -> None:
        _masked(op.umask, lambda: os.mkdir(self._in(op, op.name), op.mode))

    def _mknod(self, op: Mknod) -> None:
        mode = FORMATS[op.kind] | op.mode
        _masked(op.umask, lambda: os.mknod(self._in(op, op.name), mode, op.rdev))

    def _symlink(self, op: Symlink) -> None:
        os.symlink(op.target, self._in(op, op.name))

    def _link(self, op: Link) -> None:
        os.link(self.at(op.fid), self._in(op, op.name), follow_symlinks=False)

    def _unlink(self, op: Unlink) -> None:
        os.unlink(self._in(op, op.name))

    def _rmdir(self, op: Rmdir) -> None:
        os.rmdir(self._in(op, op.name))

    def _rename(self, op: Rename) -> None:
        old = os.fsencode(self._in(op, op.name))
        new = os.fsencode(f"{self.at(op.new_parent)}/{op.new_name}")
        _check(_libc.renameat2(-100, old, -100, new, op.flags))

    def _setattributes(self, op: SetAttributes) -> None:
        path = self.at(op.fid)
        if op.mode is not None:
            _without_following(path, lambda place: os.chmod(place, op.mode or 0))
        if op.uid is not None or op.gid is not None:
            uid, gid = (-1 if one is None else one for one in (op.uid, op.gid))
            os.chown(path, uid, gid, follow_symlinks=False)

    def _setxattr(self, op: SetXattr) -> None:
        path = self.at(op.fid)
        if op.value is None:
            os.removexattr(path, op.name, follow_symlinks=False)
        else:
            os.setxattr(path, op.name, op.value, op.flags, follow_symlinks=False)


def paths_of(disk: RealDisk) -> Callable[[int], str | None]:
    """Where a fid is in this disk, by one of its names."""

    def path_of(fid: int) -> str | None:
        if disk.perform(ReadAttributes(fid)) is None:
            return None
        parts: list[str] = []
        node = disk._tree.nodes[fid]
        while node.names:
            parts.insert(0, node.names[0].name)
            node = node.names[0].parent
        return "/".join(parts)

    return path_of


def _masked(umask: int | None, call: Callable[[], Any]) -> Any:
    before = os.umask(umask or 0)
    try:
        return call()
    finally:
        os.umask(before)


def _without_following(path: Path, call: Callable[[str], None]) -> None:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        call(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def kernel_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
