"""What an op may contain, and which files it needs durable.

Asked of every op, a local caller's and the peer's, before it enters the stream: whatever is in it
can be encoded, and names nothing outside of a volume. What a disk accepts beyond that it says
itself, as an errno, before the op has a place in the stream (`op_checks`).
"""

from __future__ import annotations

import errno
from typing import Final

from mirrorha.volume.names import checked_name, checked_target
from mirrorha.volume.op_checks import MODE_MAX, OWN_USER, OWNER_MAX, check_xattr
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
from mirrorha.wire.limits import WRITE_BYTES_MAX

_INT63_MAX: Final = (1 << 63) - 1

SOUND: Final = 0
MAKING: Final = frozenset({Create, Mkdir, Symlink})


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
    return _numbers_flaw(op) or _texts_flaw(op)


def travel_flaw(op: AnyOp) -> int:
    """What is wrong with an op that comes from a peer: it names the file it is about."""
    return flaw(op) or (SOUND if op.fid > 0 else errno.EINVAL)


def _numbers_flaw(op: AnyOp) -> int:
    size = op.size_bytes if isinstance(op, Truncate) else 0
    mtime_ns = 0 if isinstance(op, SetXattr) else op.mtime_ns or 0
    fids = [op.fid]
    owners: list[int | None] = []
    mode: int | None = None
    match op:
        case Create() | Mkdir():
            fids.append(op.parent)
            owners, mode = [op.uid, op.gid], op.mode
        case Symlink():
            fids.append(op.parent)
            owners = [op.uid, op.gid]
        case SetAttributes():
            owners, mode = [op.uid, op.gid], op.mode
        case Link() | Unlink() | Rmdir():
            fids.append(op.parent)
        case Rename():
            fids += [op.parent, op.new_parent, op.replaced]
        case _:
            pass
    good = (
        0 <= size <= _INT63_MAX
        and -_INT63_MAX <= mtime_ns <= _INT63_MAX
        and all(0 <= fid <= _INT63_MAX for fid in fids)
        and all(owner is None or OWN_USER <= owner <= OWNER_MAX for owner in owners)
        and (mode is None or 0 <= mode <= MODE_MAX)
    )
    return SOUND if good else errno.EINVAL


def _texts_flaw(op: AnyOp) -> int:
    """The texts are those of names that a volume may hold."""
    try:
        match op:
            case Rename():
                checked_name(op.name)
                checked_name(op.new_name)
            case Symlink():
                checked_name(op.name)
                checked_target(op.target)
            case Create() | Mkdir() | Link() | Unlink() | Rmdir():
                checked_name(op.name)
            case SetXattr():
                check_xattr(op)
            case _:
                pass
    except OSError as refused:
        return refused.errno or errno.EINVAL
    return SOUND


def size_bytes(op: AnyOp) -> int:
    """What `op` counts for in windows and queues; what is not content counts for its worst."""
    if type(op) is Write:
        return len(op.data) + 64
    if type(op) is SetXattr:
        return len(op.value or b"") + 512
    return 4608 if type(op) is Symlink else 1024


def durable_with(op: AnyOp) -> tuple[int, ...]:
    """The fids that must be synced for `op` to be durable."""
    match op:
        case Link() | Unlink() | Rmdir():
            return (op.parent,)
        case Create() | Mkdir() | Symlink():
            return op.parent, op.fid
        case Rename():
            return op.parent, op.new_parent
        case _:
            return (op.fid,)
