"""Swap (5.3): PRIM and SECOND exchange their roles; and LEAVE: this node stops in good order."""

from __future__ import annotations

from mirrorha.core import acting, alone, authority, goodbye
from mirrorha.core.effects import CommandDone, SayGoodbye
from mirrorha.core.events import CasOutcome
from mirrorha.core.meeting import is_same_pair
from mirrorha.core.messages import Farewell, Prepare, Standing
from mirrorha.core.orders import Close, Drain, Freeze, Sync
from mirrorha.core.roles import Trigger
from mirrorha.core.state import Decision, Kind, ServiceState, Stage
from mirrorha.core.turn import Turn


def obstacle(turn: Turn) -> str:
    """Why a swap cannot begin now, or ""."""
    s, peer = turn.s, turn.s.peer
    if not s.is_mirrored:
        return f"this node is {s.role.value}: only a PRIM with an up-to-date SECOND can swap"
    if s.decision is not None:
        return f"something else is under way: {s.decision.why}"
    if s.frozen or peer is None or not is_same_pair(turn) or peer.frozen:
        return f"the mirror to {s.other} is not flowing"
    if peer.standing is not Standing.FOLLOWER or peer.epoch != s.epoch or peer.unresolved:
        return f"{s.other} is not an up-to-date SECOND"
    if not peer.promotable:
        return f"can_promote on {s.other} says no"
    if s.meta.paused or peer.paused:
        return "the cluster is paused; 'mirrorha resume' first"
    if turn.now_ms - s.answered_ms > s.settings.arbiter_watch_ms + s.settings.arbiter_fresh_ms:
        return "the arbiter did not answer lately"
    return ""


def begin(turn: Turn, *, operation: str, why: str) -> None:
    s = turn.s
    s.decision = Decision(
        kind=Kind.SWAP,
        stage=Stage.STOP_SERVICE,
        why=why,
        since_ms=turn.now_ms,
        operation=operation,
    )
    s.hold_service = True
    turn.note("swap", why)


def poll(turn: Turn, decision: Decision) -> None:
    s = turn.s
    if decision.stage is Stage.STOP_SERVICE and s.service is ServiceState.OFF:
        turn.gather(lambda token: Drain(token=token), Stage.DRAIN)
        return
    if decision.stage in (Stage.STOP_SERVICE, Stage.DRAIN, Stage.PREPARE):
        late = turn.now_ms - decision.since_ms > s.settings.swap_stop_max_ms
        late = late and decision.stage is not Stage.STOP_SERVICE
        if late or not is_same_pair(turn) or s.excluded:
            abort(turn, "the peer did not keep up or was lost")


def on_drained(turn: Turn, decision: Decision) -> None:
    s = turn.s
    both = frozenset({s.me, s.other})
    record = authority.make_record(s, primary=s.other, members=both, base=s.meta.held)
    decision.base, decision.record = s.meta.held, record
    turn.keep(s.meta.with_intended(record))
    s.mine.update(nonce for _, nonce in record.nonces)
    turn.enter(decision, Stage.PREPARE)
    turn.send(Prepare(record=authority.to_wire(record), freeze=False))


def on_prepared(turn: Turn, decision: Decision) -> None:
    if decision.record is not None:
        turn.cas(decision.base, decision.record)


def on_cas(turn: Turn, decision: Decision, outcome: CasOutcome) -> None:
    s, record = turn.s, decision.record
    if record is None:
        return
    if outcome is CasOutcome.WON:
        s.hold_service = False
        operation = decision.operation
        why = f"swap: {s.other} serves now"
        acting.be_follower(turn, record, Trigger.SWAPPED_OUT, why, round_number=0)
        acting.tell_adopt(turn)
        _answer(turn, operation, done=True, text=f"{s.other} is PRIM")
    elif outcome is CasOutcome.NOT_SENT:
        abort(turn, "the arbiter did not answer")
    else:
        # It may land later: only a different CAS, of a meeting or of a loss, can settle it now.
        if outcome is CasOutcome.UNKNOWN:
            s.unresolved.append((decision.base, record))
        s.open_swap = decision.operation
        s.decision = None
        turn.note_frozen()
        turn.order(Freeze(token=0))
        turn.ask_now()


def settle(turn: Turn) -> None:
    """At the end of a step: a swap whose outcome was unknown has one now; give it."""
    s = turn.s
    steering = s.decision is not None and s.decision.kind in (Kind.SWAP, Kind.LEAVE)
    if steering or s.unresolved or s.cas_asked:
        return
    s.hold_service = False
    if s.open_swap:
        operation, s.open_swap = s.open_swap, ""
        done = s.standing is Standing.FOLLOWER
        _answer(turn, operation, done=done, text=f"this node is {s.role.value} now: {s.why}")


