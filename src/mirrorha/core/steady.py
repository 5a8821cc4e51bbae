"""What a node does of its own accord, looked at after every event: begin, pursue, give up."""

from __future__ import annotations

from mirrorha.core import (
    acting,
    alone,
    authority,
    forcing,
    join,
    meeting,
    parted,
    remaking,
    serving,
    swap,
    waiting,
)
from mirrorha.core.effects import ProbePort, SendPeer
from mirrorha.core.events import Gone
from mirrorha.core.messages import PeerState, Standing
from mirrorha.core.register import Register
from mirrorha.core.state import Kind, Stage
from mirrorha.core.turn import Turn
from mirrorha.core.words import Mode


def advance(turn: Turn) -> None:
    """Once per step, after the event itself was taken in."""
    s = turn.s
    if s.standing is not Standing.STOPPED:
        _judge(turn)
        _expire(turn)
        _stop_as_asked(turn)
        if s.decision is not None:
            _poll_decision(turn)
        if s.decision is None and s.pair.leave_after is not None:
            (operation, why), s.pair.leave_after = s.pair.leave_after, None
            swap.begin_leave(turn, operation=operation, why=why)
        if s.decision is None:
            _begin(turn)
        _leave_if_given_up(turn)
        _watch(turn)
    swap.settle(turn)
    forcing.settle(turn)
    serving.steer(turn)
    tell_peer(turn)


def _leave_if_given_up(turn: Turn) -> None:
    """Once: a stop that ended in this very step is not begun again."""
    s = turn.s
    if s.gave_up and s.decision is None and s.standing is not Standing.STOPPED:
        swap.begin_leave(turn, operation="", why=s.gave_up)


def _stop_as_asked(turn: Turn) -> None:
    """Leave, whatever else was being decided; but what is at the arbiter is answered first."""
    s = turn.s
    if s.stop_asked is not None and not s.cas_asked:
        (operation, why), s.stop_asked = s.stop_asked, None
        swap.begin_leave(turn, operation=operation, why=why)


def _poll_decision(turn: Turn) -> None:
    decision = turn.s.decision
    if decision is None:
        return
    if decision.kind is Kind.ALONE:
        alone.poll(turn, decision)
    elif decision.kind is Kind.RECONCILE:
        meeting.poll_reconcile(turn, decision)
    elif decision.kind is Kind.JOIN:
        join.poll(turn, decision)
    elif decision.kind is Kind.SWAP:
        swap.poll(turn, decision)
    else:
        swap.poll_leave(turn, decision)


# ---- judging the peer ----


def _judge(turn: Turn) -> None:
    """A pair whose other half is lost, stuck or gone is no pair: decide."""
    s = turn.s
    if s.decision is not None and s.decision.kind in (Kind.ALONE, Kind.LEAVE):
        return
    if s.cas_asked:
        return  # answered within the arbiter's deadline; what follows depends on it
    parting = parted.reason(turn)
    if parting is None:
        return
    if s.standing is Standing.FOLLOWER and not _may_take_over(turn):
        return
    swap.give_way(turn, parting.why)
    alone.begin(turn, parting.why, proven=parting.proven)


def _may_take_over(turn: Turn) -> bool:
    s = turn.s
    return s.settings.failover and not s.meta.paused and s.promotable and not s.gave_up


def _expire(turn: Turn) -> None:
    """`freeze_max` is over: first every change is answered, only then the service is stopped."""
    s = turn.s
    if s.standing is not Standing.SOURCE or not s.frozen:
        return
    if turn.now_ms - s.frozen_since_ms >= s.settings.freeze_max_ms:
        acting.step_down(
            turn, "neither the peer nor the arbiter answered in time: nobody may acknowledge"
        )


# ---- beginning something ----


