"""The trio driver of a volume's machine: threads, bugs, disks that hang, and an end."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from mirrorha.core.orders import Close, Freeze, Frozen, ServeAlone, StopReason, Trouble
from mirrorha.errors import InvariantViolation, NotPrimaryError, OutcomeUnknownError, VolumeError
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import Apply, DiskError, LoadTouched, ReadAttributes, ReadBytes
from mirrorha.volume.disk_thread import DiskThread
from mirrorha.volume.engine import Engine
from mirrorha.volume.events import (
    AnyEffect,
    AnyEvent,
    Change,
    DiskCall,
    DiskDone,
    Failure,
    Lane,
    Ordered,
    Reply,
    Tick,
)
from mirrorha.volume.lane_thread import LaneThread
from mirrorha.volume.ops import ROOT_FID, Create, Write
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.pending import Stance, VolumeSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from mirrorha.volume.disk import AnyRequest


class Counting:
    """A machine, and how many changes each of its steps was given."""

    def __init__(self, machine: Volume) -> None:
        self.machine = machine
        self.changes: list[int] = []
        self.waited_for_a_tick = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.machine, name)

    def step_all(self, events: Sequence[AnyEvent], now_ms: int) -> list[AnyEffect]:
        count = sum(isinstance(event, Change) for event in events)
        if count:
            self.changes.append(count)
            self.waited_for_a_tick += any(isinstance(event, Tick) for event in events)
        return self.machine.step_all(events, now_ms)


class Rig:
    """An engine on a disk in memory that can be made to fail or to hang."""

    def __init__(self, *, end_s: float = 5) -> None:
        self.inner = MemoryDisk()
        self.fails = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.reports: list[Any] = []
        self.machine = Volume(
            VolumeSettings(disk_max_ms=200),
            touched=self.inner.perform(LoadTouched()),  # type: ignore[arg-type]
            resyncs=ComparingResyncs(),
        )
        self.counting = Counting(self.machine)
        self.engine = Engine(
            "v",
            self.counting,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            clock_ms=lambda: int(trio.current_time() * 1000),
            report=self.reports.append,
            primary=lambda: "paris",
            end_s=end_s,
        )

    def perform(self, request: AnyRequest) -> object:
        if isinstance(request, Apply):
            self.goes_on.wait(20)
        if self.fails:
            raise DiskError("EIO")
        return self.inner.perform(request)

    async def make_file(self) -> int:
        made = await self.engine.change(Create(0, ROOT_FID, "f", 0o644, -1, -1, 1))
        assert isinstance(made, Create)
        return made.fid


@contextlib.asynccontextmanager
async def serving() -> AsyncGenerator[Rig]:
    """An engine that runs, and serves alone, while the block lasts."""
    rig = Rig()
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.engine.run)
        rig.engine.order(ServeAlone(epoch=1, generation="g"))
        yield rig
        nursery.cancel_scope.cancel()


async def test_a_change_is_made_and_read_back_in_order() -> None:
    async with serving() as rig:
        fid = await rig.make_file()
        await rig.engine.change(Write(fid, 0, b"hello", 2))
        assert await rig.engine.query(ReadBytes(fid, 0, 9)) == b"hello"
        await rig.engine.flush(fid)
        with pytest.raises(FileExistsError):
            await rig.make_file()


async def test_a_volume_that_does_not_serve_names_who_does() -> None:
    async with serving() as rig:
        rig.engine.order(Close(why="left", primary=None))
        with pytest.raises(NotPrimaryError, match=r"left.*'paris'") as caught:
            await rig.make_file()
        assert caught.value.primary == "paris"


async def test_what_is_pending_at_the_end_is_answered() -> None:
    rig = Rig()
    answers: list[type[BaseException]] = []

    async def change() -> None:
        try:
            await rig.make_file()
        except (NotPrimaryError, OutcomeUnknownError) as error:
            answers.append(type(error))

    async def ask() -> None:
        with pytest.raises(OSError, match="the node ends"):
            await rig.engine.query(ReadBytes(ROOT_FID, 0, 1))

    async with trio.open_nursery() as nursery:
        rig.goes_on.clear()
        await nursery.start(rig.engine.run)
        rig.engine.order(ServeAlone(epoch=1, generation="g"))
        async with trio.open_nursery() as callers:
            callers.start_soon(change)
            await trio.testing.wait_all_tasks_blocked(0.05)
            callers.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            rig.engine.close("the node ends")
        assert answers == [OutcomeUnknownError], "it was being applied: nobody knows"
        rig.goes_on.set()
        with pytest.raises(NotPrimaryError, match="the node ends"):
            await rig.make_file()
        with pytest.raises(OSError, match="the node ends"):
            await rig.engine.query(ReadBytes(ROOT_FID, 0, 1))
        rig.engine.order(ServeAlone(epoch=2, generation="h"))
        assert rig.machine.mode is None, "closed for good"
        nursery.cancel_scope.cancel()


async def test_a_disk_that_fails_or_hangs_is_reported() -> None:
    for hangs in (False, True):
        rig = Rig()
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.engine.run)
            rig.engine.order(ServeAlone(epoch=1, generation="g"))
            rig.fails = not hangs
            if hangs:
                rig.goes_on.clear()
            nursery.start_soon(_ignore_failure, rig)
            with trio.fail_after(5):
                while not any(isinstance(each, Trouble) for each in rig.reports):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            (trouble, *_) = (each for each in rig.reports if isinstance(each, Trouble))
            wanted = StopReason.DISK_SLOW if hangs else StopReason.OWN_DISK
            assert trouble.reason is wanted
            rig.goes_on.set()
            nursery.cancel_scope.cancel()


async def _ignore_failure(rig: Rig) -> None:
    with pytest.raises((NotPrimaryError, OutcomeUnknownError, OSError)):
        await rig.make_file()


async def test_a_bug_in_the_machine_acknowledges_nothing_and_ends_the_node() -> None:
    rig = Rig()

    async def change() -> None:
        with pytest.raises(OutcomeUnknownError, match="bug"):
            await rig.make_file()

    with pytest.RaisesGroup(pytest.RaisesExc(InvariantViolation, match="v: ")):
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.engine.run)
            rig.engine.order(ServeAlone(epoch=5, generation="g"))
            rig.goes_on.clear()
            nursery.start_soon(change)
            await trio.testing.wait_all_tasks_blocked(0.05)
            rig.engine.order(ServeAlone(epoch=1, generation="g"))  # epochs never fall
            rig.goes_on.set()


async def test_a_thread_that_hangs_is_left_behind_and_told_of() -> None:
    rig = Rig(end_s=0.1)
    with pytest.RaisesGroup(pytest.RaisesExc(VolumeError, match="stays in use")):
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.engine.run)
            rig.engine.order(ServeAlone(epoch=1, generation="g"))
            rig.goes_on.clear()
            nursery.start_soon(_ignore_failure, rig)
            await trio.testing.wait_all_tasks_blocked(0.05)
            rig.engine.close("end")
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
    rig.goes_on.set()


async def test_orders_are_reported_on() -> None:
    async with serving() as rig:
        rig.engine.order(Freeze(token=7))
        assert rig.reports == [Frozen(7)]


async def test_a_lane_keeps_order_and_hands_back_everything() -> None:
    taken: list[DiskDone] = []
    lane = LaneThread("t", perform=lambda request: request, deliver=taken.extend)
    for number in range(1, 2001):
        lane.submit((number, ReadBytes(number, 0, 1)))
    with trio.fail_after(10):
        while len(taken) < 2000:  # noqa: ASYNC110
            await trio.sleep(0.001)
        assert [each.token for each in taken] == list(range(1, 2001))
        lane.stop()
        await lane.wait_ended()


async def test_what_several_callers_change_goes_to_the_machine_together() -> None:
    async with serving() as rig:
        fid = await rig.make_file()
        await rig.engine.change(Write(fid, 0, bytes(100), 2))
        assert rig.counting.changes == [1, 1], "who is alone waits for nobody"
        rig.counting.changes.clear()
        async with trio.open_nursery() as callers:
            for number in range(100):
                data = bytes([number])
                callers.start_soon(rig.engine.change, Write(fid, number, data, 3 + number))
        assert sorted(rig.counting.changes) == [1, 99]
        for number in range(20):
            async with trio.open_nursery() as callers:
                for offset in range(2):
                    callers.start_soon(rig.engine.change, Write(fid, offset, data[:1], number))
        assert rig.counting.waited_for_a_tick < 5, "they go in the next turn, not some time"
        wanted = 2 * bytes([99]) + bytes(range(2, 100))
        assert await rig.engine.query(ReadBytes(fid, 0, 200)) == wanted


async def test_a_read_sees_the_changes_that_were_asked_for_before_it() -> None:
    async with serving() as rig:
        fid = await rig.make_file()
        for number in range(20):  # two that run in the same turn do so in any order
            wanted, seen, asks = str(number).encode() * 3, [], trio.Event()

            async def change(data: bytes, asks: trio.Event) -> None:
                asks.set()
                await rig.engine.change(Write(fid, 0, data, 5))

            async def read(seen: list[object], asks: trio.Event) -> None:
                await asks.wait()
                seen.append(await rig.engine.query(ReadBytes(fid, 0, 9)))

            async with trio.open_nursery() as callers:
                rig.goes_on.clear()  # somebody else's change is under way all the while
                callers.start_soon(rig.engine.change, Write(fid, 0, bytes(9), 4))
                await trio.testing.wait_all_tasks_blocked()
                callers.start_soon(read, seen, asks)
                await trio.testing.wait_all_tasks_blocked()
                callers.start_soon(change, wanted, asks)
                await trio.testing.wait_all_tasks_blocked()
                rig.goes_on.set()
            assert seen[0][: len(wanted)] == wanted  # type: ignore[index]


class Waited:
    """A disk thread without a loop: what would be handed over waits for `turn`."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.handed: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.delivered: list[int] = []
        self.thread = DiskThread(
            "t",
            perform=self.perform,
            deliver=lambda done: self.delivered.extend(each.token for each in done),
            hand_over=self.handed.put,
        )
        self.token = 0

    def perform(self, request: AnyRequest) -> object:
        self.goes_on.wait(20)
        return request

    def call(self, count: int = 1) -> list[int]:
        """Submit, and wait; what has come back at once."""
        first, self.token = self.token + 1, self.token + count
        calls = [(token, ReadAttributes(token)) for token in range(first, self.token + 1)]
        return [each.token for each in self.thread.submit_and_wait(*calls)]

    def turn(self) -> None:
        """What a loop does when it is called: takes what came back."""
        self.handed.get(timeout=10)()


