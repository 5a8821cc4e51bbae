"""The node: `step(event, now_ms) -> Batch`. Total, deterministic, and the only way in."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

from mirrorha.core import (
    acting,
    alone,
    commands,
    evidence,
    hearing,
    join,
    meeting,
    pairwise,
    serving,
    steady,
    swap,
    watching,
)
from mirrorha.core.acting import give_up, step_down
from mirrorha.core.detector import Detector
from mirrorha.core.effects import Batch, DropLink
from mirrorha.core.events import (
    AnyEvent,
    BeatHeard,
    CasDone,
    CasOutcome,
    Command,
    FencerAnswered,
    Heard,
    IsolationChecked,
    LinkClosed,
    LinkOpened,
    PortRefused,
    PromotableChanged,
    RegisterRead,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    Tick,
    VolumeReported,
    VolumesInspected,
)
from mirrorha.core.messages import (
    Adopt,
    AskSwap,
    BeTarget,
    Farewell,
    PeerState,
    Prepare,
    Prepared,
    RegisterCopy,
    Resume,
    Shadow,
    Standing,
    TargetReady,
)
from mirrorha.core.meta import Meta
from mirrorha.core.orders import (
    CutDone,
    Drained,
    Frozen,
    NearlyEqual,
    Progress,
    ResyncFailed,
    StopReason,
    StreamDown,
    StreamUp,
    Synced,
    Trouble,
)
from mirrorha.core.register import Register
from mirrorha.core.settings import Settings
from mirrorha.core.state import Decision, Kind, ServiceState, Stage, State
from mirrorha.core.turn import Turn
from mirrorha.core.words import Boot, Mode, Role

if TYPE_CHECKING:
    import random


@final
class Node:
    """One of the two. Owns the state; the driver performs what `step` returns, in its order.

    Args:
        meta: as made by `begin_incarnation`, and already durable.
        boot: how the last incarnation ended.
        rng: where nonces and generations come from; unpredictable in production.
    """

    def __init__(
        self, settings: Settings, meta: Meta, boot: Boot, *, rng: random.Random, now_ms: int
    ) -> None:
        detector = Detector(
            settings.paths,
            pulse_ms=settings.pulse_ms,
            timeout_ms=settings.timeout_ms,
            now_ms=now_ms,
        )
        if meta.all_durable and not settings.ack_durable:
            # Recorded before the first lower acknowledgement, on this node; its peer does the same.
            meta = attrs.evolve(meta, all_durable=False)
        self._s = State(
            settings=settings, meta=meta, boot=boot, rng=rng, detector=detector, now_ms=now_ms
        )
        self._s.unlinked_ms = now_ms

    @property
    def state(self) -> State:
        """To be read only, by drivers and tests."""
        return self._s

    def step(self, event: AnyEvent, now_ms: int) -> Batch:
        """Take in one event. Never blocks, never raises but InvariantViolation (a bug)."""
        s = self._s
        turn = Turn(s, max(now_ms, s.now_ms))
        s.now_ms = turn.now_ms
        listened_at_ms = event.listened_at_ms if isinstance(event, Tick) else None
        s.detector.tick(turn.now_ms, listened_at_ms=listened_at_ms)
        _take(turn, event)
        watching.look(turn)
        if s.settings.arbiter:
            steady.advance(turn)
        else:
            evidence.look(turn, listened_at_ms)
            pairwise.advance(turn)
            steady.advance(turn)
            pairwise.answer(turn)
        return turn.batch()

    def next_deadline_ms(self) -> int:
        """When to give a `Tick` at the latest."""
        s = self._s
        tick_ms = s.settings.calm_tick_ms if _is_calm(s) else s.settings.tick_ms
        return min(s.now_ms + tick_ms, s.detector.next_deadline_ms())


def _is_calm(s: State) -> bool:
    """Whether no step of ours, and no answer that we wait for, can be due soon."""
    is_well = not s.frozen and s.link and s.peer is not None and not s.peer.frozen
    is_served = s.role is Role.SECOND or s.service is ServiceState.ON
    is_whole = len(s.streams) == len(s.settings.volumes)
    is_settled = s.decision is None and not s.unresolved
    return bool(
        s.role in (Role.PRIM, Role.SECOND) and is_well and is_served and is_whole and is_settled
    )


def _take(turn: Turn, event: AnyEvent) -> None:  # noqa: C901, PLR0912 - one line for each event
    match event:
        case Tick():
            pass
        case BeatHeard():
            turn.s.detector.heard(
                event.path,
                beat=event.beat,
                heard_at_ms=min(event.heard_at_ms, turn.now_ms),
                now_ms=turn.now_ms,
            )
        case PortRefused():
            turn.s.detector.refused_everywhere(
                event.incarnation,
                probed_since_ms=min(event.probed_since_ms, turn.now_ms),
                now_ms=turn.now_ms,
            )
        case LinkOpened():
            _on_link_opened(turn, event)
        case LinkClosed():
            _on_link_closed(turn, event)
        case Heard(message=RegisterCopy() as theirs):
            _on_register_copy(turn, theirs)
        case Heard():
            _on_message(turn, event)
        case RegisterRead():
            if event.token and event.token == turn.s.asked:
                steady.on_read(turn, event.found)
            else:
                turn.s.stale += 1
        case CasDone():
            _on_cas(turn, event)
        case VolumeReported():
            _on_report(turn, event)
        case ServiceStarted():
            serving.on_started(turn, event)
        case ServiceStopped():
            serving.on_stopped(turn, event)
        case ServiceFailed():
            serving.on_failed(turn, event)
        case Command():
            commands.on_command(turn, event)
        case VolumesInspected():
            commands.on_inspected(turn, event)
        case PromotableChanged():
            turn.s.promotable = event.promotable
        case IsolationChecked():
            evidence.on_isolation(turn, event)
        case FencerAnswered():
            evidence.on_fencer(turn, event)


# ---- the session ----


def _on_link_opened(turn: Turn, event: LinkOpened) -> None:
    s = turn.s
    s.link = event.link
    s.linked_ms = turn.now_ms
    s.peer = None
    s.told = None
    s.detector.meet(event.incarnation, now_ms=turn.now_ms)
    pairwise.on_session(turn)


def _on_link_closed(turn: Turn, event: LinkClosed) -> None:
    s = turn.s
    if event.link != s.link:
        s.stale += 1
        return
    s.link = 0
    s.peer = None
    s.told = None
    s.unlinked_ms = turn.now_ms
    pairwise.on_session(turn)
    steady.probe_if_cut(turn)


def _on_register_copy(turn: Turn, theirs: RegisterCopy) -> None:
    """Also while stopped: this node's half of the register is asked as long as it runs."""
    s = turn.s
    if s.link and not s.settings.arbiter and hearing.is_sound(s, theirs):
        pairwise.on_heard(turn, theirs)
    else:
        turn.s.stale += 1


