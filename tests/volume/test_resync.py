"""Two trees become the same, whatever they were, and whatever happens meanwhile."""

from __future__ import annotations

import itertools
import random
from typing import Final

import pytest

from mirrorha.core.orders import NearlyEqual
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import LIMBO_FID, Apply, Kind, ListDirectory
from mirrorha.volume.ops import ROOT_FID, Mkdir, Rename, Rmdir, Symlink, Truncate, Unlink, Write
from mirrorha.volume.resync.messages import Listing, Settle
from mirrorha.volume.stream.resync_interface import ResyncStatus
from mirrorha.volume.touched import INODE, NAMES, all_of, touches
from mirrorha.wire.limits import BLOCK_BYTES
from tests.volume.resync_pair import Pair
from tests.volume.resync_scenarios import BLOCK, Quiet, assert_equal, big_tree, make_pair
from tests.volume.resync_trees import Application, twin

SCENARIOS: Final = (
    "touched",
    "diverged",
    "empty",
    "foreign",
    "target_ids",
    "source_ids",
    "collide",
)


def run_scenario(scenario: str, seed: int) -> None:
    rng = random.Random(f"{scenario} {seed}")
    pair = make_pair(rng, scenario)
    pair.begin()
    pair.run(mutations=rng.choice((0, rng.randrange(60), rng.randrange(200))))
    assert_equal(pair)


def run_interrupted(scenario: str, seed: int) -> None:
    """Sessions end somewhere, with the link, the target's process or its power."""
    rng = random.Random(f"interrupted {scenario} {seed}")
    pair = make_pair(rng, scenario)
    mutations = rng.choice((0, rng.randrange(100)))
    for _ in range(rng.randrange(1, 4)):
        pair.begin()
        steps = itertools.count()
        last = rng.randrange(500)
        pair.run(mutations=mutations, until=lambda last=last, steps=steps: next(steps) > last)
        mutations = pair.mutations_left
        if pair.is_over():
            return assert_equal(pair)
        end = rng.choice(("link", "process", "power"))
        pair.lose_link(target_dies=end != "link")
        if end == "power":
            pair.target.disk.power_loss(rng)
            # What has lost its id may be anything: whoever opens a disk adds that to the log.
            unknown = pair.target.disk.open_again().unknown
            pair.target.log.update(key for fid in unknown for key in all_of(fid))
    pair.begin()
    pair.run(mutations=mutations)
    return assert_equal(pair)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("block", range(2))
