"""Is the pair still a pair? The reasons for which one of the two goes on without the other."""

from __future__ import annotations

import attrs

from mirrorha.core.messages import Standing
from mirrorha.core.turn import Turn


@attrs.frozen
class Parting:
    """Why, and whether the peer's death was proven rather than inferred."""

    why: str
    proven: bool = False


def reason(turn: Turn) -> Parting | None:
    """Why this half of a mirrored pair should decide without the other, or None: it need not.

    A follower never goes on without a source that it hears and that is one, whatever its volumes
    say.
    """
    s = turn.s
    if not s.paired or not (s.is_mirrored or s.standing is Standing.FOLLOWER):
        return None
    verdict = s.detector.verdict_of(s.paired, turn.now_ms)
    if verdict.lost:
        why = f"{s.other} is lost ({verdict.rule.value})"
        return Parting(why, proven=verdict.proof is not None)
    peer = s.peer
    resting = (Standing.WAITING, Standing.STOPPED)
    if peer is not None and peer.incarnation == s.paired and peer.standing in resting:
        # Stopped, it has said goodbye: its service is off, and it acknowledges nothing any more.
        farewell = peer.standing is Standing.STOPPED
        return Parting(f"{s.other} left the pair: {peer.why}", proven=farewell)
    if s.standing is not Standing.SOURCE:
        return None
    if s.excluded:
        return Parting(s.excluded)
    if _apart_ms(turn) >= s.settings.peer_slow_max_ms:
        return Parting(f"{s.other} is heard, but its volumes cannot be reached")
    return None


def _apart_ms(turn: Turn) -> int:
    """For how long the mirror has not been able to flow."""
    s = turn.s
    streams_down = len(s.streams) < len(s.settings.volumes)
    if not streams_down and not (s.frozen and not s.link):
        return 0
    since_ms = max(s.streams_down_ms, s.frozen_since_ms if s.frozen else 0)
    return turn.now_ms - since_ms