def _begin(turn: Turn) -> None:
    s = turn.s
    if s.standing is Standing.SOURCE and s.mode is Mode.LOG:
        forcing.pursue(turn)
        if not forcing.may_fill_peer(s):
            return
        if s.register_problem and s.link:
            turn.ask()  # so that it is made again
        elif join.can_begin(turn):
            join.begin(turn)
    elif s.standing is Standing.SOURCE:
        meeting.pursue(turn)
    elif s.standing is Standing.FOLLOWER:
        _follow(turn)
    elif s.standing is Standing.TARGET:
        _be_target(turn)
    elif s.standing is Standing.WAITING:
        waiting.poll(turn)


def _follow(turn: Turn) -> None:
    """As a follower: is the peer what the register says? Else read it."""
    s, peer = turn.s, turn.s.peer
    if peer is None or not s.link:
        return
    if peer.incarnation == s.paired and peer.standing is Standing.SOURCE:
        if not peer.alone and peer.epoch <= s.epoch:
            return
    elif peer.standing is Standing.FOLLOWER and peer.epoch < s.epoch:
        if turn.now_ms >= s.resume_ms:
            s.resume_ms = turn.now_ms + acting.RESUME_EVERY_MS
            acting.tell_adopt(turn)  # a swap of which the peer did not hear
        return
    turn.ask()


def _be_target(turn: Turn) -> None:
    s, peer = turn.s, turn.s.peer
    filled = peer is not None and peer.standing is Standing.SOURCE
    if not s.link or not filled:
        acting.step_down(turn, f"the resync from {s.other} broke off; it is begun again")


def _watch(turn: Turn) -> None:
    """Read the register now and then, for an alarm, never for a role."""
    s = turn.s
    quiet_ms = turn.now_ms - s.answered_ms
    joining = s.is_alone and s.link and s.peer is not None
    limit_ms = s.settings.arbiter_fresh_ms // 2 if joining else s.settings.arbiter_watch_ms
    # The peer cannot make a lost register again before this node has seen that it is lost.
    behind = s.peer is not None and s.peer.lost and not s.register_problem
    if s.unresolved or behind or quiet_ms >= limit_ms:
        turn.ask()


# ---- what the register said ----


def on_read(turn: Turn, found: Register | Gone | None) -> None:
    s = turn.s
    s.asked = 0
    if s.standing is Standing.STOPPED:
        return
    if found is None:
        forcing.on_silence(turn)
        waiting.on_silence(turn)
        return
    s.answered_ms = turn.now_ms
    if _is_overtaken(turn, found):
        return
    if found != s.seen:
        s.refused = False
    s.seen = found
    problem = authority.problem_with(s, found)
    if problem and problem != s.register_problem:
        turn.note("register-lost", problem, alarm=True)
    s.register_problem = problem
    if not problem:
        # A CAS whose base is no longer the register can never land.
        base = found if isinstance(found, Register) else None
        s.unresolved = [one for one in s.unresolved if one[0] == base]
    _dispatch_read(turn, found)


def _is_overtaken(turn: Turn, found: Register | Gone) -> bool:
    """Whether something landed, and was learnt, while this read was under way.

    Such a read looks like a register that went back, and is none.
    """
    s = turn.s
    cluster_id, epoch = s.asked_knowing
    if isinstance(found, Gone):
        return cluster_id is None and s.meta.cluster_id is not None
    return found.cluster_id == s.meta.cluster_id and epoch <= found.epoch < s.meta.seen_epoch


def _dispatch_read(turn: Turn, found: Register | Gone) -> None:
    if forcing.on_read(turn, found):
        return
    decision = turn.s.decision
    asking = decision is not None and decision.stage is Stage.ASK
    if turn.s.register_problem and (decision is None or (decision.kind is Kind.ALONE and asking)):
        remaking.remake(turn, found)
    elif decision is None:
        _idle_read(turn, found)
    elif decision.stage is Stage.ASK and decision.kind is Kind.ALONE:
        alone.on_read(turn, decision, found)
    elif decision.stage is Stage.ASK and decision.kind is Kind.RECONCILE:
        meeting.on_reconcile_read(turn, decision, found)
    elif decision.kind is Kind.JOIN:
        join.on_read(turn, decision, found)
    elif decision.kind is Kind.ALONE and decision.stage is not Stage.CAS:
        _early_read(turn, found)