def test_trees_become_equal(scenario: str, block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        run_scenario(scenario, seed)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("block", range(2))
def test_trees_become_equal_in_spite_of_interruptions(scenario: str, block: int) -> None:
    for seed in range(block * 15, block * 15 + 15):
        run_interrupted(scenario, seed)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("block", range(4))
def test_thousands_of_trees_become_equal(scenario: str, block: int) -> None:
    for seed in range(1000 + block * 150, 1000 + block * 150 + 150):
        run_scenario(scenario, seed)
        run_interrupted(scenario, seed)


@pytest.mark.parametrize("seed", range(20))
def test_a_target_that_keeps_no_owners_becomes_equal_but_for_them(seed: int) -> None:
    rng = random.Random(seed)
    source = MemoryDisk()
    application = Application(rng, source, epoch=1)
    application.special_kinds = [Kind.FIFO, Kind.SOCKET]  # nor can it make devices
    application.live(40)
    pair = Pair(rng, source, MemoryDisk(keeps_owners=False), everything=True, mutate=application)
    pair.begin()
    pair.run(mutations=30)
    assert pair.machine_s.status is ResyncStatus.EQUAL
    seen = pair.target.disk.snapshot()
    assert {one.attributes.uid for one in seen.values()} == {-1}
    for path, one in source.snapshot().items():
        other = seen[path].attributes
        assert (other.mode, other.mtime_ns) == (one.attributes.mode, one.attributes.mtime_ns)
        assert seen[path].content == one.content


# Rules that chance seldom needs.


def test_the_log_covers_what_the_target_has_touched_before_anything_is_listed() -> None:
    rng = random.Random(1)
    pair = make_pair(rng, "touched")
    Application(rng, pair.target.disk, epoch=3).live(30, pair.target.log)
    assert pair.target.log - pair.source.log
    pair.begin()
    pair.run(until=lambda: any(isinstance(one, Listing) for _, one, _ in pair.sent))
    assert pair.target.log <= pair.source.log


def test_a_half_copied_file_is_not_taken_for_one_that_both_had() -> None:
    """The target had deleted it; nothing but the log of the source remembers that it was made."""
    quiet = Quiet()
    _, large = big_tree(quiet)
    pair = quiet.split()
    op = Unlink(large, quiet.disk.snapshot()["directory"].fid, "large", 9)
    pair.target.request(Apply(op))
    pair.target.log.update(touches(op))
    pair.begin()
    pair.run(until=lambda: "directory/large" in pair.target.disk.snapshot())
    assert pair.content_bytes == 0
    pair.lose_link(target_dies=True)
    quiet.resync()


def test_a_half_copied_new_file_is_not_taken_for_one_that_both_had() -> None:
    """As above, but it is one that the source guessed to be new, and told of by itself."""
    quiet = Quiet()
    pair = quiet.split()
    large = quiet.file(ROOT_FID, "large", BLOCK * 4)
    pair.source.log = {key for key in pair.source.log if key[0] == ROOT_FID or key[1] < 0}
    pair.begin()
    pair.run(until=lambda: "large" in pair.target.disk.snapshot())
    assert pair.content_bytes == 0
    pair.lose_link(target_dies=True)
    assert set(all_of(large)) <= pair.source.log
    quiet.resync()


@pytest.mark.parametrize("epoch", [1, 5])
def test_a_directory_that_is_unknown_is_copied_with_all_below_it(epoch: int) -> None:
    """Whatever the log says of what it holds, and whether or not it is guessed to be new."""
    quiet = Quiet()
    if epoch == 1:
        big_tree(quiet)
    pair = quiet.split(MemoryDisk())
    if epoch == 5:
        big_tree(quiet)
    directory = quiet.disk.snapshot()["directory"].fid
    pair.source.log = {(ROOT_FID, NAMES), (directory, INODE)}
    quiet.resync()
    assert pair.content_bytes == 80 * BLOCK_BYTES


def test_a_directory_that_must_first_leave_the_one_it_will_hold() -> None:
    """Ids make the source list `inner` first, when it lies inside of what it is to hold."""
    quiet = Quiet()
    inner = quiet.directory(ROOT_FID, "inner")
    outer = quiet.directory(ROOT_FID, "outer")
    quiet.apply(Rename(inner, ROOT_FID, "inner", outer, "inner", 0, 5))
    place = quiet.directory(ROOT_FID, "place")
    quiet.apply(Rename(outer, ROOT_FID, "outer", place, "outer", 0, 5))
    behind = quiet.split().target.disk
    last = quiet.directory(ROOT_FID, "last")
    quiet.apply(Rename(inner, outer, "inner", last, "inner", 0, 9))
    quiet.apply(Rename(outer, place, "outer", inner, "outer", 0, 9))
    assert quiet.pair is not None
    log = quiet.pair.source.log
    for seed in range(10):
        quiet.rng.seed(seed)
        pair = Pair(quiet.rng, quiet.disk, twin(behind), everything=False)
        pair.source.log = set(log)
        pair.begin()
        pair.run()
        assert_equal(pair)


@pytest.mark.parametrize("seed", range(5))
def test_a_file_that_moves_into_a_new_directory_before_it_was_compared(seed: int) -> None:
    """The target drops the first listing of that directory, for it does not know it yet."""
    quiet = Quiet(everything=True)
    for number in range(60):
        quiet.directory(ROOT_FID, f"{number:02}")
    late = quiet.directory(ROOT_FID, "late")
    file = quiet.file(late, "file", BLOCK * 4)
    pair = quiet.split()
    pair.rng.seed(seed)
    pair.target.request(Apply(Write(file, BLOCK_BYTES, b"other", 2)))
    pair.begin()
    pair.run(until=lambda: any(isinstance(one, Listing) for _, one, _ in pair.sent))
    inner, outer = quiet.fid(), quiet.fid()
    for op in (
        Mkdir(inner, late, "inner", 0o755, 0, 0, 5),
        Mkdir(outer, ROOT_FID, "outer", 0o755, 0, 0, 5),
        Rename(file, late, "file", inner, "file", 0, 5),
        Rename(inner, late, "inner", outer, "inner", 0, 5),
    ):
        quiet.apply(op)
        pair.machine_s.touched(touches(op))
    pair.run()
    assert_equal(pair)
    assert pair.content_bytes == BLOCK_BYTES


def test_two_symlinks_of_one_id() -> None:
    quiet = Quiet(everything=True)
    pair = quiet.split()
    fid = quiet.fid()
    quiet.apply(Symlink(fid, ROOT_FID, "link", "there", 0, 0, 3))
    quiet.apply(Symlink(quiet.fid(), ROOT_FID, "other", "same", 0, 0, 3))
    for name, target in (("link", "elsewhere"), ("other", "same")):
        number = quiet.disk.snapshot()[name].fid
        pair.target.request(Apply(Symlink(number, ROOT_FID, name, target, 0, 0, 3)))
    quiet.resync()


def test_what_the_target_lacks_at_the_end_of_a_file_is_never_taken_for_zeros() -> None:
    quiet = Quiet()
    large = quiet.file(ROOT_FID, "large", BLOCK * 4)
    pair = quiet.split()
    pair.target.request(Apply(Truncate(large, BLOCK_BYTES + 1, 9)))
    pair.source.log.add((large, INODE))
    quiet.resync()
    assert pair.content_bytes == 3 * BLOCK_BYTES


def test_what_is_deleted_is_gone_before_the_application_must_wait() -> None:
    quiet = Quiet()
    directory, large = big_tree(quiet)
    pair = quiet.split()
    pair.holds_when_nearly = False
    quiet.apply(Rename(large, directory, "large", ROOT_FID, "large", 0, 9))
    other = quiet.disk.snapshot()["directory/other"].fid
    quiet.apply(Unlink(other, directory, "other", 9))
    quiet.apply(Rmdir(directory, ROOT_FID, "directory", 9))
    pair.begin()
    pair.run(until=lambda: any(isinstance(one, NearlyEqual) for one in pair.source.reports))
    assert pair.target.disk.perform(ListDirectory(LIMBO_FID)) == []
    assert pair.content_bytes == 0
    pair.wants_hold = True
    pair.run()
    assert_equal(pair)


def test_a_change_that_is_told_late_is_not_lost() -> None:
    """Nobody should apply anything while changes are held; a last pass is repeated if one does."""
    quiet = Quiet()
    large = quiet.file(ROOT_FID, "large", BLOCK * 4)
    pair = quiet.split()
    pair.begin()
    pair.run(until=lambda: any(isinstance(one, Settle) and one.final for _, one, _ in pair.sent))
    late = Write(large, BLOCK_BYTES, b"late", 9)
    quiet.apply(late)
    pair.machine_s.touched(touches(late))
    pair.run()
    assert_equal(pair)
