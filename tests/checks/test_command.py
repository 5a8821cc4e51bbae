"""A check by a command: real commands, what they leave behind, and what hangs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from mirrorha.checks import Command
from mirrorha.errors import CheckFailedError, LocalUsageError
from tests.checks.trial import trial


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def wait_for_pid(path: Path) -> int:
    with trio.fail_after(30):
        while (pid := written(path)) is None:  # noqa: ASYNC110
            await trio.sleep(0.01)
    return pid


def written(path: Path) -> int | None:
    text = path.read_text() if path.exists() else ""
    return int(text) if text.endswith("\n") else None


def runs(pid: int) -> bool:
    """Whether it runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def ends(pid: int) -> None:
    with trio.fail_after(30):
        while runs(pid):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_it_fails_and_recovers(tmp_path: Path) -> None:
    flag = tmp_path / "well"
    command = script(tmp_path / "check", f"test -e {flag} || {{ echo out of paper; exit 3; }}")
    flag.touch()
    async with trial(Command([command])) as made:
        await made.is_well()
        flag.unlink()
        assert await made.fails() == f"{command} ended with status 3: out of paper"
        flag.touch()
        await made.is_well()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["/bin/false"], "/bin/false ended with status 1"),
        (["/no/such/program"], "/no/such/program ended with status 127: .*not found"),
        (["/bin/sh", "-c", "kill -SEGV $$"], "/bin/sh was killed by SIGSEGV"),
        (["/bin/echo", "a\0b"], "/bin/echo cannot be run: ValueError: embedded null byte"),
    ],
)
async def test_what_is_not_well(command: list[str], text: str) -> None:
    with pytest.raises(CheckFailedError, match=text):
        await Command(command).check()


async def test_it_is_told_what_it_is_for() -> None:
    asks = ["/bin/sh", "-c", 'test "$MIRRORHA_NODE:$1" = paris:7', "sh", "7"]
    await Command(asks, environment={"MIRRORHA_NODE": "paris"}).check()
    with pytest.raises(CheckFailedError):
        await Command(asks).check()


async def test_one_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    """Deaf to TERM, and not alone."""
    pids = tmp_path / "child"
    text = f"trap '' TERM\nsleep 300 &\necho $! > {pids}\nwait\nsleep 300"
    command = script(tmp_path / "check", text)
    async with trial(Command([command]), timeout_s=1.0, fall=1) as made:
        assert await made.fails() == "no answer within 1 s"
        await ends(await wait_for_pid(pids))


async def test_what_it_leaves_running_is_killed(tmp_path: Path) -> None:
    """Else each attempt would leave one more."""
    pids = tmp_path / "child"
    command = script(tmp_path / "check", f"sleep 300 &\necho $! > {pids}")
    await Command([command]).check()
    await ends(await wait_for_pid(pids))


async def test_its_standard_input_is_empty_and_much_output_is_no_harm() -> None:
    code = "import sys; assert not sys.stdin.read(); print('x' * 3_000_000); sys.exit(1)"
    with pytest.raises(CheckFailedError) as caught:
        await Command([sys.executable, "-c", code]).check()
    assert len(str(caught.value)) < 5000


async def test_nothing_stays_open() -> None:
    await Command(["/bin/true"]).check()
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        await Command(["/bin/true"]).check()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_it_needs_a_program() -> None:
    with pytest.raises(LocalUsageError, match="at least a program"):
        Command([])
    assert str(Command(["/opt/check", "--fast"])) == "command /opt/check --fast"
