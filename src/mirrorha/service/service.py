"""What the cluster holds of the service: start it, stop it, hear that it failed."""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha import process
from mirrorha.containment import Raised, contain
from mirrorha.core.words import Role
from mirrorha.errors import LocalUsageError, ServiceError, ensure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirrorha.core.change import RoleChange
    from mirrorha.service.phases import Phases

#: How long a phase may go on after it was cancelled. Whatever has not ended by then is left
#: behind, and nothing else of the service is run beside it.
END_GRACE_S: Final = 10

ensure(
    END_GRACE_S > process.TERM_GRACE_S + process.KILL_WAIT_S,
    "a command is killed before it is left behind",
)

NOT_RUNNING: Final = "the service cannot be started or stopped while Service.run is not running"

_log: Final = logging.getLogger(__name__)


class ServiceState(enum.Enum):
    """What has become of the service on this node."""

    STOPPED = "stopped"
    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    FAILED = "failed"


@final
@attrs.frozen
class ServiceStatus:
    """For the status document. `text` says what failed, or is empty."""

    state: ServiceState = ServiceState.STOPPED
    text: str = ""


@final
@attrs.frozen
class StopReport:
    """How a stop went. It always ends.

    Attributes:
        in_time: False if its deadline was missed, whether it then ended or was left behind.
        error: what went wrong; empty if nothing did.
        is_over: False if code of the service is left behind that cannot be interrupted. It is
            not started again until that has ended, and then stopped by itself if a stop is due.
    """

    in_time: bool = True
    error: str = ""
    is_over: bool = True


@attrs.define(eq=False)
class _Running:
    """A phase under way, in a task of its own."""

    name: str
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    is_over: trio.Event = attrs.field(factory=trio.Event)
    is_late: bool = False
    is_left_behind: bool = False
    error: str = ""


