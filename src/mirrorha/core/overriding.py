"""What an operator may override (5.5), by which command, and what that costs. Looked at only."""

from __future__ import annotations

from collections.abc import Collection

from mirrorha.core import authority
from mirrorha.core.authority import Bar
from mirrorha.core.messages import Standing
from mirrorha.core.register import Register
from mirrorha.core.state import Kind, State
from mirrorha.core.words import Allow, Role


def obstacle(s: State, allowed: Collection[Allow]) -> str:
    """Why this node cannot be forced to be the primary as it is, or ""."""
    peer, decision = s.peer, s.decision
    pair = s.standing in (Standing.SOURCE, Standing.FOLLOWER)
    flows = pair and not s.frozen and decision is None
    linked_source = bool(s.link) and peer is not None and peer.standing is Standing.SOURCE
    filled = s.standing is Standing.TARGET
    swaps = linked_source and s.standing is Standing.FOLLOWER
    other_decision = decision is not None and decision.kind is not Kind.ALONE
    inconsistent = s.meta.inconsistent and Allow.INCONSISTENT not in allowed
    refusals = [
        (s.standing is Standing.STOPPED, "this node is stopped; 'mirrorha start' first"),
        (
            s.meta.cluster_id is None,
            f"this node belongs to no cluster yet; 'mirrorha init --from {s.me}' begins one",
        ),
        (not s.inspected, "it is looking at its volumes: ask again in a moment"),
        (bool(s.problem), f"its volumes cannot be used: {s.problem}"),
        (bool(s.sick), f"its disk failed: {s.sick}"),
        (s.is_alone, "this node serves already"),
        (s.role is Role.ALONE, f"it is not settled yet whether {s.other} was admitted"),
        (flows, f"this node is {s.role.value}, and {s.other} is in sync with it"),
        (swaps, f"{s.other} is connected, and the PRIM; 'mirrorha swap' moves the service"),
        (filled, f"{s.other} serves, and is bringing this node up to date"),
        (linked_source and not s.settings.arbiter, why_peer_stays(s)),
        (s.meta.disputed and bool(s.link), _why_disputed(s)),
        (other_decision, f"something else is under way: {decision.why if decision else ''}"),
        (
            inconsistent,
            "a resync into this node did not finish: its files are half of one state and half of "
            "another; 'mirrorha force-primary --inconsistent-data' serves them all the same",
        ),
    ]
    return next((text for is_so, text in refusals if is_so), "")


def _why_disputed(s: State) -> str:
    return (
        "both nodes acknowledged writes apart from each other: 'mirrorha resync NODE --full' on "
        f"{s.me} or on {s.other} gives up its side"
    )


def is_served_by_peer(s: State) -> bool:
    """The peer is connected, and serves by a record that is more than an operator's word."""
    peer = s.peer
    if not s.link or peer is None:
        return False
    return peer.standing is Standing.SOURCE and peer.alone and not peer.forced


def why_peer_stays(s: State) -> str:
    return (
        f"{s.other} is connected, and serves; 'mirrorha force-secondary' on {s.other} makes it "
        "give way"
    )


# ---- what it costs ----


def primary_loses(s: State) -> str:
    """What is lost, as far as this node can know, if it is forced to be the primary."""
    record = known_record(s)
    parts = [] if record is None else [_bar_loses(s, record)]
    if s.meta.inconsistent:
        parts.append("files that the interrupted resync left half done, or had moved aside")
    if not s.link:
        parts.append(f"what {s.other} may have acknowledged since it was last heard")
    parts = list(dict.fromkeys(filter(None, parts)))
    return "; ".join(parts) if parts else "nothing that this node knows of"


def known_record(s: State) -> Register | None:
    """The latest record that this node knows of."""
    if not s.settings.arbiter:
        return s.meta.copy
    return s.seen if isinstance(s.seen, Register) else s.meta.held


def is_latest(s: State) -> bool:
    """Whether by that record this node's copy holds all that was acknowledged.

    With an arbiter only if this incarnation has seen the register: its disk may be an old image.
    """
    record = known_record(s)
    pair = s.standing in (Standing.SOURCE, Standing.FOLLOWER)
    has_seen = not s.settings.arbiter or pair or isinstance(s.seen, Register)
    known = record is not None and authority.bar(s, record) is Bar.NONE
    return known and has_seen and not s.register_problem


def _bar_loses(s: State, record: Register) -> str:
    alone = f"all that {record.primary} acknowledged since epoch {record.epoch} began"
    losses = {
        Bar.NOT_MEMBER: alone,
        Bar.NO_NONCE: alone,
        Bar.GAVE_UP: f"all that {s.other} acknowledged since this node gave up its standing",
        Bar.UNCLEAN: (
            "what was acknowledged, not fsynced, and on its way to the disk when this node's "
            "operating system crashed or its disk failed"
        ),
    }
    return losses.get(authority.bar(s, record), "")


def secondary_loses(s: State) -> str:
    """What is lost, as far as this node can know, if it gives up its standing."""
    if s.is_alone or (s.standing is Standing.WAITING and s.meta.stopped_alone):
        return f"what this node acknowledged alone, since generation {s.meta.generation} began"
    if s.peer is None:
        return f"whatever {s.other}, which cannot be reached, does not hold"
    return f"nothing that {s.other} holds as well"


# ---- which command ----


def command(s: State) -> str:
    """What ends a wait that may not end by itself; "" if there is no such wait, or no command."""
    waits = s.standing is Standing.WAITING
    stuck = s.frozen and s.standing in (Standing.SOURCE, Standing.FOLLOWER)
    served = bool(s.link) and s.peer is not None and s.peer.standing is Standing.SOURCE
    if not (waits or stuck) or served or obstacle(s, {Allow.INCONSISTENT}):
        return ""
    flags = ""
    silent_ms = s.now_ms - s.answered_ms
    if s.settings.arbiter and silent_ms > s.settings.arbiter_fresh_ms:
        flags += f" --{Allow.WITHOUT_ARBITER.value}"
    if s.meta.inconsistent:
        flags += f" --{Allow.INCONSISTENT.value}"
    return f"mirrorha force-primary{flags}"
