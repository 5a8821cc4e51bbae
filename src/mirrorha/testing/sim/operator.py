"""An operator who forces nodes at random moments; and who settles what that leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from mirrorha.core import events as v
from mirrorha.core import overriding
from mirrorha.core.messages import Standing
from mirrorha.core.words import Allow
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.world import World


@final
class Operator:
    """Gives `force-primary` and `force-secondary`, mostly where a node asks for it."""

    def __init__(self, world: World, pair: Pair) -> None:
        self.world, self.pair = world, pair
        self.going = True  # until everything is healed

    def kinds(self) -> dict[str, Callable[[], None]]:
        return {
            "force primary": self._force_primary,
            "force secondary": self._force_secondary,
            "force apart": self._force_apart,
        }

    def _force_primary(self) -> None:
        nodes = list(self.pair.nodes.values())
        asking = [each for each in nodes if _command(each)]
        node = self.world.rng.choice(asking or nodes)
        allowed = [each for each in Allow if self.world.chance(0.7)]
        self.pair.forces.ask(node, v.Verb.FORCE_PRIMARY, *allowed)

    def _force_apart(self) -> None:
        """A pair is cut in two; one half, or each, is forced, with the arbiter or without it."""
        self._once_mirrored(tries=100)

    def _once_mirrored(self, *, tries: int) -> None:
        if self.going and self.pair.mirrored():
            self._part_and_force()
        elif self.going and tries:
            self.world.after(100, lambda: self._once_mirrored(tries=tries - 1))

    def _part_and_force(self) -> None:
        names = self.world.rng.choice([["lyon"], ["paris"], ["lyon", "paris"]])
        cut_off = [name for name in self.pair.nodes if self.world.chance(0.6)]
        self._set_open(cut_off, is_open=False)
        for name in names:
            ask = self._forcer(self.pair.nodes[name])
            self.world.after(self.world.between(3_000, 7_000), ask)
        undo_ms = self.world.between(5_000, 15_000)
        self.world.after(undo_ms, lambda: self._set_open(cut_off, is_open=True))

    def _set_open(self, cut_off: list[str], *, is_open: bool) -> None:
        net, reachable = self.pair.net, self.pair.arbiter.faults.reachable
        net.open.update(dict.fromkeys(net.open, is_open))
        reachable.update(dict.fromkeys(cut_off, is_open))
        if not is_open:
            self.pair.break_link()

    def _forcer(self, node: SimNode) -> Callable[[], None]:
        def ask() -> None:
            if self.going:
                self.pair.forces.ask(node, v.Verb.FORCE_PRIMARY, *Allow)

        return ask

    def _force_secondary(self) -> None:
        node = self.world.rng.choice(list(self.pair.nodes.values()))
        self.pair.forces.ask(node, v.Verb.FORCE_SECONDARY)


def _command(node: SimNode) -> str:
    """What the node says would override its wait."""
    return overriding.command(node.node.state) if node.node is not None else ""


def settle_forces(world: World, pair: Pair) -> None:
    """After a force a person may have to say whose data stands, or that somebody serves at all."""
    nodes = list(pair.nodes.values())
    if any(world.now_ms < max(node.paused_until_ms, node.blocked_until_ms) for node in nodes):
        return
    sources = [node for node in nodes if _standing(node) is Standing.SOURCE]
    waiting = [node for node in nodes if _standing(node) is Standing.WAITING]
    if len(sources) == 1 and waiting and _is_to_choose(pair, waiting[0]):
        world.say(f"operator: resync {waiting[0].name} --full")
        if pair.shared is not None:
            pair.shared.accepted(waiting[0])
        waiting[0].give(v.Command(operation="x", verb=v.Verb.ACCEPT))
    asking = [node for node in waiting if _command(node)]
    if len(waiting) == len(nodes) and asking:
        # Rather the one that did not give up its standing, whose copy is whole.
        asking.sort(key=lambda node: (node.durable.meta.outdated, node.durable.meta.inconsistent))
        pair.forces.ask(asking[0], v.Verb.FORCE_PRIMARY, *Allow)


def _is_to_choose(pair: Pair, node: SimNode) -> bool:
    core = node.node
    return core is not None and not core.state.accepted and pair.forces.is_told(node)


def _standing(node: SimNode) -> Standing | None:
    return node.node.state.standing if node.node is not None else None
