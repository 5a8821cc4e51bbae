"""The application's side of a mounted volume: its worker process, in trio.

A `mirrorha.volume.driver.WorkerDriver`. Nothing here touches the volume's directory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final

import attrs
import trio

from mirrorha.core.orders import AnyOrder, AnyReport, Close, StopReason, Trouble
from mirrorha.errors import (
    InvariantViolation,
    LocalUsageError,
    PeerError,
    PeerLostError,
    PeerProtocolError,
    PeerRefusedError,
    VolumeError,
    ensure,
)
from mirrorha.volume.disk import DiskError, PutBackError, WritesLostError
from mirrorha.volume.driver import DriverStatus
from mirrorha.volume.fuse.connection import abort
from mirrorha.volume.local_disk.identity import Standing, VolumeIdentity
from mirrorha.volume.worker.control import (
    Control,
    ControlBrokenError,
    ControlClosedError,
    control_pair,
)
from mirrorha.volume.worker.messages import (
    VERSION,
    Begin,
    Connection,
    Disconnect,
    Exited,
    FromWorker,
    Give,
    Linked,
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
    Unlinked,
)

if TYPE_CHECKING:
    from mirrorha.volume.driver import StreamSocket

T = TypeVar("T", Ready, Looked, Opened, Marked)

_log: Final = logging.getLogger(__name__)

MODULE: Final = "mirrorha.volume.worker"
#: How long the end waits for the worker: it answers its callers, unmounts and closes.
END_S: Final = 5.0
#: A killed process that is there after so long hangs in the kernel.
KILL_S: Final = 2.0
#: After the control socket closed, the process ends by itself within a second.
GONE_S: Final = 1.5
FLUSH_AGAIN_S: Final = 0.05
#: A worker that was closed for good and does not turn after so long is killed: nobody may go on
#: waiting for it.
CLOSE_S: Final = 2.0
_LOG_BYTES: Final = 16 * 1024
_LEVELS: Final = logging.getLevelNamesMapping()

_FAULTS: Final[dict[str, type[PeerError]]] = {
    "lost": PeerLostError,
    "protocol": PeerProtocolError,
}


@attrs.define(eq=False)
class _Process:
    """A worker that was spawned. Its control socket is ours until `end`."""

    popen: subprocess.Popen[bytes]
    pidfd: int
    control: Control
    log: int  # what it writes to its standard error
    connection: int = 0  # the kernel's number of the mount's

    def kill(self) -> None:
        """Let whoever waits for an answer of it go, and end it, hung in the kernel or not."""
        if self.connection:
            abort(self.connection)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


@attrs.define(eq=False)
class _Call:
    """Somebody waits for an answer."""

    done: trio.Event = attrs.field(factory=trio.Event)
    answer: FromWorker | None = None
    admitted: Callable[[], None] | None = None


@final
class WorkerEngine:
    """One mounted volume of one node, served by a process of its own.

    When that process ends without having been told to, this is reported at once as
    `Trouble(NOT_DRIVEN)`, `run` raises, and orders are void: callers have got EIO or ENOTCONN.

    Args:
        opening: what the worker is told first.
        report: takes what the node must know. Never blocks.
        judge: given what stands in the directory, under the mount, before anything is done to it:
            why it may not be used, or "".
        end_s: how long the end waits for the worker before it is killed.
    """

    def __init__(
        self,
        opening: Open,
        *,
        report: Callable[[AnyReport], None],
        judge: Callable[[VolumeIdentity], str] = lambda found: "",
        end_s: float = END_S,
    ) -> None:
        ensure(opening.version == VERSION, "the first message has our version")
        self.name: Final = opening.volume
        self._opening: Final = opening
        self._report: Final = report
        self._judge: Final = judge
        self._end_s: Final = end_s
        self._process: _Process | None = None
        self._status = Status()
        self._closed = ""
        self._is_closing: Final = trio.Event()
        self._is_open = False
        self._is_ending = False
        self._is_over: Final = trio.Event()
        self._why_over = ""
        self._exited: Exited | None = None
        self._unsent: Final = trio.lowlevel.ParkingLot()
        self._calls: dict[type, _Call] = {}
        self._streams: dict[int, _Call] = {}
        self._connections = 0
        self._pings: dict[int, trio.Event] = {}
        #: Whether the end unmounts, and so shows the directory to whoever still runs. Take it away
        #: where the service's stop is not certain: the mount stays, dead, until the next start.
        self.unmount_at_end = True

    # ---- the node's side; never blocking ----

    @property
    def status(self) -> DriverStatus:
        """The volume as it was when the worker last said so."""
        told = self._status
        return DriverStatus(
            mode=told.mode,
            seq=told.seq,
            peer_seq=told.peer_seq,
            waiting=told.waiting,
            mounted=self._is_open and self._opening.mount is not None and self.is_alive,
            pid=self._process.popen.pid if self._process and self.is_alive else None,
        )

    @property
    def told(self) -> Status:
        """All that the worker last said of itself."""
        return self._status

    @property
    def is_alive(self) -> bool:
        """Whether the process was spawned and has not ended."""
        return self._process is not None and not self._is_over.is_set()

    def order(self, order: AnyOrder) -> None:
        """Carry out an order of the node. Once closed for good, or over, orders are void."""
        if self._closed:
            return
        if not self.is_alive and not isinstance(order, Close):
            text = self._why_over or "the worker of this volume is not running"
            self._report(Trouble(StopReason.NOT_DRIVEN, text))
            return
        self._send(Give(order))

    def close(self, why: str) -> None:
        """Acknowledge nothing any more, for good. Never blocks, and never fails.

        A worker that takes no messages is killed: its callers get ENOTCONN.
        """
        if not self._closed:
            self._send(Give(Close(why=why, primary=None)))
            self._closed = why or "the volume was closed"
            self._is_closing.set()

    def kill(self) -> None:
        """End the process at once: its callers get ENOTCONN. The mount stays, and is dead."""
        if self._process is not None and self.is_alive:
            self._process.kill()

    # ---- the process's life ----

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Spawn the worker; `started` once it has opened the directory and mounted it.

        Cancelled, it ends in good order, bounded: callers are answered, and the volume is unmounted
        unless `unmount_at_end` was taken away.

        Raises:
            VolumeError: it could not be started, or not be opened; it has ended by itself; or it
                hangs in the kernel when it should end, so that the directory is still in use.
            WritesLostError: before `started`: what was written before is not on the disk.
            InvariantViolation: the worker found a bug of ours; everything pending was answered.
        """
        ensure(self._process is None, "a worker runs once")
        process = self._process = await self._spawn()
        fault: VolumeError | DiskError | InvariantViolation | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, process)
                nursery.start_soon(self._write, process)
                nursery.start_soon(self._watch, process)
                nursery.start_soon(self._log_errors, process)
                nursery.start_soon(self._see_closed, process)
                try:
                    await self._lead(task_status)
                except (VolumeError, DiskError, InvariantViolation) as error:
                    fault = error
                nursery.cancel_scope.cancel()
        finally:
            await self._end(process)
        if fault is not None:
            raise fault

    async def _lead(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self._ask(self._opening, Ready)
            looked = await self._ask(Look(), Looked)
            root = Path(self._opening.root)
            found = VolumeIdentity(root, Standing(looked.standing), looked.volume_id)
            if problem := self._judge(found):
                raise VolumeError(problem)
            opened = await self._ask(Begin(), Opened)
            if self._process is not None:
                self._process.connection = opened.connection
        except (VolumeError, DiskError):
            self._is_ending = True  # whoever starts it is told by the exception
            raise
        self._is_open = True
        task_status.started()
        await self._is_over.wait()
        if self._exited is not None and self._exited.is_bug:
            raise InvariantViolation(f"{self.name}: {self._exited.why}")
        raise VolumeError(f"{self.name}: {self._why_over}")

    async def mark(self, volume_id: str) -> None:
        """Have the directory below the mount carry this id. Idempotent.

        Raises:
            VolumeError: it could not be done.
        """
        await self._ask(Mark(volume_id), Marked)

    async def ping(self) -> None:
        """Return once the worker's loop has turned. Bound it."""
        number = len(self._pings) + 1
        while number in self._pings:
            number += 1
        event = self._pings[number] = trio.Event()
        try:
            self._send(Ping(number))
            await event.wait()
        finally:
            del self._pings[number]

    async def run_socket(
        self,
        handed: StreamSocket,
        *,
        admitted: Callable[[], None] = lambda: None,
        plain: bool = False,
    ) -> None:
        """Have the worker carry the stream over this TCP connection until it ends.

        A later one replaces it once it is admitted. Cancelled, the worker closes it.

        Args:
            handed: its socket is closed in this process in any case.
            admitted: called once both have said hello, and this became the volume's stream.
            plain: whether TLS ends once both have said who they are. The same on both sides.

        Raises:
            PeerRefusedError: the two do not belong together; the text says why.
            PeerError: why it ended.
        """
        self._connections += 1
        number = self._connections
        call = self._streams[number] = _Call(admitted=admitted)
        connection = Connection(
            number=number,
            hello=handed.hello,
            dialled=handed.dials,
            incarnation=handed.peer_incarnation,
            plain=plain,
            whom=handed.whom,
        )
        self._send(connection, handed.socket.detach())
        try:
            await self._wait(call)
        except VolumeError as error:
            raise PeerLostError(str(error)) from error
        finally:
            del self._streams[number]
            if call.answer is None:
                self._send(Disconnect(number, "this node closes the stream"))
        end = call.answer
        if isinstance(end, Unlinked):
            raise _FAULTS.get(end.fault, PeerRefusedError)(end.why)

    def disconnect(self, why: str) -> None:
        """Close the stream, if there is one. Never blocks."""
        if self.is_alive:
            self._send(Disconnect(0, why))

    # ---- questions and answers ----

    async def _ask(self, message: ToWorker, kind: type[T]) -> T:
        """Ask, and return an answer that names no problem.

        Raises:
            VolumeError: it names one, or the worker has ended.
            WritesLostError, PutBackError: it names one, and that is this.
        """
        if not self.is_alive:
            raise VolumeError(f"{self.name}: {self._why_over or 'its worker is not running'}")
        if kind in self._calls:
            raise LocalUsageError(f"{type(message).__name__} is asked for already")
        call = self._calls[kind] = _Call()
        self._send(message)
        try:
            answer = await self._wait(call)
        finally:
            del self._calls[kind]
        if not isinstance(answer, kind):
            raise VolumeError(f"{self.name}: the worker answers with {type(answer).__name__}")
        if isinstance(answer, Opened) and answer.lost:
            raise WritesLostError(answer.problem)
        if isinstance(answer, Opened) and answer.put_back:
            raise PutBackError(answer.problem)
        if answer.problem:
            raise VolumeError(answer.problem)
        return answer

    async def _wait(self, call: _Call) -> FromWorker:
        """Wait for an answer, or for the end of the process, whichever is first."""
        if self._is_over.is_set():
            call.done.set()
        await call.done.wait()
        if call.answer is None:
            raise VolumeError(f"{self.name}: {self._why_over}")
        return call.answer

    def _send(self, message: ToWorker, descriptor: int = -1) -> None:
        process = self._process
        if process is None or self._is_over.is_set():
            if descriptor >= 0:
                os.close(descriptor)
            return
        try:
            process.control.send(message, descriptor)
        except ControlClosedError:
            return  # whoever watches the process says so
        except ControlBrokenError:
            process.kill()
            return
        if process.control.has_unsent:
            self._unsent.unpark_all()

    # ---- tasks ----

    async def _spawn(self) -> _Process:
        ours, theirs = control_pair()
        log, errors = os.pipe()
        # Its loop never waits for us to read: what finds no room is lost.
        os.set_blocking(errors, False)
        os.set_blocking(log, False)
        try:
            popen = await trio.to_thread.run_sync(
                _spawn, theirs.fileno(), errors, limiter=trio.CapacityLimiter(1)
            )
        except BaseException as error:
            ours.close()
            os.close(log)
            if isinstance(error, OSError):
                raise VolumeError(f"{self.name}: no worker can be started: {error}") from error
            raise
        finally:
            theirs.close()
            os.close(errors)
        control = Control(ours, incoming=FromWorker)
        return _Process(popen, os.pidfd_open(popen.pid), control, log)

    async def _log_errors(self, process: _Process) -> None:
        """Log what the worker says. Each line begins with its level; else it is a traceback."""
        rest = b""
        while True:
            await trio.lowlevel.wait_readable(process.log)
            try:
                piece = os.read(process.log, _LOG_BYTES)
            except BlockingIOError:
                continue
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[-_LOG_BYTES:]
            for line in lines:
                level, _, text = line.decode("utf-8", "replace").partition(" ")
                number = _LEVELS.get(level)
                if number is None:
                    number, text = logging.ERROR, f"{level} {text}"
                _log.log(number, "%s: worker: %s", self.name, text)

    async def _receive(self, process: _Process) -> None:
        """Take what the worker says. At its end the process has a moment to be gone."""
        try:
            while True:
                await trio.lowlevel.wait_readable(process.control.fileno())
                for packet in process.control.receive():
                    self._take(packet.message)
        except ControlBrokenError as error:
            self._why_over = self._why_over or str(error)
            process.kill()
        except ControlClosedError:
            with trio.move_on_after(GONE_S):
                await self._is_over.wait()
            process.kill()

    async def _write(self, process: _Process) -> None:
        while not self._is_over.is_set():
            if not process.control.has_unsent:
                await self._unsent.park()
                continue
            await trio.lowlevel.wait_writable(process.control.fileno())
            with contextlib.suppress(ControlClosedError, ControlBrokenError):
                process.control.flush()

    async def _watch(self, process: _Process) -> None:
        """Wait for the end of the process; whoever waits for an answer learns of it at once."""
        await trio.lowlevel.wait_readable(process.pidfd)
        status = process.popen.wait()  # it has ended: no waiting
        with contextlib.suppress(ControlClosedError, ControlBrokenError):
            for packet in process.control.receive():  # its last words
                self._take(packet.message)
        self._over(_how(status, self._exited))

    async def _see_closed(self, process: _Process) -> None:
        """A worker that was closed for good has answered everybody, or is killed."""
        await self._is_closing.wait()
        with trio.move_on_after(CLOSE_S) as scope:
            await self.ping()
        if scope.cancelled_caught and not self._is_over.is_set():
            _log.error("%s: its worker does not answer, and is killed", self.name)
            process.kill()

    def _over(self, why: str) -> None:
        self._why_over = self._why_over or why
        self._is_over.set()
        self._status = Status()
        self._unsent.unpark_all()
        for call in (*self._calls.values(), *self._streams.values()):
            call.done.set()
        if not self._is_ending:
            _log.error("%s: %s", self.name, self._why_over)
            self._report(Trouble(StopReason.NOT_DRIVEN, self._why_over))

    def _take(self, message: FromWorker) -> None:
        match message:
            case Told(report=report):
                self._report(report)
            case Status():
                self._status = message
            case Linked() | Unlinked():
                self._take_of_stream(message)
            case Pong(number=number):
                if number in self._pings:
                    self._pings[number].set()
            case Exited():
                self._exited = message
            case Ready() | Looked() | Opened() | Marked():
                self._answer(self._calls.get(type(message)), message)

    def _take_of_stream(self, message: Linked | Unlinked) -> None:
        call = self._streams.get(message.number)
        if isinstance(message, Unlinked):
            self._answer(call, message)
            return
        if call is not None and call.admitted is not None:
            call.admitted()
        for warning in message.warnings:
            _log.warning("%s: %s", self.name, warning)

    def _answer(self, call: _Call | None, message: FromWorker) -> None:
        if call is not None:
            call.answer = message
            call.done.set()

    async def _end(self, process: _Process) -> None:
        """Have it end in good order, bounded; then by force."""
        self._is_ending = True
        try:
            with trio.CancelScope(shield=True):
                if not self._is_over.is_set():
                    self._send(Shutdown("this node ends", unmount=self.unmount_at_end))
                    await self._wait_gone(process)
        finally:
            self._over("this node ends")
            process.control.close()
            os.close(process.pidfd)
            os.close(process.log)

    async def _wait_gone(self, process: _Process) -> None:
        for wait_s in (self._end_s, KILL_S):
            with trio.move_on_after(wait_s):
                while process.popen.poll() is None:
                    with contextlib.suppress(ControlClosedError, ControlBrokenError):
                        process.control.flush()
                    with trio.move_on_after(FLUSH_AGAIN_S):
                        await trio.lowlevel.wait_readable(process.pidfd)
                return
            process.kill()
        raise VolumeError(
            f"{self.name}: its worker, process {process.popen.pid}, hangs in the kernel; the "
            "volume stays in use"
        )


def _spawn(descriptor: int, errors: int) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C is for the application, which then ends this in order.
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", MODULE, str(descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=(descriptor,),
        start_new_session=True,
    )


def _how(status: int, exited: Exited | None) -> str:
    """Say in one line how a worker ended."""
    if exited is not None:
        return f"the worker ended: {exited.why}"
    if status < 0:
        return f"the worker was killed by {signal.Signals(-status).name}"
    return f"the worker ended with status {status}"
