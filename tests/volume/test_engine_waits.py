"""The loop of a volume that waits a moment for its disk: its results, its turns, interrupts."""

from __future__ import annotations

import queue
import random
import signal
import statistics
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio

from mirrorha.core.orders import AnyReport, Frozen, ServeAlone, StreamDown, StreamUp
from mirrorha.volume.disk import Apply, DiskError, ReadAttributes
from mirrorha.volume.disk_thread import WAIT_S, DiskThread
from mirrorha.volume.engine import Engine
from mirrorha.volume.events import AnyEffect, AnyEvent, DiskCall, DiskDone, Lane, Ordered, Reported
from mirrorha.volume.ops import ROOT_FID, Write
from tests.volume.test_engine import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrorha.volume.disk import AnyRequest

FIRST = ServeAlone(epoch=1, generation="g")


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
    assert at_once > 3, "some are waited for, again and again"
    assert later, "not all are"


class Endless:
    """A machine to which everything that the disk did leads to more."""

    is_at_rest = False
    stance = None

    def step_all(self, events: Sequence[AnyEvent], _now_ms: int) -> list[AnyEffect]:
        return [DiskCall(1 + number, Lane.TREE, ReadAttributes(1)) for number in range(len(events))]


async def test_the_loop_has_its_turns_however_long_the_disk_is_quick() -> None:
    class Disk:
        count = 0

        def perform(self, _request: AnyRequest) -> object:
            self.count += 1
            if self.count > 5_000:
                raise DiskError("that was long enough")
            return None

    disk = Disk()
    engine = Engine(
        "v",
        Endless(),  # type: ignore[arg-type]
        disk,  # type: ignore[arg-type]
        clock_ms=lambda: 0,
        report=lambda _report: None,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        for _ in range(5):
            before = disk.count
            engine.order(ServeAlone(epoch=1, generation="g"))
            assert disk.count - before < 30, "this task had no turn"
        with trio.fail_after(10):
            while disk.count < 1000:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_what_a_report_leads_to_comes_after_what_was_decided_before_it() -> None:
    class Reporting(Endless):
        def step_all(self, events: Sequence[AnyEvent], _now_ms: int) -> list[AnyEffect]:
            is_first = Ordered(FIRST) in events
            reports = [StreamUp(), StreamDown()] if is_first else [Frozen(0)]
            return [Reported(each) for each in reports]

    def report(report: AnyReport) -> None:
        told.append(type(report))
        if isinstance(report, StreamUp):
            engine.order(ServeAlone(epoch=2, generation="g"))

    told: list[type[AnyReport]] = []
    engine = Engine(
        "v",
        Reporting(),  # type: ignore[arg-type]
        Rig(),  # type: ignore[arg-type]
        clock_ms=lambda: 0,
        report=report,
    )
    engine.order(FIRST)
    assert told == [StreamUp, StreamDown, Frozen]


async def test_the_loop_does_not_wait_for_each_of_many_who_read() -> None:
    class Disk(Rig):
        count = 0

        def perform(self, request: AnyRequest) -> object:
            until_s = time.perf_counter() + WAIT_S / 3
            while time.perf_counter() < until_s:
                pass
            self.count += isinstance(request, ReadAttributes)
            return super().perform(request)

    disk = Disk()
    engine, done = disk.engine, []

    async def read() -> None:
        seen.append(disk.count - before)
        await engine.query(ReadAttributes(ROOT_FID))

    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        for _ in range(20):
            before, seen = disk.count, list[int]()
            async with trio.open_nursery() as readers:
                for _ in range(64):
                    readers.start_soon(read)
            done.append(max(seen))  # before the last of them could ask
        nursery.cancel_scope.cancel()
    assert statistics.median(done) < 60


def test_who_is_interrupted_while_the_loop_waits_loses_nothing() -> None:
    class Interrupted(Rig):
        asks = False

        def perform(self, request: AnyRequest) -> object:
            if self.asks and isinstance(request, Apply):
                self.asks = False
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return super().perform(request)

    async def main() -> None:
        rig, answered = Interrupted(), trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.engine.run)
            rig.engine.order(ServeAlone(epoch=1, generation="g"))
            fid = await rig.make_file()

            async def write() -> None:
                rig.asks = True
                await rig.engine.change(Write(fid, 0, b"x", 2))
                answered.set()

            nursery.start_soon(write)
            with pytest.raises(KeyboardInterrupt):  # this task, which waits for nothing else
                await trio.sleep(10)
            with trio.fail_after(10):
                await answered.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
