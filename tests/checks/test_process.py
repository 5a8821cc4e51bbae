"""A check that a process runs, with processes that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mirrorha.checks import Process, process_table
from mirrorha.errors import CheckFailedError, LocalUsageError
from tests.checks.trial import trial

SLEEP: Final = "/bin/sleep"


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command)
    try:
        until = time.monotonic() + 30
        while not process_table.words_of(child.pid) and time.monotonic() < until:
            time.sleep(0.01)  # it is about to become the program
        yield child
    finally:
        child.kill()
        child.wait()


def mark() -> str:
    """Seconds to sleep that nobody else does."""
    return f"300.{time.time_ns()}"


async def test_by_pid_file_it_fails_and_recovers(tmp_path: Path) -> None:
    pid_file = tmp_path / "service.pid"
    with running(SLEEP, "300") as first, running(SLEEP, "300") as second:
        pid_file.write_text(f"{first.pid}\n")
        async with trial(Process(pid_file=str(pid_file))) as made:
            await made.is_well()
            first.kill()  # and nobody reaps it: it has ended all the same
            text = f"process {first.pid}, which {pid_file} names, does not run"
            assert await made.fails() == text
            pid_file.write_text(f"{second.pid}\nmore\n")
            await made.is_well()


async def test_its_end_is_noticed_without_looking_again() -> None:
    number = mark()
    with running(SLEEP, number) as child:
        check = Process(command_line=f"sleep {number}")
        await check.check()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(check.wait_unwell)
                await wait_all_tasks_blocked(0.1)
                assert nursery.child_tasks, "it waits"
                child.kill()
        text = f"no process has 'sleep {number}' in its command line"
        with pytest.raises(CheckFailedError, match=text):
            await check.check()


async def test_an_end_between_two_looks_is_noticed() -> None:
    """It has ended after it was seen, and before anybody waits for that."""
    number = mark()
    with running(SLEEP, number) as child:
        check = Process(command_line=number)
        await check.check()
        child.kill()
        child.wait()
        with trio.fail_after(10):
            await check.wait_unwell()


async def test_another_process_of_the_same_number_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(SLEEP, "300") as child:
        seen = process_table.look_at(child.pid)
        assert seen is not None
        with trio.move_on_after(0.2) as scope:
            check = Process(program="x")
            check._seen.append(seen)
            await check.wait_unwell()
        assert scope.cancelled_caught
        check._seen[:] = [
            process_table.Running(pid=seen.pid, born=seen.born - 1, parent=1, name="")
        ]
        with trio.fail_after(10):
            await check.wait_unwell()


async def test_by_program_and_by_its_path(tmp_path: Path) -> None:
    program = tmp_path / "a-long-name-of-a-program"
    program.symlink_to(SLEEP)
    by_name, by_path = Process(program=program.name), Process(program=str(program))
    async with trial(by_name) as named, trial(by_path) as placed:
        assert await named.fails() == f"no process runs the program {program.name}"
        await placed.fails()
        with running(str(program), "300"):
            await named.is_well()
            await placed.is_well()
        await named.fails()
        await placed.fails()


async def test_one_that_becomes_another_program_is_looked_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has that program by the time of the second look."""
    number = mark()
    with ExitStack() as stack:

        def pause(_: float) -> None:
            monkeypatch.undo()
            stack.enter_context(running(SLEEP, number))

        monkeypatch.setattr("mirrorha.checks.process.time.sleep", pause)
        await Process(command_line=number).check()


async def test_of_a_server_with_workers_the_server_is_watched() -> None:
    number = mark()
    code = f"import os, time; os.fork(); time.sleep({number})"
    with running(sys.executable, "-c", code) as server:
        check = Process(command_line=number)
        with trio.fail_after(30):
            while len(workers := children_of(server.pid)) != 1:  # noqa: ASYNC110
                await trio.sleep(0.01)
        try:
            await check.check()
            assert [each.pid for each in check._seen] == [server.pid]
        finally:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def test_this_process_is_not_meant() -> None:
    with running(SLEEP, "300") as child:
        both = {os.getpid(), child.pid}
        (found,) = process_table.find(lambda process, _: process.pid in both)
        assert found.pid == child.pid


@pytest.mark.parametrize("content", ["", "service", "-1", "0", "1x", "\n7"])
async def test_a_pid_file_must_hold_a_number(content: str, tmp_path: Path) -> None:
    pid_file = tmp_path / "service.pid"
    pid_file.write_text(content)
    with pytest.raises(CheckFailedError, match="does not begin with the number"):
        await Process(pid_file=str(pid_file)).check()


