"""An operator's force (5.5): this node goes on with what it holds, or gives up its standing.

`force-primary` is a CAS like any other, that no bar keeps from being tried; the generation it
begins says for ever that it was forced. If the arbiter does not answer, and the operator allows it,
the node serves by an epoch that no CAS makes. That is *unconfirmed*: the node wins a CAS as soon as
the arbiter answers, and brings nobody up to date before. What the peer won meanwhile was not known
to the operator: over that nothing is decided before the two meet, and then whoever of them serves
by a record of the arbiter goes on. Who does not serve any more, and finds at its start that it was
forced, has nothing to say about such a record: its disk may be an old image, of a force that was
made good or given up long ago.
"""

from __future__ import annotations

from typing import Final

from mirrorha.core import acting, alone, epochs, lineage, overriding
from mirrorha.core.effects import CommandDone
from mirrorha.core.events import Command, Gone
from mirrorha.core.messages import Standing
from mirrorha.core.register import Register
from mirrorha.core.state import Decision, Kind, Stage, State
from mirrorha.core.turn import Turn
from mirrorha.core.words import Allow

WHY: Final = "an operator forced this node to be the primary"
CONFIRMS: Final = "the arbiter answers: what an operator forced is made good"
SILENT: Final = (
    "the arbiter does not answer; 'mirrorha force-primary --without-arbiter' goes on without it"
)

# ---- force-primary ----


def be_primary(turn: Turn, command: Command) -> None:
    """Begin, or refuse with the reason."""
    s = turn.s
    why_not = overriding.obstacle(s, command.allowed)
    if why_not:
        _answer(turn, command.operation, done=False, text=why_not)
        return
    if s.decision is None:
        alone.begin(turn, WHY, chosen=True)
    elif s.decision.stage is Stage.HEAD_START:
        turn.freeze()
    if s.decision is not None:
        s.decision.forced, s.decision.chosen, s.decision.why = command.allowed, True, WHY
        s.open_force = command.operation
        turn.note("force-asked", f"{WHY}; it lacks {overriding.primary_loses(s)}", alarm=True)


def on_read(turn: Turn, found: Register | Gone) -> bool:
    """The register answered: whether it was read for something that an operator forced."""
    s, decision = turn.s, turn.s.decision
    if decision is not None and decision.forced is not None:
        if decision.stage is Stage.ASK:
            _act(turn, decision, found)
        return True
    if s.meta.unconfirmed is None or decision is not None:
        return False
    if s.is_alone:
        _confirm(turn, found)
        return True
    return s.standing is Standing.WAITING and _confirm_anew(turn, found)


def _act(turn: Turn, decision: Decision, found: Register | Gone) -> None:
    """As the operator asked: make the register name this node alone, whatever bars it else."""
    s = turn.s
    if not _is_answer(s, found):
        on_silence(turn)
        return
    by_rule = s.meta.unconfirmed is not None and not decision.chosen  # by no new word of anybody
    if by_rule and not _may_confirm(turn, found):
        if s.is_alone:
            s.decision = None  # it serves on as it did
        else:
            acting.step_down(turn, "what this node was forced to be is not made good yet")
        return
    if found == decision.record and isinstance(found, Register) and not s.unresolved:
        acting.go_alone(turn, found, why=decision.why, proven=False)
        return
    if not by_rule:
        turn.change(forcing=_mark(s))
    if not s.settings.arbiter:
        _rise_above_promise(turn)
        # There what is tried has landed. Whether it is a split is asked anew when the two meet.
        turn.change(outdated=False, stood_down=False, disputed=False)
    alone.attempt(turn, None if isinstance(found, Gone) else found)


def _rise_above_promise(turn: Turn) -> None:
    """A node's epochs never fall: what it promised may have landed at the peer."""
    meta = turn.s.meta
    if meta.promised is not None:
        turn.change(top_epoch=max(meta.top_epoch, meta.promised.epoch))


def on_silence(turn: Turn) -> None:
    """No answer. With the operator's leave the node goes on without one; else the force ends."""
    s, decision = turn.s, turn.s.decision
    if decision is None or decision.forced is None or decision.stage is not Stage.ASK:
        return
    if Allow.WITHOUT_ARBITER in decision.forced and s.settings.arbiter:
        _go_unconfirmed(turn, decision)
    elif s.meta.unconfirmed is None and not s.unresolved:
        _refuse(turn, decision, SILENT)


