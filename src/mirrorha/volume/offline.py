"""What was changed in a volume's directory while its node was not running. Pure.

While a node runs, nobody else changes the directory: every change is an op, and what it touches is
in the log before. While it does not, the directory is an ordinary one, and people edit in it. So a
node leaves a stamp: a time of the file system's own clock up to which every change was its own. A
file whose ctime is later was changed by somebody else, for no program can set a ctime.

A node that ends in good order knows that time exactly. One that is killed has told it ahead, by
AHEAD_NS at most: what lies between was changed by the node in its last moments, or by somebody at
once after them. There a file of which the log knows is taken for the node's own work, unless it
carries the mark of an ordinary write: a time of change that is its ctime to the nanosecond, where
an op has set another. (Else every crash would have each file compared whole that was in use.)

Not caught: a file that was in use, edited in place within AHEAD_NS of a crash, of which something
else was changed then too (its time of change set back, its mode, its name); and whatever was edited
while the clock was behind the stamp, if it is ahead of it again at the next start. A clock that is
still behind is noticed.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

from mirrorha.volume.ops import Kind
from mirrorha.volume.touched import INODE, NAMES, TouchKey, tail

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How long a stamp speaks for changes after it. Renewed when a quarter of that is over, so that a
#: change may take the rest; what takes longer is compared for nothing if the node is killed then.
AHEAD_NS: Final = 2_000_000_000
RENEW_NS: Final = AHEAD_NS // 4


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """Every change up to `noted_ns` was the node's own, and any up to `until_ns` may be.

    They are the same once the node has ended in good order. `marker_ns`: the marker in the root
    had this ctime, durably; 0: nobody has noted one.
    """

    noted_ns: int
    until_ns: int
    marker_ns: int = 0

    @property
    def is_final(self) -> bool:
        """Whether nothing of the node's own came after it."""
        return self.noted_ns == self.until_ns

    @property
    def first_late_ns(self) -> int:
        """The earliest ctime that needs a judgement."""
        # Of two events within one tick of the clock nobody knows the order.
        return self.noted_ns + 1 if self.is_final else self.noted_ns


class Late(msgspec.Struct, frozen=True, array_like=True):
    """A file whose ctime is not covered by the stamp."""

    fid: int
    kind: Kind
    ctime_ns: int
    mtime_ns: int


class Cause(enum.Enum):
    """Why a late file is taken for one that somebody else has changed, or is not."""

    AFTER_THE_END = "changed after the node had ended"
    NOT_IN_THE_LOG = "changed, and the node has not announced it"
    CHEAP = "most likely changed by the node, but no file: comparing it costs nothing"
    PLAIN_WRITE = "its times are those of a plain write, not of an op"
    OURS = "changed by the node in its last moments"


def judge(late: Late, stamp: Stamp, *, is_logged: bool) -> Cause:
    """Say who has changed a late file.

    Args:
        is_logged: the touched log has an entry of it.
    """
    if late.ctime_ns > stamp.until_ns:
        return Cause.AFTER_THE_END
    if not is_logged:
        return Cause.NOT_IN_THE_LOG
    if late.kind is not Kind.FILE:
        return Cause.CHEAP
    if late.ctime_ns == late.mtime_ns:
        return Cause.PLAIN_WRITE
    return Cause.OURS


def entries_of(fid: int, kind: Kind) -> tuple[TouchKey, ...]:
    """The entries of a file that say: compare all of it."""
    match kind:
        case Kind.FILE:
            return (fid, INODE), (fid, tail(0))
        case Kind.DIRECTORY:
            return (fid, INODE), (fid, NAMES)
        case _:
            return ((fid, INODE),)


def is_emptied(*, known: int, gone: int) -> bool:
    """Whether so much is gone that a person is asked before that is mirrored: more than half."""
    return 2 * gone > known


def suspects(
    late: Iterable[Late], stamp: Stamp, logged: Iterable[TouchKey]
) -> list[tuple[Late, Cause]]:
    """The late files that somebody else may have changed, and why each is taken for one."""
    fids = {fid for fid, _ in logged}
    judged = ((each, judge(each, stamp, is_logged=each.fid in fids)) for each in late)
    return [(each, cause) for each, cause in judged if cause is not Cause.OURS]