def test_a_loop_waits_a_moment_for_a_quick_disk_and_for_no_other() -> None:
    waited = Waited()
    at_once: list[int] = []
    for _ in range(50):
        answered = waited.call(3)
        assert len(answered) in {0, 3}, "all of a call, or none"
        at_once += answered
    while len(at_once) + len(waited.delivered) < 150:
        waited.turn()
    assert at_once, "a thread that has nothing to do answers in time, now and then at least"
    assert sorted(at_once + waited.delivered) == list(range(1, 151)), "each once"
    waited.goes_on.clear()
    began_s = time.monotonic()
    assert not any(waited.call() for _ in range(20_000)), "behind what hangs nobody waits"
    assert time.monotonic() - began_s < 3, "20,000 times a moment would be 6 s"
    waited.delivered.clear()
    waited.goes_on.set()
    while len(waited.delivered) < 20_000:
        waited.turn()
    assert waited.delivered == list(range(151, 20_151)), "in their order"
    in_vain = [waited.call() for _ in range(2)]
    while len(waited.delivered) < 20_002:
        waited.turn()
    assert in_vain == [[], []], "it was waited for in vain: not the next times"
    waited.thread.stop()
    assert waited.thread.join(10)


def test_a_loop_waits_for_nothing_while_it_has_not_taken_what_came_before() -> None:
    waited = Waited()
    waited.thread.submit((1, ReadAttributes(1)))
    first = waited.handed.get(timeout=10)  # the thread has nothing to do
    waited.token = 1
    assert waited.call() == []
    first()
    while len(waited.delivered) < 2:
        waited.turn()
    assert waited.delivered == [1, 2]
    waited.thread.stop()
    assert waited.thread.join(10)