@final
class Service:
    """Starts and stops the service, one phase at a time, each with a deadline.

    Every start is followed by its stop: on request, at once if it fails or is cancelled, at the
    end of `run` otherwise. Nothing that the service's code raises comes out of `run`.
    """

    def __init__(
        self,
        phases: Phases,
        *,
        on_failure: Callable[[str], None],
        start_timeout_s: float = 60,
        stop_timeout_s: float = 60,
        end_grace_s: float = END_GRACE_S,
    ) -> None:
        """Hold a service that is not running yet.

        Args:
            on_failure: is told when a started service ends by itself. Not called for what `start`
                and `stop` report.
            start_timeout_s: seconds until a start that has not returned has failed.
            stop_timeout_s: seconds until a stop that has not returned is ended by force.
            end_grace_s: seconds that a phase may take to end once it was cancelled.
        """
        self._phases: Final = phases
        self._on_failure: Final = on_failure
        self._start_timeout_s: Final = start_timeout_s
        self._stop_timeout_s: Final = stop_timeout_s
        self._end_grace_s: Final = end_grace_s
        self._status = ServiceStatus()
        self._nursery: trio.Nursery | None = None
        self._is_ending = False
        self._has_abandoned = False  # something runs on that nothing may run beside
        self._lock: Final = trio.Lock()  # held by whoever runs phases
        self._running: _Running | None = None
        self._starting: trio.CancelScope | None = None
        self._owes_stop = phases.may_be_left_over
        self._latest_why: RoleChange | None = None
        self._latest_stop = StopReport()
        self._stops_asked = 0
        self._stops_made = 0
        self._left_behind: _Running | None = None  # no phase was begun since
        self._early_end = ""  # why a serve task ended before its start was over

    @property
    def status(self) -> ServiceStatus:
        """The service as it stands."""
        return self._status

    @property
    def is_started(self) -> bool:
        """Whether it is started and has not failed."""
        return self._status.state is ServiceState.STARTED

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out `start` and `stop` until cancelled; then stop what is started.

        First of all, what a former incarnation of this program left running is ended. Bounded.
        That last stop is shielded, and takes as long as `stop` may. A function that ignores both
        its deadline and cancellation can hold this up for ever (a thread cannot).
        """
        ensure(self._nursery is None, "a service runs once")
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._phases.attach(nursery, self._note_end)
            try:
                await self._end_left_over()
                task_status.started()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop_at_end()
                self._has_abandoned = self._phases.abandon()
                nursery.cancel_scope.cancel()

    async def _end_left_over(self) -> None:
        with trio.move_on_after(self._stop_timeout_s):
            outcome = await contain(self._phases.end_left_over)
            if isinstance(outcome, Raised):
                _log.error("ending what is left over: %s", outcome.text)

    async def start(self, why: RoleChange) -> None:
        """Start the service, and return when it is started.

        Waits for a stop under way. What may be left over is stopped first. A start that fails,
        misses its deadline or is cancelled is stopped again before this ends; that part is
        shielded and bounded as `stop` is.

        Raises:
            ServiceError: it failed, missed its deadline, or a stop was asked for meanwhile.
            LocalUsageError: it is started already, or `run` is not running.
        """
        stops_asked = self._stops_asked
        async with self._lock:
            if self._nursery is None or self._is_ending:
                raise LocalUsageError(NOT_RUNNING)
            if self.is_started:
                raise LocalUsageError("the service is started already")
            await self._clear(why)
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._stops_asked != stops_asked:
                raise ServiceError("the service was not started: a stop was asked for meanwhile")
            await self._start(why)

    async def stop(self, why: RoleChange) -> StopReport:
        """Stop the service, whatever it is doing; a start under way is cancelled.

        Shielded, and always ends: a stop takes at most `stop_timeout_s` + `end_grace_s`, and
        waiting for a phase under way at most as long again. Does nothing if there is nothing to
        stop.

        Raises:
            LocalUsageError: `run` is not running.
        """
        stops_made = self._stops_made
        self._latest_why = why
        self._ask_stop()
        with trio.CancelScope(shield=True):
            async with self._lock:
                report = await self._stop_if_due(why)
        # A start that was under way, or another stop, may have run the stop that we wanted.
        return report or (self._latest_stop if self._stops_made > stops_made else StopReport())

    async def _stop_if_due(self, why: RoleChange) -> StopReport | None:
        if self._nursery is None or self._is_ending:
            raise LocalUsageError(NOT_RUNNING)
        if self._running is not None:
            with trio.move_on_after(self._stop_timeout_s):
                await self._running.is_over.wait()
        if self._running is not None:
            return self._report_left_behind(self._running)
        if self._owes_stop:
            return await self._stop(why)
        self._set(ServiceState.STOPPED)
        return None

    async def _clear(self, why: RoleChange) -> None:
        """Before a start: stop what was started before, or by a former incarnation."""
        if self._running is None and (self._owes_stop or self._phases.may_be_left_over):
            with trio.CancelScope(shield=True):
                report = await self._stop(why)
            if report.error:  # an application that is not running is rarely stopped with success
                _log.info("stopping what might be left over: %s", report.error)
        if self._running is not None:
            raise ServiceError(
                f"the service is not started: {self._running.name} of before is still running "
                "and cannot be interrupted; restart this program"
            )

    async def _start(self, why: RoleChange) -> None:
        self._set(ServiceState.STARTING)
        self._owes_stop, self._latest_why, self._early_end = True, why, ""
        error = "it was cancelled"
        try:
            with trio.CancelScope() as self._starting:
                error = await self._perform_start(why)
            if self._starting.cancelled_caught:
                error = "a stop was asked for meanwhile"
        finally:
            self._starting = None
            if error:
                with trio.CancelScope(shield=True):
                    await self._undo_start(error)
        if error:
            raise ServiceError(f"the service was not started: {error}")
        self._set(ServiceState.STARTED)

    async def _perform_start(self, why: RoleChange) -> str:
        running = _Running(self._phases.start_name)
        await self._perform(running, self._phases.start, why, limit_s=self._start_timeout_s)
        return running.error or self._early_end

    async def _undo_start(self, error: str) -> None:
        """After a start that failed or was cancelled. If it runs still, its stop comes later."""
        if self._running is None and self._latest_why is not None:
            report = await self._stop(self._latest_why)
            if report.error:
                error = f"{error}; then {report.error}"
        self._set(ServiceState.FAILED, error)

    async def _stop(self, why: RoleChange) -> StopReport:
        """Run the stop phase. Bounded; the caller holds the lock and shields."""
        self._set(ServiceState.STOPPING)
        self._owes_stop = False
        running = _Running(self._phases.stop_name)
        await self._perform(running, self._phases.stop, why, limit_s=self._stop_timeout_s)
        if running.error:
            await contain(self._phases.enforce_stop)
        if running.is_left_behind:
            self._latest_stop = self._report_left_behind(running)
        else:
            self._latest_stop = StopReport(in_time=not running.is_late, error=running.error)
            self._set(ServiceState.STOPPED)
        self._stops_made += 1
        return self._latest_stop

    async def _perform(
        self,
        running: _Running,
        phase: Callable[[RoleChange], Awaitable[None]],
        why: RoleChange,
        *,
        limit_s: float,
    ) -> None:
        """Run a phase until it ends or its time is up; `running` says what came of it.

        Cancelled, the phase is, too. Whichever way, it has ended or is left behind.
        """
        ensure(self._running is None, "phases of a service never overlap")
        if self._nursery is None:
            raise LocalUsageError(NOT_RUNNING)
        self._running, self._left_behind = running, None
        self._nursery.start_soon(self._carry_out, running, phase, why)
        try:
            with trio.move_on_after(limit_s):
                await running.is_over.wait()
        finally:
            if not running.is_over.is_set():
                running.is_late = True
                running.error = f"{running.name} did not return within {limit_s:g} s"
                await self._end(running)

    async def _end(self, running: _Running) -> None:
        running.scope.cancel()
        with trio.CancelScope(shield=True), trio.move_on_after(self._end_grace_s):
            await running.is_over.wait()
        if not running.is_over.is_set():
            running.is_left_behind = True
            self._left_behind = running
            _log.error("%s does not end though it was cancelled; it is left behind", running.name)

    async def _carry_out(
        self,
        running: _Running,
        phase: Callable[[RoleChange], Awaitable[None]],
        why: RoleChange,
    ) -> None:
        with running.scope:
            outcome = await contain(lambda: phase(why))
            if isinstance(outcome, Raised) and not running.error:
                running.error = f"{running.name}: {outcome.text}"
        self._running = None
        running.is_over.set()
        if running.is_left_behind:
            await self._settle(running)

    async def _settle(self, running: _Running) -> None:
        """What was left behind has ended at last: do what had to wait for it."""
        _log.warning("%s has ended at last", running.name)
        with trio.CancelScope(shield=True):
            async with self._lock:
                if self._left_behind is not running or self._has_abandoned:
                    return  # somebody has seen to it, or nobody can
                if self._owes_stop and self._latest_why is not None:
                    await self._stop(self._latest_why)
                else:
                    self._set(ServiceState.STOPPED)

    async def _stop_at_end(self) -> None:
        """Let phases under way end, stop what this program has touched, accept nothing more."""
        if self._latest_why is not None:
            self._latest_why = attrs.evolve(
                self._latest_why,
                from_role=self._latest_why.to_role,
                to_role=Role.STOP,
                why="this program ends",
            )
        self._ask_stop()
        async with self._lock:
            if self._latest_why is not None:
                report = await self._stop_if_due(self._latest_why)
                if report is not None and report.error:
                    _log.error("stopping the service at the end: %s", report.error)
            self._is_ending = True

    def _ask_stop(self) -> None:
        self._stops_asked += 1
        if self._starting is not None:
            self._starting.cancel()

    def _report_left_behind(self, running: _Running) -> StopReport:
        error = f"{running.name} is still running and cannot be interrupted"
        self._set(ServiceState.FAILED, error)
        return StopReport(in_time=False, error=error, is_over=False)

    def _note_end(self, text: str) -> None:
        if self.is_started:
            self._set(ServiceState.FAILED, text)
            self._on_failure(text)
        elif self._status.state is ServiceState.STARTING:
            self._early_end = text
        else:
            _log.info("the service, while it was stopped: %s", text)

    def _set(self, state: ServiceState, text: str = "") -> None:
        self._status = ServiceStatus(state, text)
