"""The service's phases: never two at once, every start has its stop, and everything ends."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import ClassVar

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mirrorha.core.change import RoleChange
from mirrorha.core.words import Role
from mirrorha.errors import LocalUsageError, ServiceError
from mirrorha.service import Callbacks, Phases, ServeTask, ServiceState, StopReport
from tests.service_app import WHY, App, caring, defy, fail, hang, is_now, nothing

BOTH = pytest.mark.parametrize("kind", ["callbacks", "serve"])


def phases_of(app: App, kind: str) -> Phases:
    return ServeTask(app.serve) if kind == "serve" else Callbacks(start=app.start, stop=app.stop)


@BOTH
async def test_start_and_stop(kind: str, autojump_clock: MockClock) -> None:
    app = App()
    async with caring(app, phases_of(app, kind)) as service:
        assert is_now(service, ServiceState.STOPPED)
        await service.start(WHY)
        assert is_now(service, ServiceState.STARTED)
        assert service.is_started
        back = attrs.evolve(WHY, to_role=Role.SECOND)
        assert await service.stop(back) == StopReport()
        assert is_now(service, ServiceState.STOPPED)
        if kind == "callbacks":
            assert app.changes == [WHY, back]
        await service.start(WHY)
        await service.stop(WHY)
    assert app.calls == ["start", "stop"] * 2
    assert not app.failures


async def test_states_in_between(autojump_clock: MockClock) -> None:
    async def slow(_: RoleChange) -> None:
        await trio.sleep(30)

    app = App(on_start=slow, on_stop=slow)
    async with caring(app) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service.start, WHY)
        await trio.sleep(10)
        assert is_now(service, ServiceState.STARTING)
        await trio.sleep(30)
        assert is_now(service, ServiceState.STARTED)
        nursery.start_soon(service.stop, WHY)
        await trio.sleep(10)
        assert is_now(service, ServiceState.STOPPING)
        await trio.sleep(30)
        assert is_now(service, ServiceState.STOPPED)


@BOTH
async def test_a_start_that_fails_is_stopped_again(kind: str, autojump_clock: MockClock) -> None:
    app = App(on_start=fail)
    async with caring(app, phases_of(app, kind)) as service:
        with pytest.raises(ServiceError, match="ZeroDivisionError: no paper"):
            await service.start(WHY)
        assert is_now(service, ServiceState.FAILED, "no paper")
        assert await service.stop(WHY) == StopReport()
        assert is_now(service, ServiceState.STOPPED)
    assert app.calls == (["start", "stop"] if kind == "callbacks" else ["start"])
    assert not app.failures, "the caller of start knows already"


@BOTH
async def test_a_start_that_hangs_is_cancelled_and_stopped(
    kind: str, autojump_clock: MockClock
) -> None:
    app = App(on_start=hang)
    async with caring(app, phases_of(app, kind), start_timeout_s=20) as service:
        began = trio.current_time()
        with pytest.raises(ServiceError, match="did not return within 20 s"):
            await service.start(WHY)
        assert trio.current_time() - began == pytest.approx(20, abs=0.1)
        assert app.busy == ""
        app.on_start = nothing
        await service.start(WHY)
        assert service.is_started
        await service.stop(WHY)
    assert app.calls[:2] == (["start", "stop"] if kind == "callbacks" else ["start", "start"])


async def test_a_stop_that_fails_is_reported_and_done_with(autojump_clock: MockClock) -> None:
    app = App(on_stop=fail)
    async with caring(app) as service:
        await service.start(WHY)
        report = await service.stop(WHY)
        assert report == StopReport(error="on_stop: ZeroDivisionError: no paper")
        assert is_now(service, ServiceState.STOPPED)


async def test_a_stop_that_hangs_ends(autojump_clock: MockClock) -> None:
    app = App(on_stop=hang)
    async with caring(app, stop_timeout_s=20) as service:
        await service.start(WHY)
        began = trio.current_time()
        report = await service.stop(WHY)
        assert report == StopReport(in_time=False, error="on_stop did not return within 20 s")
        assert trio.current_time() - began == pytest.approx(20, abs=0.1)
        assert is_now(service, ServiceState.STOPPED)


@BOTH
async def test_a_stop_that_defies_cancellation_is_left_behind_and_nothing_runs_beside_it(
    kind: str, autojump_clock: MockClock
) -> None:
    app = App(on_stop=defy)
    async with caring(app, phases_of(app, kind), stop_timeout_s=20) as service:
        await service.start(WHY)
        began = trio.current_time()
        report = await service.stop(WHY)
        assert (report.in_time, report.is_over) == (False, False)
        assert "still running and cannot be interrupted" in report.error
        assert trio.current_time() - began == pytest.approx(30, abs=0.1), "the grace included"
        with pytest.raises(ServiceError, match="of before is still running"):
            await service.start(WHY)
        again = await service.stop(WHY)
        assert not again.is_over
        assert trio.current_time() - began == pytest.approx(50, abs=0.1)
        await trio.sleep(151)
        assert is_now(service, ServiceState.STOPPED), "it has ended at last"
        await service.start(WHY)
        assert service.is_started
        app.on_stop = nothing
    assert app.calls == ["start", "stop"] * 2


async def test_a_start_that_defies_cancellation_is_stopped_when_it_ends(
    autojump_clock: MockClock,
) -> None:
    app = App(on_start=defy)
    async with caring(app, start_timeout_s=20) as service:
        with pytest.raises(ServiceError, match="within 20 s"):
            await service.start(WHY)
        assert app.calls == ["start"]
        with pytest.raises(ServiceError, match="of before is still running"):
            await service.start(WHY)
        await trio.sleep(200)
        assert app.calls == ["start", "stop"]
        assert is_now(service, ServiceState.STOPPED)


async def test_a_stop_waits_for_a_start_left_behind(autojump_clock: MockClock) -> None:
    app = App(on_start=defy)
    async with caring(app, start_timeout_s=180) as service:
        with pytest.raises(ServiceError, match="within 180 s"):
            await service.start(WHY)
        assert await service.stop(WHY) == StopReport()
    assert app.calls == ["start", "stop"]


@BOTH
async def test_a_stop_overtakes_a_start(kind: str, autojump_clock: MockClock) -> None:
    app = App(on_start=hang)
    async with caring(app, phases_of(app, kind)) as service, trio.open_nursery() as nursery:
        failures = _expect(nursery, service.start)
        await trio.sleep(5)
        began = trio.current_time()
        down = attrs.evolve(WHY, to_role=Role.STOP)
        assert await service.stop(down) == StopReport()
        assert trio.current_time() == began, "it does not wait for the start's deadline"
        assert is_now(service, ServiceState.STOPPED)
        await wait_all_tasks_blocked()
        assert "a stop was asked for meanwhile" in failures[0]
        if kind == "callbacks":
            assert app.calls == ["start", "stop"]
            assert app.changes[1] == down


async def test_a_stop_overtakes_a_start_that_waits_its_turn(autojump_clock: MockClock) -> None:
    async def slow(_: RoleChange) -> None:
        await trio.sleep(10)

    app = App(on_stop=slow)
    async with caring(app) as service, trio.open_nursery() as nursery:
        await service.start(WHY)
        nursery.start_soon(service.stop, WHY)
        await wait_all_tasks_blocked()
        failures = _expect(nursery, service.start)
        await wait_all_tasks_blocked()
        assert await service.stop(WHY) == StopReport()
        await wait_all_tasks_blocked()
        assert "a stop was asked for meanwhile" in failures[0]
    assert app.calls == ["start", "stop"]


async def test_a_start_waits_for_a_stop(autojump_clock: MockClock) -> None:
    async def slow(_: RoleChange) -> None:
        await trio.sleep(10)

    app = App(on_stop=slow)
    async with caring(app) as service, trio.open_nursery() as nursery:
        await service.start(WHY)
        nursery.start_soon(service.stop, WHY)
        await wait_all_tasks_blocked()
        await service.start(WHY)
        assert service.is_started
    assert app.calls == ["start", "stop", "start", "stop"]


async def test_two_stops_are_one(autojump_clock: MockClock) -> None:
    app = App(on_stop=hang)
    async with caring(app, stop_timeout_s=20) as service, trio.open_nursery() as nursery:
        await service.start(WHY)
        nursery.start_soon(service.stop, WHY)
        await wait_all_tasks_blocked()
        report = await service.stop(WHY)
        assert not report.in_time, "it tells what became of the one it waited for"
    assert app.calls == ["start", "stop"]


async def test_two_starts_are_a_mistake(autojump_clock: MockClock) -> None:
    app = App()
    async with caring(app) as service:
        await service.start(WHY)
        with pytest.raises(LocalUsageError, match="started already"):
            await service.start(WHY)
        assert service.is_started
    assert app.calls == ["start", "stop"]


async def test_a_restart_behind_a_late_end_is_left_alone(autojump_clock: MockClock) -> None:
    app = App(on_start=defy)
    async with caring(app, start_timeout_s=180) as service, trio.open_nursery() as nursery:
        with pytest.raises(ServiceError, match="within 180 s"):
            await service.start(WHY)
        nursery.start_soon(service.stop, WHY)
        await wait_all_tasks_blocked()
        app.on_start = nothing
        await service.start(WHY)
        await wait_all_tasks_blocked()
        assert service.is_started
        assert app.calls == ["start", "stop", "start"]


class LeftOver:
    """Callbacks after a former incarnation that may have left something running."""

    start_name: ClassVar[str] = "on_start"
    stop_name: ClassVar[str] = "on_stop"
    may_be_left_over: ClassVar[bool] = True

    def __init__(self, app: App) -> None:
        self.start = app.start
        self.stop = app.stop
        self.enforced = 0

    def attach(self, nursery: trio.Nursery, on_end: Callable[[str], None]) -> None: ...
    def abandon(self) -> bool:
        return False

    async def end_left_over(self) -> None: ...

    async def enforce_stop(self) -> None:
        self.enforced += 1


async def test_what_may_be_left_over_is_stopped_before_the_start() -> None:
    app = App()
    async with caring(app, LeftOver(app)) as service:
        await service.start(WHY)
        await service.stop(WHY)
        await service.start(WHY)  # somebody may have started it by hand meanwhile
    assert app.calls == ["stop", "start", "stop"] * 2


async def test_what_may_be_left_over_is_stopped_on_request_once() -> None:
    app = App()
    async with caring(app, LeftOver(app)) as service:
        await service.stop(WHY)
        await service.stop(WHY)
    assert app.calls == ["stop"]


async def test_what_may_be_left_over_is_another_programs_until_asked() -> None:
    app = App()
    async with caring(app, LeftOver(app)):
        pass
    assert app.calls == []


async def test_a_left_over_that_is_stopped_with_failure_is_no_obstacle() -> None:
    app = App(on_stop=fail)
    phases = LeftOver(app)
    async with caring(app, phases) as service:
        await service.start(WHY)
        assert service.is_started
        assert phases.enforced == 1
        app.on_stop = nothing
        await service.stop(WHY)
    assert phases.enforced == 1


async def test_a_start_cancelled_before_its_turn_never_begins(autojump_clock: MockClock) -> None:
    async def slow(_: RoleChange) -> None:
        await trio.sleep(30)

    app = App(on_stop=slow)
    async with caring(app, LeftOver(app)) as service:
        with trio.move_on_after(10):
            await service.start(WHY)
        assert app.calls == ["stop"]
        assert is_now(service, ServiceState.STOPPED)


@BOTH
async def test_a_cancelled_start_is_stopped(kind: str, autojump_clock: MockClock) -> None:
    async def slow(_: RoleChange) -> None:
        await trio.sleep(5)

    app = App(on_start=hang, on_stop=slow)
    async with caring(app, phases_of(app, kind)) as service:
        with trio.move_on_after(10) as scope:
            await service.start(WHY)
        assert scope.cancelled_caught
        assert is_now(service, ServiceState.FAILED, "cancelled")
        assert app.busy == ""
        if kind == "callbacks":
            assert app.calls == ["start", "stop"]
            assert trio.current_time() - scope.deadline == pytest.approx(5, abs=0.1)


async def test_a_cancelled_stop_goes_on(autojump_clock: MockClock) -> None:
    async def slow(_: RoleChange) -> None:
        await trio.sleep(30)
        app.calls.append("stopped")

    app = App(on_stop=slow)
    async with caring(app) as service:
        await service.start(WHY)
        with trio.move_on_after(10):
            await service.stop(WHY)
        assert app.calls == ["start", "stop", "stopped"]


@BOTH
@pytest.mark.parametrize("on_start", [nothing, hang])
async def test_the_end_of_the_program_is_a_stop(
    kind: str, on_start: Callable[[RoleChange], Awaitable[None]], autojump_clock: MockClock
) -> None:
    async def slow(_: RoleChange) -> None:
        await trio.sleep(5)
        app.calls.append("stopped")

    app = App(on_start=on_start, on_stop=slow)
    async with trio.open_nursery() as nursery, caring(app, phases_of(app, kind)) as service:
        _expect(nursery, service.start)
        await wait_all_tasks_blocked()
        began = trio.current_time()
    assert trio.current_time() - began == (5 if "stopped" in app.calls else 0)
    if kind == "callbacks":
        assert app.changes[-1].to_role is Role.STOP
    if kind == "callbacks" or on_start is nothing:
        assert app.calls == ["start", "stop", "stopped"]
    assert app.busy == ""
    with pytest.raises(LocalUsageError, match="is not running"):
        await service.stop(WHY)
    with pytest.raises(LocalUsageError, match="is not running"):
        await service.start(WHY)


async def test_what_was_never_started_is_not_stopped_at_the_end() -> None:
    app = App()
    async with caring(app) as service:
        assert await service.stop(WHY) == StopReport()
    assert app.calls == []


BEHAVIOURS = (nothing, nothing, fail, hang, defy)


@pytest.mark.parametrize("seed", [*range(60), 316])  # 316: ended in a pre-start stop
async def test_whatever_is_asked_in_whatever_order(seed: int, autojump_clock: MockClock) -> None:
    """No two phases at once, a stop after every start, an end to everything."""
    rng = random.Random(seed)
    app = App()
    kinds = (Callbacks(start=app.start, stop=app.stop), LeftOver(app), ServeTask(app.serve))
    phases = kinds[seed % 3]
    async with trio.open_nursery() as askers:
        async with caring(app, phases) as service:
            for _ in range(rng.randrange(1, 12)):
                app.on_start, app.on_stop = rng.choice(BEHAVIOURS), rng.choice(BEHAVIOURS)
                if app.on_stop is hang and isinstance(phases, ServeTask):
                    app.on_stop = defy  # shielded there: nothing on earth would end it
                ask = rng.choice((service.start, service.start, service.stop))
                askers.start_soon(_ask, ask, rng.choice((1, 30, 1000)))
                await trio.sleep(rng.choice((0, 0, 1, 30, 65, 300)))
        assert trio.current_time() < 12 * 1000
    assert app.busy == ""
    if not isinstance(phases, ServeTask):  # there a start that fails is its own stop
        calls = "".join("+" if call == "start" else "-" for call in app.calls)
        assert "++" not in calls
        assert not calls.endswith("+")


async def _ask(ask: Callable[[RoleChange], Awaitable[object]], patience_s: float) -> None:
    with trio.move_on_after(patience_s), suppress(ServiceError, LocalUsageError):
        await ask(WHY)


class OddError(BaseException):
    """Derives from what nobody should derive from."""


@BOTH
@pytest.mark.parametrize("error", [SystemExit(1), OddError(), ExceptionGroup("g", [KeyError()])])
async def test_nothing_the_service_raises_comes_out(
    kind: str, error: BaseException, autojump_clock: MockClock
) -> None:
    async def raise_it(_: RoleChange) -> None:
        raise error

    app = App(on_stop=raise_it)
    async with caring(app, phases_of(app, kind)) as service:
        await service.start(WHY)
        await service.stop(WHY)
        app.on_start = raise_it
        with pytest.raises(ServiceError):
            await service.start(WHY)


async def test_missing_callbacks_are_nothing_to_do() -> None:
    async with caring(App(), Callbacks()) as service:
        await service.start(WHY)
        assert await service.stop(WHY) == StopReport()


def _expect(nursery: trio.Nursery, start: Callable[[RoleChange], Awaitable[None]]) -> list[str]:
    """Start in the background, and note the failure."""
    failures = list[str]()

    async def try_it() -> None:
        try:
            await start(WHY)
        except ServiceError as exc:
            failures.append(str(exc))

    nursery.start_soon(try_it)
    return failures
