"""How a cluster begins (5.0): with nothing, with files here, there, or on both; one node first."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from mirrorha.core import events as v
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.world import Violation, World

SETTLE_MS: Final = 30_000
# What was in a directory before there was a cluster. Far above what a client writes.
BEFORE: Final = 1 << 40


class FirstStart(enum.Enum):
    """What the two find when they start for the first time."""

    EMPTY = "empty"
    FILES_HERE = "files on the first node"
    FILES_THERE = "files on the second node"
    FILES_ON_BOTH = "files on both nodes"
    ONE_FIRST = "init without the peer"
    NEWCOMER_WITH_FILES = "a newcomer with files"


def begin(world: World, pair: Pair, how: FirstStart) -> None:
    """Start the two that way, until they mirror. What was there is neither lost nor mixed up."""
    world.count(f"first start {how.value}")
    first, second = pair.nodes.values()
    if how is FirstStart.EMPTY:
        _start(first, second)
        _until_mirrored(world, pair)
        return
    both = how is FirstStart.FILES_ON_BOTH
    if how is FirstStart.FILES_HERE or both:
        _put(pair, first)
    if how in (FirstStart.FILES_THERE, FirstStart.NEWCOMER_WITH_FILES) or both:
        _put(pair, second)
    if how in (FirstStart.FILES_HERE, FirstStart.FILES_THERE):
        source = first if how is FirstStart.FILES_HERE else second
        _start(first, second)
    elif both:
        source = world.rng.choice((first, second))
        _start(first, second)
        _waits(world, pair, lambda: all(_holds(pair, node, node) for node in (first, second)))
        source.give(v.Command(operation="init", verb=v.Verb.INIT))
    else:
        source = first
        _one_first(world, pair, first, second, newcomer_has_files=_has_any(second))
    _until_mirrored(world, pair)
    _check(pair, source)


def _one_first(
    world: World, pair: Pair, first: SimNode, second: SimNode, *, newcomer_has_files: bool
) -> None:
    _start(first)
    world.run_until(world.now_ms + 1_000)
    if pair.shared is not None:
        pair.shared.chosen.add(first.name)
    first.give(v.Command(operation="init", verb=v.Verb.INIT))
    world.run_until(world.now_ms + 3_000)
    _start(second)
    if newcomer_has_files:
        _waits(world, pair, lambda: _holds(pair, second, second))
        second.give(v.Command(operation="accept", verb=v.Verb.ACCEPT))


def _start(*nodes: SimNode) -> None:
    for node in nodes:
        node.start()


def _put(pair: Pair, node: SimNode) -> None:
    for name in node.settings.volumes:
        node.durable.platters[name].put(_mark(pair, node))


def _mark(pair: Pair, node: SimNode) -> int:
    return BEFORE + list(pair.nodes).index(node.name)


def _has_any(node: SimNode) -> bool:
    return any(store.cache for store in node.durable.platters.values())


def _holds(pair: Pair, node: SimNode, owner: SimNode) -> bool:
    stores = node.durable.platters.values()
    return all(_mark(pair, owner) in store.cache for store in stores)


def _waits(world: World, pair: Pair, untouched: Callable[[], bool]) -> None:
    """Nothing happens before a person decides: no pair, and no file is gone."""
    if world.run_while(lambda: not pair.mirrored(), at_most_ms=4_000):
        raise Violation("5.0 files of a node were given up and nobody was asked")
    if not untouched():
        raise Violation("5.0 files are gone, and nobody gave them up")


def _until_mirrored(world: World, pair: Pair) -> None:
    if not world.run_while(lambda: not pair.mirrored(), at_most_ms=SETTLE_MS):
        raise Violation("I10 the first start does not lead to a pair")


def _check(pair: Pair, source: SimNode) -> None:
    """Both begin with what the source had, and with nothing else."""
    for node in pair.nodes.values():
        if _marks(source) and not _holds(pair, node, source):
            raise Violation(f"5.0 {node.name} lacks what {source.name} began with")
        if _marks(node) - _marks(source):
            raise Violation(f"5.0 {node.name} still holds what was given up")


def _marks(node: SimNode) -> set[int]:
    stores = node.durable.platters.values()
    return {value for store in stores for value in store.cache if value >= BEFORE}
