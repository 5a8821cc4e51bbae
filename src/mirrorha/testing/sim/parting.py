"""What goes wrong between two nodes without an arbiter, and the operator who settles a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from mirrorha.core import events as v
from mirrorha.core.messages import Standing
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.world import Violation, World


@final
class Parting:
    """Faults of this mode; each of them undoes itself after a while."""

    def __init__(self, world: World, pair: Pair) -> None:
        self.world, self.pair = world, pair
        shared = pair.shared
        if shared is None:
            raise ValueError("with an arbiter nobody parts without asking it")
        self.shared = shared

    def kinds(self) -> dict[str, Callable[[], None]]:
        return {
            "long cut": self._long_cut,
            "isolated": self._isolated,
            "cut at a promise": self._cut_at_promise,
            "crash at a promise": self._crash_at_promise,
            "stop both": self._stop_both,
            "accept": lambda: settle_split(self.world, self.pair),
        }

    def _cut(self, low_ms: int, high_ms: int) -> None:
        self._set_open(False)
        self.shared.lying_firewall = self.world.chance(0.3)
        self.pair.break_link()

        def undo() -> None:
            self._set_open(True)
            self.shared.lying_firewall = False

        self.world.after(self.world.between(low_ms, high_ms), undo)

    def _set_open(self, is_open: bool) -> None:
        for way in self.pair.net.open:
            self.pair.net.open[way] = is_open

    def _long_cut(self) -> None:
        """Long enough for both to decide, and sometimes for `freeze_max` to end."""
        self._cut(3_000, 30_000)

    def _isolated(self) -> None:
        """One node, or both, are cut off from everything."""
        names = self.world.rng.choice([["lyon"], ["paris"], ["lyon", "paris"]])
        for name in names:
            self.shared.isolation[name] = False
        if self.world.chance(0.7):
            self._cut(1_000, 20_000)

        def undo() -> None:
            for name in names:
                self.shared.isolation[name] = True

        self.world.after(self.world.between(1_000, 25_000), undo)

    def _at_promise(self, action: Callable[[SimNode], None]) -> None:
        """Between prepare and commit, or just after: what is agreed is not known to both."""

        def soon(node: SimNode) -> None:
            self.shared.on_promise = lambda _node: None
            self.world.after(self.world.between(0, 6), lambda: action(node))

        self.shared.on_promise = soon

    def _cut_at_promise(self) -> None:
        self._at_promise(lambda _node: self._cut(100, 15_000))

    def _crash_at_promise(self) -> None:
        def crash(node: SimNode) -> None:
            victim = node if self.world.chance(0.5) else self.pair.peer(node)
            victim.crash(power=self.world.chance(0.5))

        self._at_promise(crash)

    def _stop_both(self) -> None:
        for node in self.pair.nodes.values():
            delay_ms = self.world.rng.choice([0, 0, self.world.between(0, 60)])
            self.world.after(delay_ms, self._commander(node, v.Verb.STOP))
            self.world.after(self.world.between(2_000, 12_000), self._commander(node, v.Verb.START))

    def _commander(self, node: SimNode, verb: v.Verb) -> Callable[[], None]:
        def tell() -> None:
            if node.up:
                node.give(v.Command(operation="x", verb=verb))

        return tell


def settle_split(world: World, pair: Pair) -> None:
    """The operator gives up one side: that of the node which waits because of a split."""
    losers = [node for node in pair.nodes.values() if _waits_for_a_person(node)]
    if all(node.durable.meta.outdated for node in pair.nodes.values()):
        return  # by force: somebody has to be chosen first, not given up
    if not losers or pair.shared is None or any(map(_is_held_up, pair.nodes.values())):
        return  # a person who was given no answer yet does not give up the other side as well
    loser = world.rng.choice(losers)
    core = loser.node
    if core is None or core.state.decision is not None:
        return
    # Which it says first.
    own_trouble = core.state.sick or core.state.problem or core.state.meta.inconsistent
    if core.state.meta.lineage and not own_trouble and "split" not in core.state.why:
        raise Violation(f"{loser.name} waits because of a split and does not say so")
    world.count("split settled by the operator")
    world.say(f"operator: resync {loser.name} --full")
    pair.shared.accepted(loser)
    loser.give(v.Command(operation="x", verb=v.Verb.ACCEPT))


def _is_held_up(node: SimNode) -> bool:
    return node.world.now_ms < max(node.paused_until_ms, node.blocked_until_ms)


def _waits_for_a_person(node: SimNode) -> bool:
    if node.node is None:
        return False
    s = node.node.state
    if s.standing is not Standing.WAITING or s.link == 0 or s.accepted:
        return False
    if s.meta.rescue:
        return False  # it is being filled, by itself, however often that breaks off
    gave_up = s.meta.outdated and bool(s.meta.split or not s.meta.lineage)
    return gave_up or s.meta.disputed
