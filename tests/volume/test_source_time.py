"""The serving side: a peer, or a disk, that takes too long."""

from __future__ import annotations

import pytest

from mirrorha.core.orders import Freeze, StopReason
from mirrorha.volume.events import Flush, Lane, Received
from mirrorha.volume.stream import messages
from mirrorha.volume.stream.pending import VolumeSettings
from tests.volume.source_steps import alone, applied, mirrored, troubles, write


class TestTime:
    def test_a_peer_that_leaves_us_waiting_is_slow_then_stuck_once_each(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(peer_slow_max_ms=3_000))
        pair.jump(60_000)
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.tick(1_499)
        assert troubles(source) == []
        pair.tick(1)
        assert troubles(source) == [StopReason.STREAM_SLOW]
        pair.tick(1_499)
        assert troubles(source) == [StopReason.STREAM_SLOW]
        for _ in range(5):
            pair.tick(1)
        assert troubles(source) == [StopReason.STREAM_SLOW, StopReason.PEER_STUCK]

    def test_progress_starts_the_count_anew(self) -> None:
        settings = VolumeSettings(peer_slow_max_ms=3_000, disk_max_ms=100_000)
        pair, source, _, fid = mirrored(settings)
        for stamp in range(5, 15):
            pair.give(source, write(stamp, fid))
        applied(pair, source)
        for seq in range(2, 9):
            pair.tick(1_400)
            pair.give(source, Received(messages.Ack(1, seq)))
        assert troubles(source) == []
        pair.tick(1_600)
        assert troubles(source) == [StopReason.STREAM_SLOW]
        pair.give(source, Received(messages.Ack(1, 9)))
        pair.tick(1_600)
        assert troubles(source) == [StopReason.STREAM_SLOW] * 2

    def test_a_loop_that_was_late_judges_nobody_by_that_time(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(peer_slow_max_ms=3_000))
        pair.tick(1_000)
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.jump(4_000)
        assert troubles(source) == []
        pair.tick(3_000)
        assert troubles(source) == [StopReason.STREAM_SLOW, StopReason.PEER_STUCK]

    def test_a_flush_that_the_peer_does_not_answer_counts(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, Flush(5, fid))
        pair.disk(source, Lane.SYNC)
        pair.tick(3_000)
        assert troubles(source) == [StopReason.STREAM_SLOW, StopReason.PEER_STUCK]

    def test_who_waits_for_a_stream_that_is_down_counts(self) -> None:
        pair, source, _, fid = mirrored()
        pair.disconnect()
        pair.tick(10_000)
        assert troubles(source) == []
        pair.give(source, write(5, fid))
        pair.tick(3_000)
        assert troubles(source) == [StopReason.STREAM_SLOW, StopReason.PEER_STUCK]

    def test_alone_or_frozen_nobody_is_slow(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.order(source, Freeze(1))
        pair.tick(10_000)
        assert troubles(source) == []

    @pytest.mark.parametrize("lane", [Lane.TREE, Lane.SYNC])
    def test_a_disk_that_takes_too_long_fails(self, lane: Lane) -> None:
        pair, node, fid = alone(VolumeSettings(disk_max_ms=10_000))
        event = write(5, fid) if lane is Lane.TREE else Flush(5, fid)
        pair.tick(50_000)
        pair.give(node, event)
        pair.tick(10_000)
        assert troubles(node) == []
        pair.tick(1)
        pair.tick(1)
        assert troubles(node) == [StopReason.DISK_SLOW]

    def test_a_queue_is_no_slow_disk(self) -> None:
        pair, node, fid = alone(VolumeSettings(disk_max_ms=10_000))
        for stamp in range(5, 15):
            pair.give(node, write(stamp, fid))
        for _ in range(10):
            pair.tick(9_000)
            pair.disk(node, Lane.TREE)
        assert troubles(node) == []