def abort(turn: Turn, why: str) -> None:
    """Nothing was sent: nothing has changed. Mirror on, and start the service again."""
    s, decision = turn.s, turn.s.decision
    if decision is None:
        return
    s.decision = None
    s.hold_service = False
    turn.note("swap-aborted", why)
    # The meeting resumes it: the follower is asked where it is, having been told to expect that.
    turn.note_frozen()
    s.resume_ms = turn.now_ms
    _answer(turn, decision.operation, done=False, text=why)


def give_way(turn: Turn, why: str) -> None:
    """The link was lost or the peer must go: whatever a swap had begun, authority comes first."""
    s, decision = turn.s, turn.s.decision
    s.decision = None
    s.hold_service = False
    if decision is not None:
        _answer(turn, decision.operation, done=False, text=why)


def _answer(turn: Turn, operation: str, *, done: bool, text: str) -> None:
    if operation:
        turn.do(CommandDone(operation=operation, done=done, text=text))


# ---- leaving ----


def begin_leave(turn: Turn, *, operation: str, why: str) -> None:
    """Stop this node: the service, then the stream, then say goodbye, so that the peer goes on."""
    s = turn.s
    if s.decision is not None and s.decision.kind is Kind.SWAP:
        give_way(turn, "the node is being stopped")
    s.decision = Decision(
        kind=Kind.LEAVE,
        stage=Stage.STOP_SERVICE,
        why=why,
        since_ms=turn.now_ms,
        operation=operation,
    )
    s.hold_service = True


def poll_leave(turn: Turn, decision: Decision) -> None:
    s = turn.s
    if decision.stage is Stage.STOP_SERVICE and s.service is ServiceState.OFF:
        flowing = s.is_mirrored and not s.frozen and is_same_pair(turn)
        if s.sick or not _are_open(turn):
            _left(turn, decision, synced=False)
        elif flowing:
            turn.gather(lambda token: Drain(token=token), Stage.DRAIN)
        else:
            turn.freeze()
        return
    late = turn.now_ms - decision.since_ms > s.settings.peer_slow_max_ms
    if decision.stage is Stage.DRAIN and (late or s.excluded):
        turn.freeze()
    elif decision.stage in (Stage.FREEZE, Stage.SYNC) and s.sick:
        _left(turn, decision, synced=False)  # its disk has no answer left
    elif decision.stage is Stage.GOODBYE:
        _poll_goodbye(turn, decision)


def _are_open(turn: Turn) -> bool:
    """Whether there are volumes to be frozen; of a node that waits, perhaps not yet."""
    s = turn.s
    return s.standing is not Standing.WAITING or (s.inspected and not s.problem)


def _poll_goodbye(turn: Turn, decision: Decision) -> None:
    """Without an arbiter: leave once the peer lets us go, or once it has left itself."""
    s = turn.s
    if goodbye.is_granted(s):
        turn.change(outdated=True)
        _left(turn, decision)
    elif goodbye.peer_has_left(turn):
        # Alone first: a node that was alone last can start without its peer.
        s.pair.leave_after = (decision.operation, decision.why)
        s.decision = None
        alone.begin(turn, f"{s.other} left first", proven=True)
    elif not goodbye.is_waiting(turn):
        _left(turn, decision)


def on_leave_gathered(turn: Turn, decision: Decision) -> None:
    if decision.stage is Stage.DRAIN:
        turn.freeze()
    elif decision.stage is Stage.FREEZE:
        turn.gather(lambda token: Sync(token=token), Stage.SYNC)
    elif decision.stage is Stage.SYNC and goodbye.is_owed(turn.s):
        turn.enter(decision, Stage.GOODBYE)
        goodbye.ask(turn.s)
    elif decision.stage is Stage.SYNC:
        _left(turn, decision)


def _left(turn: Turn, decision: Decision, *, synced: bool = True) -> None:
    """Nothing is acknowledged any more: say so; and durably, if everything is on disk."""
    s = turn.s
    if synced:
        turn.change(dirty=False)
    s.standing = Standing.STOPPED
    s.decision = None
    s.hold_service = False
    s.paired = 0
    s.pair.leaving = False
    turn.order(Close(why="the node was stopped", primary=acting.primary_now(turn)))
    turn.send(Farewell(incarnation=s.meta.incarnation, why=decision.why))
    turn.do(SayGoodbye(decision.why))
    turn.move(Trigger.STOPPED, decision.why)
    _answer(turn, decision.operation, done=True, text="stopped")
    # Asked while this node stopped by itself: it has its answer, and nothing is left for later.
    for operation, _ in filter(None, (s.stop_asked, s.pair.leave_after)):
        _answer(turn, operation, done=True, text="stopped")
    s.stop_asked = s.pair.leave_after = None
