"""What a comparison leaves to a resync is still known when that comes."""

from __future__ import annotations

from mirrorha.core.orders import (
    BecomeTarget,
    CutDone,
    CutOver,
    Follow,
    NearlyEqual,
    ServeAlone,
    ServeMirror,
    StartResync,
)
from mirrorha.volume.disk import LoadTouched
from mirrorha.volume.ops import SetXattr
from mirrorha.volume.touched import TouchedState, all_of
from tests.volume.resync_pair import difference
from tests.volume.test_verify import FILE, Verifier, apply, with_files
from tests.volume.two_volumes import World

#: Longer than any entry is kept because it is hot.
AGES_MS = 60_000


def let_pass(world: World) -> None:
    """Checkpoint after checkpoint, with changes in between: none of an old file."""
    began_ms = world.now_ms
    while world.now_ms < began_ms + AGES_MS:
        world.step()
        if world.rng.random() < 0.01:
            world.change()


def logged(world: World) -> set[tuple[int, int]]:
    state = world.first.disk.perform(LoadTouched())
    assert isinstance(state, TouchedState)
    return set(state.keys)


def found_by_a_comparison() -> tuple[Verifier, World]:
    verifier = with_files()
    world = verifier.world
    apply(world.second.disk, SetXattr(FILE, "user.a", b"x"))
    ended = verifier.run(repair=True)
    assert ended.fids == [FILE]
    return verifier, world


def fill(world: World) -> None:
    world.order(world.second, BecomeTarget(7, 1))
    world.order(world.first, ServeAlone(7, "alone"))
    world.order(world.first, StartResync(7, 1, False, 1))
    assert world.wait_for(NearlyEqual, changes=0.0)
    world.order(world.first, CutOver(99))
    assert world.wait_for(CutDone, changes=0.0)
    assert difference(world.first.disk, world.second.disk) == []


def test_what_is_left_to_a_resync_outlives_every_checkpoint() -> None:
    """Both disks hold all that was done, and differ all the same."""
    _, world = found_by_a_comparison()
    let_pass(world)
    assert world.first.volume.touched.retired > (0, 0)
    assert set(all_of(FILE)) <= logged(world)
    fill(world)


def test_it_is_forgotten_once_a_resync_has_seen_to_it() -> None:
    verifier, world = found_by_a_comparison()
    fill(world)
    world.order(world.second, Follow(8, "mirror", 1))
    world.order(world.first, ServeMirror(8, "mirror", 1))
    let_pass(world)
    assert not set(all_of(FILE)) & logged(world)
    assert not verifier.run().differences
