"""Where clients are sent: each switch follows what this node does. No role depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.core.state import ServiceState
from mirrorha.switches.keeper import SwitchKeeper, SwitchReport, SwitchState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrorha.core.state import State
    from mirrorha.switches.keeper import SwitchRule, SwitchWhen

#: What the service's start waits at most for switches that are to be moved before, and its stop
#: for those that are to be moved away before. It goes on without them; but a start waits longer
#: where what is in the way passes by itself, as an address that a node which hangs has to let go
#: of: a service that binds to it would only fail meanwhile, until its restart limit is used up.
START_WAIT_S: Final = 2.0
STOP_WAIT_S: Final = 1.0


def should_hold(state: State, when: SwitchWhen, *, now_ms: int) -> bool:
    """Whether clients should reach this node now."""
    s = state
    if not s.role.serves or _may_be_replaced(s, now_ms):
        return False
    if when == "before_start":
        return s.service is not ServiceState.OFF
    return s.service is ServiceState.ON and not s.hold_service


def _may_be_replaced(s: State, now_ms: int) -> bool:
    """Frozen for so long that the other node may serve by now: it looks for the address."""
    limit_ms = s.settings.timeout_ms + s.settings.takeover_delay_ms
    return s.frozen and now_ms - s.frozen_since_ms > limit_ms


@final
class Traffic:
    """The switches of one run of a node.

    Args:
        note: told of what a person should know: a rule's name, a text, whether it is an alarm.
    """

    def __init__(self, rules: Sequence[SwitchRule], note: Callable[[str, str, bool], None]) -> None:
        self._keepers: Final = tuple(SwitchKeeper(rule, self._changed) for rule in rules)
        self._note: Final = note
        # By name: what was told last. That clients are not here at the beginning is no news.
        self._told: Final = {rule.title: (SwitchState.DISENGAGED, False) for rule in rules}

    @property
    def switches(self) -> tuple[SwitchReport, ...]:
        """Every switch as it stands."""
        return tuple(keeper.latest for keeper in self._keepers)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled; then clients are stopped from reaching this node, bounded."""
        async with trio.open_nursery() as nursery:
            for keeper in self._keepers:
                nursery.start_soon(keeper.run)
            task_status.started()

    def look(self, state: State, now_ms: int) -> None:
        """After each step of the core. Never blocks."""
        for keeper in self._keepers:
            keeper.set_wanted(should_hold(state, keeper.rule.when, now_ms=now_ms))

    async def wait_before_start(self) -> None:
        """Wait, bounded, for the switches that the service needs to start."""
        await self._wait("before_start", START_WAIT_S)
        for keeper in self._keepers:
            if keeper.rule.when == "before_start":
                await keeper.wait_hopefully()

    async def wait_before_stop(self) -> None:
        """Wait, bounded, for the switches that only a started service has."""
        await self._wait("after_start", STOP_WAIT_S)

    async def _wait(self, when: SwitchWhen, limit_s: float) -> None:
        with trio.move_on_after(limit_s):
            for keeper in self._keepers:
                if keeper.rule.when == when:
                    await keeper.wait_settled()

    def _changed(self, report: SwitchReport) -> None:
        """A failure is an alarm once, however often it is tried again."""
        now = report.state, report.wanted
        if report.state is SwitchState.MOVING or now == self._told[report.name]:
            return
        self._told[report.name] = now
        if report.state is SwitchState.FAILED:
            self._note("switch-failed", f"{report.name}: {report.text}", True)
        else:
            self._note("switch-moved", f"{report.name}: {report.state.value}", False)
