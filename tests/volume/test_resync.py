"""Two trees become the same, whatever they were, and whatever happens meanwhile."""

from __future__ import annotations

import itertools
import random
from typing import Final

import pytest

from mirrorha.core.orders import NearlyEqual, Progress
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import LIMBO_FID, Apply, Kind, ListDirectory, Many, Outcome, SyncTree
from mirrorha.volume.ops import (
    ROOT_FID,
    AnyOp,
    Create,
    Mkdir,
    Rename,
    Rmdir,
    Symlink,
    Truncate,
    Unlink,
    Write,
    make_fid,
)
from mirrorha.volume.resync.listing import all_of
from mirrorha.volume.resync.messages import (
    BYTES_WINDOW,
    ENTRIES_WINDOW,
    Compare,
    Content,
    Done,
    Hashes,
    Listing,
    Settle,
)
from mirrorha.volume.resync.session import SILENCE_MAX_MS
from mirrorha.volume.resync.target import SYNC_BYTES
from mirrorha.volume.stream.resync_interface import ResyncStatus
from mirrorha.volume.touched import INODE, NAMES, touches
from mirrorha.wire.limits import BLOCK_BYTES, SEGMENT_BYTES
from tests.volume.resync_pair import Pair, difference
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
BLOCK: Final = bytes(range(1, 256)) * (BLOCK_BYTES // 255) + b"x" * (BLOCK_BYTES % 255)


def make_pair(rng: random.Random, scenario: str) -> Pair[MemoryDisk]:
    """Two trees of a common past, as two nodes may have them; and what both know of it."""
    counter = itertools.count(1)

    def draw() -> int:
        return make_fid(epoch=9, counter=next(counter))

    source = MemoryDisk(draw=draw)
    Application(rng, source, epoch=1).live(rng.randrange(5, 80))
    target = twin(source, draw=draw)
    if scenario in {"empty", "foreign"}:
        target = MemoryDisk(draw=draw)
    application = Application(rng, source, epoch=5)
    everything = scenario != "touched"
    pair = Pair(rng, source, target, everything=everything, mutate=application)
    application.live(rng.randrange(40), pair.source.log)
    if scenario != "empty":
        # On "collide" both made files of the same ids in one epoch, as after a split they may.
        epoch = 5 if scenario == "collide" else 4
        steps = rng.choice((0, rng.randrange(40)))
        Application(rng, target, epoch=epoch).live(steps, pair.target.log)
    lost = {"target_ids": target, "source_ids": source}.get(scenario)
    if lost is not None:
        lost.lose_ids()
        lost.open_again()
    return pair


def assert_equal(pair: Pair[MemoryDisk]) -> None:
    failures = pair.machine_s.failure, pair.machine_t.failure
    assert failures == ("", "")
    assert pair.machine_s.status is pair.machine_t.status is ResyncStatus.EQUAL
    assert difference(pair.source.disk, pair.target.disk) == []
    assert pair.target.disk.perform(ListDirectory(LIMBO_FID)) == []
    reports = [one for one in pair.source.reports if isinstance(one, Progress)]
    assert all(one.done_bytes <= one.total_bytes for one in reports)
    assert not [one for one in pair.target.reports]


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


# What it costs.


class Quiet:
    """A source and a target that are the same, to be changed by hand."""

    def __init__(self, *, everything: bool = False) -> None:
        self.rng = random.Random(0)
        self.disk = MemoryDisk()
        self.counter = 0
        self.everything = everything
        self.pair: Pair[MemoryDisk] | None = None

    def apply(self, op: AnyOp) -> None:
        outcome = self.disk.perform(Apply(op))
        assert isinstance(outcome, Outcome)
        assert outcome.errno == 0
        if self.pair is not None:
            self.pair.source.log.update(touches(op))

    def fid(self) -> int:
        self.counter += 1
        return make_fid(epoch=1 if self.pair is None else 5, counter=self.counter)

    def file(self, parent: int, name: str, content: bytes) -> int:
        fid = self.fid()
        self.apply(Create(fid, parent, name, 0o644, 0, 0, 1))
        if content:
            self.apply(Write(fid, 0, content, 2))
        return fid

    def directory(self, parent: int, name: str) -> int:
        fid = self.fid()
        self.apply(Mkdir(fid, parent, name, 0o755, 0, 0, 1))
        return fid

    def split(self, target: MemoryDisk | None = None) -> Pair[MemoryDisk]:
        """From here on the target is behind."""
        target = twin(self.disk) if target is None else target
        self.pair = Pair(self.rng, self.disk, target, everything=self.everything)
        return self.pair

    def resync(self) -> Pair[MemoryDisk]:
        assert self.pair is not None
        self.pair.begin()
        self.pair.run()
        assert_equal(self.pair)
        return self.pair


def big_tree(quiet: Quiet) -> tuple[int, int]:
    """A directory of two large files, and one of them."""
    directory = quiet.directory(ROOT_FID, "directory")
    quiet.file(directory, "other", BLOCK * 40)
    return directory, quiet.file(directory, "large", BLOCK * 40)


@pytest.mark.parametrize("everything", [False, True])
class TestRenamesMoveNoData:
    """All of these move or link 5 MiB; with everything compared the hashes travel as well."""

    def limit(self, everything: bool) -> int:
        return 4_000 + (80 * 48 if everything else 0)

    def test_of_a_file(self, everything: bool) -> None:
        quiet = Quiet(everything=everything)
        directory, large = big_tree(quiet)
        quiet.split()
        quiet.apply(Rename(large, directory, "large", ROOT_FID, "moved", 0, 9))
        pair = quiet.resync()
        assert pair.content_bytes == 0
        assert pair.sent_bytes < self.limit(everything)

    def test_of_a_directory_into_a_new_one(self, everything: bool) -> None:
        quiet = Quiet(everything=everything)
        directory, _ = big_tree(quiet)
        quiet.split()
        new = quiet.directory(ROOT_FID, "new")
        quiet.apply(Rename(directory, ROOT_FID, "directory", new, "inside", 0, 9))
        pair = quiet.resync()
        assert pair.content_bytes == 0
        assert pair.sent_bytes < self.limit(everything)

    def test_swapped_names(self, everything: bool) -> None:
        quiet = Quiet(everything=everything)
        directory, large = big_tree(quiet)
        other = quiet.disk.snapshot()["directory/other"].fid
        quiet.split()
        quiet.apply(Rename(large, directory, "large", directory, "x", 0, 9))
        quiet.apply(Rename(other, directory, "other", directory, "large", 0, 9))
        quiet.apply(Rename(large, directory, "x", directory, "other", 0, 9))
        pair = quiet.resync()
        assert pair.content_bytes == 0
        assert pair.sent_bytes < self.limit(everything)

    def test_a_directory_and_its_child_change_places(self, everything: bool) -> None:
        quiet = Quiet(everything=everything)
        directory, _ = big_tree(quiet)
        child = quiet.directory(directory, "child")
        quiet.file(child, "third", BLOCK * 40)
        quiet.split()
        quiet.apply(Rename(child, directory, "child", ROOT_FID, "child", 0, 9))
        quiet.apply(Rename(directory, ROOT_FID, "directory", child, "directory", 0, 9))
        pair = quiet.resync()
        assert pair.content_bytes == 0
        assert pair.sent_bytes < self.limit(everything) + (40 * 48 if everything else 0)

    def test_the_directory_that_held_it_is_gone(self, everything: bool) -> None:
        quiet = Quiet(everything=everything)
        directory, large = big_tree(quiet)
        other = quiet.disk.snapshot()["directory/other"].fid
        quiet.split()
        quiet.apply(Rename(large, directory, "large", ROOT_FID, "large", 0, 9))
        quiet.apply(Unlink(other, directory, "other", 9))
        quiet.apply(Rename(large, ROOT_FID, "large", ROOT_FID, "z", 0, 9))
        pair = quiet.resync()
        assert pair.content_bytes == 0
        assert pair.sent_bytes < self.limit(everything)


def test_after_a_lost_table_of_ids_no_data_moves() -> None:
    for loser in ("source", "target"):
        quiet = Quiet(everything=True)
        big_tree(quiet)
        pair = quiet.split()
        disk = pair.source.disk if loser == "source" else pair.target.disk
        disk.lose_ids()
        disk.open_again()
        quiet.resync()
        assert pair.content_bytes == 0


def test_a_file_replaced_by_a_new_version_of_itself_sends_what_changed() -> None:
    quiet = Quiet()
    directory, large = big_tree(quiet)
    quiet.split()
    new = quiet.file(directory, "large.new", BLOCK * 39 + BLOCK[::-1])
    quiet.apply(Rename(new, directory, "large.new", directory, "large", large, 9))
    pair = quiet.resync()
    assert pair.content_bytes == BLOCK_BYTES


def test_what_is_sent_is_in_proportion_to_what_changed() -> None:
    rng = random.Random(7)
    for everything in (False, True):
        quiet = Quiet(everything=everything)
        large = quiet.file(ROOT_FID, "large", BLOCK * 160)
        pair = quiet.split()
        changed = rng.sample(range(160), 10)
        for block in changed:
            quiet.apply(Write(large, block * BLOCK_BYTES + 5, b"new", 9))
        quiet.resync()
        segments = {block * BLOCK_BYTES // SEGMENT_BYTES for block in changed}
        compared = 160 if everything else len(segments) * 16
        assert pair.content_bytes == len(changed) * BLOCK_BYTES
        assert pair.sent_bytes <= 1.2 * len(changed) * BLOCK_BYTES + 48 * compared


def test_a_hole_stays_a_hole() -> None:
    for everything in (False, True):
        quiet = Quiet(everything=everything)
        pair = quiet.split(MemoryDisk() if everything else None)
        sparse = quiet.file(ROOT_FID, "sparse", BLOCK)
        quiet.apply(Write(sparse, 200 * BLOCK_BYTES, BLOCK, 3))
        quiet.apply(Truncate(sparse, 500 * BLOCK_BYTES + 1, 4))
        quiet.resync()
        assert pair.content_bytes == 2 * BLOCK_BYTES


def test_data_that_became_a_hole_is_not_sent_as_zeros() -> None:
    quiet = Quiet()
    large = quiet.file(ROOT_FID, "large", BLOCK * 20)
    pair = quiet.split()
    quiet.apply(Write(large, BLOCK_BYTES, bytes(3 * BLOCK_BYTES), 9))
    quiet.resync()
    assert pair.content_bytes == 0


def test_a_file_that_shrank_and_grew_again_has_zeros_there() -> None:
    quiet = Quiet()
    large = quiet.file(ROOT_FID, "large", BLOCK * 40)
    quiet.split()
    quiet.apply(Truncate(large, BLOCK_BYTES, 9))
    quiet.apply(Truncate(large, BLOCK_BYTES * 40, 9))
    pair = quiet.resync()
    assert pair.content_bytes == 0


def test_small_files_of_an_empty_target_travel_with_their_names() -> None:
    quiet = Quiet(everything=True)
    pair = quiet.split(MemoryDisk())
    directory = quiet.directory(ROOT_FID, "directory")
    for number in range(50):
        quiet.file(directory, str(number), b"content" * number)
    quiet.file(directory, "zeros", bytes(BLOCK_BYTES))
    quiet.resync()
    kinds = {type(message) for _, message, _ in pair.sent}
    assert Listing in kinds
    assert not kinds & {Hashes, Content, Compare}


def test_a_second_session_does_not_send_again_what_the_first_has_sent() -> None:
    quiet = Quiet(everything=True)
    big_tree(quiet)
    pair = quiet.split(MemoryDisk())
    pair.begin()
    pair.run(until=lambda: pair.content_bytes >= 60 * BLOCK_BYTES)
    first = pair.content_bytes
    assert first < 80 * BLOCK_BYTES
    pair.lose_link()
    quiet.resync()
    assert pair.content_bytes <= 80 * BLOCK_BYTES - first + BYTES_WINDOW


def test_no_more_is_under_way_than_the_windows_allow() -> None:
    quiet = Quiet(everything=True)
    for number in range(3000):
        quiet.file(ROOT_FID, f"{number:05}", b"")
    for number in range(4):
        quiet.file(ROOT_FID, f"large{number}", BLOCK * 100)
    pair = quiet.split(MemoryDisk())
    quiet.resync()
    entries = owed_bytes = 0
    for sender, message, _ in pair.sent:
        match message:
            case Listing():
                entries += max(1, len(message.names))
            case Compare():
                entries += len(message.files)
            case Content():
                owed_bytes += len(message.data)
            case Done():
                entries -= message.entries
                owed_bytes -= message.sent_bytes
        assert sender == "target" or (entries <= ENTRIES_WINDOW and owed_bytes <= BYTES_WINDOW)
    assert pair.source.in_flight_max < 100
    assert pair.target.in_flight_max < 500


def test_a_target_that_is_full_fails_and_finishes_once_there_is_room() -> None:
    quiet = Quiet(everything=True)
    big_tree(quiet)
    pair = quiet.split(MemoryDisk())
    pair.target.disk.fill(10 * BLOCK_BYTES)
    pair.begin()
    pair.run(until=lambda: pair.machine_s.status is ResyncStatus.FAILED)
    assert pair.machine_t.status is ResyncStatus.FAILED
    assert "ENOSPC" in pair.machine_t.failure
    assert (pair.machine_s.failed_here, pair.machine_t.failed_here) == (False, True)
    assert "ENOSPC" in pair.machine_s.failure
    pair.lose_link()
    pair.target.disk.make_room()
    quiet.resync()


def test_what_an_unfinished_session_left_in_limbo_makes_room_for_the_next() -> None:
    """Else a target that is nearly full could never be brought up to date."""
    quiet = Quiet(everything=True)
    old = quiet.file(ROOT_FID, "a", BLOCK * 40)
    pair = quiet.split()
    quiet.apply(Unlink(old, ROOT_FID, "a", 9))
    quiet.file(ROOT_FID, "new", BLOCK[::-1] * 40)
    pair.target.disk.fill(20 * BLOCK_BYTES)
    pair.begin()
    pair.run(until=lambda: pair.machine_s.status is ResyncStatus.FAILED)
    pair.lose_link()
    quiet.resync()


def test_a_longer_file_of_the_target_is_cut_before_it_is_compared() -> None:
    quiet = Quiet()
    large = quiet.file(ROOT_FID, "large", BLOCK * 4)
    pair = quiet.split()
    quiet.apply(Truncate(large, 2 * BLOCK_BYTES + 5, 9))
    quiet.resync()
    assert pair.content_bytes == 0


def test_small_files_that_the_target_has_are_not_sent() -> None:
    quiet = Quiet(everything=True)
    for number in range(50):
        quiet.file(ROOT_FID, str(number), b"content" * 1000)
    pair = quiet.split()
    quiet.resync()
    assert pair.sent_bytes < 50 * 300


def test_what_was_written_is_synced_now_and_then() -> None:
    """One sync of all of it at the end would take so long that the disk would seem to fail."""
    quiet = Quiet(everything=True)
    for name in ("a", "b", "c"):
        quiet.file(ROOT_FID, name, BLOCK * 600)
    pair = quiet.split(MemoryDisk())
    pair.begin()
    unsynced = []
    written = 0
    for kind in pair.watch(pair.target, until=lambda: pair.machine_s.is_nearly_equal):
        written += BLOCK_BYTES * 16 if kind is Many else 0
        if kind is SyncTree:
            unsynced.append(written)
            written = 0
    assert len(unsynced) >= 2
    assert max(unsynced) <= 2 * SYNC_BYTES + BYTES_WINDOW
    pair.run()
    assert_equal(pair)


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


# The node's part.


def test_the_node_is_told_once_and_the_rest_is_left_to_its_order() -> None:
    quiet = Quiet()
    large = quiet.file(ROOT_FID, "large", BLOCK * 10)
    pair = quiet.split()
    pair.holds_when_nearly = False
    quiet.apply(Write(large, 0, b"new", 9))
    pair.begin()
    pair.run(until=lambda: pair.now_ms > 5_000)
    assert [type(one) for one in pair.source.reports].count(NearlyEqual) == 1
    assert pair.machine_s.is_nearly_equal
    assert pair.machine_s.status is ResyncStatus.RUNNING
    # What is touched meanwhile is brought over while the node makes up its mind.
    quiet.apply(Write(large, BLOCK_BYTES * 5, b"newer", 9))
    pair.machine_s.touched(touches(Write(large, BLOCK_BYTES * 5, b"newer", 9)))
    pair.run(until=lambda: pair.now_ms > 10_000)
    assert difference(pair.source.disk, pair.target.disk) == []
    sent = len(pair.sent)
    pair.wants_hold = True
    pair.run()
    assert_equal(pair)
    beside_pulse = [one for _, one, _ in pair.sent[sent:] if not isinstance(one, Done)]
    assert len(beside_pulse) <= 8


def test_the_last_pass_takes_few_trips_over_the_link() -> None:
    """Created, written, renamed, deleted: all of it goes together, however much it is."""
    quiet = Quiet()
    directory, large = big_tree(quiet)
    pair = quiet.split()
    pair.holds_when_nearly = False
    pair.begin()
    pair.run(until=lambda: pair.machine_s.is_nearly_equal)
    new = quiet.directory(ROOT_FID, "new")
    ops: list[AnyOp] = [
        Mkdir(quiet.fid(), new, "below", 0o755, 0, 0, 5),
        Rename(large, directory, "large", new, "large", 0, 5),
        *(Write(large, block * BLOCK_BYTES, b"x", 6) for block in range(0, 40, 7)),
    ]
    for number in range(50):
        fid = quiet.fid()
        ops += [Create(fid, new, str(number), 0o600, 0, 0, 7), Write(fid, 0, b"x" * 5000, 7)]
    for op in ops:
        quiet.apply(op)
        pair.machine_s.touched(touches(op))
    pair.machine_s.touched([(new, INODE), (new, NAMES), (ROOT_FID, NAMES)])
    pair.do(pair.source, pair.machine_s.final_pass(pair.now_ms))
    assert pair.trips() <= 6
    assert_equal(pair)


def test_the_last_pass_may_be_ordered_before_little_is_left() -> None:
    rng = random.Random(3)
    pair = make_pair(rng, "empty")
    pair.begin()
    pair.run(until=lambda: pair.steps > 20)
    pair.wants_hold = True
    pair.run()
    assert_equal(pair)


def test_progress_is_reported_now_and_then() -> None:
    quiet = Quiet(everything=True)
    for number in range(30):
        quiet.file(ROOT_FID, str(number), BLOCK * 3)
    pair = quiet.split(MemoryDisk())
    quiet.resync()
    reports = [one for one in pair.source.reports if isinstance(one, Progress)]
    assert reports[0].done_bytes == 0
    for earlier, later in itertools.pairwise(reports):
        assert earlier.done_bytes <= later.done_bytes
        assert earlier.sent_bytes <= later.sent_bytes
    # Every 200 ms, and at the end.
    assert len(reports) <= pair.now_ms // 200 + 2
    last = pair.machine_s.progress
    assert last == reports[-1]
    assert last.files_left == 0
    assert last.done_bytes == last.total_bytes == 90 * BLOCK_BYTES
    assert last.sent_bytes == 90 * BLOCK_BYTES


def test_a_rate_is_kept_until_it_is_changed_and_not_by_the_last_pass() -> None:
    quiet = Quiet(everything=True)
    quiet.file(ROOT_FID, "large", BLOCK * 16 * 12)
    pair = quiet.split(MemoryDisk())
    pair.begin()
    pair.machine_s.set_rate(1)  # the floor: 1 MiB/s
    pair.run(until=lambda: pair.now_ms >= 3_000)
    assert 2 * SEGMENT_BYTES <= pair.content_bytes <= 5 * SEGMENT_BYTES
    pair.machine_s.set_rate(4 * SEGMENT_BYTES)
    pair.run(until=lambda: pair.now_ms >= 4_000)
    assert 5 * SEGMENT_BYTES <= pair.content_bytes <= 11 * SEGMENT_BYTES
    pair.machine_s.set_rate(1)
    pair.wants_hold = True
    pair.run()
    assert pair.now_ms < 5_000
    assert_equal(pair)


@pytest.mark.parametrize("silent", ["source", "target"])
def test_a_peer_that_falls_silent_ends_the_session(silent: str) -> None:
    quiet = Quiet(everything=True)
    big_tree(quiet)
    pair = quiet.split(MemoryDisk())
    pair.begin()
    pair.run(until=lambda: pair.content_bytes > 0)
    node = pair.target if silent == "source" else pair.source
    machine = pair.machine_t if silent == "source" else pair.machine_s
    begun_ms = pair.now_ms
    for _ in range(400):
        node.inbox.clear()
        pair.one_step_of(node)
        if machine.status is ResyncStatus.FAILED:
            break
    assert "said nothing" in machine.failure
    assert SILENCE_MAX_MS <= pair.now_ms - begun_ms < SILENCE_MAX_MS + 2_000


def test_sides_that_wait_for_each_other_do_not_take_that_for_silence() -> None:
    quiet = Quiet()
    pair = quiet.split()
    pair.holds_when_nearly = False
    pair.begin()
    pair.run(until=lambda: pair.now_ms > 3 * SILENCE_MAX_MS)
    assert not pair.is_over()
    pair.wants_hold = True
    pair.run()
    assert_equal(pair)


def test_a_message_of_another_session_is_ignored() -> None:
    rng = random.Random(5)
    pair = make_pair(rng, "diverged")
    pair.begin()
    pair.run(until=lambda: pair.steps > 100)
    old = [message for _, message, _ in pair.sent]
    pair.lose_link()
    pair.begin()
    for message in old:
        pair.inject(message)
    pair.run()
    assert_equal(pair)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_disk_that_fails_ends_the_session(side: str) -> None:
    quiet = Quiet(everything=True)
    big_tree(quiet)
    pair = quiet.split(MemoryDisk())
    pair.begin()
    pair.fail_next(pair.source if side == "source" else pair.target, "it broke")
    pair.run()
    assert "it broke" in pair.machine_s.failure
    assert "it broke" in pair.machine_t.failure
