"""Going alone: 5.1.2 (the PRIM lost its peer), 5.1.4 (the SECOND did), 5.1.5, 5.2 and 5.0.

Freeze every volume, sync, read the register, make the nonce durable, CAS, rotate, release.
"""

from __future__ import annotations

from mirrorha.core import acting, authority, parted
from mirrorha.core.authority import Bar
from mirrorha.core.events import CasOutcome, Gone
from mirrorha.core.messages import Standing
from mirrorha.core.orders import Sync
from mirrorha.core.register import Register
from mirrorha.core.state import Decision, Kind, Stage, State
from mirrorha.core.turn import Turn


def begin(turn: Turn, why: str, *, proven: bool = False, chosen: bool = False) -> None:
    """Decide to go alone. A SECOND first gives the PRIM a head start, unless death was proven."""
    s = turn.s
    s.decision = Decision(
        kind=Kind.ALONE,
        stage=Stage.HEAD_START,
        why=why,
        since_ms=turn.now_ms,
        proven=proven,
        chosen=chosen,
    )
    turn.note("going-alone", why)
    if s.standing is Standing.FOLLOWER and not proven and not chosen:
        s.decision.next_ms = turn.now_ms + s.settings.takeover_delay_ms
        return
    turn.freeze()


def poll(turn: Turn, decision: Decision) -> None:
    """Time passed, or something was learnt."""
    s = turn.s
    if decision.stage is Stage.HEAD_START and turn.now_ms >= decision.next_ms:
        turn.freeze()
    early = decision.stage in (Stage.HEAD_START, Stage.FREEZE, Stage.SYNC, Stage.ASK)
    if early and _is_pointless(turn, decision):
        s.decision = None
        turn.note("peer-is-back", "the peer is there again: nothing was decided")
        return
    if decision.stage is Stage.ASK:
        turn.ask()


def _is_pointless(turn: Turn, decision: Decision) -> bool:
    """The reason is gone and no attempt of ours may still land: go on with the peer (5.1.4)."""
    s = turn.s
    if s.unresolved or decision.chosen or decision.proven:
        return False
    if s.is_mirrored and s.meta.held is not None and s.meta.held.is_alone(s.me):
        return False  # the peer was not admitted yet: that begins anew, from a record {me}
    mirrored = s.is_mirrored or s.standing is Standing.FOLLOWER
    return mirrored and bool(s.paired) and parted.reason(turn) is None


def on_frozen(turn: Turn, decision: Decision) -> None:
    """Every volume acknowledges nothing any more."""
    if decision.stage is Stage.FREEZE:
        turn.gather(lambda token: Sync(token=token), Stage.SYNC)
    elif decision.stage is Stage.SYNC:
        turn.enter(decision, Stage.ASK)
        turn.ask_now()


def on_read(turn: Turn, decision: Decision, found: Register | Gone) -> None:
    """The register answered while we stood at ASK: act on it, or send an attempt."""
    s = turn.s
    if isinstance(found, Gone):
        if decision.chosen and s.meta.cluster_id is None and found is Gone.ABSENT:
            attempt(turn, None)  # the first start of a cluster
        return
    mine = found.nonce_of(s.me) in s.mine
    if found.is_alone(s.me) and mine and authority.holds(s, found) and not s.unresolved:
        acting.go_alone(turn, found, why=decision.why, proven=decision.proven)
        return
    if authority.bar(s, found, chosen=decision.chosen) is not Bar.NONE:
        act(turn, found)
        return
    settled = decision.base is not None and found != decision.base and not s.unresolved
    beaten = settled and len(found.in_sync) > 1
    if beaten and s.standing in (Standing.SOURCE, Standing.FOLLOWER):
        act(turn, found)
        return
    attempt(turn, found)


def attempt(turn: Turn, base: Register | None) -> None:
    s = turn.s
    record = authority.make_record(s, primary=s.me, members=frozenset({s.me}), base=base)
    turn.keep(s.meta.with_intended(record))
    s.mine.update(nonce for _, nonce in record.nonces)
    turn.cas(base, record)


