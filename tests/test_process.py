"""Commands: they run apart, their output is read, and they end for certain."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mirrorha.process import (
    LINE_BYTES_MAX,
    LINES_EVERY_S,
    LINES_MAX,
    Ended,
    LineLog,
    Marked,
    OutputReader,
    end_families,
    run_command,
)


@attrs.define
class Shell:
    """Runs scripts, and hears what they write."""

    output: OutputReader
    lines: list[str]

    async def run(self, script: str, **options: Any) -> Ended:
        argv = ["/bin/sh", "-c", script]
        return await run_command(argv, environment={}, output=self.output, **options)

    async def wait_line(self, line: str) -> None:
        await until(lambda: line in self.lines)


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not holds():  # noqa: ASYNC110 - the kernel rings no bell
            await trio.sleep(0.01)


@asynccontextmanager
async def shell() -> AsyncGenerator[Shell, None]:
    lines = list[str]()
    async with trio.open_nursery() as nursery:
        yield Shell(OutputReader(nursery, lines.append), lines)
        nursery.cancel_scope.cancel()


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def zombies() -> list[str]:
    """Children of ours that nobody has reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            if rest.split()[:2] == ["Z", str(os.getpid())]:
                found.append(name)
    return found


def read_pid(pid_file: Path) -> int:
    return int(pid_file.read_text())


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[Path]:
    """Where a script says which process it leaves; none is left, whatever the test finds."""
    yield tmp_path / "pid"
    with suppress(OSError, ValueError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


async def test_status_and_output() -> None:
    async with shell() as sh:
        assert await sh.run("true") == Ended(0, "")
        ended = await sh.run("echo one; echo; printf '\\377 two  \\n\\n' >&2; exit 3")
        assert ended == Ended(3, "\ufffd two")
        assert str(ended) == "ended with status 3: \ufffd two"
        assert not ended.is_good
        assert sh.lines == ["one", "\ufffd two"]
        assert str(await sh.run("kill -9 $$")) == "was killed by SIGKILL"


async def test_arguments_and_environment_are_passed_as_they_are() -> None:
    async with shell() as sh:
        argv = ["/usr/bin/env", "printf", "[%s]", "a b", "$HOME", "", "-x"]
        await run_command(argv, environment={}, output=sh.output)
        await sh.wait_line("[a b][$HOME][][-x]")
        await run_command(["env"], environment={"MIRRORHA_WHY": "a 'b'\nc=d"}, output=sh.output)
        await sh.wait_line("MIRRORHA_WHY=a 'b'")
        await sh.wait_line(f"PATH={os.environ['PATH']}")


async def test_it_has_a_session_of_its_own() -> None:
    async with shell() as sh:
        await sh.run('cut -d" " -f5,6 /proc/$$/stat; echo $$; exit 1')
        assert sh.lines[0] == f"{sh.lines[1]} {sh.lines[1]}"


async def test_it_does_not_read_our_input() -> None:
    kept = os.dup(0)
    ours, theirs = os.pipe()
    os.write(theirs, b"ours\n")
    os.dup2(ours, 0)
    try:
        async with shell() as sh:
            assert (await sh.run("read line && echo $line; exit 1")).last_line == ""
    finally:
        os.dup2(kept, 0)
        for descriptor in (kept, ours, theirs):
            os.close(descriptor)


@pytest.mark.parametrize(("program", "status"), [("/nowhere/prog", 127), ("/etc/passwd", 126)])
async def test_a_program_that_cannot_be_run_is_named(program: str, status: int) -> None:
    async with shell() as sh:
        ended = await run_command([program], environment={}, output=sh.output)
        assert ended.status == status
        assert program in ended.last_line


async def test_what_cannot_be_passed_raises_and_leaks_nothing() -> None:
    async with shell() as sh:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ValueError, match="null byte"):
            await run_command(["a\0b"], environment={}, output=sh.output)
        with pytest.raises(OSError, match="too long"):
            await run_command(["a" * 10_000_000], environment={}, output=sh.output)
        await sh.run("exit 1")
        assert os.listdir("/proc/self/fd") == before


async def test_long_lines_are_cut_in_bounded_memory() -> None:
    async with shell() as sh:
        await sh.run(f"head -c {5 * LINE_BYTES_MAX} /dev/zero | tr '\\0' x; exit 1")
        assert len(sh.lines) > 1
        assert max(map(len, sh.lines)) <= LINE_BYTES_MAX


async def test_what_it_leaves_running_may_go_on_writing(tmp_path: Path, pid_file: Path) -> None:
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)
    async with shell() as sh:
        began = trio.current_time()
        script = f"(read x < {go_on}; echo late; exec sleep 60) & echo $! > {pid_file}"
        assert (await sh.run(script)).is_good
        assert trio.current_time() - began < 1, "its output is not waited for"
        await trio.to_thread.run_sync(go_on.write_text, "x\n")
        await sh.wait_line("late")
        assert is_alive(read_pid(pid_file))