def _on_message(turn: Turn, event: Heard) -> None:  # noqa: C901 - one line for each message
    s = turn.s
    message = event.message
    stopped = s.standing is Standing.STOPPED and not isinstance(message, PeerState)
    if not s.link or stopped or not hearing.is_sound(s, message):
        s.stale += 1
        return
    match message:
        case PeerState():
            _on_peer_state(turn, message)
        case Resume():
            meeting.on_resume(turn, message)
        case Prepare():
            meeting.on_prepare(turn, message)
        case Prepared():
            _on_prepared(turn, message)
        case Adopt():
            meeting.on_adopt(turn, message)
        case Shadow():
            meeting.on_shadow(turn, message)
        case BeTarget():
            meeting.on_be_target(turn, message)
        case TargetReady():
            join.on_target_ready(turn, message.session)
        case Farewell():
            s.detector.goodbye(message.incarnation, now_ms=turn.now_ms)
        case AskSwap():
            commands.on_ask_swap(turn, message)


def _on_peer_state(turn: Turn, message: PeerState) -> None:
    s = turn.s
    known = s.detector.incarnation
    if known is not None and message.incarnation < known:
        # A session that an older incarnation of the peer left behind.
        turn.do(DropLink(s.link, "the peer's session is of an older incarnation"))
        return
    s.detector.meet(message.incarnation, now_ms=turn.now_ms)
    if message.accepted and not (s.peer is not None and s.peer.accepted):
        s.join_after_ms = turn.now_ms  # what the last attempt was refused for, a person has settled
    s.peer = message
    choosing = message.initiated and message.fresh
    if choosing and s.meta.cluster_id is None and not s.initiated:
        # The operator chose the peer's directories, and was asked about ours. Not if the cluster
        # was made before the two met: then nobody had seen what is here.
        s.accepted = True


def _on_prepared(turn: Turn, message: Prepared) -> None:
    s, decision = turn.s, turn.s.decision
    if decision is None or decision.record is None or s.cas_asked:
        return
    if decision.record.nonce_of(s.other) != message.nonce:
        s.stale += 1
        return
    if decision.kind is Kind.JOIN and decision.stage in (Stage.PREPARE, Stage.SHADOW):
        join.on_prepared(turn, decision)
    elif decision.stage is not Stage.PREPARE:
        s.stale += 1
    elif decision.kind is Kind.RECONCILE:
        turn.cas(decision.base, decision.record)
    elif decision.kind is Kind.SWAP:
        swap.on_prepared(turn, decision)


# ---- the arbiter ----


