"""Steps that tasks often take with a disk, their results given a type."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from mirrorha.errors import VolumeError, ensure
from mirrorha.volume.disk import (
    AnyRequest,
    Apply,
    Attributes,
    ClearLimbo,
    Entry,
    HashBlocks,
    ListDirectory,
    Outcome,
    Place,
    PunchHole,
    ReadAttributes,
    ReadBytes,
    SetAside,
)
from mirrorha.volume.ops import AnyOp
from mirrorha.volume.tasks.task import Call, CallAll, Steps

_MOVING: Final = (SetAside, Place, ClearLimbo)
# The file is gone: it was so on the source. Or an xattr, which two tasks may both have removed.
_NOTHING_TO_DO: Final = frozenset({errno.ESTALE, errno.ENOENT, errno.ENODATA})


def attributes_of(fid: int) -> Steps[Attributes | None]:
    """A file's attributes, None if it is gone."""
    found = yield Call(ReadAttributes(fid))
    ensure(found is None or isinstance(found, Attributes), "a disk answers with attributes")
    return found  # type: ignore[no-any-return]


def attributes_of_all(fids: Sequence[int]) -> Steps[list[Attributes | None]]:
    """The attributes of several files, in their order."""
    found: list[Attributes | None] = yield CallAll([ReadAttributes(fid) for fid in fids])
    ensure(
        all(one is None or isinstance(one, Attributes) for one in found),
        "a disk answers with attributes",
    )
    return found


def entries_of(fid: int) -> Steps[list[Entry] | None]:
    """A directory's entries, None if it is gone."""
    found = yield Call(ListDirectory(fid))
    ensure(found is None or isinstance(found, list), "a disk answers with a list")
    return found  # type: ignore[no-any-return]


def hashes_of(fid: int, first: int, count: int, seed: int) -> Steps[list[bytes] | None]:
    """The hashes of a file's blocks, None if it is gone."""
    found = yield Call(HashBlocks(fid, first, count, seed))
    ensure(found is None or isinstance(found, list), "a disk answers with hashes")
    return found  # type: ignore[no-any-return]


def bytes_of_all(reads: Sequence[ReadBytes]) -> Steps[list[bytes | None]]:
    """What several files hold, None where one is gone."""
    found: list[bytes | None] = yield CallAll(reads)
    ensure(all(one is None or isinstance(one, bytes) for one in found), "a disk answers with bytes")
    return found


def change(requests: Sequence[AnyOp | PunchHole]) -> Steps[None]:
    """Change files, in this order, and see that it was done.

    A file that is gone is none to change, an extended attribute that is gone is none to remove.

    Raises:
        VolumeError: the disk refused.
    """
    calls: list[AnyRequest] = [
        one if isinstance(one, PunchHole) else Apply(one) for one in requests
    ]
    outcomes = yield CallAll(calls)
    for request, outcome in zip(requests, outcomes, strict=True):
        check_outcome(request, outcome, _NOTHING_TO_DO)


def check_outcome(request: AnyOp | PunchHole, outcome: object, allowed: frozenset[int]) -> int:
    """The errno of what came of a change, which is 0 or one of `allowed`.

    Raises:
        VolumeError: the disk refused.
    """
    ensure(isinstance(outcome, Outcome), "a disk answers a change with its outcome")
    number = outcome.errno  # type: ignore[attr-defined]
    if number == 0 or number in allowed:
        return int(number)
    raise _refused(f"{type(request).__name__} of file {request.fid:#x}", number)


def check_moved(request: AnyRequest, result: object) -> None:
    """See that names were moved or deleted, if that is what was asked for.

    Raises:
        VolumeError: the disk refused.
    """
    if isinstance(request, _MOVING) and isinstance(result, Outcome):
        raise _refused(type(request).__name__, result.errno)


def errno_name(number: int) -> str:
    """An errno for people: ENOSPC, EACCES, …"""
    return errno.errorcode.get(number, str(number))


def _refused(what: str, number: int) -> VolumeError:
    return VolumeError(f"the target's disk refused a {what}: {errno_name(number)}")