def _go_unconfirmed(turn: Turn, decision: Decision) -> None:
    s = turn.s
    if overriding.is_served_by_peer(s):
        _refuse(turn, decision, overriding.why_peer_stays(s))
        return
    seen = s.seen.epoch if isinstance(s.seen, Register) else 0
    top = max(s.meta.top_epoch, seen, s.peer.top_epoch if s.peer is not None else 0)
    record = Register(
        cluster_id=s.meta.cluster_id or "",
        epoch=epochs.forced_above(top, is_second=s.is_second_named),
        primary=s.me,
        nonces=((s.me, s.nonce()),),
    )
    turn.change(forcing=_mark(s))
    acting.go_alone_unconfirmed(turn, record, why=f"{WHY}, and the arbiter does not answer")


def _mark(s: State) -> str:
    if s.meta.inconsistent:
        return lineage.FORCED_INCONSISTENT
    return lineage.FORCED if overriding.is_latest(s) else lineage.FORCED_STALE


def _refuse(turn: Turn, decision: Decision, text: str) -> None:
    """The force ends, and the node is where it was before."""
    s = turn.s
    operation, s.open_force = s.open_force, ""
    if s.standing is Standing.WAITING:
        acting.step_down(turn, text)
    else:
        decision.forced = None
        turn.change(forcing="")
    _answer(turn, operation, done=False, text=text)


def _is_answer(s: State, found: Register | Gone) -> bool:
    """Whether a CAS can be based on it; what is another cluster's, or damaged, is left alone."""
    if isinstance(found, Gone):
        return found is Gone.ABSENT
    return found.cluster_id == s.meta.cluster_id


def _is_usable(s: State) -> bool:
    return s.inspected and not s.problem and not s.sick


def settle(turn: Turn) -> None:
    """At the end of a step: a force that has an outcome now is answered."""
    s = turn.s
    forcing = s.decision is not None and s.decision.forced is not None
    if forcing or s.cas_asked:
        return
    if s.open_force:
        operation, s.open_force = s.open_force, ""
        text = f"this node is {s.role.value} now: {s.why}"
        _answer(turn, operation, done=s.is_alone, text=text)
    stays = s.standing in (Standing.SOURCE, Standing.FOLLOWER)
    if s.meta.forcing and stays and not s.unresolved:
        turn.change(forcing="")  # nothing came of it


def _answer(turn: Turn, operation: str, *, done: bool, text: str) -> None:
    if operation:
        turn.do(CommandDone(operation=operation, done=done, text=text))


# ---- unconfirmed ----


def may_fill_peer(s: State) -> bool:
    """Nobody is brought up to date by a node that has won no CAS yet."""
    return s.meta.unconfirmed is None


def pursue(turn: Turn) -> None:
    """While this node serves alone: what stands between it and a record of the arbiter?"""
    s = turn.s
    if s.meta.unconfirmed is None:
        s.apart_told = ""
        if overriding.is_served_by_peer(s) and s.settings.arbiter:
            turn.ask()  # an operator forced one of the two: the register tells which goes on
        elif s.link and s.peer is not None and s.peer.forced and s.peer.top_epoch > s.epoch:
            _rise_above(turn)
        return
    if overriding.is_served_by_peer(s):
        _yield(turn, f"{s.other} serves by the arbiter's word")
    elif s.peer is not None and s.peer.forced and s.peer.standing is Standing.SOURCE:
        _tell_apart(turn, f"{s.other} serves by an operator's word as well: the arbiter decides")
    turn.ask()


def _confirm(turn: Turn, found: Register | Gone) -> None:
    """As the one that serves: the volumes go on meanwhile, for nothing else is acknowledged."""
    s = turn.s
    if not _is_answer(s, found):
        return
    if _may_confirm(turn, found):
        s.decision = Decision(
            kind=Kind.ALONE,
            stage=Stage.ASK,
            why=CONFIRMS,
            since_ms=turn.now_ms,
            forced=frozenset(),
        )
        _act(turn, s.decision, found)
    elif not s.link:
        text = f"the arbiter names {s.other} since; nothing is decided before the two meet"
        _tell_apart(turn, text)


def _rise_above(turn: Turn) -> None:
    """The peer was forced, and gives way to this node: for good, so that no image of it is right.

    It may have known the record by which this node serves. With one that it cannot have known, what
    was forced is void wherever it is found. The volumes go on meanwhile, as in `_confirm`.
    """
    s = turn.s
    if s.cas_asked or s.unresolved:
        return
    s.mine.clear()  # what was won before does not count: only a new record will do
    why = f"rising above the epoch by which an operator forced {s.other}"
    s.decision = Decision(kind=Kind.ALONE, stage=Stage.ASK, why=why, since_ms=turn.now_ms)
    turn.note("going-alone", why)
    turn.ask_now()


