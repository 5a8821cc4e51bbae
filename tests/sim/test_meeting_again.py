"""How soon a half of a pair acts on what the other half tells it: one scene each, no chance."""

from __future__ import annotations

from mirrorha.core import events as v
from mirrorha.core.messages import Standing
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.world import World


def mirrored_pair() -> tuple[World, SimNode, SimNode]:
    """A pair that mirrors: its source and its follower."""
    world = World(1)
    pair = Pair(world, "arbiter")
    for node in pair.nodes.values():
        node.start()
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)
    source = pair.source()
    assert source is not None
    return world, source, pair.peer(source)


def standing(node: SimNode) -> Standing:
    assert node.node is not None
    return node.node.state.standing


def test_a_woken_primary_asks_the_register_as_soon_as_the_other_serves() -> None:
    """Not only when its stream has been stuck for `peer_slow_max`."""
    world, source, follower = mirrored_pair()
    source.paused_until_ms = world.now_ms + 8_000
    world.run_until(source.paused_until_ms)
    assert standing(follower) is Standing.SOURCE
    woken = world.run_while(lambda: standing(source) is Standing.SOURCE, at_most_ms=1_000)
    assert woken, "it still takes itself for the primary"


def test_who_is_told_that_the_primary_was_stopped_waits_for_nothing() -> None:
    """Neither its head start nor for a fencer: a stopped node has no service any more."""
    world, source, follower = mirrored_pair()
    source.hub.net.beats = dict.fromkeys(source.hub.net.beats, False)  # the last beat is lost
    source.give(v.Command(operation="", verb=v.Verb.STOP))
    assert world.run_while(lambda: standing(source) is not Standing.STOPPED, at_most_ms=10_000)
    assert follower.node is not None
    quick_ms = follower.node.state.settings.takeover_delay_ms
    assert world.run_while(
        lambda: standing(follower) is not Standing.SOURCE, at_most_ms=quick_ms - 100
    )


def test_a_takeover_does_not_wait_for_the_pace_of_the_watch() -> None:
    """The register was read a moment before, as it is now and then: it is read again at once."""
    world, source, follower = mirrored_pair()
    assert follower.node is not None
    state = follower.node.state
    retry_ms = state.settings.arbiter_retry_ms
    state.ask_next_ms = world.now_ms + 10 * retry_ms
    source.give(v.Command(operation="", verb=v.Verb.STOP))
    assert world.run_while(lambda: standing(follower) is not Standing.SOURCE, at_most_ms=retry_ms)
