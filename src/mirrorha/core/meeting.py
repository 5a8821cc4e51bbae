"""The two nodes meet (again): resume in the same epoch, or settle first what is unresolved.

5.1.3: the same two incarnations replay in the same epoch, with no CAS. With a CAS unresolved on
either side nobody acknowledges or replays: the source first wins a different one.
"""

from __future__ import annotations

from mirrorha.core import acting, alone, authority, rescue
from mirrorha.core.events import CasOutcome, Gone
from mirrorha.core.messages import (
    Adopt,
    BeTarget,
    Prepare,
    Prepared,
    Resume,
    Shadow,
    Standing,
    TargetReady,
)
from mirrorha.core.orders import BecomeTarget, Freeze
from mirrorha.core.register import Register
from mirrorha.core.roles import Trigger
from mirrorha.core.state import Decision, Kind, Stage
from mirrorha.core.turn import Turn
from mirrorha.core.words import Role


def is_same_pair(turn: Turn) -> bool:
    """The peer on the session is the incarnation that this one is paired with, and says so too."""
    s = turn.s
    peer = s.peer
    if peer is None or not s.link or not s.paired:
        return False
    return peer.incarnation == s.paired and peer.paired == s.meta.incarnation


def pursue(turn: Turn) -> None:
    """As the source of a pair with the peer there: make it flow again, by the gentlest way."""
    s = turn.s
    peer = s.peer
    if s.link and peer is not None and peer.standing is Standing.SOURCE:
        turn.ask()  # it took over while this process was stopped, or unheard: the register tells
        return
    if peer is None or not is_same_pair(turn) or peer.standing is not Standing.FOLLOWER:
        return
    if s.cas_asked:
        return  # answered first, within the arbiter's deadline
    if peer.epoch < s.epoch and not s.unresolved:
        # It did not hear that our last CAS landed.
        if turn.now_ms >= s.resume_ms:
            acting.mirror(turn)
            acting.tell_adopt(turn)
        return
    if peer.unresolved or s.unresolved:
        _begin_reconcile(turn)
        return
    if (s.frozen or peer.frozen) and _streams_ready(turn) and turn.now_ms >= s.resume_ms:
        _resume(turn)


def _streams_ready(turn: Turn) -> bool:
    s = turn.s
    return len(s.streams) == len(s.settings.volumes) and s.peer is not None and s.peer.ready


def _resume(turn: Turn) -> None:
    """Nothing is unresolved on either side: replay what the follower lacks, in the same epoch."""
    s = turn.s
    if s.peer is None or s.peer.epoch != s.epoch:
        return
    s.decision = None
    turn.note("resume", f"replaying to {s.other} in epoch {s.epoch}")
    acting.mirror(turn)
    turn.send(Resume(epoch=s.epoch, generation=s.meta.generation, round=s.round))


def on_resume(turn: Turn, message: Resume) -> None:
    """As a follower: go on where we were, unless an attempt of ours may still land."""
    s = turn.s
    fits = s.standing is Standing.FOLLOWER and message.epoch == s.epoch and s.link
    if not fits or s.unresolved or s.cas_asked or s.sick or s.is_leaving:
        return
    peer = s.peer
    if peer is None or peer.incarnation != s.paired:
        return
    s.decision = None
    acting.follow(turn, message.generation, message.round)


# ---- a different CAS (5.1.3) ----


def begin_remaking(turn: Turn) -> None:
    """5.0: the register is lost under a well pair: both stay members, by a record made anew."""
    _begin_reconcile(turn, why="the register was lost: both nodes make it again")


def _begin_reconcile(
    turn: Turn, *, why: str = "a CAS is unresolved: settle it by a different one, then replay"
) -> None:
    s = turn.s
    s.decision = Decision(kind=Kind.RECONCILE, stage=Stage.FREEZE, why=why, since_ms=turn.now_ms)
    turn.note("different-cas", s.decision.why)
    turn.freeze()


def poll_reconcile(turn: Turn, decision: Decision) -> None:
    s = turn.s
    if decision.stage is Stage.CAS:
        return
    if not is_same_pair(turn) or s.peer is None or s.peer.standing is not Standing.FOLLOWER:
        s.decision = None  # frozen as we are; what comes next is decided anew
        return
    if decision.stage is Stage.ASK:
        turn.ask()


def on_reconcile_frozen(turn: Turn, decision: Decision) -> None:
    turn.enter(decision, Stage.ASK)
    turn.ask_now()


def on_reconcile_read(turn: Turn, decision: Decision, found: Register | Gone) -> None:
    s = turn.s
    if found is Gone.CORRUPT:
        return
    if not s.register_problem and isinstance(found, Register):
        if found.primary != s.me or not authority.holds(s, found):
            s.decision = None
            alone.act(turn, found)
            return
        if found.is_alone(s.me):
            alone.act(turn, found)
            return
    base = None if isinstance(found, Gone) else found
    both = frozenset({s.me, s.other})
    record = authority.make_record(s, primary=s.me, members=both, base=base)
    decision.base, decision.record = base, record
    turn.keep(s.meta.with_intended(record))
    s.mine.update(nonce for _, nonce in record.nonces)
    turn.enter(decision, Stage.PREPARE)
    turn.send(Prepare(record=authority.to_wire(record), freeze=True))


