"""The kit for applications' tests: it is quick, it repeats itself, and it catches a broken one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, final

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mirrorha.core.change import RoleChange
from mirrorha.core.words import Role
from mirrorha.errors import LocalUsageError, NotPrimaryError, OutcomeUnknownError
from mirrorha.testing.kit import SimulatedPair, open_pair
from mirrorha.testing.sim.world import Violation, World
from mirrorha.volume.files.api import OpenFile
from mirrorha.volume.files.streamed import Files

ROOT: Final = Path(__file__).parents[2]
EXAMPLE: Final = ROOT / "examples/test_my_app.py"
OPENS: Final = '        async with data.open("journal", "ab") as self.journal:'
WRITES: Final = '        await self.journal.write(line + b"\\n")'


@final
class Journal:
    """Appends lines to a file of the node that serves."""

    def __init__(self) -> None:
        self.file: OpenFile | None = None
        self.starts: list[RoleChange] = []

    async def serve(
        self, why: RoleChange, data: Files, *, task_status: trio.TaskStatus[None]
    ) -> None:
        self.starts.append(why)
        async with data.open("journal", "ab") as self.file:
            task_status.started()
            await trio.sleep_forever()

    async def add(self, line: bytes) -> None:
        assert self.file is not None
        await self.file.write(line)


def in_simulated_time(story: object, *arguments: object) -> object:
    clock = MockClock(autojump_threshold=0)
    return trio.run(story, *arguments, clock=clock)  # type: ignore[arg-type]


async def whole_story(seed: int) -> list[str]:
    """Everything that a pair can do, with several tasks writing at once."""
    app = Journal()
    async with open_pair(serve=app.serve, seed=seed) as pair:
        await pair.wait_mirrored()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(app.add, b"%d\n" % number)
        first, other = pair.primary, pair.second
        assert first is not None
        assert other is not None
        pair.kill(first)
        await pair.wait_role(other, Role.ALONE)
        await app.add(b"alone\n")
        pair.start(first)
        await pair.wait_mirrored()
        assert pair.files(first) == pair.files(other)
        await pair.swap()
        assert pair.primary == first
        await app.add(b"swapped\n")
        lines = pair.files(other)["journal"].splitlines()
        assert sorted(lines[:8]) == [b"%d" % number for number in range(8)]
        assert lines[8:] == [b"alone", b"swapped"]
        assert [each.node for each in app.starts] == [first, other, first]
        # The order of the lines as well: trio chose which of eight tasks wrote first.
        return [*pair.trace, *map(repr, lines)]


def test_a_seed_is_a_run_and_takes_less_than_a_second() -> None:
    in_simulated_time(whole_story, 3)  # imports are not what is measured
    since = time.perf_counter()
    traces = [in_simulated_time(whole_story, 3)]
    took_s = time.perf_counter() - since
    # Often: what depends on the scheduler's chance would show.
    traces += [in_simulated_time(whole_story, 3) for _ in range(4)]
    assert all(trace == traces[0] for trace in traces)
    assert took_s < 1


def test_another_seed_is_another_run() -> None:
    assert in_simulated_time(whole_story, 3) != in_simulated_time(whole_story, 4)


def run_pytest(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """As in a project that is not ours; without entry points, which load what is installed."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(file.parent)),
            *("-p", "pytest_trio.plugin", "-p", "mirrorha.testing.pytest_plugin"),
            *("--strict-markers", *options, str(file)),
        ],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT / "src")},
        cwd=file.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_example_passes_with_any_seed(tmp_path: Path) -> None:
    copy = tmp_path / "test_my_app.py"
    copy.write_text(EXAMPLE.read_text())
    for seed in ("0", "7"):
        done = run_pytest(copy, "--mirrorha-seed", seed)
        assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_seed_is_a_run_of_the_example_in_every_process(tmp_path: Path) -> None:
    """Whatever the order of its sets is: each process draws the hash of text anew."""
    copy = tmp_path / "test_my_app.py"
    copy.write_text(EXAMPLE.read_text() + '        print("TRACE", pair.trace)\n')
    traces = []
    for seed in ("7", "7", "7", "8"):
        done = run_pytest(copy, "-s", "--durations=0", "-vv", "--mirrorha-seed", seed)
        (trace,) = re.findall(r"TRACE (\[.*\])", done.stdout)
        traces.append(trace)
        spent = re.findall(r"^([0-9.]+)s (?:setup|call)", done.stdout, re.MULTILINE)
        assert sum(map(float, spent)) < 1, done.stdout
    assert "SECOND" in traces[0]
    assert traces[0] == traces[1] == traces[2] != traces[3]


