"""The node's memory between steps. Changed only by the rule modules of the core."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from mirrorha.core.detector import Detector, PathState
from mirrorha.core.messages import PeerState, RegisterCopy, Standing
from mirrorha.core.meta import Meta
from mirrorha.core.orders import Progress
from mirrorha.core.register import Register
from mirrorha.core.settings import Settings
from mirrorha.core.words import Boot, Mode, Role

if TYPE_CHECKING:
    import random

    from mirrorha.core.events import Gone


class ServiceState(enum.Enum):
    """Where the application under care is."""

    OFF = "stopped"
    STARTING = "starting"
    ON = "started"
    STOPPING = "stopping"


class Stage(enum.Enum):
    """Where a decision stands. Each kind of decision uses some of these, in this order."""

    HEAD_START = "head-start"  # a SECOND lets the PRIM decide first
    STOP_SERVICE = "stop-service"
    FILL = "fill"  # a resync runs
    FREEZE = "freeze"
    SYNC = "sync"
    DRAIN = "drain"
    CUT_OVER = "cut-over"
    ASK = "ask"  # the register is being read
    PREPARE = "prepare"  # the peer makes its nonce durable
    CAS = "cas"  # sent, and not answered yet
    SHADOW = "shadow"  # admission unknown: mirrored in the old epoch
    GOODBYE = "goodbye"  # without an arbiter: the peer is asked to let this node go


class Kind(enum.Enum):
    """What is being decided."""

    ALONE = "alone"  # 5.1.2, 5.1.4, 5.2, 5.0
    RECONCILE = "reconcile"  # 5.1.3
    JOIN = "join"  # 5.1.6
    SWAP = "swap"  # 5.3
    LEAVE = "leave"  # an orderly stop of this node


@attrs.define
class Decision:
    """A change of membership or authority under way. At most one at a time.

    Attributes:
        kind, stage, why: what, how far, and for people: why.
        since_ms: when this stage began.
        token: of the orders given in this stage; answers with another one are stale.
        missing: volumes that have not answered yet.
        base, record: the CAS being prepared or sent.
        proven: the peer's death was proven, not inferred from silence.
        chosen: rule 5.2 chose this node with both there: 5.1.7 does not bind.
        session, peer: of a resync, and the peer's incarnation that is filled.
        everything: a resync that compares all.
        operation: of an operator's command, or "".
        next_ms: not before this time the next attempt.
    """

    kind: Kind
    stage: Stage
    why: str
    since_ms: int
    token: int = 0
    missing: set[str] = attrs.Factory(set)
    base: Register | None = None
    record: Register | None = None
    proven: bool = False
    chosen: bool = False
    session: int = 0
    peer: int = 0
    everything: bool = True
    operation: str = ""
    next_ms: int = 0


@attrs.define
class PairRegister:
    """Without an arbiter: what this node remembers of keeping the register with its peer.

    What must last is in Meta. See `pairwise` (agreeing), `evidence` (going on without the peer),
    `goodbye` (letting go) and `split` (both went on).

    Attributes:
        heard: what the peer last told in this session; None: nothing yet.
        told: what this node last told.
        proposed, proposed_token, proposed_ms: our change, the request it answers, since when.
        gave_up: our copy at the moment when the peer told that it gave up its standing in it.
        stopped: the peer's incarnation that a fencer confirmed to be stopped, or 0.
        signs, sign_ms: the peer's signs of life so far, and when the latest was taken in.
        answered_ms: when all isolation checks last answered in a row; None: there is no row.
        listened_ms: how long this node surely listened in the row, and the peer was silent.
        answers: how many of the row came when the peer was lost and there was no session.
        looked_ms: the latest step.
        checking, check_ms, fencing, fence_ms: tokens of what is under way, and next attempts.
        leaving: this node asked to be let go.
        grants: the incarnation of the peer that was let go, or 0.
        leave_after: operation and reason of a stop that goes on once this node is alone.
        why: the latest reason for giving no answer.
    """

    heard: RegisterCopy | None = None
    told: RegisterCopy | None = None
    proposed: Register | None = None
    proposed_token: int = 0
    proposed_ms: int = 0
    gave_up: Register | None = None
    stopped: int = 0
    signs: int = 0
    sign_ms: int = 0
    answered_ms: int | None = None
    listened_ms: int = 0
    answers: int = 0
    looked_ms: int = 0
    checking: int = 0
    check_ms: int = 0
    fencing: int = 0
    fence_ms: int = 0
    leaving: bool = False
    grants: int = 0
    leave_after: tuple[str, str] | None = None
    why: str = ""


@attrs.define
class Watch:
    """What this node has told of its heartbeats; see `watching`.

    Attributes:
        paths: the state of each path that was told of last.
        one_way_ms: when each path was not a one-way one, most recently.
        unheard_ms: when no path worked both ways, most recently.
        stalled: that the peer's application does not turn its loop was told.
    """

    paths: dict[str, PathState] = attrs.Factory(dict)
    one_way_ms: dict[str, int] = attrs.Factory(dict)
    unheard_ms: int = 0
    stalled: bool = False


@attrs.define
class State:
    """Everything a node knows. See the rule modules for who changes what.

    Attributes:
        standing, role, mode, epoch: what this node does, and in which epoch.
        frozen: the volumes were told, or are known, to acknowledge nothing.
        paired: the peer's incarnation with which this incarnation is a mirrored pair, or 0.
        round: of the stream, as its source opened it last; see `orders.ServeMirror`.
        adopted: a joiner holds our current generation: rotate before acknowledging alone.
        link, peer: the control session (0: none) and what the peer last said on it.
        streams: volumes whose stream is connected.
        unresolved: CAS attempts (base, record) that may still land.
        mine: nonces of this incarnation's own attempts.
        asked, cas_asked: tokens of the outstanding arbiter requests, or 0.
        asked_knowing: cluster id and highest epoch that were known when the read was asked for.
        sent: (base, record) of the outstanding CAS, None if there is none.
        refused: an attempt was, and the register has not been seen to move since.
        pair: how this node keeps the register with its peer, without an arbiter.
        watch: what was told of heartbeats.
        stop_asked: operation and reason of a stop that begins once the arbiter has answered.
    """

    settings: Settings
    meta: Meta
    boot: Boot
    rng: random.Random
    detector: Detector

    standing: Standing = Standing.STOPPED
    role: Role = Role.STOP
    mode: Mode = Mode.FROZEN
    epoch: int = 0
    frozen: bool = True
    frozen_since_ms: int = 0
    paired: int = 0
    round: int = 0
    adopted: bool = False
    since_ms: int = 0
    why: str = "not started"

    link: int = 0
    peer: PeerState | None = None
    linked_ms: int = 0
    unlinked_ms: int = 0
    streams: set[str] = attrs.Factory(set)
    streams_down_ms: int = 0
    excluded: str = ""
    resume_ms: int = 0

    decision: Decision | None = None
    unresolved: list[tuple[Register | None, Register]] = attrs.Factory(list)
    mine: set[str] = attrs.Factory(set)
    asked: int = 0
    asked_knowing: tuple[str | None, int] = (None, 0)
    cas_asked: int = 0
    sent: tuple[Register | None, Register] | None = None
    ask_next_ms: int = 0
    answered_ms: int = -(10**9)
    seen: Register | Gone | None = None
    register_problem: str = ""
    refused: bool = False

    inspected: bool = False
    has_files: bool = False
    ours: bool = True
    problem: str = ""
    initiated: bool = False
    accepted: bool = False
    promotable: bool = True
    sick: str = ""
    unfilled: str = ""

    service: ServiceState = ServiceState.OFF
    service_token: int = 0
    serve_after_ms: int = 0
    restarts_ms: list[int] = attrs.Factory(list)
    gave_up: str = ""
    hold_service: bool = False
    open_swap: str = ""
    stop_asked: tuple[str, str] | None = None
    may_serve: bool = False

    join_after_ms: int = 0
    join_failures: int = 0
    progress: dict[str, Progress] = attrs.Factory(dict)
    probed: int = 0

    pair: PairRegister = attrs.Factory(PairRegister)
    watch: Watch = attrs.Factory(Watch)

    tokens: int = 0
    stale: int = 0
    told: PeerState | None = None
    told_number: int = 0
    now_ms: int = 0

    def next_token(self) -> int:
        self.tokens += 1
        return self.tokens

    @property
    def me(self) -> str:
        return self.settings.node

    @property
    def other(self) -> str:
        return self.settings.peer

    @property
    def is_alone(self) -> bool:
        """This node is the source and acknowledges alone."""
        return self.standing is Standing.SOURCE and self.mode is Mode.LOG

    @property
    def is_leaving(self) -> bool:
        """This node is being stopped: what was asked of it is not undone by the peer."""
        return self.decision is not None and self.decision.kind is Kind.LEAVE

    @property
    def is_mirrored(self) -> bool:
        """This node is the source of a pair, flowing or frozen."""
        return self.standing is Standing.SOURCE and self.mode is not Mode.LOG

    def nonce(self) -> str:
        return f"{self.rng.getrandbits(64):016x}"
