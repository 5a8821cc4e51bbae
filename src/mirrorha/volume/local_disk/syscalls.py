"""System calls that Python does not offer: birth times, the sync of one file system, holes,
names exchanged, a time set without the other, writing out a range.

On a system without them the answers are "unknown" and "not done".
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_STATX_BASIC_STATS: Final = 0x7FF
_STATX_BTIME: Final = 0x800
_STATX_ATTR_MOUNT_ROOT: Final = 0x2000
# mask, attributes, mode, inode, size, birth, ctime, mtime (s, ns each), device (major, minor)
_STATX: Final = struct.Struct("=I4xQ12xH2xQQ16x16xqI4xqI4xqI4x8xII")
_STATX_BYTES: Final = 256
_UTIME_OMIT: Final = (1 << 30) - 2
_SYNC_FILE_RANGE_WRITE: Final = 2
# What a file system without holes answers.
NO_HOLES: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
# Makes content and size of a descriptor's file durable; all of it, where nothing does less.
sync_data: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)
# What is answered where an extended attribute is not, or cannot be.
NO_XATTR: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP})


@attrs.frozen
class Identity:
    """What a file is, whatever its name. `birth_ns` is 0 where the file system keeps none."""

    mode: int
    inode: int
    size_bytes: int
    birth_ns: int
    device: int
    mtime_ns: int
    ctime_ns: int
    is_mount_root: bool = False


def _load(name: str, *, use_errno: bool = True) -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None, use_errno=use_errno), name, None)


_statx: Final = _load("statx")
_syncfs: Final = _load("syncfs")
# off_t is 64 bits in this one on every platform.
_fallocate: Final = _load("fallocate64")
_renameat2: Final = _load("renameat2")
_sync_file_range: Final = _load("sync_file_range")
# Often called, and keeping the errno costs: a failure is looked into by Python's.
_futimens: Final = _load("futimens", use_errno=False)


def identify(directory_fd: int, name: bytes = b"") -> Identity:
    """Identify `name` in a directory, not following it; or what the descriptor itself stands for.

    Raises:
        OSError: as stat().
    """
    if _statx is None:
        return _identify_by_stat(directory_fd, name)
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_SYMLINK_NOFOLLOW if name else _AT_EMPTY_PATH
    if _statx(directory_fd, name, flags, _STATX_BASIC_STATS | _STATX_BTIME, buffer):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    fields = _STATX.unpack_from(buffer)
    mask, attributes, mode, inode, size_bytes = fields[:5]
    birth_s, birth_ns, ctime_s, ctime_ns, mtime_s, mtime_ns, major, minor = fields[5:]
    born = mask & _STATX_BTIME
    return Identity(
        mode=mode,
        inode=inode,
        size_bytes=size_bytes,
        birth_ns=birth_s * 1_000_000_000 + birth_ns if born else 0,
        device=os.makedev(major, minor),
        mtime_ns=mtime_s * 1_000_000_000 + mtime_ns,
        ctime_ns=ctime_s * 1_000_000_000 + ctime_ns,
        is_mount_root=bool(attributes & _STATX_ATTR_MOUNT_ROOT),
    )


def sync_file_system(fd: int) -> None:
    """Write back everything of the file system that `fd` is on. Blocks.

    Only where CAN_SYNC_FILE_SYSTEM says so; elsewhere everything that the system has is synced,
    and errors go unseen.

    Raises:
        OSError: a write failed, of anything on that file system since `fd` was opened.
    """
    if not CAN_SYNC_FILE_SYSTEM:
        os.sync()
    elif _syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """As fallocate(2).

    Raises:
        OSError: one of NO_HOLES, that cannot be done here; ENOSPC: ext4 may have done a part.
    """
    if _fallocate is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if _fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def start_writing_out(fd: int, offset: int, length: int) -> None:
    """Have what is changed in a range written to the disk. Blocks only until it is on its way.

    It waits for nothing, and so hears of no failure: they are left for the next fsync to report.

    Raises:
        OSError: as sync_file_range(2).
    """
    if _sync_file_range is None:
        return
    where = ctypes.c_int64(offset), ctypes.c_int64(length)
    if _sync_file_range(fd, *where, _SYNC_FILE_RANGE_WRITE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename(source_fd: int, name: bytes, target_fd: int, new_name: bytes, flags: int) -> None:
    """As renameat2(2).

    Raises:
        OSError: EINVAL, flags are not known here; what rename(2) says.
    """
    if not flags:
        os.rename(name, new_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        return
    if _renameat2 is None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if _renameat2(source_fd, name, target_fd, new_name, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def set_mtime(fd: int, mtime_ns: int) -> None:
    """Set the time of change, and leave that of access as it is.

    Raises:
        OSError: as utimensat(2).
    """
    mtime_setter()(fd, mtime_ns)


def mtime_setter() -> Callable[[int, int], None]:
    """A `set_mtime` that costs no more than os.utime, for one thread."""
    futimens = _futimens
    if futimens is None or ctypes.sizeof(ctypes.c_long) != 8:
        return _set_mtime_slowly
    times = (ctypes.c_long * 4)(0, _UTIME_OMIT, 0, 0)

    def set_it(fd: int, mtime_ns: int) -> None:
        times[2], times[3] = divmod(mtime_ns, 1_000_000_000)
        if futimens(fd, times):
            _set_mtime_slowly(fd, mtime_ns)

    return set_it


def _set_mtime_slowly(fd: int, mtime_ns: int) -> None:
    os.utime(fd, ns=(os.fstat(fd).st_atime_ns, mtime_ns))


def _identify_by_stat(directory_fd: int, name: bytes) -> Identity:
    status = (
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False) if name else os.stat(directory_fd)
    )
    return Identity(
        mode=status.st_mode,
        inode=status.st_ino,
        size_bytes=status.st_size,
        birth_ns=int(getattr(status, "st_birthtime", 0) * 1_000_000_000),
        device=status.st_dev,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def _kernel() -> list[int]:
    numbers = os.uname().release.replace("-", ".").split(".")[:2]
    return [int(number) for number in numbers if number.isdigit()]


# Before Linux 5.8 it reports no writeback errors.
CAN_SYNC_FILE_SYSTEM: Final = (
    _syncfs is not None and sys.platform.startswith("linux") and _kernel() >= [5, 8]
)

# Failures that speak of the device, not of the request. EROFS: ext4 answers so once it has given
# up; a volume that was writable does not become read-only otherwise.
FATAL: Final = frozenset(
    getattr(errno, name)
    for name in (
        "EIO",
        "EROFS",
        "ENXIO",
        "ENODEV",
        "EUCLEAN",
        "ESHUTDOWN",
        "EREMOTEIO",
        "ENOTCONN",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)
