"""What goes into a volume's machine and what comes out of it.

`Volume.step(event, now_ms) -> list[Effect]`. A driver (trio, a worker's threads, the simulator)
performs the effects in order and returns what came of them as events. Messages on the stream
arrive in order, once, or the stream is down: that is all a driver promises about `Send`.
"""

from __future__ import annotations

import enum
import errno
import os

import msgspec

from mirrorha.core.orders import AnyOrder, AnyReport
from mirrorha.errors import NotPrimaryError, OutcomeUnknownError
from mirrorha.volume.disk import AnyRequest, Space
from mirrorha.volume.ops import AnyOp


class Lane(enum.IntEnum):
    """Requests of one lane are performed one after the other, in the order of their emission.

    An fsync takes long: it has a lane of its own, so that nothing queues behind it. BULK is for
    what a resync reads on the source: a request there is performed after every request of TREE
    that was emitted before it, but those emitted later may overtake it, so that the application's
    writes do not queue behind megabytes of comparing. A driver may treat BULK as TREE.
    """

    TREE = 0
    SYNC = 1
    BULK = 2

    # On the way of every write it is looked up; enum's own hash is a call in Python.
    __hash__ = int.__hash__


class Event(msgspec.Struct, frozen=True):
    """Base of all events."""


class Change(Event, frozen=True):
    """A local caller wants `op`. In ops that create, `fid` is 0: the machine draws it.

    Answered by exactly one `Reply(token)`.
    """

    token: int
    op: AnyOp


class Flush(Event, frozen=True):
    """A local caller wants `fid` durable (on both disks where there are two). One `Reply`.

    `data_only`: of a file content and size suffice, as for fdatasync.
    """

    token: int
    fid: int
    data_only: bool = False


class Withdraw(Event, frozen=True):
    """The caller with this token wants no answer any more (it was interrupted).

    If what it asked for waits and was not admitted, its one `Reply` says WITHDRAWN, and it never
    happens. Whatever was admitted may have been applied: it is answered as ever.
    """

    token: int


class Ordered(Event, frozen=True):
    """The node gave an order."""

    order: AnyOrder


class DiskDone(Event, frozen=True):
    """A disk request came back. `failure` is the text of a DiskError, "" if there was none."""

    token: int
    result: object
    failure: str = ""


class LinkUp(Event, frozen=True):
    """The stream to the peer's volume is connected (and authenticated)."""


class LinkDown(Event, frozen=True):
    """It broke. Messages sent before and not yet received are lost."""


class Received(Event, frozen=True):
    """One message of the stream, decoded, its checksum verified by the frame layer."""

    message: object


class SpaceSeen(Event, frozen=True):
    """What a follower's file system has room for. Given every few seconds while it follows."""

    space: Space


class Tick(Event, frozen=True):
    """Time passed. Given at least every 100 ms while anything is pending, and about every second
    otherwise: checkpoints go on until the touched log is empty."""


AnyEvent = (
    Change | Flush | Withdraw | Ordered | DiskDone | LinkUp | LinkDown | Received | SpaceSeen | Tick
)


class Effect(msgspec.Struct, frozen=True):
    """Base of all effects."""


class Send(Effect, frozen=True):
    """Send `message` on the stream, if it is up; else it is dropped (a replay will resend)."""

    message: object


class DiskCall(Effect, frozen=True):
    """Have the disk perform `request`; answer with `DiskDone(token, result)`."""

    token: int
    lane: Lane
    request: AnyRequest


class Failure(enum.Enum):
    """Why a change was not acknowledged."""

    NONE = "none"
    ERRNO = "errno"  # the file system refused it, on this node: `errno` says why
    NOT_PRIMARY = "not_primary"  # surely not applied
    UNKNOWN = "unknown"  # may have been applied, may survive
    WITHDRAWN = "withdrawn"  # surely not applied: its caller took it back


class Reply(Effect, frozen=True):
    """Answer a local caller. `op` is what was done (its fid, its actual length).

    None if nothing was: a flush, a refusal, or there was nothing to do.
    """

    token: int
    failure: Failure
    errno: int = 0
    op: AnyOp | None = None
    why: str = ""
    primary: str | None = None


class Reported(Effect, frozen=True):
    """Tell the node."""

    report: AnyReport


class ResetLink(Effect, frozen=True):
    """Close the stream: the peer broke the protocol, or a fresh start is needed; the driver dials
    again. `why` is for the log."""

    why: str


AnyEffect = Send | DiskCall | Reply | Reported | ResetLink


def outcome(reply: Reply, *, primary: str | None) -> AnyOp | None:
    """What a reply means to its caller: what was done, or an error.

    Args:
        primary: the node that may write now, if the reply does not know it.

    Raises:
        OSError: the file system refused it, or (EINTR) its caller took it back.
        NotPrimaryError: this node does not serve; nothing was changed.
        OutcomeUnknownError: it may or may not survive.
    """
    match reply.failure:
        case Failure.NONE:
            return reply.op
        case Failure.ERRNO:
            raise OSError(reply.errno, os.strerror(reply.errno))
        case Failure.NOT_PRIMARY:
            raise NotPrimaryError(primary=reply.primary or primary, why=reply.why)
        case Failure.WITHDRAWN:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        case Failure.UNKNOWN:
            raise OutcomeUnknownError(
                f"{reply.why or 'the volume was closed'}: whether this change survives is not "
                "known; read it back on the node that serves before you repeat it"
            )
