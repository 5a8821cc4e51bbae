"""What the node orders its volumes to do, and what they report.

A volume never decides who may write: it carries out orders and reports facts. Orders reach a
volume in the order in which they were given; each that asks for an answer carries a token, and
a report with another token than the last one asked is stale and ignored. In this process they
are plain calls; between a cluster and a worker process they cross a pipe: no shared state.
"""

from __future__ import annotations

import enum

import msgspec


class Order(msgspec.Struct, frozen=True, tag=True):
    """Base of all orders."""


class Freeze(Order, frozen=True):
    """Acknowledge nothing more, to nobody; admit no new change.

    A source finishes the local applications under way; a follower finishes applying what it has
    acknowledged. Then `Frozen(token)`. Changes that wait stay pending. Idempotent.
    """

    token: int


class Sync(Order, frozen=True):
    """Make everything applied so far durable on this node's disk. Then `Synced(token)`."""

    token: int


class ServeAlone(Order, frozen=True):
    """Mode LOG: this node's acknowledgement is enough, every touched segment is recorded.

    Everything pending that was applied here is acknowledged; what waited is admitted.
    Only ever ordered after a CAS won by this incarnation, and after the generation was rotated
    durably for all volumes (rule 5.1.2).
    """

    epoch: int
    generation: str


class ServeMirror(Order, frozen=True):
    """Mode MIRROR in `epoch`: as the source of a follower that holds a prefix of our stream.

    Both sides are told the same `round`. The source asks on the stream where the follower is in
    this round, sends what lies above, and counts as acknowledged what lies below; nothing else
    flows before that answer. An order or a question of another round is not an answer to this one:
    whichever of the two comes first waits for the other.
    """

    epoch: int
    generation: str
    round: int


class Follow(Order, frozen=True):
    """Be the follower of a source in `epoch`: answer its question of `round`, then apply strictly
    in order and acknowledge. Ops that arrive before that question belong to an earlier round."""

    epoch: int
    generation: str
    round: int


class BecomeTarget(Order, frozen=True):
    """Be filled by the peer's `StartResync` with the same session number.

    `rescue`: the generation under which this side alone acknowledged what it has, "" if it did
    not: what differs is kept before it is replaced by what was acknowledged under
    `peer_generation`. Reports `Rescued(session)` at the end.
    """

    epoch: int
    session: int
    rescue: str = ""
    peer_generation: str = ""


class StartResync(Order, frozen=True):
    """Make the peer's volume equal to ours while we serve in LOG.

    `everything`: compare all; else only the union of both touched logs. Reports `Progress` now
    and then, and `NearlyEqual(session)` once so little is left that a pause would be short.
    """

    epoch: int
    session: int
    everything: bool
    seed: int  # of the block hashes; content can be hostile, so it is drawn anew each time


class CutOver(Order, frozen=True):
    """Pause changes, do the last pass, have both disks synced. Then `CutDone(token)`.

    From here on nothing is acknowledged until `ServeMirror` (join won, or its outcome unknown
    with the link up), `ServeAlone` (given up before the CAS was sent) or `Freeze`.
    """

    token: int


class Drain(Order, frozen=True):
    """For a swap: admit no new change; when the follower holds all and both are synced, `Drained`.

    Undone by `ServeMirror` in the same epoch.
    """

    token: int


class Close(Order, frozen=True):
    """Serve nothing: every pending and later change is answered with an error naming `why`.

    `primary` is who may write now, if known. What was applied but not acknowledged may survive or
    vanish: its caller gets `OutcomeUnknownError`; what was not yet applied, `NotPrimaryError`.
    """

    why: str
    primary: str | None


class StartVerify(Order, frozen=True):
    """Compare this copy with the follower's, while both go on. Ends with `VerifyEnded(session)`.

    Only a volume that mirrors can; any other order but `Sync` ends it. One at a time.

    Every name, its attributes and its content are compared, or with `fids` only those files. What
    differs is told (`VerifyFound`). With `repair` it is made on the follower what it is here: by
    ops of the stream where that is enough; else it stays, and the touched log has entries for it,
    so that the next resync compares it.
    """

    session: int
    seed: int  # of the hashes; content can be hostile, so it is drawn anew each time
    rate_bytes_per_s: int  # 0: there is no limit
    fids: list[int] = []
    repair: bool = False


class SetVerifyRate(Order, frozen=True):
    """Compare at most so much a second from now on. Void while nothing is compared."""

    rate_bytes_per_s: int


