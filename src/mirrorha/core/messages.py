"""What two nodes say to each other on the control session. Fields are only ever appended.

A message is an observation or a request, never a command that must be obeyed: the receiver checks
every precondition against its own state, and a message that no longer fits is ignored. The link
delivers in order or breaks; what was sent before a break may be lost.
"""

from __future__ import annotations

import enum

import msgspec


class Standing(enum.IntEnum):
    """What a node is doing with its volumes; roles are for people."""

    STOPPED = 0
    WAITING = 1
    TARGET = 2  # being resynchronised
    FOLLOWER = 3  # applies and acknowledges a source's stream
    SOURCE = 4  # the one that may write


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all control messages."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A register, as it travels."""

    cluster_id: str
    epoch: int
    primary: str
    nonces: tuple[tuple[str, str], ...]


class RescueNote(msgspec.Struct, frozen=True, array_like=True):
    """What a node has kept of its side of a split, and no person has acknowledged yet.

    `directory`: below the volume's root.
    """

    volume: str
    directory: str
    files: int
    content_bytes: int


class PeerState(Message, frozen=True, tag=1):
    """All that the other node needs to know of this one. Sent at once and at every change.

    Attributes:
        number: rises with each of these; answers name it.
        incarnation: of the sender.
        standing, epoch: what it does, and in which epoch.
        alone: it is SOURCE in mode LOG.
        paired: the incarnation of the receiver with which it is, or was, a mirrored pair.
        held: the highest record it knows to have landed.
        nonces: its admission nonces, held and intended.
        unresolved: a CAS of its own may still land.
        deciding: it is frozen for a decision of its own.
        unclean, inconsistent, fresh: its data, see Meta; `fresh`: never belonged to a cluster.
        restarted: how it ended before this incarnation, by name (Boot).
        lineage, base: its generations.
        has_files: a volume of it holds files.
        accepts: it may be filled: its directories are its own or empty, or were given up.
        promotable: its can_promote callbacks say yes.
        ready: its volumes' streams are connected.
        sick: its disk failed.
        paused: maintenance.
        top_epoch: see Meta.
        service: word of its service's state.
        why: for people.
        role: for people.
        frozen: its volumes acknowledge nothing until ordered further.
        initiated: an operator said that the cluster begins with its directories.
        can_restart: its service's restart limit is not used up.
        accepted: an operator gave up what its directories hold.
        unusable: its volumes cannot be used as they are; a person must look at them.
        outdated: see Meta.
        inspected: its volumes were looked at; before that, `has_files` says nothing.
        lost: what the arbiter showed it last is no register to act on.
        unfilled: its disk did not take what it was to be filled with.
        rescued: see Meta.
        forced: it serves because an operator said so, without the arbiter so far.
    """

    number: int
    incarnation: int
    standing: Standing
    epoch: int
    alone: bool
    paired: int
    held: Record | None
    nonces: frozenset[str]
    unresolved: bool
    deciding: bool
    unclean: bool
    inconsistent: bool
    fresh: bool
    restarted: str
    lineage: tuple[str, ...]
    base: str | None
    has_files: bool
    accepts: bool
    promotable: bool
    ready: bool
    sick: bool
    paused: bool
    top_epoch: int
    service: str
    why: str
    role: str = "WAIT"
    frozen: bool = False
    initiated: bool = False
    can_restart: bool = True
    accepted: bool = False
    unusable: bool = False
    outdated: bool = False
    inspected: bool = False
    lost: bool = False
    unfilled: bool = False
    rescued: tuple[RescueNote, ...] = ()
    forced: bool = False


class Resume(Message, frozen=True, tag=2):
    """Source to follower, same pair, same epoch, nothing unresolved: go on where we were."""

    epoch: int
    generation: str
    round: int


class Prepare(Message, frozen=True, tag=3):
    """Make this record's epoch and your nonce durable: a CAS naming you is about to be sent.

    `freeze`: also acknowledge nothing from now on. `admit_lineage`: you are being admitted with
    this chain (your copy equals mine); empty: you are a member already.
    """

    record: Record
    freeze: bool
    admit_lineage: tuple[str, ...] = ()
    all_durable: bool = False


class Prepared(Message, frozen=True, tag=4):
    nonce: str


class Adopt(Message, frozen=True, tag=5):
    """This record landed and names you: act on it.

    As a follower in round `round` of the stream; 0: no round is open yet, stay frozen.
    """

    record: Record
    generation: str
    round: int


class Shadow(Message, frozen=True, tag=6):
    """The admission's outcome is unknown: follow in the old epoch until it is known."""

    epoch: int
    generation: str
    round: int


class BeTarget(Message, frozen=True, tag=7):
    """You are going to be filled: forget that your copy is consistent, then say so."""

    cluster_id: str
    epoch: int
    session: int


class TargetReady(Message, frozen=True, tag=8):
    session: int


class Farewell(Message, frozen=True, tag=9):
    """This incarnation acknowledges nothing any more and starts nothing: it is as good as dead."""

    incarnation: int
    why: str


class AskSwap(Message, frozen=True, tag=10):
    """An operator asked this node, the SECOND, for a swap: please begin one."""

    operation: str


class RegisterCopy(Message, frozen=True, tag=11):
    """Without an arbiter: the sender's half of the register. Sent at once and at every change.

    A change takes two phases. Who wants one says `proposed`; the peer makes that durable and says
    `promised`; then the proposer makes it its `copy`, which is the moment at which it has landed,
    and the peer follows. A proposal that is no longer told was given up, and never lands.

    Attributes:
        copy, promised, parted, outdated: see Meta.
        proposed: what the sender would like to put in the place of `copy`, or None.
        lineage: its generations: they show a split.
        leaving: it asks to be let go, before it stops.
        grants: the incarnation of the receiver that it lets go, or 0.
    """

    copy: Record | None
    proposed: Record | None
    promised: Record | None
    parted: Record | None
    outdated: bool
    lineage: tuple[str, ...]
    leaving: bool = False
    grants: int = 0


AnyMessage = (
    PeerState
    | Resume
    | Prepare
    | Prepared
    | Adopt
    | Shadow
    | BeTarget
    | TargetReady
    | Farewell
    | AskSwap
    | RegisterCopy
)
