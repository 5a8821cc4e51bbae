"""The trio driver of a volume's machine: threads, bugs, disks that hang, and an end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from mirrorha.core.orders import Close, Freeze, Frozen, ServeAlone, StopReason, Trouble
from mirrorha.errors import InvariantViolation, NotPrimaryError, OutcomeUnknownError, VolumeError
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import Apply, DiskError, LoadTouched, ReadBytes
from mirrorha.volume.engine import Engine
from mirrorha.volume.lane_thread import LaneThread
from mirrorha.volume.ops import ROOT_FID, Create, Write
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.pending import VolumeSettings

if TYPE_CHECKING:
    from mirrorha.volume.disk import AnyRequest
    from mirrorha.volume.events import DiskDone


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
        self.engine = Engine(
            "v",
            self.machine,
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


async def test_a_change_is_made_and_read_back_in_order() -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.engine.run)
        rig.engine.order(ServeAlone(epoch=1, generation="g"))
        fid = await rig.make_file()
        await rig.engine.change(Write(fid, 0, b"hello", 2))
        assert await rig.engine.query(ReadBytes(fid, 0, 9)) == b"hello"
        await rig.engine.flush(fid)
        with pytest.raises(FileExistsError):
            await rig.make_file()
        nursery.cancel_scope.cancel()


async def test_a_volume_that_does_not_serve_names_who_does() -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.engine.run)
        rig.engine.order(ServeAlone(epoch=1, generation="g"))
        rig.engine.order(Close(why="left", primary=None))
        with pytest.raises(NotPrimaryError, match=r"left.*'paris'") as caught:
            await rig.make_file()
        assert caught.value.primary == "paris"
        nursery.cancel_scope.cancel()


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
    rig = Rig()
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.engine.run)
        rig.engine.order(ServeAlone(epoch=1, generation="g"))
        rig.engine.order(Freeze(token=7))
        assert rig.reports == [Frozen(7)]
        nursery.cancel_scope.cancel()


async def test_a_lane_keeps_order_and_hands_back_everything() -> None:
    taken: list[DiskDone] = []
    lane = LaneThread("t", perform=lambda request: request, deliver=taken.extend)
    for number in range(1, 2001):
        lane.submit(number, ReadBytes(number, 0, 1))
    with trio.fail_after(10):
        while len(taken) < 2000:  # noqa: ASYNC110
            await trio.sleep(0.001)
        assert [each.token for each in taken] == list(range(1, 2001))
        lane.stop()
        await lane.wait_ended()
