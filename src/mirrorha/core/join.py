"""Joining (5.1.6): fill the peer while serving alone, cut over, admit it by a CAS.

From before the CAS is sent no write is acknowledged alone; if its outcome is unknown and the link
is up, the pair mirrors in the old epoch, which is right under either outcome.
"""

from __future__ import annotations

import attrs

from mirrorha.core import acting, alone, authority, lineage, pairwise
from mirrorha.core.events import CasOutcome, Gone
from mirrorha.core.messages import BeTarget, PeerState, Prepare, Shadow, Standing
from mirrorha.core.orders import CutOver, Progress, ServeAlone, StartResync, Widened
from mirrorha.core.register import Register
from mirrorha.core.roles import Trigger
from mirrorha.core.state import Decision, Kind, Stage, State
from mirrorha.core.turn import Turn
from mirrorha.core.words import Mode


def can_begin(turn: Turn) -> bool:
    """Whether the peer waits to be filled and may be. Says why not in `s.why`-like notes."""
    s, peer = turn.s, turn.s.peer
    if not s.is_alone or s.decision is not None or peer is None or not s.link or s.unresolved:
        return False
    if turn.now_ms < s.join_after_ms or s.cas_asked or not pairwise.is_agreed(s):
        return False
    idle = peer.standing in (Standing.WAITING, Standing.TARGET)
    waits = idle and not peer.deciding and not peer.unresolved
    usable = peer.accepts and peer.ready and not peer.sick
    return waits and usable and len(s.streams) == len(s.settings.volumes)


def begin(turn: Turn) -> None:
    s, peer = turn.s, turn.s.peer
    if peer is None:
        return
    verdict = judge(s, peer)
    if verdict.work is lineage.Work.REFUSED:
        s.join_after_ms = turn.now_ms + 10 * s.settings.join_backoff_ms
        if s.meta.split and verdict.rule is lineage.Rule.SPLIT:
            return  # reported when the two met
        turn.note(
            verdict.rule.value,
            f"{s.other} cannot be brought up to date from here: {explain(verdict.rule, s.other)}",
            alarm=True,
        )
        return
    s.decision = Decision(
        kind=Kind.JOIN,
        stage=Stage.FILL,
        why=f"bringing {s.other} up to date ({verdict.rule.value})",
        since_ms=turn.now_ms,
        session=s.next_token(),
        peer=peer.incarnation,
        everything=verdict.work is lineage.Work.EVERYTHING,
    )
    s.decision.missing = set(s.settings.volumes)
    s.progress.clear()
    is_split = verdict.rule is lineage.Rule.RESCUED
    text = f"{s.decision.why}; what {s.other} alone acknowledged is kept there" if is_split else ""
    # Once, where the two copies of the register have told it already.
    turn.note(verdict.rule.value, text or s.decision.why, alarm=is_split and not s.meta.split)
    turn.send(
        BeTarget(cluster_id=s.meta.cluster_id or "", epoch=s.epoch, session=s.decision.session)
    )


def judge(s: State, peer: PeerState) -> lineage.Verdict:
    verdict = lineage.judge(
        source=s.meta.lineage,
        base=s.meta.base,
        target=peer.lineage,
        target_accepted=peer.fresh or peer.accepted or (peer.inconsistent and not peer.lineage),
    )
    apart = verdict.rule in (lineage.Rule.SPLIT, lineage.Rule.SOURCE_IS_BEHIND)
    by_policy = s.settings.split_policy != "refuse" and peer.outdated
    given_up = verdict.rule is lineage.Rule.SPLIT and by_policy
    # One into which a resync had begun was given up then; what is its own it keeps apart. That this
    # source lacks something of it was perhaps told to nobody then: another one filled it.
    if given_up or (apart and peer.inconsistent):
        return lineage.Verdict(lineage.Work.EVERYTHING, lineage.Rule.RESCUED)
    return verdict


def explain(rule: lineage.Rule, other: str) -> str:
    texts = {
        lineage.Rule.SPLIT: (
            "both acknowledged writes apart from each other (a split); nothing is overwritten. "
            f"'mirrorha resync {other} --full' gives up the writes of {other}"
        ),
        lineage.Rule.SOURCE_IS_BEHIND: (
            f"{other} has acknowledged writes that this node lacks; stop this node, or give up "
            f"the writes of {other} with 'mirrorha resync {other} --full'"
        ),
        lineage.Rule.NOT_OURS: (
            "its directories hold files of their own; "
            f"'mirrorha resync {other} --full' gives them up"
        ),
    }
    return texts.get(rule, rule.value)


