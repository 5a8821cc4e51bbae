"""The loop of a volume that waits a moment for its disk: its what it is handed, and when."""

from __future__ import annotations

import queue
import random
import time
from typing import TYPE_CHECKING

from mirrorha.volume.disk import DiskError, ReadAttributes
from mirrorha.volume.disk_thread import WAIT_S, DiskThread
from mirrorha.volume.events import DiskDone

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest


def test_what_is_done_as_the_wait_ends_comes_back_once_and_in_order() -> None:
    seed = random.randrange(1 << 32)
    rng, disk_rng = random.Random(seed), random.Random(seed + 1)
    handed: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    came: list[DiskDone] = []
    at_once = later = asked = 0

    def perform(request: AnyRequest) -> object:
        until_s = time.perf_counter() + WAIT_S * disk_rng.choice([0, 0, 0, 0.9, 1, 1.1])
        while time.perf_counter() < until_s:
            pass
        if disk_rng.random() < 0.1:
            raise DiskError("EIO")
        return request

    thread = DiskThread("t", perform=perform, deliver=came.extend, hand_over=handed.put)
    ends_s = time.monotonic() + 1
    while time.monotonic() < ends_s:
        count = rng.choice([1, 1, 2, 5])
        calls = [(token, ReadAttributes(token)) for token in range(asked + 1, asked + count + 1)]
        asked += count
        if rng.random() < 0.1:
            thread.submit(*calls)
        else:
            done = thread.submit_and_wait(*calls)
            assert len(done) in {0, count}, seed
            came += done
            at_once, later = at_once + bool(done), later + (not done)
        while len(came) < asked and rng.random() < 0.8:
            handed.get(timeout=10)()
    while len(came) < asked:
        handed.get(timeout=10)()
    thread.stop()
    assert thread.join(10)
    assert [each.token for each in came] == list(range(1, asked + 1)), seed
    assert handed.empty(), seed
    assert at_once, "some are waited for"
    assert later, "not all are"