def on_cas(turn: Turn, decision: Decision, outcome: CasOutcome) -> None:
    """An attempt of this decision was answered, or its reply was lost."""
    s, record = turn.s, decision.record
    if record is None:
        return
    if outcome is CasOutcome.WON:
        acting.go_alone(turn, record, why=decision.why, proven=decision.proven)
        return
    if outcome is CasOutcome.UNKNOWN:
        s.unresolved.append((decision.base, record))
        turn.note("cas-unknown", f"the arbiter did not answer for epoch {record.epoch}")
    turn.enter(decision, Stage.ASK)
    if outcome is CasOutcome.REFUSED:
        turn.ask_refused()


def act(turn: Turn, found: Register) -> None:
    """5.1.5: stand where the register says. What can still land stays unresolved."""
    s = turn.s
    s.unresolved = [one for one in s.unresolved if one[0] == found]
    why = authority.bar(s, found)
    if authority.holds(s, found):
        if found.is_alone(s.me):
            s.decision = None  # by an attempt of an earlier incarnation, or of this one: CAS again
            begin(turn, "the register names this node alone", chosen=False)
            return
        stands = s.standing in (Standing.SOURCE, Standing.FOLLOWER)
        mine = found.nonce_of(s.me) in s.mine or s.standing is Standing.FOLLOWER
        if stands and (found.primary == s.me or mine) and why is not Bar.UNCLEAN:
            acting.be_frozen_member(turn, found)
            return
    acting.step_down(turn, explain(turn, found, why))
    if found.epoch > s.meta.seen_epoch and s.meta.cluster_id:
        turn.keep(s.meta.with_held(found))


def explain(turn: Turn, found: Register, why: Bar) -> str:
    """What a waiting node says: why, what would end it, and what would override."""
    s = turn.s
    where = f"epoch {found.epoch} names {found.primary}"
    texts = {
        Bar.NOT_MEMBER: f"{where}: this copy is outdated; it is brought up to date by the peer",
        Bar.NO_NONCE: (
            f"{where} with a nonce that this node does not hold (an old disk image?): "
            f"{_cure(s, found)}"
        ),
        Bar.INCONSISTENT: _why_unfilled(turn),
        Bar.GAVE_UP: why_gave_up(turn),
        Bar.UNCLEAN: (
            "this node's operating system crashed, or its disk failed, while both were in sync: "
            f"acknowledged writes may be missing here. Waiting for {s.other}; to serve with what "
            'is here, set after_power_loss = "serve" and start this node again'
        ),
        Bar.SICK: f"a volume of this node has failed: {s.sick}",
        Bar.NO_VOLUME: s.problem,
    }
    return texts.get(why, f"{where}; waiting for {s.other}")


def _cure(s: State, found: Register) -> str:
    if found.is_alone(s.me):
        return "what it acknowledged since is not here, nor known to be anywhere"
    return "it is brought up to date by the peer"


def _why_unfilled(turn: Turn) -> str:
    if not turn.s.unfilled:
        return "a resync into this node did not finish; the peer finishes it"
    return (
        f"a resync into this node broke off: {turn.s.unfilled}. It is begun again by itself, and "
        "ends once the disk takes what the peer has: is it full?"
    )


def why_gave_up(turn: Turn) -> str:
    """What a node says that gave up its standing, in good order or after a split."""
    s = turn.s
    if not s.meta.split or not s.meta.lineage:
        if s.meta.stood_down:
            return f"an operator had it give up its standing: {s.other} brings it up to date"
        return "this node gave up its standing when the peer went on alone"
    return (
        f"both nodes acknowledged writes apart from each other (a split), and {s.other}'s data "
        f"stands; {s.other} fills this node by itself, and what differs here is kept in the "
        "rescue directory before it is overwritten"
    )


def expire(turn: Turn) -> None:
    """Frozen for `freeze_max` without authority: fail what is pending, then stop the service."""
    acting.step_down(turn, "neither the peer nor the arbiter answered in time: nobody may write")