def on_target_ready(turn: Turn, session: int) -> None:
    s, decision = turn.s, turn.s.decision
    if decision is None or decision.kind is not Kind.JOIN or decision.session != session:
        return
    if decision.stage is Stage.FILL and decision.token == 0:
        decision.token = session
        turn.order(
            StartResync(
                epoch=s.epoch,
                session=session,
                everything=decision.everything,
                seed=s.rng.getrandbits(63),
            )
        )


def on_nearly_equal(turn: Turn, volume: str, session: int) -> None:
    """Little is left on this volume; once that holds for all, changes pause everywhere."""
    decision = turn.s.decision
    if decision is None or decision.session != session or decision.stage is not Stage.FILL:
        return
    decision.missing.discard(volume)
    if not decision.missing:
        turn.ask()
        _cut_if_fresh(turn, decision)


def _cut_if_fresh(turn: Turn, decision: Decision) -> None:
    """A pause is not begun unless the arbiter answered lately: else it might last."""
    s = turn.s
    fresh = turn.now_ms - s.answered_ms <= s.settings.arbiter_fresh_ms
    if fresh and not s.register_problem and s.seen == s.meta.held:
        turn.gather(lambda token: CutOver(token=token), Stage.CUT_OVER)


def on_progress(turn: Turn, volume: str, report: Progress) -> None:
    turn.s.progress[volume] = report


def on_widened(turn: Turn, volume: str, report: Widened) -> None:
    """What the lineage allows, the touched logs of a volume do not."""
    decision = turn.s.decision
    if decision is not None and decision.session == report.session:
        text = f"{volume}: everything is compared: {report.why}"
        turn.note(lineage.Rule.LOG_DAMAGED.value, text)


def poll(turn: Turn, decision: Decision) -> None:
    s, peer = turn.s, turn.s.peer
    if decision.stage is Stage.SHADOW:
        _poll_shadow(turn, decision)
        return
    if decision.stage is Stage.CAS:
        return
    if not s.link or peer is None or peer.incarnation != decision.peer:
        break_off(turn, "the peer was lost while it was brought up to date")
        return
    if decision.stage is Stage.FILL and not decision.missing:
        turn.ask()
        _cut_if_fresh(turn, decision)
    slow = turn.now_ms - decision.since_ms > s.settings.peer_slow_max_ms
    if decision.stage in (Stage.CUT_OVER, Stage.PREPARE) and slow:
        break_off(turn, "the cut-over took too long; the service goes on alone")
    if decision.stage is Stage.FILL and decision.token == 0 and slow:
        break_off(turn, "the peer did not agree to be brought up to date")


def break_off(turn: Turn, why: str) -> None:
    """Nothing was sent to the arbiter: go on alone, under a generation the peer does not have."""
    s, decision = turn.s, turn.s.decision
    if decision is None:
        return
    s.decision = None
    s.join_failures += 1
    wait_ms = s.settings.join_backoff_ms * 2 ** min(s.join_failures, 3)
    s.join_after_ms = turn.now_ms + wait_ms
    if s.adopted:
        _rotate(turn)
    turn.order(ServeAlone(epoch=s.epoch, generation=s.meta.generation))
    turn.note("join-broken-off", why)


def _rotate(turn: Turn) -> None:
    """The peer may hold the current generation: acknowledge alone only under a new one."""
    s = turn.s
    s.adopted = False
    chain, base = lineage.rotated(s.meta.lineage, s.meta.base, generation=s.nonce())
    turn.change(lineage=chain, base=base)


def on_cut(turn: Turn, decision: Decision) -> None:
    """Every volume is equal on both nodes and synced there: prepare the admission."""
    _prepare(turn, decision, admit=True, base=turn.s.meta.held)


def _prepare(turn: Turn, decision: Decision, *, admit: bool, base: Register | None) -> None:
    s = turn.s
    both = frozenset({s.me, s.other})
    record = authority.make_record(s, primary=s.me, members=both, base=base)
    decision.base, decision.record = base, record
    turn.keep(s.meta.with_intended(record))
    s.mine.update(nonce for _, nonce in record.nonces)
    s.adopted = True
    turn.enter(decision, Stage.PREPARE if admit else Stage.SHADOW)
    turn.send(
        Prepare(
            record=authority.to_wire(record),
            freeze=False,
            admit_lineage=s.meta.lineage if admit else (),
            all_durable=s.settings.ack_durable,
        )
    )


