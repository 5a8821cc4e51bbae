"""The volumes of a node: looked at, opened, driven, closed again; orders in, reports out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final

import attrs
import trio

from mirrorha.cluster.opening import Judgement, judge_root
from mirrorha.cluster.settings import VolumeName, machine_settings
from mirrorha.core.events import VolumeReported, VolumesInspected
from mirrorha.core.health import primary_of
from mirrorha.core.orders import AnyOrder, AnyReport, BecomeTarget, Close, StopReason, Trouble
from mirrorha.errors import VolumeError
from mirrorha.volume.disk import DiskError
from mirrorha.volume.driver import DriverStatus
from mirrorha.volume.engine import Engine
from mirrorha.volume.local_disk import identity
from mirrorha.volume.opening import open_volume
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from mirrorha.config import ClusterConfig
    from mirrorha.core.events import AnyEvent
    from mirrorha.core.state import State
    from mirrorha.volume.opening import OpenVolume

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

#: How often a directory that cannot be used is looked at again.
LOOK_AGAIN_S: Final = 1.0
CLOSED: Final = "the volumes are closed"
#: What it is about to write could still come, over whatever is written from then on.
HUNG: Final = "a request to the disk of a volume hangs: end this program and start it again"


@attrs.frozen
class _Open:
    engine: Engine
    disk: OpenVolume


@final
class Volumes:
    """All volumes of one run of a node.

    Between a stop and a start nothing is open: the directories are ordinary ones then.

    Args:
        give: takes events of the core.
        state: what the core knows now.
        opened: called when engines have come or gone.
        slow: called with the name of a volume whose stream should take another way.
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
        self._clock_ms: Final = clock_ms
        self._rng: Final = rng
        self._make_room: Final = make_room
        # Apart from every other, for what looks at a directory can hang with its disk. One place:
        # whoever has it knows that no thread is left behind.
        self._limiter: Final = trio.CapacityLimiter(1)
        self._open: dict[str, _Open] = {}
        self._wanted = True
        self._life = 0  # rises with each stop
        self._changed: Final = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self.is_stuck = False  # a thread hangs in the kernel, and has a directory open

    # ---- for the loop; never blocking ----

    def engine(self, name: str) -> Engine | None:
        """What drives the volume, or None while it is not open."""
        found = self._open.get(name)
        return found.engine if found else None

    def status(self, name: str) -> DriverStatus:
        """The volume as its driver sees it, from memory."""
        found = self._open.get(name)
        return found.engine.status if found else DriverStatus()

    def order(self, name: str, order: AnyOrder) -> None:
        """Give an order to a volume."""
        engine = self.engine(name)
        if engine is None:
            if not isinstance(order, Close):
                self._report(name, Trouble(StopReason.OWN_DISK, "the volume is not open"))
            return
        if isinstance(order, BecomeTarget):
            self.mark(self._state().meta.cluster_id)
        engine.order(order)

    def mark(self, cluster_id: str | None) -> None:
        """Have the roots carry the ids of this cluster. Idempotent."""
        if self._nursery is not None and cluster_id is not None:
            self._nursery.start_soon(self._mark, cluster_id)

    def close_all(self, why: str) -> None:
        """Acknowledge nothing any more, at once and for good."""
        for each in self._open.values():
            each.engine.close(why)

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

    # ---- tasks ----

    async def run(self) -> None:
        """Keep them open while that is wanted, until cancelled; then all is closed, bounded.

        Raises:
            InvariantViolation: a volume's machine found a bug; it has been closed.
        """
        while True:
            while not self._wanted:
                await self._changed.park()
            await self._run_open(self._life)

    async def _run_open(self, life: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_open)
            while self._life == life:
                await self._changed.park()
            nursery.cancel_scope.cancel()

    async def _keep_open(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                judgements = await self._open_all(nursery)
                self._nursery = nursery
                self._tell(judgements)
                self._opened()
        finally:
            self._nursery = None
            await self._close_all()

    async def _open_all(self, nursery: trio.Nursery) -> list[Judgement]:
        """Open all; one that cannot be used is told of, and looked at again."""
        told = ""
        while True:
            try:
                if self.is_stuck:
                    raise VolumeError(HUNG)
                judged = [await self._in_thread(self._look, each) for each in self.names]
                problem = next((each.problem for each in judged if each.problem), "")
                if not problem:
                    for each in self.names:
                        await self._open_one(nursery, each)
                    return judged
            except (VolumeError, DiskError) as error:
                problem = str(error)
                await self._close_all()
            if problem != told:
                told = problem
                _log.warning("%s", problem)
                self._give(VolumesInspected(has_files=False, ours=False, problem=problem))
            await trio.sleep(LOOK_AGAIN_S)

    async def _open_one(self, nursery: trio.Nursery, name: VolumeName) -> None:
        disk = await self._in_thread(self._open_disk, name)
        machine = Volume(
            machine_settings(self._config, name), touched=disk.touched, resyncs=ComparingResyncs()
        )
        engine = Engine(
            name.name,
            machine,
            disk.disk,
            clock_ms=self._clock_ms,
            report=lambda report: self._report(name.name, report),
            primary=lambda: primary_of(self._state()),
        )
        self._open[name.name] = _Open(engine, disk)
        await nursery.start(self._drive, engine)

    async def _drive(
        self, engine: Engine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            await engine.run(task_status=task_status)
        except VolumeError as error:
            self.is_stuck = True
            _log.error("%s", error)

    async def _close_all(self) -> None:
        """After the engines: whatever they used. Bounded: threads that hang are left behind."""
        opened, self._open = self._open, {}
        if self.is_stuck:
            return
        for name, each in opened.items():
            with trio.move_on_after(LOOK_AGAIN_S) as scope:
                scope.shield = True
                await self._in_thread(_close, name, each.disk)

    async def _mark(self, cluster_id: str) -> None:
        for each in self.names:
            try:
                await self._in_thread(self._write_marker, each, cluster_id)
            except (OSError, VolumeError) as error:
                text = f"{each.path} cannot be marked as this volume: {error}"
                self._report(each.name, Trouble(StopReason.OWN_DISK, text))
                return
        self._give(VolumesInspected(has_files=True, ours=True))

    # ---- in threads ----

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await trio.to_thread.run_sync(
            lambda: function(*arguments), abandon_on_cancel=True, limiter=self._limiter
        )

    def _look(self, name: VolumeName) -> Judgement:
        meta = self._state().meta
        return judge_root(
            identity.inspect(Path(name.path)),
            volume_id=name.volume_id(meta.cluster_id) if meta.cluster_id else None,
            was_marked=self._mark_note(name).exists(),
            is_target=meta.inconsistent,
        )

    def _open_disk(self, name: VolumeName) -> OpenVolume:
        return open_volume(
            Path(name.path), self._directory(name), rng=self._rng, make_room=self._make_room
        )

    def _write_marker(self, name: VolumeName, cluster_id: str) -> None:
        identity.mark(Path(name.path), name.volume_id(cluster_id))
        self._mark_note(name).touch()

    def _directory(self, name: VolumeName) -> Path:
        return self._state_dir / "volumes" / name.directory

    def _mark_note(self, name: VolumeName) -> Path:
        return self._directory(name) / "marked"

    # ---- reports ----

    def _tell(self, judged: Sequence[Judgement]) -> None:
        self._give(
            VolumesInspected(
                has_files=any(each.has_files for each in judged),
                ours=all(each.ours for each in judged),
            )
        )

    def _report(self, name: str, report: AnyReport) -> None:
        self._give(VolumeReported(name, report))
        if isinstance(report, Trouble) and report.reason is StopReason.STREAM_SLOW:
            self._slow(name)


def _close(name: str, disk: OpenVolume) -> None:
    try:
        disk.close()
    except Exception:
        _log.exception("closing %s", name)