class Reading:
    """A machine that asks for much in one go, as a resync's does, and has changes applied."""

    stance, is_at_rest, mode = Stance.LOG, False, None

    def __init__(self) -> None:
        self.done: list[int] = []
        self.all_done = trio.Event()

    def step_all(self, events: Sequence[AnyEvent], now_ms: int) -> list[AnyEffect]:
        effects: list[AnyEffect] = []
        for event in events:
            match event:
                case Ordered(order=ServeAlone()):
                    calls = range(100, 110)
                    effects += [DiskCall(token, Lane.BULK, ReadBytes(9, 0, 1)) for token in calls]
                case Change(token=token, op=op):
                    effects.append(DiskCall(token, Lane.TREE, Apply(op)))
                case DiskDone(token=token) if token < 100:
                    effects.append(Reply(token, Failure.NONE))
                    self.done.append(token)
                case DiskDone(token=token):
                    self.done.append(token)
        if len(self.done) == 11:
            self.all_done.set()
        return effects


async def test_a_change_waits_for_one_piece_of_a_resync_only() -> None:
    machine, goes_on = Reading(), threading.Event()

    class Slow:
        def perform(self, request: AnyRequest) -> object:
            if isinstance(request, ReadBytes):
                assert goes_on.wait(20)
            return None

    engine = Engine("v", machine, Slow(), clock_ms=lambda: 0, report=print)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        engine.order(ServeAlone(epoch=1, generation="g"))
        nursery.start_soon(engine.change, Write(9, 0, b"x", 1))
        await trio.testing.wait_all_tasks_blocked()
        goes_on.set()
        with trio.fail_after(20):
            await machine.all_done.wait()
        nursery.cancel_scope.cancel()
    assert machine.done[:2] == [100, 1]
    assert sorted(machine.done[2:]) == list(range(101, 110))
