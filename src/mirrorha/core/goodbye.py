"""Without an arbiter: a node that stops in good order lets its peer go on (design, 5.4).

It asks, is granted, makes `outdated` durable, and says so; from then on the peer needs nothing of
it. Never may both give up: a node that has granted does not ask, and of two that ask at once only
the SECOND is granted.
"""

from __future__ import annotations

from mirrorha.core import authority, evidence
from mirrorha.core.authority import Bar
from mirrorha.core.messages import RegisterCopy, Standing
from mirrorha.core.state import Kind, Stage, State
from mirrorha.core.turn import Turn


def is_owed(s: State) -> bool:
    """Whether leaving without a goodbye would leave the peer without authority."""
    copy = s.meta.copy
    if s.settings.arbiter or not s.link or copy is None or s.meta.outdated:
        return False
    return {s.me, s.other} <= copy.in_sync and evidence.is_in_session(s)


def ask(s: State) -> None:
    """Ask to be let go, unless the peer was let go: then it is waited for."""
    s.pair.leaving = may_ask(s)


def may_ask(s: State) -> bool:
    """A node that has granted may not ask: both would give up."""
    return not s.pair.grants


def on_heard(turn: Turn, theirs: RegisterCopy, *, agreed: bool) -> None:
    """The peer asks to leave, or does not any more."""
    s, pair = turn.s, turn.s.pair
    if not theirs.leaving:
        if not theirs.outdated:
            pair.grants = 0
        return
    if s.peer is None or pair.grants or not agreed or not _may_grant(s):
        return
    if pair.leaving and not _prevails(s):
        return
    pair.leaving = False
    pair.grants = s.peer.incarnation
    turn.note("goodbye-granted", f"{s.other} may leave: this node goes on")


def _prevails(s: State) -> bool:
    """Of two that ask at once only the SECOND is granted: by the PRIM."""
    return s.standing is Standing.SOURCE


def _may_grant(s: State) -> bool:
    """This node can go on without the peer, as a member whose copy is whole."""
    meta, peer = s.meta, s.peer
    if meta.copy is None or meta.promised is not None or meta.outdated or meta.disputed:
        return False
    if peer is None or s.paired != peer.incarnation or not evidence.is_in_session(s):
        return False
    takes_over = s.settings.failover and s.promotable and not meta.paused and not s.gave_up
    if s.standing is Standing.FOLLOWER and not takes_over:
        return False
    return authority.bar(s, meta.copy) is Bar.NONE


def is_granted(s: State) -> bool:
    """The peer lets this incarnation go."""
    heard = s.pair.heard
    return s.pair.leaving and heard is not None and heard.grants == s.meta.incarnation


def is_waiting(turn: Turn) -> bool:
    """Whether there is still something to wait for: the peer's answer, or its own goodbye."""
    s, decision = turn.s, turn.s.decision
    if decision is None or decision.kind is not Kind.LEAVE or decision.stage is not Stage.GOODBYE:
        return False
    late = turn.now_ms - decision.since_ms > s.settings.peer_slow_max_ms
    return bool(s.link) and not late and (s.pair.leaving or bool(s.pair.grants))


def peer_has_left(turn: Turn) -> bool:
    """The peer that was let go has given up its standing: this node can go on alone, then leave."""
    return evidence.proof(turn) is evidence.Proof.GAVE_UP