def _early_read(turn: Turn, found: Register | Gone) -> None:
    """While it freezes to go on alone, a node learns of a record that landed: it acts on that.

    Were it forgotten, a peer that is back meanwhile would be followed on in the epoch before.
    """
    s = turn.s
    if not isinstance(found, Register) or s.register_problem or s.unresolved:
        return
    pair = s.standing in (Standing.SOURCE, Standing.FOLLOWER)
    if pair and found.epoch > s.meta.seen_epoch:
        s.decision = None
        alone.act(turn, found)


def _idle_read(turn: Turn, found: Register | Gone) -> None:
    """No decision is under way: the register may still know of one that we do not."""
    s = turn.s
    if s.standing is Standing.WAITING:
        waiting.on_read(turn, found)
        return
    if not isinstance(found, Register) or s.standing is Standing.TARGET or s.unresolved:
        return
    if found.epoch > s.meta.seen_epoch or _is_left_behind(turn, found):
        alone.act(turn, found)


def _is_left_behind(turn: Turn, found: Register) -> bool:
    """Followed before it was admitted, this node was left in that very epoch (5.1.6)."""
    s, peer = turn.s, turn.s.peer
    left = peer is not None and peer.alone and peer.incarnation == s.paired
    return s.standing is Standing.FOLLOWER and left and found.is_alone(s.other)


# ---- telling the peer ----


def tell_peer(turn: Turn) -> None:
    """Send our state when the session opens and at every change of it.

    Ahead of the other messages of the step: who is asked something knows then who asks.
    """
    s = turn.s
    if not s.link:
        s.told = None
        return
    state = describe(turn)
    if s.told == state:
        return
    s.told = state
    turn.do_first(SendPeer(s.link, state))


def describe(turn: Turn) -> PeerState:
    s = turn.s
    held = s.meta.held
    return PeerState(
        number=0,
        incarnation=s.meta.incarnation,
        standing=s.standing,
        epoch=s.epoch,
        alone=s.is_alone,
        paired=s.paired,
        held=None if held is None else authority.to_wire(held),
        nonces=s.meta.nonces(),
        unresolved=bool(s.unresolved) or bool(s.cas_asked),
        deciding=s.decision is not None and s.decision.kind is Kind.ALONE,
        unclean=s.meta.unclean,
        inconsistent=s.meta.inconsistent,
        fresh=s.meta.cluster_id is None,
        restarted=s.boot.value,
        lineage=s.meta.lineage,
        base=s.meta.base,
        has_files=s.has_files,
        accepts=meeting.may_be_filled(turn),
        promotable=s.promotable,
        ready=len(s.streams) == len(s.settings.volumes),
        sick=bool(s.sick),
        unfilled=bool(s.unfilled),
        paused=s.meta.paused,
        top_epoch=s.meta.top_epoch,
        service=s.service.value,
        why=s.why,
        role=s.role.value,
        frozen=s.frozen,
        initiated=s.initiated,
        can_restart=not s.gave_up and serving.is_within_limit(turn),
        accepted=s.accepted,
        unusable=bool(s.problem),
        lost=bool(s.register_problem),
        outdated=s.meta.outdated,
        inspected=s.inspected,
        rescued=s.meta.rescued,
        forced=s.is_alone and s.meta.unconfirmed is not None,
    )


def probe_if_cut(turn: Turn) -> None:
    """The session broke: if the peer's port refuses everywhere, its process is gone."""
    s = turn.s
    if s.paired:
        turn.do(ProbePort(incarnation=s.paired))
