"""A worker: told by the application's process what to open, it serves until it is told to end.

It ends, having answered everybody, when that process is gone or speaks nonsense.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import select
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

from mirrorha.core.orders import StopReason, Trouble
from mirrorha.errors import MirrorHAError, VolumeError, describe
from mirrorha.state.reserve import give_up_room
from mirrorha.volume.disk import DiskError, PutBackError, WritesLostError
from mirrorha.volume.fuse.server import Server
from mirrorha.volume.opening import OpenVolume, open_volume
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.worker.connections import Connections
from mirrorha.volume.worker.control import Control, ControlClosedError
from mirrorha.volume.worker.driver import Driver
from mirrorha.volume.worker.local_changes import LocalChanges
from mirrorha.volume.worker.loop import IN, OUT, Loop
from mirrorha.volume.worker.messages import (
    VERSION,
    Begin,
    Connection,
    Disconnect,
    Exited,
    FromWorker,
    Give,
    Look,
    Looked,
    Mark,
    Marked,
    Open,
    Opened,
    Ping,
    Pong,
    Ready,
    Shutdown,
    Status,
    Told,
    ToWorker,
)
from mirrorha.volume.worker.mount_point import MountPoint
from mirrorha.volume.worker.state_lock import lock_state
from mirrorha.volume.worker.watchdog import Watchdog

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mirrorha.core.orders import AnyReport
    from mirrorha.volume.fuse.interface import Changes, View

_log: Final = logging.getLogger(__name__)

STATUS_MS: Final = 500
#: A turn that took longer is worth telling.
TURN_NOTED_MS: Final = 100
#: How long the end waits for a sync under way, and for the last words to leave.
END_S: Final = 2.0
ORPHAN_END_S: Final = 0.1
LAST_WORDS_S: Final = 0.5


@final
class Worker:
    """One volume's worker, from its first message to its last.

    Args:
        end: of the socket pair with the application's process.
    """

    def __init__(self, end: socket.socket) -> None:
        several = len(os.sched_getaffinity(0)) > 1
        self._loop: Final = Loop(pause=os.sched_yield if several else None)
        self._control: Final = Control(end, incoming=ToWorker)
        self._opening: Open | None = None
        self._place: MountPoint | None = None
        self._volume: OpenVolume | None = None
        self._driver: Driver | None = None
        self._local: LocalChanges | None = None
        self._front: Server | None = None
        self._connections: Connections | None = None
        self._watchdog: Watchdog | None = None
        self._status = Status()
        self._is_ending = False
        self._is_slow = False  # a read
        self._waits_for_room = False
        self._handlers: Final[dict[type, Callable[..., None]]] = {
            Open: self._open,
            Look: self._look,
            Begin: self._begin,
            Give: self._give,
            Mark: self._mark,
            Disconnect: self._disconnect,
            Ping: self._ping,
            Shutdown: self._shutdown,
        }
        self._loop.watch(self._control.fileno(), self._hear)

    def run(self) -> None:
        """Serve until the end. Whatever happens, everybody is answered."""
        try:
            self._loop.run()
        except Exception as error:
            _log.exception("a bug in mirrorha ends this worker")
            self._finish(f"a bug in mirrorha: {describe(error)}", is_bug=True)

    # ---- what it is told ----

    def _hear(self, events: int) -> None:
        try:
            if events & OUT:
                self._control.flush()
                self._watch_for_room()
            packets = self._control.receive() if events & ~OUT else []
        except MirrorHAError as error:
            self._orphaned(error)
            return
        for message, descriptor in packets:
            if isinstance(message, Connection):
                self._take_connection(message, descriptor)
            else:
                self._handlers[type(message)](message)
            if self._is_ending:
                return

    def _orphaned(self, error: MirrorHAError) -> None:
        is_gone = isinstance(error, ControlClosedError)
        _log.error("this worker ends: %s", error)
        self._finish(str(error), wait_s=ORPHAN_END_S if is_gone else END_S)

    def _tell(self, message: FromWorker) -> None:
        try:
            self._control.send(message)
        except MirrorHAError as error:
            if not self._is_ending:
                self._loop.soon(partial(self._orphaned, error))
            return
        self._watch_for_room()

    def _watch_for_room(self) -> None:
        if self._control.has_unsent != self._waits_for_room:
            self._waits_for_room = not self._waits_for_room
            self._loop.watch_for(self._control.fileno(), IN | OUT if self._waits_for_room else IN)

    def _report(self, report: AnyReport) -> None:
        self._tell(Told(report))

    # ---- opening ----

    def _open(self, message: Open) -> None:
        problem = ""
        if message.version != VERSION:
            problem = (
                f"the worker speaks version {VERSION}, the application {message.version}: "
                "mirrorha was upgraded while it ran; start the application again"
            )
        elif self._opening is not None:
            problem = "this worker has a volume already"
        else:
            self._opening = message
            self._place = MountPoint(Path(message.root), volume=message.volume, wish=message.mount)
            try:
                lock_state(Path(message.state_dir))  # until this process is gone
            except VolumeError as error:
                problem = str(error)
            else:
                self._watchdog = Watchdog(
                    self._loop,
                    self._control,
                    disk_max_ms=message.settings.disk_max_ms,
                    freeze_max_ms=message.freeze_max_ms,
                    abort=self._place.abort,
                )
        self._tell(Ready(VERSION, os.getpid(), problem))
        if problem:
            self._finish(problem)

    def _look(self, _message: Look) -> None:
        try:
            if self._opening is None or self._place is None or self._volume is not None:
                raise VolumeError("a volume is looked at before it is opened")
            self._place.check(freeze_max_ms=self._opening.freeze_max_ms)
            found = self._place.look()
        except (OSError, VolumeError) as error:
            self._tell(Looked("", None, str(error)))
        else:
            self._tell(Looked(found.standing.value, found.volume_id))

    def _begin(self, _message: Begin) -> None:
        opening, place = self._opening, self._place
        try:
            if opening is None or place is None or place.raw < 0 or self._volume is not None:
                raise VolumeError("a volume is opened once, after it was looked at")
            self._serve(opening, place)
        except (OSError, VolumeError, DiskError) as error:
            lost, is_older = isinstance(error, WritesLostError), isinstance(error, PutBackError)
            self._tell(Opened(str(error) or type(error).__name__, lost=lost, put_back=is_older))
            self._finish(f"the volume cannot be opened: {error}", unmount=True)

    def _serve(self, opening: Open, place: MountPoint) -> None:
        volume = self._volume = open_volume(
            Path(opening.root),
            Path(opening.state_dir),
            rng=random.SystemRandom(),
            make_room=self._make_room(opening.reserve),
            raw=place.raw,
            exclude=opening.mount.exclude if opening.mount else (),
            is_put_back_known=opening.is_put_back_known,
        )
        machine = Volume(opening.settings, touched=volume.touched, resyncs=ComparingResyncs())
        driver = self._driver = Driver(
            machine,
            volume.disk,
            self._loop,
            report=self._report,
            on_fault=self._fault,
            reset=self._reset,
            freeze_max_ms=opening.freeze_max_ms,
        )
        self._connections = Connections(self._loop, driver, tell=self._tell, keys=opening.keys)
        if opening.mount is not None:
            place.mount()
            self._attach_front(driver, volume, place)
        # What is there now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        found = volume.disk.found
        self._tell(
            Opened(
                rebuilt=found.rebuilt,
                unknown=len(found.unknown),
                limbo=found.limbo,
                skipped=found.skipped[:64],
                connection=place.connection,
            )
        )
        if self._watchdog is not None:
            self._watchdog.watches_turns = True
        self._keep_showing()

    def _attach_front(self, driver: Driver, volume: OpenVolume, place: MountPoint) -> None:
        # The two know each other by shape only, for neither may import the other.
        view = cast("View", volume.disk.view())
        changes = self._changes(driver, volume, place)
        front = self._front = Server(place.device, view, changes, peer_space=driver.peer_space)
        driver.attach(front)
        self._loop.watch(place.device, self._kernel_asks)

    def _changes(self, driver: Driver, volume: OpenVolume, place: MountPoint) -> Changes:
        """Who makes the mount's changes."""
        if not place.excludes:
            return driver
        self._local = LocalChanges(driver, volume.disk, self._loop, report=self._report)
        return self._local

    def _kernel_asks(self, _events: int) -> None:
        front = self._front
        if front is not None and not front.serve():
            self._finish("the mount was taken off, or its connection aborted, by somebody else")

    @staticmethod
    def _make_room(reserve: str) -> Callable[[], bool] | None:
        return partial(give_up_room, Path(reserve)) if reserve else None

    # ---- serving ----

    def _give(self, message: Give) -> None:
        if self._driver is not None:
            self._driver.order(message.order)
            self._show_status()

    def _mark(self, message: Mark) -> None:
        problem = "the volume is not open"
        if self._place is not None:
            try:
                self._place.mark(message.volume_id)
                problem = ""
            except VolumeError as error:
                problem = str(error)
        self._tell(Marked(problem))

    def _take_connection(self, message: Connection, descriptor: int) -> None:
        if descriptor < 0:
            return
        if self._connections is None:
            os.close(descriptor)
        else:
            self._connections.take(message, descriptor)

    def _disconnect(self, message: Disconnect) -> None:
        if self._connections is not None:
            self._connections.disconnect(message.number, message.why)

    def _reset(self, why: str) -> None:
        if self._connections is not None:
            self._connections.reset(why)

    def _ping(self, message: Ping) -> None:
        self._tell(Pong(message.number))

    def _show_status(self) -> None:
        """Tell how the volume is, if that has changed."""
        driver = self._driver
        if driver is None or self._is_ending:
            return
        longest_ms, self._loop.turn_ms_max = self._loop.turn_ms_max, 0
        status = driver.status(
            faults=self._front.failures if self._front else 0,
            turn_ms_max=longest_ms if longest_ms >= TURN_NOTED_MS else 0,
        )
        if status != self._status:
            self._status = status
            self._tell(status)

    def _keep_showing(self) -> None:
        self._show_status()
        self._watch_reads()
        self._loop.after(STATUS_MS, self._keep_showing)

    def _watch_reads(self) -> None:
        """Report, once each time, a read that takes longer than a healthy disk would."""
        front, opening = self._front, self._opening
        if front is None or opening is None:
            return
        busy_ms = front.longest_read_ms
        is_slow = busy_ms > opening.settings.disk_max_ms
        if is_slow and not self._is_slow:
            text = f"a read from this node's disk has taken {busy_ms} ms"
            self._report(Trouble(StopReason.DISK_SLOW, text))
        self._is_slow = is_slow

    # ---- ending ----

    def _shutdown(self, message: Shutdown) -> None:
        self._finish(message.why, unmount=message.unmount)

    def _fault(self, error: Exception) -> None:
        _log.error("a bug in mirrorha stopped this volume", exc_info=error)
        text = f"a bug in mirrorha: {describe(error)}"
        self._loop.soon(lambda: self._finish(text, is_bug=True))

    def _finish(
        self, why: str, *, unmount: bool = False, is_bug: bool = False, wait_s: float = END_S
    ) -> None:
        """Answer everybody, and end. Bounded, unless the disk hangs: then the watchdog sees to it.

        The mount stays, dead, unless it is to be taken off.
        """
        if self._is_ending:
            return
        self._is_ending = True
        self._loop.stop()
        is_off = True
        if self._driver is not None:
            self._driver.close(why)
        if self._place is not None:
            if self._front is not None:
                self._loop.unwatch(self._place.device)
                self._front.close()
            is_off = self._place.leave(unmount=unmount)
        if self._connections is not None:
            self._connections.disconnect(0, why)
        # Both, whatever the first says: what can end does.
        ends = [each.end(wait_s) for each in (self._driver, self._local) if each is not None]
        if ends and all(ends) and self._volume is not None:
            self._volume.close()
        self._say_last(Exited(why, is_bug=is_bug, unmounted=is_off))

    def _say_last(self, message: Exited) -> None:
        with contextlib.suppress(MirrorHAError):
            self._control.send(message)
            while self._control.has_unsent:
                poll = select.poll()
                poll.register(self._control.fileno(), select.POLLOUT)
                if not poll.poll(LAST_WORDS_S * 1000):
                    return
                self._control.flush()