def on_reconcile_cas(turn: Turn, decision: Decision, outcome: CasOutcome) -> None:
    s, record = turn.s, decision.record
    if record is None:
        return
    if outcome is CasOutcome.WON:
        acting.be_paired_source(
            turn, record, Trigger.READ_PRIMARY, "what was unresolved is settled"
        )
        acting.tell_adopt(turn)
        return
    if outcome is CasOutcome.UNKNOWN:
        s.unresolved.append((decision.base, record))
    turn.enter(decision, Stage.ASK)


# ---- what a peer's decision asks of us ----


def on_prepare(turn: Turn, message: Prepare) -> None:
    """Make epoch and nonce durable; a joiner also takes over the source's chain.

    Answered even if this node would rather not: what lands is decided by the register alone.
    """
    s = turn.s
    record = authority.from_wire(message.record)
    known = s.meta.cluster_id in (None, record.cluster_id)
    above = record.epoch > (s.meta.held.epoch if s.meta.held else 0)
    if not known or not above or s.sick:
        return
    nonce = record.nonce_of(s.me)
    if nonce is None:
        return
    if message.admit_lineage:
        if s.standing is not Standing.TARGET:
            return
        turn.change(
            lineage=message.admit_lineage,
            base=None,
            inconsistent=False,
            unclean=False,
            outdated=False,
            stood_down=False,
            forcing="",
            all_durable=message.all_durable,
            dirty=True,
            given_up=(),
            rescue="",
        )
        s.accepted = False  # what was given up is gone; the copy is the cluster's from here on
    elif s.standing not in (Standing.FOLLOWER, Standing.TARGET):
        return
    turn.keep(s.meta.with_intended(record))
    if message.freeze and s.standing is Standing.FOLLOWER:
        turn.note_frozen()
        turn.order(Freeze(token=0))
        undecided = s.decision is not None and s.decision.stage is not Stage.CAS
        if undecided and not s.is_leaving:
            s.decision = None
    turn.send(Prepared(nonce=nonce))


def on_adopt(turn: Turn, message: Adopt) -> None:
    """The peer says that a record landed which names us: act on it, once."""
    s = turn.s
    record = authority.from_wire(message.record)
    held = s.meta.held
    if s.peer is None or s.sick or s.standing in (Standing.STOPPED, Standing.WAITING):
        return
    if s.is_leaving:
        return  # frozen, and soon gone; whoever starts here next reads the register
    if held is not None and record.epoch < held.epoch:
        return
    if record.nonce_of(s.me) not in s.meta.nonces() or s.meta.inconsistent:
        return
    if authority.may_land_upon(s, record):
        return  # the register tells what became of it; the peer tells us again
    if held == record and s.epoch == record.epoch and not s.frozen and s.round == message.round:
        return  # heard before
    s.paired = s.peer.incarnation
    if s.meta.cluster_id is None:
        turn.change(cluster_id=record.cluster_id)
    if record.primary == s.me:
        if s.standing is Standing.FOLLOWER:
            acting.be_paired_source(turn, record, Trigger.SWAPPED_IN, "swap: the peer handed over")
            turn.send(Resume(epoch=s.epoch, generation=s.meta.generation, round=s.round))
        return
    joined = s.role is Role.WAIT
    trigger = Trigger.ADMITTED if joined else Trigger.READ_SECOND
    why = f"in sync with {record.primary}"
    acting.be_follower(turn, record, trigger, why, round_number=message.round)


def on_shadow(turn: Turn, message: Shadow) -> None:
    """The admission's outcome is unknown: follow in the old epoch; the register will tell."""
    s = turn.s
    if s.standing is not Standing.TARGET or s.meta.inconsistent or s.peer is None:
        return
    s.standing = Standing.FOLLOWER
    s.epoch = message.epoch
    s.paired = s.peer.incarnation
    acting.follow(turn, message.generation, message.round)
    turn.move(Trigger.ADMITTED, "mirrored; whether the register says so is not known yet")


def on_be_target(turn: Turn, message: BeTarget) -> None:
    """A source wants to fill this node. From here on its copy is inconsistent, and says so."""
    s = turn.s
    idle = s.standing in (Standing.WAITING, Standing.TARGET) and s.decision is None
    if not idle or s.unresolved or s.cas_asked or not may_be_filled(turn):
        return
    if s.meta.cluster_id not in (None, message.cluster_id) or s.meta.disputed:
        return
    rescue.begin(turn)
    turn.change(
        inconsistent=True,
        cluster_id=message.cluster_id,
        dirty=True,
        intended=(),
        unconfirmed=None,
    )
    s.standing = Standing.TARGET
    s.epoch = message.epoch
    s.paired = 0
    s.why = f"being brought up to date by {s.other}"
    turn.order(
        BecomeTarget(
            epoch=message.epoch,
            session=message.session,
            rescue=s.meta.rescue,
            peer_generation=s.peer.lineage[-1] if s.peer and s.peer.lineage else "",
        )
    )
    turn.send(TargetReady(session=message.session))


def may_be_filled(turn: Turn) -> bool:
    """Whether this node's directories may be overwritten by the peer's without asking a person."""
    s = turn.s
    if not s.inspected or s.problem or s.sick:
        return False
    if s.meta.cluster_id is not None:
        return s.ours or s.accepted
    return not s.has_files or s.accepted
