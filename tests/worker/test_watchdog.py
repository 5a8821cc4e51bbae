"""What happens when the loop hangs: by a clock of its own, without the loop."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from mirrorha.core.orders import StopReason, Trouble
from mirrorha.volume.worker.control import Control, control_pair
from mirrorha.volume.worker.loop import Loop
from mirrorha.volume.worker.messages import FromWorker, ToWorker
from mirrorha.volume.worker.watchdog import EXIT_STATUS, ORPHAN_S, Watchdog

DISK_MAX_MS = 10_000
FREEZE_MAX_MS = 60_000


@attrs.define
class Scene:
    now_ms: int
    loop: Loop
    application: Control
    watchdog: Watchdog | None = None
    aborted: int = 0
    left: list[int] = attrs.field(factory=list)

    def look_at(self, now_ms: int) -> None:
        self.now_ms = now_ms
        assert self.watchdog is not None
        self.watchdog.look()

    def told(self) -> list[Trouble]:
        reports = [packet.message.report for packet in self.application.receive()]
        return [each for each in reports if isinstance(each, Trouble)]


@pytest.fixture
def scene() -> Iterator[Scene]:
    ours, theirs = control_pair()
    control = Control(theirs, incoming=ToWorker)
    made = Scene(1_000, Loop(clock_ms=lambda: made.now_ms), Control(ours, incoming=FromWorker))

    def abort() -> None:
        made.aborted += 1

    made.watchdog = Watchdog(
        made.loop,
        control,
        disk_max_ms=DISK_MAX_MS,
        freeze_max_ms=FREEZE_MAX_MS,
        abort=abort,
        leave=made.left.append,
        starts=False,
    )
    made.watchdog.watches_turns = True
    yield made
    made.application.close()
    control.close()
    made.loop.close()


def test_a_loop_that_waits_is_not_judged(scene: Scene) -> None:
    scene.look_at(10 * FREEZE_MAX_MS)
    assert (scene.told(), scene.aborted, scene.left) == ([], 0, [])


def test_a_hung_disk_request_is_told_of_once(scene: Scene) -> None:
    scene.loop.turn_since_ms = 2_000
    scene.look_at(2_000 + DISK_MAX_MS)
    assert scene.told() == []
    scene.look_at(2_001 + DISK_MAX_MS)
    scene.look_at(9_000 + DISK_MAX_MS)
    (trouble,) = scene.told()
    assert trouble.reason is StopReason.DISK_SLOW
    assert "10001 ms" in trouble.text
    assert scene.aborted == 0
    scene.loop.turn_since_ms = 30_000  # it went on, and hangs again
    scene.look_at(30_001 + DISK_MAX_MS)
    assert len(scene.told()) == 1


def test_a_loop_that_hangs_for_freeze_max_lets_its_callers_go(scene: Scene) -> None:
    scene.loop.turn_since_ms = 2_000
    scene.look_at(2_000 + FREEZE_MAX_MS)
    assert scene.aborted == 0
    scene.look_at(2_001 + FREEZE_MAX_MS)
    scene.look_at(5_000 + FREEZE_MAX_MS)
    assert scene.aborted == 1
    assert scene.left == []


def test_opening_a_volume_takes_as_long_as_it_takes(scene: Scene) -> None:
    assert scene.watchdog is not None
    scene.watchdog.watches_turns = False
    scene.loop.turn_since_ms = 2_000
    scene.look_at(10 * FREEZE_MAX_MS)
    assert (scene.told(), scene.aborted) == ([], 0)


def test_without_its_application_a_hung_worker_is_over_within_a_second(scene: Scene) -> None:
    scene.loop.turn_since_ms = 1_900
    scene.application.close()
    scene.look_at(2_000)
    assert scene.left == []
    scene.look_at(2_000 + int(ORPHAN_S * 1000))
    assert scene.aborted == 1
    assert scene.left == [EXIT_STATUS]
    assert ORPHAN_S < 0.8
