"""The serving side: when the touched log is forgotten, on both disks."""

from __future__ import annotations

import pytest

from mirrorha.core.orders import Follow, ServeMirror
from mirrorha.volume.disk import RecordTouched
from mirrorha.volume.events import Change, Lane
from mirrorha.volume.ops import ROOT_FID, Create
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.touched import RETIRED_MAX, SEGMENT_BYTES
from tests.volume.source_steps import alone, applied, mirrored, write
from tests.volume.stream_pair import Pair


class TestCheckpoint:
    SETTINGS = VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=2)

    def test_what_both_disks_hold_is_forgotten_by_both(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        pair.give(source, write(5, fid))
        pair.settle()
        for _ in range(3):
            pair.tick(1_000)
            pair.settle()
        for node in (source, follower):
            assert node.disk.touched == set()
            assert len(node.volume.touched) == 0
            assert node.disk.retired == node.disk.confirmed == (1, 2)
            assert node.disk.durable == node.disk.tree

    def test_what_is_written_again_and_again_stays_hot(self) -> None:
        pair, source, _, fid = mirrored(self.SETTINGS)
        records = 0
        for stamp in range(5, 15):
            source.disk.performed.clear()
            pair.give(source, write(stamp, fid))
            pair.settle()
            pair.tick(1_000)
            pair.settle()
            records += sum(isinstance(r, RecordTouched) for r in source.disk.performed)
        assert records == 0
        assert (fid, 0) in source.disk.touched

    def test_what_is_not_acknowledged_is_not_covered(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=1))
        for _ in range(3):
            pair.tick(1_000)
            pair.settle()
        assert source.disk.touched == set()
        pair.give(source, write(5, fid))
        applied(pair, source)
        raw = source.peer.inbox.popleft()  # held on the way
        for _ in range(5):
            pair.tick(1_000)
            pair.settle()
        assert (fid, 0) in source.disk.touched
        source.peer.inbox.append(raw)
        pair.settle()

    @pytest.mark.parametrize("late", [0, 1])
    def test_it_needs_both_disks(self, late: int) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=1))
        pair.give(source, write(5, fid))
        pair.settle()
        for _ in range(5):
            pair.tick(1_000)
            pair.settle(held=(pair.nodes[late], Lane.SYNC))
        assert (fid, 0) in source.disk.touched

    def test_what_comes_while_the_trees_are_synced_is_not_covered(self) -> None:
        settings = VolumeSettings(checkpoint_ms=1_000, touched_max=1)
        pair, source, follower, fid = mirrored(settings)
        pair.give(source, write(5, fid))
        pair.settle()
        pair.tick(1_000)
        pair.settle(held=(source, Lane.SYNC))  # the follower is done
        pair.begin_sync(source)
        pair.give(source, write(6, fid, offset=40 * SEGMENT_BYTES))
        for _ in range(3):
            pair.settle(held=(source, Lane.SYNC))
            pair.tick(50)
        pair.disk(source, Lane.SYNC)
        pair.settle()
        for node in (source, follower):
            assert (fid, 0) not in node.disk.touched
            assert (fid, 40) in node.disk.touched

    def test_a_long_log_is_forgotten_piece_by_piece(self) -> None:
        pair = Pair(VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=1))
        for node in pair.nodes:
            node.disk.touched = {(number, 0) for number in range(100, 100 + 2 * RETIRED_MAX + 1)}
            node.boot()
        source, follower = pair.mirror()
        left = []
        for _ in range(6):
            pair.tick(1_000)
            pair.settle()
            left.append((len(source.disk.touched), len(follower.disk.touched)))
        assert {(RETIRED_MAX + 1, RETIRED_MAX + 1), (1, 1)} <= set(left)
        assert left[-1] == (0, 0)

    def test_numbers_that_a_swap_starts_anew_keep_nothing_for_ever(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        for stamp in range(100, 200):  # counted by the touched log, though they have no seq
            pair.give(source, Change(stamp, Create(0, ROOT_FID, "file", 0o600, 0, 0, stamp)))
        pair.give(source, write(5, fid))
        pair.settle()
        pair.order(source, Follow(2, "g", round=2))
        pair.order(follower, ServeMirror(2, "g", round=2))
        pair.settle()
        pair.give(follower, write(6, fid, offset=5 << 20))
        pair.settle()
        for _ in range(6):
            pair.tick(1_000)
            pair.settle()
        assert source.disk.touched == follower.disk.touched == set()

    def test_here_first_then_there(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        pair.give(source, write(5, fid))
        pair.settle()
        pair.tick(1_000)
        pair.settle()
        pair.tick(1_000)
        pair.settle()
        pair.tick(1_000)
        assert source.disk.touched
        while follower.disk.touched:
            pair.busy()[0]()
            assert follower.disk.touched or not source.disk.touched

    def test_alone_nothing_is_forgotten(self) -> None:
        pair, node, fid = alone(self.SETTINGS)
        pair.give(node, write(5, fid))
        for _ in range(5):
            pair.tick(1_000)
            pair.settle()
        assert (fid, 0) in node.disk.touched

    def test_a_crowded_log_does_not_wait(self) -> None:
        settings = VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=100, touched_max=5)
        pair, source, _, _ = mirrored(settings)
        assert len(source.disk.touched) > 5
        pair.tick(100)
        pair.settle()
        assert source.disk.touched == set()
