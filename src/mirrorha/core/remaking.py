"""A lost register (5.0): absent, of another id, or lower than what was seen.

Nobody acts on it alone. With both nodes connected it is made again, from the highest record that
either *holds*; what was only intended by one of them may never have landed.
"""

from __future__ import annotations

from mirrorha.core import acting, alone, authority, meeting
from mirrorha.core.events import Gone
from mirrorha.core.messages import Standing
from mirrorha.core.register import Register
from mirrorha.core.state import Kind, Stage
from mirrorha.core.turn import Turn


def remake(turn: Turn, found: Register | Gone) -> None:
    """The register that was read is none to act on: make it again, if that can be done now."""
    s = turn.s
    if s.standing is Standing.WAITING:
        s.why = s.register_problem
    if not _can(turn, found):
        return
    if _is_pair(turn):
        if s.is_mirrored and s.decision is None:
            meeting.begin_remaking(turn)
        return
    source = _source(turn)
    if source == s.me:
        _go_on(turn, found)
    elif source == s.other and s.standing in (Standing.SOURCE, Standing.FOLLOWER):
        acting.step_down(turn, f"the register was lost; {s.other} makes it again")


def _can(turn: Turn, found: Register | Gone) -> bool:
    s = turn.s
    if found is Gone.CORRUPT or s.peer is None or not s.link or s.meta.held is None:
        return False
    if not s.inspected or s.problem or s.sick:
        return False  # who makes it goes on by it, and this node cannot, or cannot yet
    if isinstance(found, Register) and found.cluster_id != s.meta.cluster_id:
        return False  # the arbiter keeps another cluster's register: an address is wrong
    return s.decision is None or s.decision.kind is Kind.ALONE


def _is_pair(turn: Turn) -> bool:
    """A pair that could flow stays one: both remain members, and its source makes the record."""
    s, peer = turn.s, turn.s.peer
    if peer is None or not meeting.is_same_pair(turn) or peer.epoch != s.epoch or peer.alone:
        return False
    standings = {s.standing, peer.standing}
    deciding = s.decision is not None or peer.deciding
    return standings == {Standing.SOURCE, Standing.FOLLOWER} and not s.is_alone and not deciding


def _source(turn: Turn) -> str | None:
    """Whose copy goes on. The peer, asked the same, gives the same answer."""
    s, peer = turn.s, turn.s.peer
    if peer is None or s.meta.held is None:
        return None
    highest = s.meta.held
    if peer.held is not None and peer.held.epoch > highest.epoch:
        highest = authority.from_wire(peer.held)
    if s.is_alone and highest.epoch <= s.epoch:
        return s.me
    if peer.alone and highest.epoch <= peer.epoch:
        return s.other
    return authority.source_of_both(s, highest)


def _go_on(turn: Turn, found: Register | Gone) -> None:
    """Alone, but not before the peer has seen the loss as well.

    Until then an attempt of the peer's may have landed before the register was lost, with the news
    on its way; after that, the arbiter lets one of the two attempts at making it again win. A peer
    that never belonged to a cluster has attempted nothing, and cannot tell a lost register from
    none.
    """
    s, peer = turn.s, turn.s.peer
    if s.settings.arbiter and (peer is None or not (peer.lost or peer.fresh)):
        return
    if s.decision is None:
        why = "the register was lost; both nodes are there"
        alone.begin(turn, why, proven=s.standing is Standing.WAITING, chosen=True)
    elif s.decision.stage is Stage.ASK:
        s.decision.chosen = True
        alone.attempt(turn, None if isinstance(found, Gone) else found)
