"""What happens to a node. `Node.step` takes one of these at a time, with the time.

Answers to slow effects carry the token of the effect; a stale token is ignored and counted.
"""

from __future__ import annotations

import enum

import attrs

from mirrorha.core.detector import PeerBeat
from mirrorha.core.messages import AnyMessage
from mirrorha.core.orders import AnyReport
from mirrorha.core.register import Register
from mirrorha.core.words import Allow


@attrs.frozen
class Tick:
    """Time passed. Given by the deadline that `Node.next_deadline_ms` names, or earlier.

    `listened_at_ms`: when whoever hears the heartbeats for this node last surely did, if that is
    somebody else: silence that nobody listened to says nothing.
    """

    listened_at_ms: int | None = None


@attrs.frozen
class BeatHeard:
    """An authenticated, fresh heartbeat arrived on `path` at `heard_at_ms`."""

    path: str
    beat: PeerBeat
    heard_at_ms: int


@attrs.frozen
class PortRefused:
    """The peer's port refused actively on every path, and its connections had been reset."""

    incarnation: int
    probed_since_ms: int


@attrs.frozen
class LinkOpened:
    """The control session is up: both have agreed that they belong together.

    Attributes:
        link: rises with each session; messages of earlier ones are dropped by the driver.
        incarnation: the peer's.
    """

    link: int
    incarnation: int


@attrs.frozen
class LinkClosed:
    link: int


@attrs.frozen
class Heard:
    """A control message of the current session."""

    message: AnyMessage


class Gone(enum.Enum):
    """What a read can find in place of a register."""

    ABSENT = "absent"
    CORRUPT = "corrupt"


@attrs.frozen
class RegisterRead:
    """Answer to `ReadRegister`. `found` None: no answer, which says nothing."""

    token: int
    found: Register | Gone | None


class CasOutcome(enum.Enum):
    WON = "won"
    REFUSED = "refused"  # the register differed; this attempt can never land
    NOT_SENT = "not-sent"  # it surely never took effect and never will
    UNKNOWN = "unknown"  # it may land later


@attrs.frozen
class CasDone:
    """Answer to `Cas`."""

    token: int
    outcome: CasOutcome


@attrs.frozen
class VolumeReported:
    volume: str
    report: AnyReport


@attrs.frozen
class ServiceStarted:
    token: int


@attrs.frozen
class ServiceStopped:
    """The stop ended: by itself, or killed at its deadline (`clean` False)."""

    token: int
    clean: bool = True


@attrs.frozen
class ServiceFailed:
    """A start failed, a running service ended, or a check with an action failed.

    `token` is that of the start that this is about. `action`: restart, hand_over, stop.
    """

    token: int
    text: str
    action: str = "restart"


class Verb(enum.Enum):
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    SWAP = "swap"
    PAUSE = "pause"
    RESUME = "resume"
    INIT = "init"  # this node's directories are the ones to begin with
    ACCEPT = "accept"  # this node's directories are given up: fill them (resync NODE --full)
    ACKNOWLEDGE = "acknowledge"  # what was kept of a split was seen by a person
    FORCE_PRIMARY = "force-primary"  # go on with what this node holds, whatever that lacks
    FORCE_SECONDARY = "force-secondary"  # give up this node's standing, and wait for the peer


@attrs.frozen
class Command:
    """An operator, or the application, asks. Answered by one `CommandDone` (and progress).

    `allowed`: what goes with `FORCE_PRIMARY`.
    """

    operation: str
    verb: Verb
    allowed: frozenset[Allow] = frozenset()


@attrs.frozen
class VolumesInspected:
    """What the directories are, at start and whenever that changes.

    Attributes:
        has_files: at least one holds files.
        ours: all carry the ids of this cluster, or are empty.
        problem: why they cannot be used at all (missing, not mounted, foreign), else "".
        anew: what drove one of them had failed, and all were closed and opened again since: that
            failure is over.
        lost: what was in the page cache of one could not be written back.
        put_back: one is of an older day than this node's own state.
    """

    has_files: bool
    ours: bool
    problem: str = ""
    anew: bool = False
    lost: bool = False
    put_back: bool = False


@attrs.frozen
class PromotableChanged:
    """The can_promote callbacks changed their mind."""

    promotable: bool


@attrs.frozen
class IsolationChecked:
    """Answer to `RunIsolationChecks`: whether every configured address answered."""

    token: int
    all_answered: bool


@attrs.frozen
class FencerAnswered:
    """Answer to `AskFencer`. `stopped` only if the peer is *known* to be stopped."""

    token: int
    stopped: bool


AnyEvent = (
    Tick
    | BeatHeard
    | PortRefused
    | LinkOpened
    | LinkClosed
    | Heard
    | RegisterRead
    | CasDone
    | VolumeReported
    | ServiceStarted
    | ServiceStopped
    | ServiceFailed
    | Command
    | VolumesInspected
    | PromotableChanged
    | IsolationChecked
    | FencerAnswered
)
