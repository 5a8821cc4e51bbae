"""A resync between two volumes' machines: ordered, cut over, and then a mirror of the two."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable

import pytest

from mirrorha.core.orders import (
    BecomeTarget,
    CutDone,
    CutOver,
    Follow,
    NearlyEqual,
    Progress,
    ServeAlone,
    ServeMirror,
    SetResyncRate,
    StartResync,
)
from mirrorha.volume.disk import LIMBO_FID, ListDirectory
from tests.volume.resync_pair import difference
from tests.volume.two_volumes import World


def join(world: World, session: int, *, everything: bool) -> None:
    orders: list[Callable[[], None]] = [
        lambda: world.order(world.second, BecomeTarget(5, session)),
        lambda: world.order(
            world.first, StartResync(5, session, everything, world.rng.randrange(1 << 64))
        ),
        lambda: world.connect(up=True),
    ]
    world.rng.shuffle(orders)
    for order in orders:
        order()


@pytest.mark.parametrize("seed", range(40))
def test_a_volume_joins_and_follows(seed: int) -> None:
    rng = random.Random(seed)
    world = World(rng)
    world.order(world.first, ServeAlone(5, "alone"))
    for _ in range(rng.randrange(60)):
        world.step(changes=0.3)
    sessions = itertools.count(1)
    for _ in range(rng.randrange(3)):
        join(world, next(sessions), everything=rng.random() < 0.3)
        if world.wait_for(NearlyEqual, changes=0.02, steps=rng.randrange(600)):
            break
        world.connect(up=False)
        world.settle()
        world.first.reports.clear()
    else:
        join(world, next(sessions), everything=rng.random() < 0.3)
        assert world.wait_for(NearlyEqual, changes=0.02)
    world.order(world.first, CutOver(99))
    # Callers go on asking; nothing of it is applied until the cut is over.
    assert world.wait_for(CutDone, changes=0.005)
    assert difference(world.first.disk, world.second.disk) == []
    assert world.second.disk.perform(ListDirectory(LIMBO_FID)) == []
    # What lost its power now would lose nothing.
    world.second.disk.power_loss(rng)
    world.second.disk.open_again()
    assert difference(world.first.disk, world.second.disk) == []
    world.order(world.second, Follow(6, "mirror", 1))
    world.order(world.first, ServeMirror(6, "mirror", 1))
    for _ in range(300):
        world.step(changes=0.1)
    world.settle()
    assert difference(world.first.disk, world.second.disk) == []
    assert len(world.first.replies) == world.asked
    assert not world.resets


def test_the_rate_of_a_resync_is_that_of_its_volume() -> None:
    world = World(random.Random(1))
    world.order(world.first, ServeAlone(5, "alone"))
    world.order(world.first, SetResyncRate(7 << 20))
    join(world, 1, everything=True)
    assert _limits(world) == {7 << 20}
    world.connect(up=False)
    world.settle()
    world.first.reports.clear()
    join(world, 2, everything=True)  # the same rate, though another session
    assert _limits(world) == {7 << 20}
    world.order(world.first, SetResyncRate(9 << 20))  # while it is under way
    assert _limits(world) == {9 << 20}
    world.order(world.first, SetResyncRate(0))
    assert _limits(world) == {0}
    assert world.wait_for(NearlyEqual, changes=0.0)


def _limits(world: World) -> set[int]:
    """The limits that are told of from now on, for a while."""
    for _ in range(150):
        world.step(changes=0.02)
    told = {each.limit_bytes_per_s for each in world.first.reports if isinstance(each, Progress)}
    world.first.reports = deque(
        each for each in world.first.reports if not isinstance(each, Progress)
    )
    return told
