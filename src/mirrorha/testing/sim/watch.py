"""Counts which rules fired, for those that no note of the core names: looked at from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from mirrorha.core import authority, evidence, pairwise
from mirrorha.core import events as v
from mirrorha.core.messages import RegisterCopy
from mirrorha.core.register import Register
from mirrorha.core.turn import Turn

if TYPE_CHECKING:
    from mirrorha.core.state import State
    from mirrorha.testing.sim.node import SimNode
    from mirrorha.testing.sim.world import World


@final
class Watch:
    """Counts each verdict when it changes, so that one that lasts counts once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last: dict[tuple[str, str], str] = {}

    def look(self, node: SimNode, event: v.AnyEvent) -> None:
        """After a step of `node` that took in `event`."""
        if node.node is None:
            return
        s = node.node.state
        detector = s.detector
        verdict = detector.verdict_of(s.paired, s.now_ms) if s.paired else None
        self._note(node, "detector", (verdict or detector.verdict(s.now_ms)).rule.value)
        if isinstance(event, v.RegisterRead | v.VolumesInspected):
            record = s.seen if isinstance(s.seen, Register) else s.meta.held
            if record is not None:
                self._note(node, "standing", authority.bar(s, record).value)
        if not s.settings.arbiter:
            self._look_at_pair(node, s, event)

    def _look_at_pair(self, node: SimNode, s: State, event: v.AnyEvent) -> None:
        if isinstance(event, v.Heard) and isinstance(event.message, RegisterCopy) and s.pair.heard:
            self._note(node, "copies", pairwise.compare(s, s.pair.heard).rule.value)
        self._note(node, "proof", evidence.proof(Turn(s, s.now_ms)).value)

    def _note(self, node: SimNode, kind: str, rule: str) -> None:
        if self._last.get((node.name, kind)) != rule:
            self._last[node.name, kind] = rule
            self._world.count(f"{kind} {rule}")