class SetResyncRate(Order, frozen=True):
    """As a source of a resync, go through at most so much content a second, from now on.

    It changes nothing of what a volume is doing, and holds for every later resync too. 0: there is
    no limit.
    """

    rate_bytes_per_s: int


class StopVerify(Order, frozen=True):
    """Compare no more; `VerifyEnded` says `why`. Void while nothing is compared."""

    why: str


class StopReason(enum.Enum):
    """Why a volume cannot go on, as it reports it."""

    OWN_DISK = "own_disk"  # EIO, fsync failure: what was not written back may be lost
    DISK_SLOW = "disk_slow"  # a disk operation longer than disk_max: nothing is known to be lost
    NOT_DRIVEN = "not_driven"  # its worker is of no use or gone: nothing is known to be lost
    PEER_DISK = "peer_disk"  # the follower answered ENOSPC, EIO or a checksum error
    PEER_STUCK = "peer_stuck"  # nothing acknowledged for peer_slow_max
    STREAM_SLOW = "stream_slow"  # half of that: try another address pair


class Report(msgspec.Struct, frozen=True, tag=True):
    """Base of all reports."""


class Frozen(Report, frozen=True):
    token: int


class Synced(Report, frozen=True):
    token: int


class CutDone(Report, frozen=True):
    token: int


class Drained(Report, frozen=True):
    token: int


class NearlyEqual(Report, frozen=True):
    session: int


class StreamUp(Report, frozen=True):
    """The two volumes' streams are connected; nothing flows before an order says so."""


class StreamDown(Report, frozen=True):
    """The stream broke. A volume in MIRROR acknowledges nothing until ordered further."""


class Trouble(Report, frozen=True):
    reason: StopReason
    text: str


class Replayed(Report, frozen=True):
    """After `ServeMirror`: the follower has everything that was pending then."""

    epoch: int


class Progress(Report, frozen=True):
    session: int
    done_bytes: int
    total_bytes: int
    files_left: int
    sent_bytes: int
    rate_bytes_per_s: int = 0  # how much of the content was gone through in a second, lately
    limit_bytes_per_s: int = 0  # how much may be, 0: as much as can be


class Rescued(Report, frozen=True):
    """A resync of this volume is at its end, and this is what it has kept of `generation`.

    `directory`: below the volume's root.
    """

    session: int
    generation: str
    directory: str
    files: int
    content_bytes: int


class Widened(Report, frozen=True):
    """A resync compares everything after all: the touched logs cannot be relied on."""

    session: int
    why: str


class ResyncFailed(Report, frozen=True):
    """The resync or cut-over broke off (stream, disk); begin again with `StartResync`.

    `here`: this node's disk refused something, as a full one does, and did not fail.
    """

    session: int
    text: str
    here: bool = False


class VerifyProgress(Report, frozen=True):
    """How far it is. While names are compared the totals still grow."""

    session: int
    done_files: int
    total_files: int
    done_bytes: int
    total_bytes: int


class VerifyFound(Report, frozen=True):
    """Something is not the same on the follower. Never told of what is merely under way.

    `what` is the name of what differs; of "content" `offset` and `length` say where. `mine` and
    `theirs` are for people: of content, hashes. `repaired`: it was, and the two are the same now.
    """

    session: int
    fid: int
    path: str
    what: str
    mine: str
    theirs: str
    offset: int = 0
    length: int = 0
    repaired: bool = False


class VerifyEnded(Report, frozen=True):
    """It is over. `why` is empty if all was compared that was to be.

    `differences` counts what was found, told or not, `repaired` how much of that is no more.
    `fids` are the files that still differ, the first of them if they are many.
    """

    session: int
    why: str
    files: int
    bytes: int
    differences: int
    repaired: int = 0
    fids: list[int] = []


AnyOrder = (
    Freeze
    | Sync
    | ServeAlone
    | ServeMirror
    | Follow
    | BecomeTarget
    | StartResync
    | CutOver
    | Drain
    | Close
    | StartVerify
    | SetVerifyRate
    | StopVerify
    | SetResyncRate
)
#: They change nothing of what a volume is doing for the node.
AnyVerifyOrder = StartVerify | SetVerifyRate | StopVerify
AnyReport = (
    Frozen
    | Synced
    | CutDone
    | Drained
    | NearlyEqual
    | StreamUp
    | StreamDown
    | Trouble
    | Replayed
    | Progress
    | Rescued
    | Widened
    | ResyncFailed
    | VerifyProgress
    | VerifyFound
    | VerifyEnded
)
#: For whoever asked for it; no decision of the node looks at them.
AnyVerifyReport = VerifyProgress | VerifyFound | VerifyEnded
