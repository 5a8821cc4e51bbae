"""A simulated pair without an arbiter that is mirrored, and what tests do to it."""

from __future__ import annotations

from mirrorha.core import events as v
from mirrorha.core.health import why_of
from mirrorha.core.words import Role
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.world import World


def paired(mode: str, *, seed: int = 1, **settings: object) -> tuple[World, Pair]:
    """A healthy pair, lyon the PRIM."""
    world = World(seed)
    pair = Pair(world, mode, **settings)
    for node in pair.nodes.values():
        node.start()
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)
    world.run_until(world.now_ms + 500)
    source = pair.source()
    assert source is not None
    assert source.name == "lyon"
    return world, pair


def cut(pair: Pair) -> None:
    for way in pair.net.open:
        pair.net.open[way] = False
    pair.break_link()


def heal(pair: Pair) -> None:
    for way in pair.net.open:
        pair.net.open[way] = True


def roles(pair: Pair) -> dict[str, Role]:
    return {name: node.node.state.role for name, node in pair.nodes.items() if node.node}


def tell(pair: Pair, name: str, verb: v.Verb) -> None:
    pair.nodes[name].give(v.Command(operation="x", verb=verb))


def why(pair: Pair, name: str) -> str:
    core = pair.nodes[name].node
    assert core is not None
    return why_of(core.state)
