"""What a resync costs: no more moves than was changed, and no more is under way than may be."""

from __future__ import annotations

import random

import pytest

from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import Many, SyncTree
from mirrorha.volume.ops import ROOT_FID, Rename, Truncate, Unlink, Write
from mirrorha.volume.resync.messages import (
    BYTES_WINDOW,
    ENTRIES_WINDOW,
    Compare,
    Content,
    Done,
    Hashes,
    Listing,
)
from mirrorha.volume.resync.target import SYNC_BYTES
from mirrorha.volume.stream.resync_interface import ResyncStatus
from mirrorha.wire.limits import BLOCK_BYTES, SEGMENT_BYTES
from tests.volume.resync_scenarios import BLOCK, Quiet, assert_equal, big_tree


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