async def test_a_pid_file_that_is_being_written_anew(tmp_path: Path) -> None:
    pid_file = tmp_path / "service.pid"
    pid_file.touch()
    with running(SLEEP, "300") as child:
        writer = threading.Timer(0.1, lambda: pid_file.write_text(f"{child.pid}\n"))
        writer.start()
        try:
            await Process(pid_file=str(pid_file)).check()
        finally:
            writer.join()


async def test_no_pid_file_no_process(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"none\.pid: No such file"):
        await Process(pid_file=str(tmp_path / "none.pid")).check()


async def test_a_pid_file_that_hangs_is_left(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands for a disk that does not answer."""
    pipe = tmp_path / "service.pid"
    os.mkfifo(pipe)
    async with trial(Process(pid_file=str(pipe)), timeout_s=0.2) as made:
        assert await made.fails() == "no answer within 0.2 s"
        with running(SLEEP, "300") as child:
            writer = os.open(pipe, os.O_WRONLY)
            os.write(writer, f"{child.pid}\n".encode())
            os.close(writer)
            pipe.unlink()
            pipe.write_text(f"{child.pid}\n")
            await made.is_well()


SYSTEMCTL: Final = """#!/bin/sh
# Stands in for the real one, where systemd does not run.
test "$1 $2 $3" = "show --property=LoadState,ActiveState,SubState,MainPID --" || exit 64
test "$4" = orders.service || { echo LoadState=not-found; echo ActiveState=inactive; exit 0; }
cat "${0%/*}/state"
"""


@final
class StandIn:
    """For systemd."""

    def __init__(self, directory: Path) -> None:
        self._directory: Final = directory

    def says(self, state: str, *, pid: int = 0, sub: str = "running") -> None:
        text = f"LoadState=loaded\nActiveState={state}\nSubState={sub}\nMainPID={pid}\n"
        (self._directory / "state").write_text(text)

    def is_not_there(self) -> None:
        text = "#!/bin/sh\necho System has not been booted; exit 1"
        (self._directory / "systemctl").write_text(text)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Says of orders.service what it is told to."""
    program = tmp_path / "systemctl"
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return StandIn(tmp_path)


async def test_by_unit_it_fails_and_recovers(systemd: StandIn) -> None:
    systemd.says("active")
    async with trial(Process(unit="orders.service")) as made:
        await made.is_well()
        systemd.says("activating", sub="auto-restart")
        assert await made.fails() == "unit orders.service is activating (auto-restart)"
        systemd.says("reloading")
        await made.is_well()


async def test_the_end_of_a_units_process_is_noticed_without_looking_again(
    systemd: StandIn,
) -> None:
    with running(SLEEP, "300") as child:
        systemd.says("active", pid=child.pid)
        check = Process(unit="orders.service")
        await check.check()
        with trio.move_on_after(0.2) as scope:
            await check.wait_unwell()
        assert scope.cancelled_caught
        child.kill()
        with trio.fail_after(10):
            await check.wait_unwell()


async def test_a_unit_that_is_not_there(systemd: StandIn) -> None:
    with pytest.raises(CheckFailedError, match=r"systemd knows no unit other\.service"):
        await Process(unit="other.service").check()


async def test_without_systemd_it_says_so(systemd: StandIn) -> None:
    systemd.is_not_there()
    with pytest.raises(CheckFailedError, match="systemctl ended with status 1: System has not"):
        await Process(unit="orders.service").check()


@pytest.mark.parametrize("ways", [{}, {"program": "a", "unit": "b"}, {"program": ""}])
def test_it_is_found_in_one_way(ways: dict[str, str]) -> None:
    with pytest.raises(LocalUsageError, match="one of pid_file, program, command_line and unit"):
        Process(**ways)


def test_titles() -> None:
    assert str(Process(pid_file="/run/a.pid")) == "process /run/a.pid"
    assert str(Process(command_line="a b")) == "process 'a b'"
    assert str(Process(unit="a.service")) == "process a.service"


def test_a_name_may_hold_anything() -> None:
    code = "import sys; open('/proc/self/comm', 'w').write(') Z 1 ('); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        until = time.monotonic() + 30
        seen = process_table.look_at(child.pid)
        while (seen is None or seen.name != ") Z 1 (") and time.monotonic() < until:
            time.sleep(0.01)
            seen = process_table.look_at(child.pid)
        assert seen is not None
        assert (seen.name, seen.parent) == (") Z 1 (", os.getpid())
        assert child.stdin is not None
        child.stdin.close()
