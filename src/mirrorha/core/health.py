"""What a node shows to people: the worth of its data, and a colour. Looked at, never acted on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrorha.core import authority, overriding
from mirrorha.core.authority import Bar
from mirrorha.core.events import Gone
from mirrorha.core.messages import PeerState, Standing
from mirrorha.core.register import Register
from mirrorha.core.state import Kind
from mirrorha.core.words import Colour, Data, Role

if TYPE_CHECKING:
    from mirrorha.core.state import State


def data_of(s: State) -> Data:
    """What this node's copy is worth, as far as it knows."""
    if s.meta.inconsistent or s.standing is Standing.TARGET:
        return Data.INCONSISTENT
    if s.standing in (Standing.SOURCE, Standing.FOLLOWER):
        # Frozen, it is not known who goes on: perhaps the other one has, meanwhile.
        return Data.CONSISTENT if s.frozen else Data.UP_TO_DATE
    record = s.seen if isinstance(s.seen, Register) else s.meta.held
    if record is None:
        return Data.CONSISTENT
    if s.meta.outdated or not authority.holds(s, record):
        excused = authority.bar(s, record, chosen=True) in (Bar.NO_VOLUME, Bar.SICK)
        return Data.CONSISTENT if excused else Data.OUTDATED
    return Data.UP_TO_DATE if record.is_alone(s.me) else Data.CONSISTENT


def primary_of(s: State) -> str | None:
    """Who may write now, as far as this node knows: for a caller that came to the wrong one."""
    if s.standing is Standing.SOURCE:
        return s.me
    if s.standing is Standing.FOLLOWER or (s.peer and s.peer.standing is Standing.SOURCE):
        return s.other
    if isinstance(s.seen, Register) and s.seen.primary != s.me:
        return s.seen.primary
    return None


def why_of(s: State) -> str:
    """Why this node is what it is, and what would override that, where something can.

    While nothing may be acknowledged: why that is so.
    """
    text, command = _why(s), overriding.command(s)
    return f"{text}; to override: '{command}'" if command and command not in text else text


def _why(s: State) -> str:
    if not s.frozen or s.standing not in (Standing.SOURCE, Standing.FOLLOWER):
        return s.why
    if s.pair.why:
        return s.pair.why
    decision = s.decision
    if decision is None or decision.kind is not Kind.ALONE:
        return s.why
    return f"{decision.why}: nothing is acknowledged until it is decided who goes on"


def colour_of(s: State) -> Colour:
    """Green: part of a protected pair. Orange: unprotected, or on the way. Red: a person, please.

    Never shown without the role's word.
    """
    if s.sick or s.unfilled or s.problem or s.gave_up or s.role is Role.STOP:
        return Colour.RED
    if s.meta.rescued:
        return Colour.RED  # somebody must look at what was kept
    if s.role in (Role.PRIM, Role.SECOND):
        return Colour.ORANGE if s.frozen or s.peer_rescued else Colour.GREEN
    if s.role is Role.ALONE:
        return Colour.ORANGE
    return Colour.RED if _needs_person(s) else Colour.ORANGE


def colour_of_peer(peer: PeerState | None) -> Colour:
    """The same for the other node, from what it said last; grey if it cannot be reached."""
    if peer is None:
        return Colour.GREY
    if peer.sick or peer.unfilled or peer.rescued or peer.standing is Standing.STOPPED:
        return Colour.RED
    mirrored = peer.standing is Standing.FOLLOWER or (
        peer.standing is Standing.SOURCE and not peer.alone
    )
    return Colour.GREEN if mirrored and not peer.frozen else Colour.ORANGE


def data_of_peer(peer: PeerState | None) -> Data | None:
    """What the other node's copy is worth, from what it said last; None if it cannot be reached."""
    if peer is None:
        return None
    if peer.inconsistent or peer.standing is Standing.TARGET:
        return Data.INCONSISTENT
    if peer.standing in (Standing.SOURCE, Standing.FOLLOWER) and not peer.frozen:
        return Data.UP_TO_DATE
    return Data.CONSISTENT


def _needs_person(s: State) -> bool:
    """A node that waits for what will not come by itself."""
    if s.meta.split and s.meta.lineage and s.meta.disputed:
        return True  # somebody must give up what one side of the split acknowledged
    if s.meta.stood_down and isinstance(s.seen, Register) and s.seen.is_alone(s.me):
        return True  # nobody is left who could bring it up to date
    fresh = s.meta.cluster_id is None
    if fresh and isinstance(s.seen, Register):
        return s.has_files and not s.accepted
    if fresh:
        peer = s.peer
        both = peer is not None and s.has_files and peer.has_files
        return both and not s.initiated and not (peer is not None and peer.initiated)
    if not isinstance(s.seen, Register):
        return s.seen is Gone.CORRUPT
    if s.seen.cluster_id != s.meta.cluster_id:
        return True  # the arbiter keeps another cluster's register
    barred = authority.bar(s, s.seen)
    if barred is Bar.NO_NONCE and s.seen.is_alone(s.me):
        return True  # an old image of the only node that was up to date
    waited = s.now_ms - max(s.since_ms, s.unlinked_ms) >= s.settings.wait_peer_ms
    return barred is Bar.UNCLEAN and not s.link and waited
