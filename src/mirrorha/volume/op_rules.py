"""What an op may contain, and which files it needs durable.

Asked of every op, a local caller's and the peer's, before it enters the stream: whatever is in it
can be encoded, and names nothing outside of a volume. What a disk accepts beyond that it says
itself, as an errno, before the op has a place in the stream (`op_checks`).
"""

from __future__ import annotations

import errno
from typing import Final

from mirrorha.volume.names import checked_name, checked_target
from mirrorha.volume.op_checks import (
    MODE_MAX,
    OWN_USER,
    OWNER_MAX,
    UMASK_MAX,
    check_birth_xattrs,
    check_device,
    check_fallocate,
    check_rename,
    check_xattr,
)
from mirrorha.volume.ops import (
    AnyOp,
    Birth,
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
from mirrorha.wire.limits import WRITE_BYTES_MAX

_INT63_MAX: Final = (1 << 63) - 1

SOUND: Final = 0
MAKING: Final = frozenset({Create, Mkdir, Symlink, Mknod})
#: About a name. All others are about the file that they say.
NAMING: Final = MAKING | {Link, Unlink, Rmdir, Rename}


def flaw(op: AnyOp) -> int:
    """The errno that says what is wrong with `op`, SOUND if nothing is.

    A fid of 0 passes: in a caller's op it means "to be drawn" or "whatever is there". What travels
    must pass `travel_flaw` too.
    """
    if type(op) is Write:  # the hot path
        if not 0 <= op.fid <= _INT63_MAX or not -_INT63_MAX <= op.mtime_ns <= _INT63_MAX:
            return errno.EINVAL
        if len(op.data) > WRITE_BYTES_MAX or op.offset < 0:
            return errno.EINVAL
        return SOUND if op.offset <= _INT63_MAX - WRITE_BYTES_MAX else errno.EFBIG
    if not _has_lawful_numbers(op):
        return errno.EINVAL
    try:
        _check_texts(op)
        _check_rest(op)
    except OSError as refused:
        return refused.errno or errno.EINVAL
    return SOUND


def travel_flaw(op: AnyOp) -> int:
    """What is wrong with an op that comes from a peer: it names the file it is about, and leaves
    nothing open."""
    if type(op) is Write:
        return flaw(op) or (SOUND if op.fid > 0 else errno.EINVAL)
    is_open = (isinstance(op, Birth) and op.umask is not None) or (
        isinstance(op, SetXattr) and op.flags != 0
    )
    return flaw(op) or (SOUND if op.fid > 0 and not is_open else errno.EINVAL)


def _has_lawful_numbers(op: AnyOp) -> bool:
    size = op.size_bytes if isinstance(op, Truncate) else 0
    times: list[int | None] = [] if isinstance(op, SetXattr) else [op.mtime_ns]
    fids = [op.fid]
    owners: list[int | None] = []
    mode: int | None = None
    match op:
        case Create() | Mkdir() | Mknod() | Symlink():
            fids.append(op.parent)
            owners, mode = [op.uid, op.gid], 0 if isinstance(op, Symlink) else op.mode
            size = 0 if op.umask is None or 0 <= op.umask <= UMASK_MAX else -1
        case SetAttributes():
            owners, mode = [op.uid, op.gid], op.mode
            times.append(op.atime_ns)
        case Link() | Unlink() | Rmdir():
            fids.append(op.parent)
        case Rename():
            fids += [op.parent, op.new_parent, op.replaced]
        case _:
            pass
    return (
        0 <= size <= _INT63_MAX
        and all(time is None or -_INT63_MAX <= time <= _INT63_MAX for time in times)
        and all(0 <= fid <= _INT63_MAX for fid in fids)
        and all(owner is None or OWN_USER <= owner <= OWNER_MAX for owner in owners)
        and (mode is None or 0 <= mode <= MODE_MAX)
    )


def _check_texts(op: AnyOp) -> None:
    """The texts are those of names that a volume may hold."""
    match op:
        case Rename():
            checked_name(op.name)
            checked_name(op.new_name)
        case Symlink():
            checked_target(op.target)
            checked_name(op.name)
        case Create() | Mkdir() | Mknod() | Link() | Unlink() | Rmdir():
            checked_name(op.name)
        case _:
            pass


def _check_rest(op: AnyOp) -> None:
    """What only ops of this kind have is lawful."""
    match op:
        case Create() | Mkdir():
            check_birth_xattrs(op)
        case Mknod():
            check_device(op)
            check_birth_xattrs(op)
        case Rename():
            check_rename(op)
        case SetXattr():
            check_xattr(op)
        case Fallocate():
            check_fallocate(op)
        case _:
            pass


def size_bytes(op: AnyOp) -> int:
    """What `op` counts for in windows and queues; what is not content counts for its worst."""
    if type(op) is Write:
        return len(op.data) + 64
    if type(op) is SetXattr:
        return len(op.value or b"") + 512
    if type(op) is Symlink:
        return 4608
    xattrs = op.xattrs if isinstance(op, Create | Mkdir | Mknod) else {}
    return 1024 + sum(len(value) + 512 for value in xattrs.values())


def durable_with(op: AnyOp) -> tuple[int, ...]:
    """The fids that must be synced for `op` to be durable."""
    match op:
        case Link() | Unlink() | Rmdir():
            return (op.parent,)
        case Create() | Mkdir() | Symlink() | Mknod():
            return op.parent, op.fid
        case Rename():
            return op.parent, op.new_parent
        case _:
            return (op.fid,)
