"""The volumes of a node: looked at, opened, driven, closed again; orders in, reports out."""

from __future__ import annotations

import logging
import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final

import attrs
import trio

from mirrorha.cluster.opening import Judgement, Opening, judge_root
from mirrorha.cluster.settings import VolumeName, machine_settings
from mirrorha.cluster.workers import choose, covers
from mirrorha.core.events import VolumeReported, VolumesInspected
from mirrorha.core.health import primary_of
from mirrorha.core.orders import (
    AnyOrder,
    AnyReport,
    AnyVerifyOrder,
    AnyVerifyReport,
    BecomeTarget,
    Close,
    SetResyncRate,
    StopReason,
    StreamDown,
    Trouble,
)
from mirrorha.core.state import ServiceState
from mirrorha.errors import VolumeError
from mirrorha.volume.disk import DiskError, Mark, PutBackError, WritesLostError
from mirrorha.volume.driver import DriverStatus
from mirrorha.volume.engine import Engine
from mirrorha.volume.fuse.mounting import clean_up
from mirrorha.volume.local_disk import identity
from mirrorha.volume.opening import open_volume
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.worker.client import WorkerEngine

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from mirrorha.cluster.workers import Workers
    from mirrorha.config import ClusterConfig
    from mirrorha.core.events import AnyEvent
    from mirrorha.core.state import State
    from mirrorha.volume.local_disk.identity import VolumeIdentity
    from mirrorha.volume.opening import OpenVolume

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

#: How often a directory that cannot be used is looked at again.
LOOK_AGAIN_S: Final = 1.0
#: A worker that does not answer in this time is in trouble; who waits for it, waits no longer.
SETTLE_S: Final = 5.0
#: How long after the end of a worker its volume is opened anew: longer each time, for what ends
#: one after the other makes a node hand over and over.
ANEW_S: Final = 0.2
ANEW_S_MAX: Final = 10.0
#: One that lived so long is no part of such a row.
LIVED_S: Final = 120.0
#: What a stop waits for their being closed: a worker that does not end is killed sooner.
CLOSED_S: Final = 30.0
CLOSED: Final = "the volumes are closed"
#: What it is about to write could still come, over whatever is written from then on.
HUNG: Final = "a request to the disk of a volume hangs: end this program and start it again"


@attrs.frozen
class _Open:
    driver: Engine | WorkerEngine
    close: Callable[[], None] | None = None  # what the driver used; in a thread


