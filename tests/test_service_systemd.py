"""A service that is a systemd unit, against a stand-in for `systemctl`."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio

from mirrorha.errors import ServiceError
from mirrorha.service import Service, ServiceState, StopReport, SystemdUnit
from mirrorha.service.systemd import UnitState
from tests.service_app import WHY

#: One unit, of which files say how it behaves: `refuses`, `dies` (at once), `hangs` (in its stop),
#: `enabled`. Its main process is a real one.
STAND_IN = """#!/bin/sh
cd "$(dirname "$0")/unit"
is_alive() { [ -s pid ] && kill -0 $(cat pid) 2>/dev/null; }
[ "$1" = --no-ask-password ] && shift
echo "$*" >> trace
case $1 in
show)
    [ -e mute ] && exec sleep 60
    state=inactive pid=0
    [ -e failed ] && state=failed
    is_alive && state=active pid=$(cat pid)
    [ $state = inactive ] || [ $state = active ] || result=exit-code
    [ $state = active ] || [ ! -s pid ] || [ -e failed ] || { state=failed result=signal; }
    echo "Result=${result:-success}"; echo "MainPID=$pid"; echo "ActiveState=$state"
    echo SubState=running; [ -e enabled ] && echo UnitFileState=enabled ;;
start)
    [ -e refuses ] && echo "Unit $2 is masked." >&2 && exit 1
    [ -e dies ] && touch failed && exit 0
    setsid sleep 60 <&- >&- 2>&- &
    echo $! > pid ;;
stop)
    [ -e hangs ] && is_alive && sleep 60
    is_alive && kill $(cat pid); rm -f pid failed ;;
kill) kill -KILL $(cat pid) ;;
reset-failed) rm -f failed ;;
esac
exit 0
"""


@attrs.frozen
class Unit:
    path: Path

    def behaves(self, how: str) -> None:
        (self.path / how).touch()

    @property
    def trace(self) -> list[str]:
        """What systemctl was told, without what it was asked."""
        lines = (self.path / "trace").read_text().splitlines()
        return [line for line in lines if not line.startswith("show ")]

    @property
    def pid(self) -> int:
        return int((self.path / "pid").read_text())

    @property
    def is_running(self) -> bool:
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unit]:
    stand_in = tmp_path / "systemctl"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    made = Unit(tmp_path / "unit")
    made.path.mkdir()
    yield made
    with suppress(OSError):
        os.kill(made.pid, signal.SIGKILL)


@asynccontextmanager
async def caring(
    failures: list[str] | None = None, *, stop_timeout_s: float = 20
) -> AsyncGenerator[Service, None]:
    phases = SystemdUnit("postgresql")
    heard = [] if failures is None else failures
    service = Service(phases, on_failure=heard.append, stop_timeout_s=stop_timeout_s)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def test_it_is_started_after_a_stop_and_stopped(unit: Unit) -> None:
    async with caring() as service:
        await service.start(WHY)
        assert service.is_started
        assert unit.is_running
        assert await service.stop(WHY) == StopReport()
        assert not unit.is_running
    starting = ["stop postgresql", "reset-failed postgresql", "start postgresql"]
    assert unit.trace == [*starting, "stop postgresql"]


async def test_a_start_that_is_refused_has_failed_with_what_systemd_says(unit: Unit) -> None:
    unit.behaves("refuses")
    async with caring() as service:
        with pytest.raises(ServiceError, match=r"start postgresql .* status 1: Unit .* is masked"):
            await service.start(WHY)
        assert service.status.state is ServiceState.FAILED


async def test_a_unit_that_is_down_right_after_its_start_has_failed(unit: Unit) -> None:
    """systemctl says 0 of a simple service that ends at once."""
    unit.behaves("dies")
    async with caring() as service:
        with pytest.raises(ServiceError, match=r"postgresql is failed .*result exit-code"):
            await service.start(WHY)


async def test_the_end_of_its_main_process_is_noticed_at_once(unit: Unit) -> None:
    failures = list[str]()
    async with caring(failures) as service:
        await service.start(WHY)
        began = trio.current_time()
        os.kill(unit.pid, signal.SIGKILL)
        with trio.fail_after(20):
            while not failures:  # noqa: ASYNC110 - it comes from outside
                await trio.sleep(0.01)
        assert trio.current_time() - began < 5, "not by the next look"
        assert "postgresql is failed (running, result signal)" in failures
        assert service.status.state is ServiceState.FAILED
        await service.start(WHY)
        assert unit.is_running
    assert len(failures) == 1, "what is stopped on purpose has not failed"


async def test_a_stop_that_hangs_ends_in_a_kill(unit: Unit) -> None:
    unit.behaves("hangs")
    async with caring(stop_timeout_s=0.5) as service:
        await service.start(WHY)
        report = await service.stop(WHY)
        assert (report.in_time, report.is_over) == (False, True)
        assert not unit.is_running
    assert "kill --signal=SIGKILL postgresql" in unit.trace


async def test_one_that_runs_before_we_do_is_stopped(
    unit: Unit, caplog: pytest.LogCaptureFixture
) -> None:
    async with caring() as service:
        await service.start(WHY)
        unit.behaves("enabled")
        (unit.path / "trace").write_text("")
        async with caring():
            assert unit.trace == ["stop postgresql"]
            assert not unit.is_running
    assert "postgresql is enabled, so systemd starts it on both nodes" in caplog.text


async def test_without_systemd_a_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    async with caring() as service:
        with pytest.raises(ServiceError, match="systemctl"):
            await service.start(WHY)


def test_what_systemd_says_is_read() -> None:
    told = "Result=success\nMainPID=17\nActiveState=active\nSubState=running\n"
    state = UnitState.parse(told)
    assert state == UnitState("active", "running", "success", 17)
    assert (state.is_up, state.is_down, str(state)) == (True, False, "active (running)")
    between = UnitState.parse("ActiveState=activating\nSubState=auto-restart\n")
    assert (between.is_up, between.is_down) == (False, False)
    assert UnitState.parse("nonsense\nMainPID=?") == UnitState("")