def _confirm_anew(turn: Turn, found: Register | Gone) -> bool:
    """The process ended meanwhile: this node waits, and serves again once it has won its CAS."""
    s = turn.s
    if not _is_usable(s):
        return False
    if overriding.is_served_by_peer(s):
        _yield(turn, f"{s.other} serves by the arbiter's word")
        return False
    if not _is_answer(s, found):
        return True
    if not _may_confirm(turn, found):
        if s.register_problem:
            s.why = f"{s.register_problem}; waiting to meet {s.other}"
            return True
        _yield(turn, f"the arbiter names {s.other}, which has it since")
        return False
    alone.begin(turn, CONFIRMS)
    if s.decision is not None:
        s.decision.forced = frozenset()
    return True


def _may_confirm(turn: Turn, found: Register | Gone) -> bool:
    """Not over what the peer may have won since the force, unless it gives way to who serves."""
    s, peer = turn.s, turn.s.peer
    met = bool(s.link) and peer is not None and not overriding.is_served_by_peer(s)
    if isinstance(found, Gone) or found.epoch < s.meta.seen_epoch:
        # A lost register, as in `remaking`: until the peer has seen the loss it may have won one.
        return met and peer is not None and (peer.lost or peer.fresh)
    if found.epoch == s.meta.seen_epoch or found.nonce_of(s.me) in s.meta.nonces():
        return True
    return met and s.is_alone and _gives_way(s, found)


def _gives_way(s: State, found: Register) -> bool:
    """The peer knows of what was read, and neither serves by it nor tries to."""
    peer = s.peer
    knows = peer is not None and peer.top_epoch >= found.epoch
    return knows and peer is not None and not peer.deciding and not peer.unresolved


def _tell_apart(turn: Turn, text: str) -> None:
    if turn.s.apart_told != text:
        turn.s.apart_told = text
        turn.note("forced-apart", text, alarm=True)


def _yield(turn: Turn, why: str) -> None:
    """The peer has a record of the arbiter since. What this one acknowledged stays here."""
    text = f"{why}: what was forced here without it does not stand"
    turn.change(unconfirmed=None)
    turn.note("forced-yields", text, alarm=True)
    acting.step_down(turn, f"{text}. Nothing was overwritten")


def peer_goes_first(turn: Turn) -> bool:
    """A node that waits lets a peer that was forced, and serves, make that good."""
    s = turn.s
    if not s.link or s.peer is None or not s.peer.forced or s.meta.unconfirmed is not None:
        return False
    s.why = f"{s.other} serves by an operator's word, and takes the register as soon as it can"
    return True


# ---- force-secondary ----


def be_secondary(turn: Turn, command: Command) -> None:
    """Give up this node's standing, durably; then it waits for the peer to bring it up to date."""
    s = turn.s
    why_not = _why_not_secondary(s)
    if why_not:
        _answer(turn, command.operation, done=False, text=why_not)
        return
    loses = overriding.secondary_loses(s)
    epoch = s.epoch or s.meta.top_epoch
    turn.change(
        outdated=True,
        stood_down=True,
        stopped_alone=False,
        disputed=False,
        unconfirmed=None,
        forcing="",
        forced=(*s.meta.forced, epoch),
    )
    s.decision = None
    turn.note("forced-secondary", f"an operator had it give up its standing: {loses}", alarm=True)
    acting.step_down(turn, alone.why_gave_up(turn))
    done = f"{s.me} gave up its standing, and waits for {s.other} to bring it up to date"
    _answer(turn, command.operation, done=True, text=done)


def _why_not_secondary(s: State) -> str:
    peer = s.peer
    refusals = [
        (s.standing is Standing.STOPPED, "this node is stopped; 'mirrorha start' first"),
        (s.meta.cluster_id is None, "this node belongs to no cluster yet: it has no standing"),
        (s.meta.stood_down, "this node gave up its standing already"),
        (s.standing is Standing.TARGET, f"{s.other} is bringing this node up to date already"),
        (s.is_leaving, "this node is being stopped"),
        (bool(s.cas_asked), "an attempt at the register has no answer yet: ask again in a moment"),
        (
            peer is not None and peer.outdated and not peer.forced,
            f"{s.other} gave up its standing as well: nobody would be left. "
            f"'mirrorha force-primary' on {s.other} first",
        ),
        (
            peer is not None and peer.inconsistent,
            f"{s.other} is not brought up to date yet: its files are half of one state and half of "
            "another, and nobody would be left",
        ),
    ]
    return next((text for is_so, text in refusals if is_so), "")