@final
class Volumes:
    """All volumes of one run of a node.

    Between a stop and a start nothing is open: the directories are ordinary ones then.

    Args:
        give: takes events of the core.
        state: what the core knows now.
        opened: called when engines have come or gone.
        slow: called with the name of a volume whose stream should take another way.
        workers: makes those of mounted volumes.
        may_unmount: whether it is certain that nothing of the service runs any more.
    """

    def __init__(
        self,
        config: ClusterConfig,
        names: Sequence[VolumeName],
        *,
        give: Callable[[AnyEvent], None],
        state: Callable[[], State],
        opened: Callable[[], None],
        slow: Callable[[str], None],
        workers: Workers,
        may_unmount: Callable[[], bool],
        clock_ms: Callable[[], int],
        rng: random.Random,
        make_room: Callable[[], bool] | None = None,
    ) -> None:
        self._config: Final = config
        self._state_dir: Final = Path(config.me.state_dir)
        self.names: Final = tuple(names)
        self._give: Final = give
        self._state: Final = state
        self._opened: Final = opened
        self._slow: Final = slow
        self._workers: Final = workers
        self._may_unmount: Final = may_unmount
        self._clock_ms: Final = clock_ms
        self._rng: Final = rng
        self._make_room: Final = make_room
        # Apart from every other, for what looks at a directory can hang with its disk. One place:
        # whoever has it knows that no thread is left behind.
        self._limiter: Final = trio.CapacityLimiter(1)
        self._open: dict[str, _Open] = {}
        self._resync_rate_bytes_per_s = config.resync.rate_bytes_per_s or 0
        self._notices: dict[str, str] = {}
        self._deaths = 0  # of workers, one soon after the other
        self._is_anew = False
        self._scope: Final = trio.CancelScope(shield=True)
        self._wanted = True
        self._is_at_rest = False  # everything that was open has been closed
        self._life = 0  # rises with each stop
        self._changed: Final = trio.lowlevel.ParkingLot()
        self._marking: Final = trio.Lock()
        self._nursery: trio.Nursery | None = None
        #: Takes what a volume tells of the comparison of its copies. Never blocks.
        self.compared: Callable[[str, AnyVerifyReport], None] = _ignore
        self.is_closed = False
        # The latest attempt to open found that writes are lost, or a directory put back; and the
        # one before did.
        self._lost = self._is_put_back = self._is_put_back_known = False
        self.is_stuck = False  # a thread hangs in the kernel, and has a directory open

    # ---- for the loop; never blocking ----

    def driver(self, name: str) -> Engine | WorkerEngine | None:
        """What drives the volume, or None while it is not open."""
        found = self._open.get(name)
        return found.driver if found else None

    def status(self, name: str) -> DriverStatus:
        """The volume as its driver sees it, from memory."""
        found = self._open.get(name)
        return found.driver.status if found else DriverStatus()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know of how they are opened."""
        return tuple(dict.fromkeys(each for each in self._notices.values() if each))

    def order(self, name: str, order: AnyOrder) -> None:
        """Give an order to a volume."""
        driver = self.driver(name)
        if driver is None:
            if not isinstance(order, Close | AnyVerifyOrder):
                self._report(name, Trouble(StopReason.NOT_DRIVEN, "the volume is not open"))
            return
        if isinstance(order, BecomeTarget):
            self.mark(self._state().meta.cluster_id)
        driver.order(order)

    def set_resync_rate(self, rate_bytes_per_s: int) -> None:
        """Bring the peer up to date at most so fast, now and later; 0: as fast as can be."""
        self._resync_rate_bytes_per_s = rate_bytes_per_s
        for each in self._open.values():
            each.driver.order(SetResyncRate(rate_bytes_per_s))

    def mark(self, cluster_id: str | None) -> None:
        """Have the roots carry the ids of this cluster. Idempotent."""
        if self._nursery is not None and cluster_id is not None:
            self._nursery.start_soon(self._mark, cluster_id)

    def close_all(self, why: str) -> None:
        """Acknowledge nothing any more, at once and for good."""
        self.is_closed = True
        for each in self._open.values():
            each.driver.close(why)

    def close_for_now(self) -> None:
        """This node stopped in good order: the directories are ordinary ones until `open_again`."""
        self._wanted = False
        self._life += 1
        self._give(VolumesInspected(has_files=False, ours=False, problem=CLOSED))
        self._changed.unpark_all()

    def open_again(self) -> None:
        """This node starts anew: whatever happened to the directories meanwhile is looked at."""
        self._wanted = True
        self._changed.unpark_all()

    async def wait_idle(self) -> bool:
        """After `run`: whether nothing of this process uses the directories, waiting a while."""
        with trio.move_on_after(LOOK_AGAIN_S):
            await self._limiter.acquire_on_behalf_of(self)
            return not self.is_stuck
        return False

    async def wait_closed(self) -> bool:
        """Whether nothing of ours uses the directories since `close_for_now`, waiting a while.

        What somebody changes in them from then on is noticed by the next opening.
        """
        with trio.move_on_after(CLOSED_S):
            while not self._is_at_rest and not self._wanted:
                await self._changed.park()
            if self._wanted:
                return True  # they are to be open again: by whoever asked for that meanwhile
            # A thread that was left behind may still be closing one.
            async with self._limiter:
                return not self.is_stuck
        return False

    async def settle(self) -> None:
        """Return once every driver has carried out the orders that it was given; bounded."""
        with trio.move_on_after(SETTLE_S):
            async with trio.open_nursery() as nursery:
                for each in self._open.values():
                    if isinstance(each.driver, WorkerEngine):
                        nursery.start_soon(each.driver.ping)

    def end(self) -> None:
        """Let `run` end: nothing uses what is mounted any more, as far as can be known."""
        self._say_how_to_end()
        self._scope.cancel()

    # ---- tasks ----

    async def run(self) -> None:
        """Keep them open while that is wanted, until `end`; then all is closed, bounded.

        Cancelling does not end it: what is mounted must be there for as long as the service.

        Raises:
            InvariantViolation: a volume's machine found a bug; it has been closed.
        """
        try:
            with self._scope:
                while True:
                    while not self._wanted:
                        self._come_to_rest()
                        await self._changed.park()
                    self._is_at_rest = False
                    await self._run_open(self._life)
        finally:
            self._come_to_rest()

    def _come_to_rest(self) -> None:
        self._is_at_rest = True
        self._changed.unpark_all()

    async def _run_open(self, life: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_open)
            while self._life == life:
                await self._changed.park()
            self._say_how_to_end()
            nursery.cancel_scope.cancel()

    def _say_how_to_end(self) -> None:
        for each in self._open.values():
            if isinstance(each.driver, WorkerEngine):
                each.driver.unmount_at_end = self._may_unmount()

    async def _keep_open(self) -> None:
        """Open all; one that cannot be used is told of, and looked at again."""
        told = ""
        while True:
            # The attempt before has said so, and the core noted it since.
            self._is_put_back_known, self._is_put_back = self._is_put_back, False
            self._lost = False
            problem = HUNG if self.is_stuck else await self._run_attempt()
            if problem != told:
                told = problem
                _log.warning("%s", problem)
                self._give(
                    VolumesInspected(
                        has_files=False,
                        ours=False,
                        problem=problem,
                        lost=self._lost,
                        put_back=self._is_put_back,
                    )
                )
            await trio.sleep(LOOK_AGAIN_S)

    async def _run_attempt(self) -> str:
        """Open all and drive them until cancelled; or say why one could not be opened."""
        problem = ""
        try:
            async with trio.open_nursery() as nursery:
                try:
                    judged = await self._open_all(nursery)
                except (VolumeError, DiskError) as error:
                    problem = str(error)
                    self._lost = isinstance(error, WritesLostError)
                    self._is_put_back = isinstance(error, PutBackError)
                    nursery.cancel_scope.cancel()
                else:
                    self._nursery = nursery
                    self._tell(judged)
                    self._opened()
        finally:
            self._nursery = None
            await self._close_all()
        if not problem or self.is_stuck or sys.platform != "linux":
            return problem
        return "; ".join([problem, *await self._in_thread(covers, self.names)])

    async def _open_all(self, nursery: trio.Nursery) -> list[Judgement]:
        judged: list[Judgement] = []
        mounted: list[VolumeName] = []
        for each in self.names:
            is_mounted, self._notices[each.name] = await self._in_thread(choose, each)
            if is_mounted:
                mounted.append(each)
                continue
            judged.append(await self._in_thread(self._look, each))
            if judged[-1].problem:
                raise VolumeError(judged[-1].problem)
        for each in self.names:
            if each in mounted:
                judged.append(await self._employ(nursery, each))
            else:
                await self._open_here(nursery, each)
        return judged

    async def _open_here(self, nursery: trio.Nursery, name: VolumeName) -> None:
        """Drive a volume in this process: only the file API writes."""
        disk = await self._open_in_thread(name)
        machine = Volume(
            machine_settings(self._config, name), touched=disk.touched, resyncs=ComparingResyncs()
        )
        engine = Engine(
            name.name,
            machine,
            disk.disk,
            clock_ms=self._clock_ms,
            report=partial(self._report, name.name),
            primary=lambda: primary_of(self._state()),
            excludes=bool(name.exclude),
        )
        engine.order(SetResyncRate(self._resync_rate_bytes_per_s))
        self._open[name.name] = _Open(engine, disk.close)
        await nursery.start(self._drive, engine)

    async def _employ(self, nursery: trio.Nursery, name: VolumeName) -> Judgement:
        """Have a worker mount a volume and drive it."""
        worker, judgement = self._workers.make(
            name,
            self._directory(name),
            judge=partial(self._judge, name),
            report=partial(self._report, name.name),
            is_put_back_known=self._is_put_back_known,
        )
        await nursery.start(self._drive, worker)
        worker.order(SetResyncRate(self._resync_rate_bytes_per_s))
        self._open[name.name] = _Open(worker)
        return judgement()

    async def _drive(
        self, driver: Engine | WorkerEngine, *, task_status: trio.TaskStatus[None]
    ) -> None:
        begun = _Begun(task_status)
        began_s = trio.current_time()
        try:
            await driver.run(task_status=begun)
        except VolumeError as error:
            if trio.current_effective_deadline() == -math.inf:
                self.is_stuck = True  # it was to end, and does not
            if not begun.is_set:
                raise
            _log.error("%s", error)
            self._report(driver.name, StreamDown())
            if not self.is_stuck:
                await self._open_anew(str(error), lived_s=trio.current_time() - began_s)
        finally:
            # Whatever carried the stream is gone, whether it could say so or not.
            self._report(driver.name, StreamDown())

    async def _open_anew(self, why: str, *, lived_s: float) -> None:
        """Nothing drives a volume any more, and the core knows. Once that can be, begin again."""
        self._is_anew = True  # whoever opens them next: perhaps a person stops the node first
        self._deaths = 1 if lived_s > LIVED_S else self._deaths + 1
        await trio.sleep(min(ANEW_S_MAX, ANEW_S * 2**self._deaths))
        # Whoever still runs must not get to see the directory itself.
        while self._state().service is not ServiceState.OFF:  # noqa: ASYNC110 - the core's event
            await trio.sleep(ANEW_S)
        problem = f"{why}; the volumes are opened anew"
        self._give(VolumesInspected(has_files=False, ours=False, problem=problem))
        self._life += 1
        self._changed.unpark_all()

    async def _close_all(self) -> None:
        """After the drivers: whatever they used. Bounded: threads that hang are left behind."""
        opened, self._open = self._open, {}
        if self.is_stuck:
            return
        for name, each in opened.items():
            if each.close is None:
                continue
            with trio.move_on_after(LOOK_AGAIN_S) as scope:
                scope.shield = True
                await self._in_thread(_close, name, each.close)

    async def _mark(self, cluster_id: str) -> None:
        async with self._marking:  # each volume that becomes a target asks for it
            await self._mark_all(cluster_id)

    async def _mark_all(self, cluster_id: str) -> None:
        for each in self.names:
            volume_id, driver = each.volume_id(cluster_id), self.driver(each.name)
            try:
                if isinstance(driver, WorkerEngine):
                    await driver.mark(volume_id)
                elif driver is not None:
                    # Not asked if it is: the stamp would count that as a change of our own.
                    if not await self._in_thread(identity.is_marked, Path(each.path), volume_id):
                        await _mark_in_turn(driver, volume_id)
                else:
                    await self._in_thread(identity.mark, Path(each.path), volume_id)
                await self._in_thread(self._mark_note(each).touch)
            except (OSError, VolumeError) as error:
                text = f"{each.path} cannot be marked as this volume: {error}"
                self._report(each.name, Trouble(StopReason.OWN_DISK, text))
                return
        self._give(VolumesInspected(has_files=True, ours=True))

    # ---- in threads ----

    async def _open_in_thread(self, name: VolumeName) -> OpenVolume:
        """Open a volume; if that is cancelled, nothing stays open."""
        opening = Opening(partial(self._open_disk, name))
        try:
            return await self._in_thread(opening.run)
        except trio.Cancelled:
            opened = opening.abandon()
            if opened is not None:
                with trio.move_on_after(LOOK_AGAIN_S) as scope:
                    scope.shield = True
                    await self._in_thread(_close, name.name, opened.close)
            raise

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await trio.to_thread.run_sync(
            lambda: function(*arguments), abandon_on_cancel=True, limiter=self._limiter
        )

    def _look(self, name: VolumeName) -> Judgement:
        """At a directory that is not to be mounted; perhaps it was."""
        if sys.platform == "linux":
            clean_up(Path(name.path), volume=name.name)
        return self._judge(name, identity.inspect(Path(name.path), name.exclude))

    def _judge(self, name: VolumeName, found: VolumeIdentity) -> Judgement:
        meta = self._state().meta
        return judge_root(
            found,
            volume_id=name.volume_id(meta.cluster_id) if meta.cluster_id else None,
            was_marked=self._mark_note(name).exists(),
            is_target=meta.inconsistent,
        )

    def _open_disk(self, name: VolumeName) -> OpenVolume:
        return open_volume(
            Path(name.path),
            self._directory(name),
            rng=self._rng,
            make_room=self._make_room,
            exclude=name.exclude,
            is_put_back_known=self._is_put_back_known,
        )

    def _directory(self, name: VolumeName) -> Path:
        return volume_state_dir(self._state_dir, name)

    def _mark_note(self, name: VolumeName) -> Path:
        return self._directory(name) / "marked"

    # ---- reports ----

    def _tell(self, judged: Sequence[Judgement]) -> None:
        self._give(
            VolumesInspected(
                has_files=any(each.has_files for each in judged),
                ours=all(each.ours for each in judged),
                anew=self._is_anew,
            )
        )
        self._is_anew = False

    def _report(self, name: str, report: AnyReport) -> None:
        if isinstance(report, AnyVerifyReport):
            self.compared(name, report)
            return
        self._give(VolumeReported(name, report))
        if not isinstance(report, Trouble):
            return
        if report.reason is StopReason.STREAM_SLOW:
            self._slow(name)
        elif report.reason is StopReason.NOT_DRIVEN:
            # One that is still there, and of no use: as if it had ended.
            driver = self.driver(name)
            if isinstance(driver, WorkerEngine):
                driver.kill()


def volume_state_dir(state_dir: Path, name: VolumeName) -> Path:
    """Where a node keeps what it knows of a volume."""
    return state_dir / "volumes" / name.directory


async def _mark_in_turn(engine: Engine, volume_id: str) -> None:
    """Between the changes of the volume: it puts the root's time back, which they set.

    Raises:
        VolumeError: it cannot be written.
    """
    try:
        problem = await engine.query(Mark(volume_id))
    except OSError as error:  # it was closed meanwhile, or its disk has failed, and says so
        _log.info("%s: not marked: %s", engine.name, error)
        return
    if problem:
        raise VolumeError(str(problem))


def _ignore(_name: str, _report: AnyVerifyReport) -> None:
    """Nobody compares yet."""


def _close(name: str, close: Callable[[], None]) -> None:
    try:
        close()
    except Exception:
        _log.exception("closing %s", name)


@attrs.define
class _Begun:
    """Passes on that a task has begun, and remembers it."""

    status: trio.TaskStatus[None]
    is_set: bool = False

    def started(self, value: None = None) -> None:
        self.is_set = True
        self.status.started(value)
