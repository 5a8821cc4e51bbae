"""What clients were told on a side that gave way: promises still. Independent of the code."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from mirrorha.testing.sim.world import Violation, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirrorha.testing.sim.node import Durable, SimNode
    from mirrorha.testing.sim.oracle import Oracle


@final
class Owed:
    """Writes that one node alone had: in a volume of either, or in what that node has kept.

    Or in its limbo, on the way from the one to the other.
    """

    def __init__(self, world: World, nodes: Mapping[str, SimNode]) -> None:
        self.world, self.nodes = world, nodes
        self._owed: list[tuple[str, Oracle, Durable]] = []

    def add(self, name: str, oracle: Oracle) -> None:
        """From now on, as far as they rest on this node and on the disk that it has."""
        self._owed.append((name, oracle, self.nodes[name].durable))

    def oracles(self) -> list[Oracle]:
        return [oracle for _, oracle, _ in self._owed]

    def of(self, name: str) -> list[Oracle]:
        """What was told to clients of this node."""
        return [oracle for each, oracle, _ in self._owed if each == name]

    def check(self) -> None:
        """At any moment: an interrupted resync leaves it in the one or the other."""
        for name, oracle, durable in self._owed:
            if self.nodes[name].durable is durable:
                for volume in self.nodes[name].settings.volumes:
                    self._check(name, volume, oracle)

    def _check(self, name: str, volume: str, oracle: Oracle) -> None:
        stores = {each: node.durable.platters[volume] for each, node in self.nodes.items()}
        held = {number for store in stores.values() for number in store.cache}
        # The side that stood may lose the next split, and keep there what it had won.
        for store in stores.values():
            held |= set(store.rescued) | store.in_limbo
        owed = owed_of(oracle, name, volume)
        self.world.counts["kept in a rescue"] += len(owed & set(stores[name].rescued))
        if not owed <= held:
            raise Violation(
                f"6 {sorted(owed - held)[:8]} of {volume} were acknowledged by {name}, which "
                "gave way, and are neither in a volume nor in its rescue"
            )


def owed_of(oracle: Oracle, name: str, volume: str) -> set[int]:
    """What was told by this node, and is not void."""
    return {one.value for one in oracle.acked if one.volume == volume and name in one.rests}