def on_prepared(turn: Turn, decision: Decision) -> None:
    if decision.record is not None:
        turn.cas(decision.base, decision.record)


def on_cas(turn: Turn, decision: Decision, outcome: CasOutcome) -> None:
    s, record = turn.s, decision.record
    if record is None:
        return
    if outcome is CasOutcome.WON:
        joined(turn, decision, record)
    elif outcome is CasOutcome.NOT_SENT and s.mode is Mode.LOG and not s.unresolved:
        break_off(turn, "the arbiter did not answer at the admission; the service goes on alone")
    elif outcome is CasOutcome.REFUSED:
        _go_shadow(turn, decision)
        turn.ask_refused()
    else:
        if outcome is CasOutcome.UNKNOWN:
            s.unresolved.append((decision.base, record))
            turn.note("admission-unknown", "mirrored in the old epoch until it is known")
        _go_shadow(turn, decision)


def _go_shadow(turn: Turn, decision: Decision) -> None:
    """Acknowledge only what both hold, in the old epoch: right under either outcome."""
    s = turn.s
    first = s.mode is Mode.LOG
    turn.enter(decision, Stage.SHADOW)
    decision.next_ms = turn.now_ms + s.settings.arbiter_retry_ms
    if not first:
        return
    s.paired = decision.peer
    acting.mirror(turn)
    turn.send(Shadow(epoch=s.epoch, generation=s.meta.generation, round=s.round))


def _poll_shadow(turn: Turn, decision: Decision) -> None:
    s = turn.s
    verdict = s.detector.verdict_of(s.paired, turn.now_ms)
    if not s.link or verdict.lost or s.excluded:
        s.decision = None
        turn.note_frozen()
        alone.begin(turn, "the peer was lost while its admission was unknown", proven=False)
        return
    if turn.now_ms >= decision.next_ms:
        turn.ask()


def on_read(turn: Turn, decision: Decision, found: Register | Gone) -> None:
    """The register answered during a join; it matters once an admission may have landed."""
    s = turn.s
    if decision.stage is not Stage.SHADOW:
        _on_read_while_filling(turn, decision, found)
        return
    if s.register_problem:
        _remake(turn, decision, found)
        return
    if isinstance(found, Gone):
        return
    decision.next_ms = turn.now_ms + s.settings.arbiter_retry_ms
    mine = found.nonce_of(s.me) in s.mine
    if found.primary == s.me and len(found.in_sync) > 1 and mine and not s.unresolved:
        joined(turn, decision, found)
    elif found == s.meta.held:
        _prepare(turn, decision, admit=False, base=found)
    else:
        s.decision = None
        turn.note_frozen()
        alone.act(turn, found)


def _on_read_while_filling(turn: Turn, decision: Decision, found: Register | Gone) -> None:
    """Nothing was sent yet. A register that moved on without us, or is lost, ends the join."""
    s = turn.s
    moved = isinstance(found, Register) and found.epoch > s.meta.seen_epoch
    if decision.stage is Stage.CAS or not (moved or s.register_problem):
        return
    if isinstance(found, Register) and not s.register_problem:
        s.decision = None  # not broken off: that would acknowledge alone what waits
        alone.act(turn, found)
    else:
        break_off(turn, s.register_problem)


def _remake(turn: Turn, decision: Decision, found: Register | Gone) -> None:
    """The register was lost while the admission was unknown: make it again, naming both."""
    s = turn.s
    foreign = isinstance(found, Register) and found.cluster_id != s.meta.cluster_id
    if found is not Gone.CORRUPT and not foreign:
        _prepare(turn, decision, admit=False, base=None if isinstance(found, Gone) else found)


def joined(turn: Turn, decision: Decision, record: Register) -> None:
    """The register names both: the incarnation that was filled is admitted, if it still lives."""
    s = turn.s
    s.paired = decision.peer
    sent_bytes = sum(report.sent_bytes for report in s.progress.values())
    compared_bytes = sum(report.total_bytes for report in s.progress.values())
    turn.note(
        "resynchronised",
        f"{sent_bytes} bytes were sent, of {compared_bytes} that were compared, to bring "
        f"{s.other} up to date",
    )
    turn.keep(attrs.evolve(s.meta, all_durable=s.settings.ack_durable))
    s.streams_down_ms = turn.now_ms
    acting.be_paired_source(turn, record, Trigger.JOINED_PEER, f"{s.other} is in sync")
    acting.tell_adopt(turn)
