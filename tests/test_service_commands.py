"""A service that is started and stopped by commands."""

from __future__ import annotations

import logging
import os
import pwd
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mirrorha.core.change import RoleChange
from mirrorha.core.words import Role
from mirrorha.errors import LocalUsageError, ServiceError
from mirrorha.service import Commands, ControlGroup, Service, ServiceState, StopReport
from tests.requirements import lacking, require_root

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


# ---- a group of its own ----


@pytest.fixture
def group(tmp_path: Path) -> Iterator[ControlGroup]:
    """A control group that nobody else uses, empty and gone afterwards."""
    made = ControlGroup.below_ours(f"mirrorha-test-{os.getpid()}-{tmp_path.name}")
    if made is None:
        lacking("a control group (cgroup v2)", "run the tests as root, on a machine that has them")
    yield made
    made.kill()
    for _ in range(100):
        made.remove()
        if not made.path.exists():
            break
        time.sleep(0.02)


#: As `DAEMON`, and nothing in its environment tells where it comes from.
STRANGER = DAEMON.replace("setsid sh", "setsid env -i sh")


async def test_a_daemon_that_hides_is_found_by_its_control_group(
    place: Place, group: ControlGroup
) -> None:
    commands = Commands(start=place.script(STRANGER), stop=["/bin/true"], group=group)
    async with caring(commands) as service:
        await service.start(WHY)
        await until(place.is_daemon_alive)
        assert group.pids() == {place.pid()}
        assert await service.stop(WHY) == StopReport()
        assert not place.is_daemon_alive()
        assert not group.path.exists()
        (place.path / "pid").unlink()
        await service.start(WHY)
        assert group.pids() == {place.pid()}


async def test_the_stop_command_is_no_part_of_what_is_ended(
    place: Place, group: ControlGroup
) -> None:
    commands = Commands(
        start=place.script(STRANGER),
        stop=place.script(f"cat /proc/self/cgroup >> trace; cat {group.path}/cgroup.procs"),
        group=group,
    )
    async with caring(commands) as service:
        await service.start(WHY)
        assert (await service.stop(WHY)).error == ""
    assert group.path.name not in " ".join(place.trace)


async def test_a_process_that_ignores_term_is_killed_at_the_deadline_of_the_stop(
    place: Place, group: ControlGroup
) -> None:
    deaf = STRANGER.replace("exec sleep 60", "trap : TERM; while :; do sleep 1; done")
    commands = Commands(start=place.script(deaf), stop=["/bin/true"], group=group, term_grace_s=0.1)
    async with caring(commands, stop_timeout_s=0.5) as service:
        await service.start(WHY)
        report = await service.stop(WHY)
        assert report == StopReport(
            in_time=False, error="the stop command did not return within 0.5 s"
        )
        assert not place.is_daemon_alive()


