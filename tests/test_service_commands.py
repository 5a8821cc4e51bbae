"""A service that is started and stopped by commands."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mirrorha.core.change import RoleChange
from mirrorha.core.words import Role
from mirrorha.errors import LocalUsageError, ServiceError
from mirrorha.service import Commands, Service, ServiceState, StopReport

WHY = RoleChange(
    cluster="orders",
    node="paris",
    epoch=7,
    from_role=Role.SECOND,
    to_role=Role.ALONE,
    why="the peer is lost: silence\non every path",
)


@attrs.define
class Place:
    """A directory where the scripts under test leave their traces."""

    path: Path

    def script(self, text: str) -> list[str]:
        """A command that runs `text` in this directory."""
        return ["/bin/sh", "-c", f"cd {self.path}\n{text}"]

    @property
    def trace(self) -> list[str]:
        with suppress(FileNotFoundError):
            return (self.path / "trace").read_text().split()
        return []

    def pid(self) -> int:
        return int((self.path / "pid").read_text())

    def is_daemon_alive(self) -> bool:
        try:
            stat = Path(f"/proc/{self.pid()}/stat").read_text()
        except FileNotFoundError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place, None]:
    place = Place(tmp_path)
    yield place
    with suppress(OSError, ValueError):
        os.kill(place.pid(), signal.SIGKILL)


@asynccontextmanager
async def caring(commands: Commands, **options: Any) -> AsyncGenerator[Service, None]:
    failures = list[str]()
    service = Service(commands, on_failure=failures.append, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()
    assert not failures


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not holds():  # noqa: ASYNC110 - the kernel rings no bell
            await trio.sleep(0.01)


#: Starts a process in the background, in a session of its own as daemons are.
DAEMON = "setsid sh -c 'echo $$ > pid; echo serving; exec sleep 60' & until [ -s pid ]; do :; done"


async def test_start_begins_with_a_stop(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    commands = Commands(
        start=place.script("echo start >> trace; echo begun"),
        stop=place.script("echo stop >> trace; [ -e pid ] || exit 1"),
    )
    async with caring(commands) as service:
        await service.start(WHY)
        assert service.is_started
        assert place.trace == ["stop", "start"]
        await until(lambda: "service: begun" in caplog.text)
        (place.path / "pid").write_text("")
        assert await service.stop(WHY) == StopReport()
        assert service.status.state is ServiceState.STOPPED
    assert place.trace == ["stop", "start", "stop"]


async def test_they_are_told_why(place: Place) -> None:
    async with caring(Commands(start=place.script("env > told"))) as service:
        await service.start(WHY)
    told = (place.path / "told").read_text()
    for line in (
        "MIRRORHA_CLUSTER=orders",
        "MIRRORHA_NODE=paris",
        "MIRRORHA_EPOCH=7",
        "MIRRORHA_FROM=SECOND",
        "MIRRORHA_TO=ALONE",
        "MIRRORHA_WHY=the peer is lost: silence\non every path",
    ):
        assert f"\n{line}\n" in f"\n{told}"


async def test_a_start_that_fails_says_its_last_words(place: Place) -> None:
    commands = Commands(
        start=place.script("echo start >> trace; echo 'no licence' >&2; exit 4"),
        stop=place.script("echo stop >> trace"),
    )
    async with caring(commands) as service:
        with pytest.raises(ServiceError, match="/bin/sh ended with status 4: no licence"):
            await service.start(WHY)
        assert service.status.state is ServiceState.FAILED
    assert place.trace == ["stop", "start", "stop"]


async def test_a_start_that_hangs_is_killed_and_what_it_left_is_stopped(place: Place) -> None:
    commands = Commands(
        start=place.script(f"{DAEMON}; trap '' TERM; sleep 60"),
        stop=place.script("echo stop >> trace; [ -e pid ] && kill $(cat pid); true"),
        term_grace_s=0.1,
    )
    async with caring(commands, start_timeout_s=0.5) as service:
        with pytest.raises(ServiceError, match=r"did not return within 0\.5 s"):
            await service.start(WHY)
        assert place.trace == ["stop", "stop"]
        await until(lambda: not place.is_daemon_alive())


async def test_what_it_started_goes_on_until_the_stop(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stop = place.script("kill $(cat pid) && echo stop >> trace; exit 0")
    async with caring(Commands(start=place.script(DAEMON), stop=stop)) as service:
        await service.start(WHY)
        await until(lambda: "service: serving" in caplog.text)
        assert place.is_daemon_alive()
        assert (await service.stop(WHY)).error == ""
        await until(lambda: not place.is_daemon_alive())
    assert place.trace == ["stop"]


@pytest.mark.parametrize("stop", ["exit 3", "sleep 60"], ids=["fails", "hangs"])
async def test_a_stop_that_does_not_stop_is_followed_by_force(place: Place, stop: str) -> None:
    """The daemon has left its process group: it is found all the same."""
    commands = Commands(
        start=place.script(DAEMON),
        stop=place.script(f"[ -e pid ] || exit 0; {stop}"),
        term_grace_s=0.2,
    )
    async with caring(commands, stop_timeout_s=0.5) as service:
        await service.start(WHY)
        assert place.is_daemon_alive()
        began = trio.current_time()
        report = await service.stop(WHY)
        assert report.in_time is (stop == "exit 3")
        assert report.is_over
        assert report.error
        assert trio.current_time() - began < 2
        assert not place.is_daemon_alive()
        assert service.status.state is ServiceState.STOPPED


async def test_without_a_stop_command_what_was_started_is_ended(place: Place) -> None:
    async with caring(Commands(start=place.script(DAEMON))) as service:
        await service.start(WHY)
        assert place.is_daemon_alive()
        assert await service.stop(WHY) == StopReport()
        assert not place.is_daemon_alive()


async def test_the_end_of_the_program_stops_it(place: Place) -> None:
    stop = place.script("echo $MIRRORHA_TO >> trace; [ -e pid ] && kill $(cat pid); true")
    async with caring(Commands(start=place.script(DAEMON), stop=stop)) as service:
        await service.start(WHY)
    await until(lambda: not place.is_daemon_alive())
    assert place.trace == ["ALONE", "STOP"]


async def test_a_cancelled_start_is_killed_and_stopped(place: Place) -> None:
    commands = Commands(
        start=place.script("echo start >> trace; echo $$ > pid; exec sleep 60"),
        stop=place.script("echo stop >> trace"),
    )
    async with caring(commands) as service:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.start, WHY)
                await until(lambda: (place.path / "pid").exists() and place.is_daemon_alive())
                scope.cancel()
        assert not place.is_daemon_alive()
    assert place.trace == ["stop", "start", "stop"]


async def test_a_missing_program_is_a_failed_start() -> None:
    async with caring(Commands(start=["/nowhere/start"])) as service:
        with pytest.raises(ServiceError, match="/nowhere/start"):
            await service.start(WHY)


def test_a_start_command_is_needed() -> None:
    with pytest.raises(LocalUsageError, match="at least a program"):
        Commands(start=())
