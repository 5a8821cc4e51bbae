"""A resync that is cut off goes on: nothing is sent twice, and little is compared twice."""

from __future__ import annotations

import random

import pytest

from mirrorha.core.orders import BecomeTarget, Follow, NearlyEqual, ServeAlone, StartResync
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import Apply, Outcome
from mirrorha.volume.ops import ROOT_FID, Create, Write
from mirrorha.volume.resync.messages import Hashes
from mirrorha.wire.limits import BLOCK_BYTES
from tests.volume.resync_pair import Pair, difference
from tests.volume.resync_scenarios import BLOCK, Quiet, assert_equal
from tests.volume.two_volumes import World

FILES = 40
BLOCKS = 20


def cut_at(
    share: float, *, target_dies: bool = False, rescue: str = ""
) -> tuple[Quiet, Pair[MemoryDisk], list[int]]:
    """A full resync of forty files that was cut off when this share of them was done."""
    quiet = Quiet(everything=True)
    fids = [quiet.file(ROOT_FID, f"{number:02}", BLOCK * BLOCKS) for number in range(FILES)]
    pair = quiet.split(MemoryDisk())
    pair.rescue = rescue
    pair.begin()
    pair.run(until=lambda: sum(fid in pair.filled for fid in fids) >= share * FILES)
    assert not pair.is_over()
    pair.lose_link(target_dies=target_dies)
    return quiet, pair, fids


def compared_blocks(pair: Pair[MemoryDisk]) -> int:
    return sum(message.count for _, message, _ in pair.sent if isinstance(message, Hashes))


def test_what_was_filled_is_neither_sent_nor_compared_again() -> None:
    quiet, pair, fids = cut_at(0.9)
    left = sum(fid not in pair.filled for fid in fids)
    for fid in fids[:3]:  # what was filled is touched while nobody is there
        quiet.apply(Write(fid, 7 * BLOCK_BYTES + 9, b"touched", 9))
    quiet.resync()
    touched = 3 * 16  # whole segments
    assert compared_blocks(pair) <= left * BLOCKS + touched
    assert pair.content_bytes <= (left * BLOCKS + 3) * BLOCK_BYTES
    assert pair.machine_s.progress.done_bytes == pair.machine_s.progress.total_bytes


def test_progress_goes_on_where_it_was() -> None:
    _, pair, _ = cut_at(0.9)
    pair.begin()
    total_bytes = FILES * BLOCKS * BLOCK_BYTES
    pair.run(until=lambda: pair.machine_s.progress.done_bytes >= 0.8 * total_bytes)
    assert compared_blocks(pair) <= 0.2 * FILES * BLOCKS
    assert pair.machine_s.progress.files_left <= 0.2 * FILES
    pair.run()
    assert_equal(pair)


def test_a_target_that_died_compares_all_again_and_is_sent_what_it_lacks() -> None:
    quiet, pair, _ = cut_at(0.5, target_dies=True)
    quiet.resync()
    assert compared_blocks(pair) >= FILES * BLOCKS
    assert pair.content_bytes <= 0.6 * FILES * BLOCKS * BLOCK_BYTES


def test_where_something_must_be_kept_all_is_compared_again() -> None:
    quiet, pair, _ = cut_at(0.5, rescue="theirs")
    quiet.resync()
    assert compared_blocks(pair) >= FILES * BLOCKS


@pytest.mark.parametrize("seed", range(10))
def test_cut_off_again_and_again_while_somebody_writes(seed: int) -> None:
    rng = random.Random(seed)
    quiet = Quiet(everything=True)
    quiet.rng = rng
    fids = [quiet.file(ROOT_FID, str(number), BLOCK * 5) for number in range(12)]
    pair = quiet.split(MemoryDisk())
    pair.mutate = lambda: Write(
        rng.choice(fids), rng.randrange(6) * BLOCK_BYTES + 3, rng.randbytes(9), 9
    )
    for _ in range(4):
        pair.begin()
        pair.mutations_left = 30
        for _ in range(rng.randrange(400)):
            if not pair.is_over():
                pair.one_step()
        pair.lose_link(target_dies=rng.random() < 0.2)
        for _ in range(rng.randrange(4)):
            quiet.apply(pair.mutate())
    pair.begin()
    pair.run(mutations=5)
    assert_equal(pair)


def join(world: World, session: int) -> None:
    world.order(world.second, BecomeTarget(5, session))
    world.order(world.first, StartResync(5, session, True, world.rng.randrange(1 << 64)))
    world.connect(up=True)
    assert world.wait_for(NearlyEqual, changes=0.0)


@pytest.mark.parametrize(
    "order", [ServeAlone(6, "forced"), Follow(5, "alone", 1)], ids=lambda each: type(each).__name__
)
def test_a_tree_that_something_else_may_have_changed_is_compared_whole(
    order: ServeAlone | Follow,
) -> None:
    world = World(random.Random(3))
    world.order(world.first, ServeAlone(5, "alone"))
    for node in (world.first, world.second):
        for op in (Create(1 << 40, ROOT_FID, "file", 0o644, 0, 0, 1), Write(1 << 40, 0, BLOCK, 2)):
            outcome = node.disk.perform(Apply(op))
            assert isinstance(outcome, Outcome)
            assert outcome.errno == 0
    join(world, 1)
    world.connect(up=False)
    world.settle()
    world.first.reports.clear()
    world.order(world.second, order)
    world.second.disk.perform(Apply(Write(1 << 40, 5, b"of another line", 2)))
    join(world, 2)
    world.settle()
    assert difference(world.first.disk, world.second.disk) == []


def test_what_was_filled_in_another_epoch_is_compared_again() -> None:
    world = World(random.Random(4))
    world.order(world.first, ServeAlone(5, "alone"))
    join(world, 1)
    assert world.second.volume._joining._filled
    world.order(world.second, BecomeTarget(5, 2))
    assert world.second.volume._joining._filled
    world.order(world.second, BecomeTarget(7, 3))
    assert not world.second.volume._joining._filled