@pytest.mark.parametrize(
    "broken",
    [
        '        self.nursery.start_soon(self.journal.write, line + b"\\n")',
        "        self.lines = [*getattr(self, 'lines', []), line]  # written some time later",
    ],
    ids=["in the background", "in memory"],
)
def test_an_application_that_acknowledges_too_early_is_caught(broken: str, tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert OPENS in text
    assert WRITES in text
    text = text.replace(OPENS, f"{OPENS[:-1]}, trio.open_nursery() as self.nursery:")
    copy = tmp_path / "test_my_app.py"
    for written, returncode in ((WRITES, 0), (broken, 1)):  # only what is broken is caught
        copy.write_text(text.replace(WRITES, written))
        for seed in range(2):
            done = run_pytest(copy, "--mirrorha-seed", str(seed))
            assert done.returncode == returncode, done.stdout + done.stderr
            assert ("AssertionError" in done.stdout) == bool(returncode)


def test_the_examples_test_is_ten_lines_at_most() -> None:
    text = EXAMPLE.read_text()
    own = text[text.index("async def test_") :]
    assert len(own.strip().splitlines()) <= 10


def test_pytest_finds_the_plugin_where_mirrorha_is_installed() -> None:
    entry = 'mirrorha = "mirrorha.testing.pytest_plugin"'
    assert f"[project.entry-points.pytest11]\n{entry}\n" in (ROOT / "pyproject.toml").read_text()


async def lose_power_of_both(seed: int, *, fsync: bool) -> list[bytes]:
    """A write, acknowledged and perhaps fsynced; then the power of both. The journals."""
    app = Journal()
    async with open_pair(serve=app.serve, seed=seed) as pair:
        await pair.wait_mirrored()
        await app.add(b"precious\n")
        assert app.file is not None
        if fsync:
            await app.file.fsync()
        for node in pair.nodes:
            pair.kill(node, power=True)
        return [pair.files(node).get("journal", b"") for node in pair.nodes]


def test_a_power_loss_loses_nothing_that_was_fsynced() -> None:
    for seed in range(10):
        found = in_simulated_time(lambda s: lose_power_of_both(s, fsync=True), seed)
        assert found == [b"precious\n"] * 2


def test_a_power_loss_may_lose_what_was_not() -> None:
    found = [in_simulated_time(lambda s: lose_power_of_both(s, fsync=False), s) for s in range(10)]
    assert any(journals != [b"precious\n"] * 2 for journals in found)


async def test_a_cut_pair_serves_once_and_meets_again(autojump_clock: MockClock) -> None:
    app = Journal()
    async with open_pair(serve=app.serve) as pair:
        await pair.wait_mirrored()
        first, other = pair.primary, pair.second
        pair.cut()
        await pair.wait_role(first, Role.ALONE)
        assert other is not None
        with pytest.raises(NotPrimaryError):
            await pair.data(other).write_bytes("x", b"")
        await app.add(b"1\n")
        assert pair.files(other)["journal"] == b""
        pair.heal()
        await pair.wait_mirrored()
        assert pair.files(other)["journal"] == b"1\n"


async def test_callbacks_never_overlap_and_a_killed_one_is_not_stopped(
    autojump_clock: MockClock,
) -> None:
    said: list[str] = []

    async def start(why: RoleChange, data: Files) -> None:
        await data.write_bytes("who", why.node.encode())
        said.append(f"start {why.node}")

    async def stop(why: RoleChange, data: Files) -> None:
        await trio.sleep(1)
        said.append(f"stop {why.node}")

    async with open_pair(on_start=start, on_stop=stop) as pair:
        await pair.wait_mirrored()
        first, other = pair.primary, pair.second
        await pair.swap()
        assert said == [f"start {first}", f"stop {first}", f"start {other}"]
        pair.kill(other)
        await pair.wait_role(first, Role.ALONE)
        assert said[3:] == [f"start {first}"]
        assert first is not None
        assert pair.files(first)["who"] == first.encode()


async def test_what_is_pending_at_a_kill_is_unknown(autojump_clock: MockClock) -> None:
    outcome: list[type[Exception]] = []

    async def write(pair: SimulatedPair, node: str) -> None:
        try:
            await pair.data(node).write_bytes("x", b"1")
        except OutcomeUnknownError as error:
            outcome.append(type(error))

    async with open_pair() as pair, trio.open_nursery() as nursery:
        await pair.wait_mirrored()
        node = pair.primary
        assert node is not None
        nursery.start_soon(write, pair, node)
        await trio.testing.wait_all_tasks_blocked()
        pair.kill(node)
        await trio.testing.wait_all_tasks_blocked()
        assert outcome == [OutcomeUnknownError]
        with pytest.raises(OSError, match="is down"):
            await pair.data(node).mkdir("y")


async def test_a_service_that_fails_says_so_in_the_trace(autojump_clock: MockClock) -> None:
    async def start(why: RoleChange, data: Files) -> None:
        raise ValueError("no such port")

    async with open_pair(on_start=start) as pair:
        with pytest.raises(Violation, match="service failed: ValueError: no such port"):
            await pair.wait_mirrored(timeout_s=10)


async def test_a_failed_assertion_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match="mine"):
        async with open_pair():
            raise AssertionError("mine")


async def test_sleeping_is_simulated_time(autojump_clock: MockClock) -> None:
    async with open_pair() as pair:
        await trio.sleep(30.0004)
        pair.cut()
        assert pair.trace[-1].split() == ["30000", "the", "network", "is", "cut"]


async def test_real_time_is_refused() -> None:
    with pytest.raises(LocalUsageError, match="autojump_clock"):
        async with open_pair():
            pass


def test_time_passes_up_to_the_next_event() -> None:
    world = World(0)
    world.after(10, lambda: None)
    world.pass_until(7)
    assert (world.now_ms, world.next_ms()) == (7, 10)
    world.pass_until(20)
    assert world.now_ms == 10
    world.run_next()
    assert world.next_ms() is None
    world.pass_until(20)
    assert world.now_ms == 20
