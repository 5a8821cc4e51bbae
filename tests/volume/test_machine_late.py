"""A loop that was late itself blames nobody: answers may lie there unread."""

from __future__ import annotations

from mirrorha.core.orders import ServeAlone, StopReason, Trouble
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import LoadTouched
from mirrorha.volume.events import Change, Ordered, Reported, Tick
from mirrorha.volume.ops import ROOT_FID, Create
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.pending import VolumeSettings

TICK_MS = 500


def waiting_for_its_disk() -> Volume:
    """A volume that serves and has asked its disk something, at 0 ms."""
    touched = MemoryDisk().perform(LoadTouched())
    volume = Volume(VolumeSettings(), touched=touched, resyncs=ComparingResyncs())  # type: ignore[arg-type]
    volume.step(Ordered(ServeAlone(epoch=1, generation="g")), 0)
    volume.step(Tick(), 0)
    volume.step(Change(1, Create(0, ROOT_FID, "f", 0o644, -1, -1, 1)), 0)
    return volume


def troubles(volume: Volume, now_ms: int) -> list[StopReason]:
    effects = volume.step(Tick(), now_ms)
    reports = [effect.report for effect in effects if isinstance(effect, Reported)]
    return [report.reason for report in reports if isinstance(report, Trouble)]


def test_a_disk_that_does_not_answer_is_reported_in_time() -> None:
    volume, limit_ms = waiting_for_its_disk(), VolumeSettings().disk_max_ms
    for now_ms in range(TICK_MS, limit_ms + 1, TICK_MS):
        assert not troubles(volume, now_ms)
    assert troubles(volume, limit_ms + TICK_MS) == [StopReason.DISK_SLOW]


def test_a_disk_is_not_blamed_for_a_loop_that_was_blocked() -> None:
    volume, limit_ms = waiting_for_its_disk(), VolumeSettings().disk_max_ms
    blocked_ms = limit_ms + 1
    assert not troubles(volume, blocked_ms)
    for now_ms in range(TICK_MS, limit_ms + 1, TICK_MS):
        assert not troubles(volume, blocked_ms + now_ms)
    assert troubles(volume, blocked_ms + limit_ms + TICK_MS) == [StopReason.DISK_SLOW]
