"""What no disk accepts in an op, before it looks at a file. Pure.

Ops come from callers and from the peer: their numbers are checked here, their names in
`mirrorha.volume.names`.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from mirrorha.volume.names import check_xattr_length, check_xattr_name, checked_name
from mirrorha.volume.ops import (
    DEVICE_KINDS,
    FALLOCATE_KEEP_SIZE,
    FALLOCATE_PUNCH_HOLE,
    FALLOCATE_ZERO_RANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    SPECIAL_KINDS,
    XATTR_CREATE,
    XATTR_REPLACE,
    Birth,
    Create,
    Fallocate,
    Mkdir,
    Mknod,
    Rename,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Write,
)
from mirrorha.wire.limits import XATTR_BYTES_MAX

# ext4 would store another time than one beyond these: 1901 to 2446.
MTIME_NS_MIN: Final = -(1 << 31) * 1_000_000_000
MTIME_NS_MAX: Final = ((1 << 34) - (1 << 31) - 1) * 1_000_000_000
OFFSET_MAX: Final = (1 << 63) - 1
MODE_MAX: Final = 0o7777
# While a file is being made, its owner alone may use it, and the sticky bit, which means nothing
# on a file and little on a directory of one user, says that it is not finished.
HALF_MADE_MODE: Final = 0o1600
HALF_MADE_DIRECTORY_MODE: Final = 0o1700
UMASK_MAX: Final = 0o777
# 12 bits of major and 20 of minor number, as every file system of Linux keeps them.
RDEV_MAX: Final = (1 << 32) - 1
# What a new file comes with counts together.
BIRTH_XATTRS_MAX: Final = 16
OWNER_MAX: Final = (1 << 32) - 2
FID_MAX: Final = (1 << 63) - 1
# Fids up to here are no file's: the root, and what a disk keeps hidden.
RESERVED_FID_MAX: Final = 15
_FALLOCATE_MODES: Final = frozenset(
    {
        0,
        FALLOCATE_KEEP_SIZE,
        FALLOCATE_PUNCH_HOLE | FALLOCATE_KEEP_SIZE,
        FALLOCATE_ZERO_RANGE,
        FALLOCATE_ZERO_RANGE | FALLOCATE_KEEP_SIZE,
    }
)
_RENAME_FLAGS: Final = frozenset({0, RENAME_NOREPLACE, RENAME_EXCHANGE})
#: As an owner: the user that the node runs as.
OWN_USER: Final = -1


def refusal(number: int) -> OSError:
    """The error to raise for what cannot be done."""
    return OSError(number, os.strerror(number))


def missing(name: str) -> OSError:
    """The error for a name that is not there: of one that is too long to be, another one."""
    try:
        checked_name(name)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return error
    return refusal(errno.ENOENT)


def check_mtime(mtime_ns: int) -> None:
    """Refuse a time that a file system would change.

    Raises:
        OSError: EINVAL.
    """
    if not MTIME_NS_MIN <= mtime_ns <= MTIME_NS_MAX:
        raise refusal(errno.EINVAL)


def check_write(op: Write) -> None:
    """Refuse a write that no file can take.

    Raises:
        OSError: EINVAL, EFBIG.
    """
    check_mtime(op.mtime_ns)
    if op.offset < 0:
        raise refusal(errno.EINVAL)
    if op.offset + len(op.data) > OFFSET_MAX:
        raise refusal(errno.EFBIG)


def check_truncate(op: Truncate) -> None:
    """Refuse a size that no file can have.

    Raises:
        OSError: EINVAL, EFBIG.
    """
    check_mtime(op.mtime_ns)
    if op.size_bytes < 0:
        raise refusal(errno.EINVAL)
    if op.size_bytes > OFFSET_MAX:
        raise refusal(errno.EFBIG)


def check_fallocate(op: Fallocate) -> None:
    """Refuse a range that no file has, and what is done to one where not every disk can.

    Raises:
        OSError: EINVAL, EFBIG, EOPNOTSUPP.
    """
    check_mtime(op.mtime_ns)
    if op.offset < 0 or op.length <= 0:
        raise refusal(errno.EINVAL)
    if op.mode not in _FALLOCATE_MODES:
        raise refusal(errno.EOPNOTSUPP)
    if op.offset + op.length > OFFSET_MAX:
        raise refusal(errno.EFBIG)


def check_birth(op: Birth) -> None:
    """Refuse numbers that no file has.

    Raises:
        OSError: EINVAL; of an extended attribute, as `check_xattr`.
    """
    check_mtime(op.mtime_ns)
    mode = 0 if isinstance(op, Symlink) else op.mode
    owners = OWN_USER <= op.uid <= OWNER_MAX and OWN_USER <= op.gid <= OWNER_MAX
    umask = op.umask is None or 0 <= op.umask <= UMASK_MAX
    if not (RESERVED_FID_MAX < op.fid <= FID_MAX and 0 <= mode <= MODE_MAX and owners and umask):
        raise refusal(errno.EINVAL)
    if isinstance(op, Mknod):
        check_device(op)
    if not isinstance(op, Symlink) and op.xattrs:
        check_birth_xattrs(op)


def check_device(op: Mknod) -> None:
    """Refuse a number that is no device's, and kinds that other ops make.

    Raises:
        OSError: EINVAL.
    """
    rdev_max = RDEV_MAX if op.kind in DEVICE_KINDS else 0
    if op.kind not in SPECIAL_KINDS or not 0 <= op.rdev <= rdev_max:
        raise refusal(errno.EINVAL)


def check_birth_xattrs(op: Create | Mkdir | Mknod) -> None:
    """Refuse what no new file can come with.

    Raises:
        OSError: as `check_xattr`.
    """
    for name, value in op.xattrs.items():
        check_xattr(SetXattr(op.fid, name, value))
    room = XATTR_BYTES_MAX - sum(len(value) for value in op.xattrs.values())
    if room < 0 or len(op.xattrs) > BIRTH_XATTRS_MAX:
        raise refusal(errno.E2BIG)


def check_rename(op: Rename) -> None:
    """Refuse a time that no file has, and flags that mean nothing here.

    Raises:
        OSError: EINVAL.
    """
    check_mtime(op.mtime_ns)
    if op.flags not in _RENAME_FLAGS:
        raise refusal(errno.EINVAL)


def check_attributes(op: SetAttributes) -> None:
    """Refuse numbers that no file has.

    Raises:
        OSError: EINVAL.
    """
    for time_ns in (op.mtime_ns, op.atime_ns):
        if time_ns is not None:
            check_mtime(time_ns)
    if op.mode is not None and not 0 <= op.mode <= MODE_MAX:
        raise refusal(errno.EINVAL)
    for owner in (op.uid, op.gid):
        if owner is not None and not OWN_USER <= owner <= OWNER_MAX:
            raise refusal(errno.EINVAL)


def check_xattr(op: SetXattr) -> None:
    """Refuse an attribute that is not mirrored, or too large.

    Raises:
        OSError: EOPNOTSUPP, EINVAL, ERANGE, EILSEQ, E2BIG.
    """
    if not 0 <= op.flags <= (XATTR_CREATE | XATTR_REPLACE if op.value is not None else 0):
        raise refusal(errno.EINVAL)
    if op.mode is not None and not 0 <= op.mode <= MODE_MAX:
        raise refusal(errno.EINVAL)
    check_xattr_length(op.name)
    if op.value is not None and len(op.value) > XATTR_BYTES_MAX:
        raise refusal(errno.E2BIG)
    check_xattr_name(op.name)
