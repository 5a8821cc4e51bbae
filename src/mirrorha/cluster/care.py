"""The service under care on this node: started and stopped as the core says, checked while it runs.

And what load balancers are told of it, and whether the application lets this node take over.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.checks.runner import CheckReport, CheckRunner, CheckState, Situation
from mirrorha.containment import Raised, Returned, call, contain
from mirrorha.core.change import RoleChange
from mirrorha.core.effects import StartService, StopService
from mirrorha.core.events import PromotableChanged, ServiceFailed, ServiceStarted, ServiceStopped
from mirrorha.core.health import data_of
from mirrorha.core.state import ServiceState
from mirrorha.core.words import Role
from mirrorha.errors import LocalUsageError, ServiceError
from mirrorha.probe import ProbeState
from mirrorha.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrorha.checks.runner import Checker
    from mirrorha.config import ClusterConfig
    from mirrorha.core.events import AnyEvent
    from mirrorha.core.state import State
    from mirrorha.service import Phases, ServiceStatus

_log: Final = logging.getLogger(__name__)

#: How often the application is asked whether this SECOND may take over, and how long it may think.
PROMOTE_EVERY_S: Final = 2.0
PROMOTE_LIMIT_S: Final = 2.0


@final
class Care:
    """The service, its checks, and what follows from them, as events for the core.

    Args:
        config: names and deadlines.
        phases: how the service is started and stopped.
        checkers: made while they apply.
        can_promote: asked while this node is SECOND; all must say yes. Nor may any check have
            failed that has an action.
        give: takes events of the core.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        phases: Phases,
        checkers: Sequence[Checker],
        can_promote: Sequence[Callable[[], object]],
        give: Callable[[AnyEvent], None],
    ) -> None:
        self._config: Final = config
        self._give: Final = give
        self._service: Final = Service(
            phases,
            on_failure=self._ended,
            start_timeout_s=config.service.start_timeout_s,
            stop_timeout_s=config.service.stop_timeout_s,
        )
        self._runners: Final = tuple(CheckRunner(each, self._checked) for each in checkers)
        self._can_promote: Final = tuple(can_promote)
        self._promotable = True  # as the core knows it
        self._consents = True  # what `can_promote` said last
        self._situation = Situation.NEITHER
        self._limiter: Final = trio.CapacityLimiter(1)
        self._token = 0  # of the latest start
        self._role = Role.STOP
        self.is_left_behind = False

    @property
    def service(self) -> ServiceStatus:
        """The service as it stands."""
        return self._service.status

    @property
    def checks(self) -> tuple[CheckReport, ...]:
        """Every check as it stands."""
        return tuple(runner.latest for runner in self._runners)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; then the service is stopped, within its deadlines."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._service.run)
            for runner in self._runners:
                await nursery.start(runner.run)
            if self._can_promote:
                nursery.start_soon(self._ask_promotable)
            task_status.started()

    # ---- what the core asks for ----

    async def start(self, effect: StartService) -> None:
        """Start the service, and tell the core what came of it."""
        self._token = effect.token
        try:
            await self._service.start(self._change(effect))
        except (ServiceError, LocalUsageError) as error:
            self._give(ServiceFailed(token=effect.token, text=str(error)))
        else:
            self._give(ServiceStarted(token=effect.token))

    async def stop(self, effect: StopService) -> None:
        """Stop the service, whatever it is doing, and tell the core. Always ends."""
        try:
            report = await self._service.stop(self._change(effect))
        except LocalUsageError:
            return  # this node ends, and the service is stopped with it
        self.is_left_behind = not report.is_over
        if report.error:
            _log.warning("stopping the service: %s", report.error)
        self._give(ServiceStopped(token=effect.token, clean=report.in_time and report.is_over))

    def look(self, state: State) -> None:
        """After each step: which checks apply now."""
        self._role = state.role
        situation = Situation.NEITHER
        if state.service is ServiceState.ON and not state.meta.paused and not state.hold_service:
            situation = Situation.SERVING
        elif state.role is Role.SECOND:
            situation = Situation.SECOND
        self._situation = situation
        for runner in self._runners:
            runner.set_situation(situation)
        self._judge_promotable()

    # ---- what is told to load balancers ----

    def probe_state(self, state: State, *, now_ms: int) -> ProbeState:
        """From memory: whether clients belong here."""
        reason = self._obstacle(state, now_ms)
        return ProbeState(
            role=state.role, data=data_of(state), serving_well=not reason, reason=reason
        )

    def _obstacle(self, state: State, now_ms: int) -> str:
        if not state.role.serves:
            return state.why
        if state.hold_service:
            return "the service is about to be stopped here"
        if state.service is not ServiceState.ON:
            return f"the service is {state.service.value}"
        frozen_ms = now_ms - state.frozen_since_ms if state.frozen else 0
        if frozen_ms > state.settings.takeover_delay_ms:
            return "nothing can be acknowledged at the moment"
        failed = [each.text for each in self.checks if _counts(each)]
        return failed[0] if failed else ""

    # ---- what happens by itself ----

    def _change(self, effect: StartService | StopService) -> RoleChange:
        return RoleChange(
            cluster=self._config.name,
            node=self._config.me.name,
            epoch=effect.epoch,
            from_role=effect.from_role,
            to_role=effect.to_role,
            why=effect.why,
        )

    def _ended(self, text: str) -> None:
        self._give(ServiceFailed(token=self._token, text=text))

    def _checked(self, report: CheckReport) -> None:
        if report.changed:
            _log.info("check %s: %s %s", report.name, report.state.value, report.text)
        # Else nothing is to be done; and once the service runs, or runs on after a maintenance,
        # every check begins anew.
        if report.changed and _counts(report) and self._situation is Situation.SERVING:
            text = f"check {report.name}: {report.text}"
            self._give(ServiceFailed(token=self._token, text=text, action=report.on_failure))
        self._judge_promotable()

    def _judge_promotable(self) -> None:
        """Whether this node may take over, or be handed the service, which would fail at once."""
        now = self._situation
        failed = (_counts(each.latest) for each in self._runners if each.checker.applies(now))
        is_fit = now is Situation.SERVING or not any(failed)  # where it serves, there is an action
        if self._promotable is not (self._consents and is_fit):
            self._promotable = not self._promotable
            self._give(PromotableChanged(promotable=self._promotable))

    async def _ask_promotable(self) -> None:
        while True:
            if self._role is Role.SECOND:
                self._consents = await self._all_consent()
                self._judge_promotable()
            await trio.sleep(PROMOTE_EVERY_S)

    async def _all_consent(self) -> bool:
        """Whether all callbacks say yes. One that raises, or says nothing in time, says no."""
        for function in self._can_promote:
            outcome: Returned[object] | Raised = Raised(ServiceError("no answer in time"))
            with trio.move_on_after(PROMOTE_LIMIT_S):
                outcome = await contain(partial(call, function, limiter=self._limiter))
            if isinstance(outcome, Raised):
                _log.warning("can_promote: %s", outcome.text)
                return False
            if not outcome.value:
                return False
        return True


def _counts(report: CheckReport) -> bool:
    return report.state is CheckState.FAILED and report.on_failure != "none"
