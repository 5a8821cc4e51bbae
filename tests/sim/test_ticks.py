"""How often a node that has nothing to do looks whether it has."""

from __future__ import annotations

from typing import Final

from mirrorha.core.words import Role
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.world import World

TICK_MS: Final = 100
CALM_TICK_MS: Final = 240  # less than a pulse


def wait_ms(node: SimNode) -> int:
    """How long the node, which has just stepped, may be left alone."""
    assert node.node is not None
    return node.node.next_deadline_ms() - node.node.state.now_ms


def test_only_a_pair_with_nothing_under_way_is_left_alone_for_longer() -> None:
    world = World(1)
    pair = Pair(world, "arbiter", tick_ms=TICK_MS, calm_tick_ms=CALM_TICK_MS)
    for node in pair.nodes.values():
        node.start()
    longest = dict.fromkeys(Role, 0)

    def look() -> bool:
        for node in pair.nodes.values():
            if node.node is not None:
                role = node.node.state.role
                longest[role] = max(longest[role], wait_ms(node))
        return not pair.mirrored()

    assert world.run_while(look, at_most_ms=30_000)
    # On the way there it has deadlines of its own, which nobody else foresees.
    assert 0 < longest[Role.WAIT] <= TICK_MS
    assert 0 < longest[Role.ALONE] <= TICK_MS

    world.run_until(world.now_ms + 2_000)
    look()
    assert longest[Role.PRIM] > TICK_MS
    assert longest[Role.SECOND] > TICK_MS

    source = pair.source()
    assert source is not None
    assert source.node is not None
    state = source.node.state
    pair.peer(source).crash(power=False)
    assert world.run_while(lambda: not state.frozen, at_most_ms=10_000)
    assert state.role is Role.PRIM
    assert wait_ms(source) <= TICK_MS
