"""What no disk accepts in an op, before it looks at a file. Pure.

Ops come from callers and from the peer: their numbers are checked here, their names in
`mirrorha.volume.names`.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from mirrorha.volume.names import check_xattr_name
from mirrorha.volume.ops import Create, Mkdir, SetAttributes, SetXattr, Symlink, Truncate, Write
from mirrorha.wire.limits import XATTR_BYTES_MAX

# ext4 would store another time than one beyond these: 1901 to 2446.
MTIME_NS_MIN: Final = -(1 << 31) * 1_000_000_000
MTIME_NS_MAX: Final = ((1 << 34) - (1 << 31) - 1) * 1_000_000_000
OFFSET_MAX: Final = (1 << 63) - 1
MODE_MAX: Final = 0o7777
OWNER_MAX: Final = (1 << 32) - 2
FID_MAX: Final = (1 << 63) - 1
# Fids up to here are no file's: the root, and what a disk keeps hidden.
RESERVED_FID_MAX: Final = 15
#: As an owner: the user that the node runs as.
OWN_USER: Final = -1


def refusal(number: int) -> OSError:
    """The error to raise for what cannot be done."""
    return OSError(number, os.strerror(number))


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


def check_birth(op: Create | Mkdir | Symlink) -> None:
    """Refuse numbers that no file has.

    Raises:
        OSError: EINVAL.
    """
    check_mtime(op.mtime_ns)
    mode = 0 if isinstance(op, Symlink) else op.mode
    owners = OWN_USER <= op.uid <= OWNER_MAX and OWN_USER <= op.gid <= OWNER_MAX
    if not (RESERVED_FID_MAX < op.fid <= FID_MAX and 0 <= mode <= MODE_MAX and owners):
        raise refusal(errno.EINVAL)


def check_attributes(op: SetAttributes) -> None:
    """Refuse numbers that no file has.

    Raises:
        OSError: EINVAL.
    """
    if op.mtime_ns is not None:
        check_mtime(op.mtime_ns)
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
    check_xattr_name(op.name)
    if op.value is not None and len(op.value) > XATTR_BYTES_MAX:
        raise refusal(errno.E2BIG)
