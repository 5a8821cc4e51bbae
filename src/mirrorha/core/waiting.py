"""A waiting node: first start (5.0), start (5.2), and why it waits."""

from __future__ import annotations

from mirrorha.core import alone, authority, forcing
from mirrorha.core.authority import Bar
from mirrorha.core.events import Gone
from mirrorha.core.messages import Standing
from mirrorha.core.register import Register
from mirrorha.core.turn import Turn


def poll(turn: Turn) -> None:
    """Nothing is decided: look at the register now and then."""
    s = turn.s
    if not s.inspected:
        s.why = "looking at the volumes"
        return
    if s.problem:
        s.why = s.problem
        return
    turn.ask()


def on_read(turn: Turn, found: Register | Gone) -> None:
    """The register as it is; this node waits and decides nothing yet."""
    s = turn.s
    if not s.inspected or s.problem or s.sick or s.standing is not Standing.WAITING:
        return
    if s.meta.cluster_id is None:
        _newcomer(turn, found)
    elif isinstance(found, Register):
        _member(turn, found)


def on_silence(turn: Turn) -> None:
    """The register could not be read. Whatever this node waited for before, it waits for that."""
    s = turn.s
    waits = s.settings.arbiter and s.standing is Standing.WAITING and s.decision is None
    if waits and s.inspected and not s.problem and not s.sick:
        s.why = "the arbiter does not answer, and without it this node decides nothing"


# ---- first start (5.0) ----


def _newcomer(turn: Turn, found: Register | Gone) -> None:
    """This node never belonged to a cluster."""
    s, peer = turn.s, turn.s.peer
    if isinstance(found, Register):
        s.why = f"new here: waiting to be filled by {s.other}"
        if s.has_files and not s.accepted:
            s.why = (
                "this node is new to the cluster and its directory holds files: "
                f"'mirrorha resync {s.me} --full' gives them up"
            )
        return
    if s.initiated:
        alone.begin(turn, "an operator chose this node's directories", proven=True, chosen=True)
        return
    if peer is None or not s.link:
        s.why = (
            f"first start: waiting for {s.other}, for one node cannot know what the other holds; "
            f"'mirrorha init --from {s.me}' begins without it"
        )
        return
    if not peer.fresh:
        s.why = f"{s.other} belongs to a cluster whose register is missing, and makes it again"
        return
    if not peer.initiated and (peer.unusable or not peer.inspected):
        # What its directories hold counts, and nobody knows it: a disk that is not mounted is not
        # an empty one.
        s.why = f"first start: waiting until {s.other} has looked at its volumes"
        if peer.unusable:
            s.why = (
                f"first start: what {s.other} holds cannot be known: {peer.why}; "
                f"'mirrorha init --from {s.me}' begins without it"
            )
        return
    source = _first_source(turn)
    if source == s.me and peer.standing is Standing.WAITING:
        alone.begin(turn, "first start of the cluster", proven=True, chosen=True)
    elif source is None:
        s.why = "both nodes hold files: choose with 'mirrorha init --from NODE'"
    else:
        s.why = f"first start: the cluster begins with the directories of {source}"


def _first_source(turn: Turn) -> str | None:
    """The node whose volumes hold files; none: the first one; both: a person decides."""
    s, peer = turn.s, turn.s.peer
    if peer is None:
        return None
    if peer.initiated:
        return s.other
    if s.has_files and peer.has_files:
        return None
    if not s.has_files and not peer.has_files:
        return s.settings.first
    return s.me if s.has_files else s.other


# ---- start of a member (5.2) ----


def _member(turn: Turn, found: Register) -> None:
    s = turn.s
    if forcing.peer_goes_first(turn):
        return
    why = authority.bar(s, found)
    if found.epoch > s.meta.seen_epoch:
        turn.keep(s.meta.with_held(found))
    if why not in (Bar.NONE, Bar.UNCLEAN):
        s.why = alone.explain(turn, found, why)
        return
    if found.is_alone(s.me):
        alone.begin(turn, "the register names this node alone", proven=True)
        return
    if _peer_is_there(turn):
        _with_peer(turn, found)
        return
    waited_ms = turn.now_ms - max(s.since_ms, s.unlinked_ms)
    if waited_ms < s.settings.wait_peer_ms:
        s.why = f"both were in sync: waiting for {s.other}"
    elif why is Bar.UNCLEAN:
        s.why = alone.explain(turn, found, why)
    elif found.primary == s.me or (s.settings.failover and not s.meta.paused):
        alone.begin(turn, f"{s.other} did not come within wait_peer")


def _peer_is_there(turn: Turn) -> bool:
    s = turn.s
    return bool(s.link) and s.peer is not None


def _with_peer(turn: Turn, found: Register) -> None:
    s, peer = turn.s, turn.s.peer
    if peer is None:
        return
    if peer.standing is Standing.FOLLOWER and _stays_put(turn):
        _go_back(turn, found)
        return
    if peer.standing in (Standing.SOURCE, Standing.FOLLOWER):
        s.why = f"{s.other} is {peer.role}: waiting for it to take this node in again"
        return
    if peer.standing is Standing.STOPPED:
        if authority.bar(s, found) is Bar.NONE:
            alone.begin(turn, f"{s.other} is stopped", proven=True)
        return
    if peer.deciding:
        s.why = f"{s.other} is deciding"
        return
    source = authority.source_of_both(s, found)
    if source == s.me:
        alone.begin(turn, "both nodes are there; this copy goes on", proven=True, chosen=True)
    elif source is None:
        s.why = (
            "neither node holds what the register says it holds (old disk images?): a person must "
            "restore the newer disk of one of them"
        )
    else:
        s.why = f"both nodes are there: {source} goes on, this node is brought up to date"


def _stays_put(turn: Turn) -> bool:
    """The peer was our SECOND, before we restarted or gave up waiting, and is not to take over."""
    s, peer = turn.s, turn.s.peer
    if peer is None or peer.deciding or peer.unresolved:
        return False
    return not s.settings.failover or peer.paused or not peer.promotable


def _go_back(turn: Turn, found: Register) -> None:
    """The service stays where it was, if this copy is as good as the peer's."""
    s = turn.s
    why = authority.bar(s, found)
    if why is Bar.NONE:
        alone.begin(turn, f"{s.other} is not to take over: the service stays here", proven=True)
    else:
        s.why = f"{alone.explain(turn, found, why)}; {s.other} is not to take over by itself"