async def test_cancelled_it_is_asked_to_end() -> None:
    async with shell() as sh:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                script = 'trap "echo asked; exit 0" TERM; echo ready; while :; do sleep 0.01; done'
                nursery.start_soon(sh.run, script)
                await sh.wait_line("ready")
                began = trio.current_time()
                scope.cancel()
        assert trio.current_time() - began < 1
        await sh.wait_line("asked")


async def test_cancelled_it_is_killed_with_its_group_if_it_does_not_end(pid_file: Path) -> None:
    async with shell() as sh:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                script = f"""
                trap "" TERM
                (echo ready; while :; do sleep 1; done) & echo $! > {pid_file}
                wait
                """
                nursery.start_soon(lambda: sh.run(script, term_grace_s=0.2))
                await sh.wait_line("ready")
                began = trio.current_time()
                scope.cancel()
        assert 0.2 <= trio.current_time() - began < 1
        pid = read_pid(pid_file)
        await until(lambda: not is_alive(pid))


async def test_cancelled_what_its_leader_leaves_in_the_group_is_killed(pid_file: Path) -> None:
    async with shell() as sh:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                script = f"""
                (trap "" TERM; echo ready; while :; do sleep 1; done) & echo $! > {pid_file}
                wait
                """
                nursery.start_soon(sh.run, script)
                await sh.wait_line("ready")
                scope.cancel()
        pid = read_pid(pid_file)
        await until(lambda: not is_alive(pid))


async def test_no_zombie_is_left() -> None:
    async with shell() as sh:
        await sh.run("exit 0")
        with trio.move_on_after(0.1):
            await sh.run("sleep 60")
    assert not zombies()


async def test_a_status_that_nobody_knows_is_not_good() -> None:
    """With SIGCHLD ignored the kernel reaps, and `subprocess` alone would say 0."""
    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with shell() as sh:
            ended = await sh.run("exit 3")
    finally:
        signal.signal(signal.SIGCHLD, former)
    assert ended.status is None
    assert not ended.is_good
    assert "unknown" in str(ended)


async def test_what_steers_a_terminal_is_not_told() -> None:
    async with shell() as one:
        ended = await one.run(r"printf 'a\033]0;b\007\tc\r\000d\n'; exit 1")
        assert ended.last_line == "a\ufffd]0;b\ufffd\tc\ufffd\ufffdd"


def test_a_flood_of_lines_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now_s = 0.0
    log = LineLog(logging.getLogger("x"), "orders", clock_s=lambda: now_s)
    for number in range(LINES_MAX + 5):
        log(f"line {number}")
    assert len(caplog.records) == LINES_MAX + 1
    assert caplog.messages[LINES_MAX].startswith("orders writes more than")
    now_s = LINES_EVERY_S
    log("at last")
    assert caplog.messages[LINES_MAX + 1 :] == [
        "orders: 5 of its lines were left out",
        "orders: at last",
    ]


MARK = "MIRRORHA_RUN=test-of-marks"


@contextmanager
def daemon(environment: dict[str, str], *, script: str = "exec sleep 60") -> Iterator[int]:
    """A process in another session, which says when it is ready."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"{script} & echo $!"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    with process:
        pid = int(process.stdout.readline() if process.stdout else 0)
        try:
            yield pid
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def marked(name: str = MARK) -> dict[str, str]:
    key, _, value = name.partition("=")
    return {key: value}


async def test_marked_processes_are_ended_and_no_others() -> None:
    with daemon(marked()) as ours, daemon(marked(MARK + "x")) as other, daemon({}) as third:
        began = trio.current_time()
        assert await end_families([Marked(MARK)])
        assert trio.current_time() - began < 2
        assert not is_alive(ours)
        assert is_alive(other)
        assert is_alive(third)


async def test_marked_processes_that_ignore_term_are_killed(tmp_path: Path) -> None:
    script = f'(trap "echo term >> {tmp_path}/asked" TERM; while :; do sleep 0.02; done)'
    with daemon(marked(), script=script) as stubborn:
        await trio.sleep(0.1)
        assert await end_families([Marked(MARK)], term_grace_s=0.4)
        assert not is_alive(stubborn)
        assert (tmp_path / "asked").read_text() == "term\n", "asked once"


@attrs.define
class Stuck:
    """Processes that cannot be looked for: the memory of some other one is locked for ever."""

    over: threading.Event = attrs.field(factory=threading.Event)

    def pids(self) -> set[int]:
        self.over.wait(20)
        return set()

    def has(self, pid: int) -> bool:
        return False

    def kill(self) -> None:
        """Nor killed all at once."""


@attrs.define
class Group:
    """Processes that the kernel keeps together."""

    pid: int

    def pids(self) -> set[int]:
        return {self.pid} if is_alive(self.pid) else set()

    def has(self, pid: int) -> bool:
        return pid == self.pid

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


async def test_who_cannot_be_looked_for_saves_nobody_from_the_kill() -> None:
    stuck = Stuck()
    with daemon({}) as pid:
        try:
            assert not await end_families([stuck, Group(pid)], term_grace_s=0.1)
            assert not is_alive(pid)
        finally:
            stuck.over.set()


async def test_no_marked_process_is_done_at_once() -> None:
    with trio.fail_after(2):
        assert await end_families([Marked(MARK + "-of-nobody")])
