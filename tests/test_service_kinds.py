"""A service that is one task, and one of ordinary functions."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mirrorha.core.change import RoleChange
from mirrorha.errors import ServiceError
from mirrorha.service import Callbacks, ServeTask, ServiceState, StopReport
from tests.service_app import WHY, App, caring, is_now


class TestServe:
    """One task instead of two functions."""

    @pytest.mark.parametrize(
        ("after_s", "error", "said"),
        [(50, ZeroDivisionError("no paper"), "no paper"), (50, None, "it returned")],
    )
    async def test_ending_by_itself_is_a_failure(
        self, after_s: float, error: Exception | None, said: str, autojump_clock: MockClock
    ) -> None:
        async def serve(_: RoleChange, *, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await trio.sleep(after_s)
            if error is not None:
                raise error

        app = App()
        async with caring(app, ServeTask(serve)) as service:
            await service.start(WHY)
            await trio.sleep(after_s - 1)
            assert not app.failures
            await trio.sleep(2)
            assert len(app.failures) == 1
            assert said in app.failures[0]
            assert is_now(service, ServiceState.FAILED, said)
            assert await service.stop(WHY) == StopReport()
            assert is_now(service, ServiceState.STOPPED)
            await service.start(WHY)
            assert service.is_started

    async def test_ending_before_it_started_is_a_failed_start(self) -> None:
        async def serve(_: RoleChange, *, task_status: trio.TaskStatus[None]) -> None:
            """Return at once."""

        app = App()
        async with caring(app, ServeTask(serve)) as service:
            with pytest.raises(ServiceError, match="returned before task_status"):
                await service.start(WHY)
        assert not app.failures

    @pytest.mark.parametrize("checkpoints", range(6))
    async def test_ending_right_after_it_started_is_a_failure_told_once(
        self, checkpoints: int
    ) -> None:
        async def serve(_: RoleChange, *, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            for _i in range(checkpoints):
                await trio.lowlevel.checkpoint()

        app = App()
        async with caring(app, ServeTask(serve)) as service:
            told = 0
            try:
                await service.start(WHY)
            except ServiceError:
                told = 1
            await wait_all_tasks_blocked()
            assert told + len(app.failures) == 1
            assert is_now(service, ServiceState.FAILED, "it returned")

    async def test_stopping_is_no_failure(self, autojump_clock: MockClock) -> None:
        async def serve(_: RoleChange, *, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            with trio.CancelScope():
                try:
                    await trio.sleep_forever()
                finally:
                    raise ZeroDivisionError("while it was stopped")

        app = App()
        async with caring(app, ServeTask(serve)) as service:
            await service.start(WHY)
            assert await service.stop(WHY) == StopReport()
        assert not app.failures


class TestThreads:
    """Ordinary functions."""

    async def test_they_run_in_a_thread(self) -> None:
        threads = list[int]()

        def note(_: RoleChange) -> None:
            threads.append(threading.get_ident())

        async with caring(App(), Callbacks(start=note, stop=note)) as service:
            await service.start(WHY)
            await service.stop(WHY)
        assert len(threads) == 2
        assert threading.get_ident() not in threads

    async def test_what_they_raise_is_a_failure(self) -> None:
        def divide(_: RoleChange) -> None:
            raise ZeroDivisionError("no paper")

        async with caring(App(), Callbacks(start=divide)) as service:
            with pytest.raises(ServiceError, match="no paper"):
                await service.start(WHY)

    async def test_one_that_hangs_is_left_behind_and_stopped_when_it_returns(
        self,
    ) -> None:
        go_on, calls = threading.Event(), list[str]()

        def start(_: RoleChange) -> None:
            go_on.wait(10)
            calls.append("start returned")

        def stop(_: RoleChange) -> None:
            calls.append("stop")

        phases = Callbacks(start=start, stop=stop)
        async with caring(
            App(), phases, start_timeout_s=0.1, stop_timeout_s=0.1, end_grace_s=0.1
        ) as service:
            try:
                with pytest.raises(ServiceError, match=r"within 0\.1 s"):
                    await service.start(WHY)
                with pytest.raises(ServiceError, match="of before is still running"):
                    await service.start(WHY)
                assert not (await service.stop(WHY)).is_over
                assert calls == []
            finally:
                go_on.set()
            with trio.fail_after(2):
                while calls != ["start returned", "stop"]:  # noqa: ASYNC110 - a thread tells
                    await trio.sleep(0.01)

    @pytest.mark.parametrize("which", ["start", "stop"])
    async def test_one_that_hangs_does_not_keep_the_program_from_ending(self, which: str) -> None:
        go_on = threading.Event()

        def hang_up(_: RoleChange) -> None:
            go_on.wait(10)

        app = App()
        quick = {"start_timeout_s": 0.1, "stop_timeout_s": 0.1, "end_grace_s": 0.1}
        try:
            with trio.fail_after(2):
                phases = Callbacks(**{"stop": app.stop, which: hang_up})
                async with caring(app, phases, **quick) as service:
                    with suppress(ServiceError):
                        await service.start(WHY)
                    assert service.is_started is (which == "stop")
            assert not app.calls, "not beside a thread that hangs"
        finally:
            go_on.set()