def _on_cas(turn: Turn, event: CasDone) -> None:
    s = turn.s
    if not event.token or event.token != s.cas_asked:
        s.stale += 1
        return
    s.cas_asked = 0
    sent, s.sent = s.sent, None
    if event.outcome in (CasOutcome.WON, CasOutcome.REFUSED):
        s.answered_ms = turn.now_ms
    if event.outcome is CasOutcome.WON and sent is not None:
        s.seen, s.refused = sent[1], False
        s.register_problem = ""  # it is what was just written
    decision = s.decision
    if decision is None or decision.stage is not Stage.CAS:
        _on_orphan(turn, event.outcome, sent)
    elif decision.kind is Kind.ALONE:
        alone.on_cas(turn, decision, event.outcome)
    elif decision.kind is Kind.RECONCILE:
        meeting.on_reconcile_cas(turn, decision, event.outcome)
    elif decision.kind is Kind.JOIN:
        join.on_cas(turn, decision, event.outcome)
    elif decision.kind is Kind.SWAP:
        swap.on_cas(turn, decision, event.outcome)


def _on_orphan(
    turn: Turn, outcome: CasOutcome, sent: tuple[Register | None, Register] | None
) -> None:
    """Its decision was overtaken while the attempt was out: what landed is read, not assumed."""
    s = turn.s
    if outcome is CasOutcome.UNKNOWN and sent is not None:
        s.unresolved.append(sent)  # until a read shows that its base is no longer the register
    turn.ask_now()


# ---- the volumes ----


def _on_report(turn: Turn, event: VolumeReported) -> None:
    report, volume = event.report, event.volume
    match report:
        case Frozen() | Synced() | CutDone() | Drained():
            _on_gathered(turn, volume, report.token)
        case StreamUp():
            turn.s.streams.add(volume)
        case StreamDown():
            _on_stream_down(turn, volume)
        case NearlyEqual():
            join.on_nearly_equal(turn, volume, report.session)
        case Progress():
            join.on_progress(turn, volume, report)
        case ResyncFailed():
            _on_resync_failed(turn, report)
        case Trouble():
            _on_trouble(turn, volume, report)
        case _:
            pass


def _on_gathered(turn: Turn, volume: str, token: int) -> None:
    decision = turn.s.decision
    if decision is None or token == 0 or token != decision.token:
        turn.s.stale += 1
        return
    decision.missing.discard(volume)
    if not decision.missing:
        decision.token = 0
        _on_all(turn, decision)


def _on_all(turn: Turn, decision: Decision) -> None:
    if decision.kind is Kind.ALONE:
        alone.on_frozen(turn, decision)
    elif decision.kind is Kind.RECONCILE and decision.stage is Stage.FREEZE:
        meeting.on_reconcile_frozen(turn, decision)
    elif decision.kind is Kind.JOIN and decision.stage is Stage.CUT_OVER:
        join.on_cut(turn, decision)
    elif decision.kind is Kind.SWAP and decision.stage is Stage.DRAIN:
        swap.on_drained(turn, decision)
    elif decision.kind is Kind.LEAVE:
        swap.on_leave_gathered(turn, decision)


def _on_stream_down(turn: Turn, volume: str) -> None:
    s = turn.s
    if volume not in s.streams:
        return
    if len(s.streams) == len(s.settings.volumes):
        s.streams_down_ms = turn.now_ms
    s.streams.discard(volume)
    if s.is_mirrored:
        turn.note_frozen()  # that volume acknowledges nothing until ordered further
    decision = s.decision
    if decision is None or decision.kind is not Kind.JOIN:
        return
    if decision.stage in (Stage.FILL, Stage.CUT_OVER, Stage.PREPARE):
        join.break_off(turn, "the stream broke while the peer was brought up to date")


def _on_resync_failed(turn: Turn, report: ResyncFailed) -> None:
    s, decision = turn.s, turn.s.decision
    if s.standing is Standing.TARGET:
        s.unfilled = report.text if report.here else ""
        step_down(turn, f"the resync broke off: {report.text}")
        return
    joining = decision is not None and decision.kind is Kind.JOIN and s.mode is Mode.LOG
    if joining and decision is not None and decision.stage is not Stage.CAS:
        join.break_off(turn, report.text)


def _on_trouble(turn: Turn, volume: str, report: Trouble) -> None:
    s = turn.s
    turn.note(report.reason.value, f"{volume}: {report.text}", alarm=True)
    if report.reason is StopReason.OWN_DISK:
        acting.remember_failure(turn)
    if report.reason in (StopReason.OWN_DISK, StopReason.DISK_SLOW):
        give_up(turn, f"{volume}: {report.text}")
    elif report.reason is StopReason.NOT_DRIVEN:
        acting.hand_over(turn, f"{volume}: {report.text}")
    elif report.reason in (StopReason.PEER_DISK, StopReason.PEER_STUCK) and s.is_mirrored:
        turn.note_frozen()
        s.excluded = f"{s.other}: {report.text}"


__all__ = ["Node", "Role", "ServiceState"]