async def test_what_a_killed_program_left_is_ended_before_anything_else(
    place: Place, group: ControlGroup, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:  # it never stops it
        killed = Commands(start=place.script(STRANGER), group=group)
        killed.attach(nursery, lambda _: None)
        await killed.start(WHY)
        nursery.cancel_scope.cancel()
    assert place.is_daemon_alive()
    async with caring(Commands(start=["/bin/true"], group=group)):
        assert not place.is_daemon_alive()
    assert "from before this program did" in caplog.text


@pytest.mark.parametrize("mark", ["orders-of-paris", ""])
async def test_what_a_killed_program_left_is_found_without_its_group(
    place: Place, caplog: pytest.LogCaptureFixture, mark: str
) -> None:
    """There is none, or this life of the program is elsewhere in the tree of groups."""
    async with trio.open_nursery() as nursery:  # it never stops it
        killed = Commands(start=place.script(DAEMON), mark=mark)
        killed.attach(nursery, lambda _: None)
        await killed.start(WHY)
        nursery.cancel_scope.cancel()
    async with caring(Commands(start=["/bin/true"], mark="orders-of-lyon")):
        assert place.is_daemon_alive(), "another node's"
    async with caring(Commands(start=["/bin/true"], mark=mark)):
        assert place.is_daemon_alive() is (not mark)
    assert ("from before this program did" in caplog.text) is bool(mark)


async def test_a_program_that_its_service_has_begun_does_not_end_itself(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = place.script("echo $MIRRORHA_RUN > trace")
    monkeypatch.setenv("MIRRORHA_RUN", "orders-of-paris")
    async with caring(Commands(start=ours, mark="orders-of-paris")) as service:
        await service.start(WHY)
    assert place.trace
    assert place.trace != ["orders-of-paris"]


def test_no_control_group_where_none_can_be_made(tmp_path: Path) -> None:
    """Version 1 only, a tree that is mounted from elsewhere than its root, or none at all."""
    (tmp_path / "cgroup").write_text("4:memory:/a\n0::/own\n")
    for mountinfo in (
        "30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        "30 1 0:26 /elsewhere /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        f"30 1 0:26 / {tmp_path}/none rw - cgroup2 cgroup2 rw\n",
    ):
        (tmp_path / "mountinfo").write_text(mountinfo)
        assert ControlGroup.below_ours("x", proc=tmp_path) is None
    (tmp_path / "a tree" / "own").mkdir(parents=True)
    mountinfo = f"30 1 0:26 / {tmp_path}/a\\040tree rw shared:9 - cgroup2 cgroup2 rw\n"
    (tmp_path / "mountinfo").write_text(mountinfo)
    made = ControlGroup.below_ours("x", proc=tmp_path)
    assert made is not None
    assert made.path == tmp_path / "a tree" / "own" / "x"


# ---- as whom and where ----


async def test_they_are_run_where_and_with_what_is_configured(place: Place) -> None:
    there = place.path / "a place"
    there.mkdir()
    tell = ["/bin/sh", "-c", "pwd >> ../trace; echo $LICENCE >> ../trace"]
    commands = Commands(start=tell, stop=tell, variables={"LICENCE": "gold"}, directory=str(there))
    async with caring(commands) as service:
        await service.start(WHY)
    assert (place.path / "trace").read_text() == f"{there}\ngold\n" * 3


async def test_a_directory_that_is_not_there_is_a_failed_start(tmp_path: Path) -> None:
    async with caring(Commands(start=["/bin/true"], directory=str(tmp_path / "no"))) as service:
        with pytest.raises(ServiceError, match="can't cd to"):
            await service.start(WHY)


async def test_they_are_run_as_a_user(group: ControlGroup) -> None:
    require_root()
    with tempfile.TemporaryDirectory() as open_to_all:  # what is the test's own is root's alone
        place = Place(Path(open_to_all))
        place.path.chmod(0o777)
        tell = place.script("id -un >> trace; id -Gn >> trace; echo $HOME >> trace")
        commands = Commands(start=place.script(STRANGER), stop=tell, user="nobody", group=group)
        async with caring(commands) as service:
            await service.start(WHY)
            assert group.pids() == {place.pid()}, "though only root may open the group's door"
            assert os.stat(f"/proc/{place.pid()}").st_uid == pwd.getpwnam("nobody").pw_uid
        assert place.trace[:3] == ["nobody", "nogroup", pwd.getpwnam("nobody").pw_dir]


async def test_a_user_that_is_not_there_is_a_failed_start() -> None:
    async with caring(Commands(start=["/bin/true"], user="nobody-here")) as service:
        with pytest.raises(ServiceError, match="there is no user 'nobody-here' on this node"):
            await service.start(WHY)


async def test_the_service_does_not_speak_to_systemd_for_us(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/ours")
    async with caring(Commands(start=place.script("env > told"))) as service:
        await service.start(WHY)
    assert "NOTIFY_SOCKET" not in (place.path / "told").read_text()
