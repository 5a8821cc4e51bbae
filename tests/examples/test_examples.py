"""Every example does what it says, as a newcomer runs it."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import pytest

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
REACH_S: Final = 30.0
STOP_S: Final = 20.0


@final
class Program:
    """A running example, and the lines it has said."""

    def __init__(self, temporary: Path, name: str, *arguments: str) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read on until a line matches."""
        ends = time.monotonic() + REACH_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                pytest.fail(f"no line matched {pattern!r} in:\n" + "\n".join(self.said))
            self.said.append(line)
            if found := re.search(pattern, line):
                return found

    def interrupt(self) -> int:
        """Ctrl-C; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_S)

    def close(self) -> None:
        """End it, and give it the time to end what it had started itself."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        self.process.kill()
        self.process.wait()
        self._reader.join(STOP_S)  # what it left behind may hold the pipe open
        if not self._reader.is_alive() and self.process.stdout is not None:
            self.process.stdout.close()


@final
class Runner:
    """Starts examples in a temporary directory of their own; ends what still runs."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self.programs: list[Program] = []

    def start(self, name: str, *arguments: str) -> Program:
        program = Program(self.temporary, name, *arguments)
        self.programs.append(program)
        return program


@pytest.fixture
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    # Short: a Unix socket's path has a limit.
    runner = Runner(tmp_path_factory.mktemp("e"))
    try:
        yield runner
    finally:
        for program in runner.programs:
            program.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(host: str, port: int, line: str) -> str:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(line.encode() + b"\n")
        return connection.recv(100).decode()


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_embed_minimal_goes_on_counting_where_the_killed_node_was(examples: Runner) -> None:
    paris = examples.start("embed_minimal.py")
    lyon = examples.start("embed_minimal.py", "lyon")
    paris.wait_for(r"^paris serves: ")
    # Two that were counted alone and while lyon was filled prove nothing: the takeover below does.
    count = int(paris.wait_for(r"^paris: (\d+)$")[1])
    while count < 4:
        count = int(paris.wait_for(r"^paris: (\d+)$")[1])
    paris.process.kill()
    lyon.wait_for(r"^lyon serves: .*lost")
    assert int(lyon.wait_for(r"^lyon: (\d+)$")[1]) > count
    assert lyon.interrupt() == 0
    lyon.wait_for("^lyon ends$")


def test_embed_minimal_is_minimal() -> None:
    assert len((EXAMPLES / "embed_minimal.py").read_text().splitlines()) <= 30


def test_ledger_acknowledges_on_both_and_hands_over_at_ctrl_c(examples: Runner) -> None:
    port = str(free_port())
    paris = examples.start("ledger.py", "--port", port)
    lyon = examples.start("ledger.py", "--node", "lyon", "--port", port)
    paris.wait_for("ALONE -> PRIM")
    assert ask("127.0.0.1", int(port), "1 100") == "ok 1\n"
    journals = list(examples.temporary.glob("*/*/data/journal"))
    assert [path.read_text() for path in journals] == ["1 100\n"] * 2
    assert paris.interrupt() == 0
    lyon.wait_for("^serving on 127.0.0.2")
    assert ask("127.0.0.2", int(port), "2 250") == "ok 2\n"
    assert lyon.interrupt() == 0


def test_custom_check_restarts_what_fell_silent(examples: Runner) -> None:
    paris = examples.start("custom_check.py")
    lyon = examples.start("custom_check.py", "--node", "lyon")
    paris.wait_for("^started: ")
    paris.wait_for("^silent after")
    paris.wait_for("pulse: no beat for")
    paris.wait_for("^started: ")
    assert lyon.interrupt() == 0
    assert paris.interrupt() == 0


def test_run_pair_runs_three_processes_and_ends_them_all(examples: Runner) -> None:
    pair = examples.start("run_pair.py", str(EXAMPLES / "custom_check.py"))
    found = pair.wait_for(r"^kill -9 (\d+) kills paris, (\d+) lyon$")
    pair.wait_for("^started: ")
    pids = [int(found[1]), int(found[2])]
    assert all(map(is_alive, pids))
    assert pair.interrupt() == 0
    assert not any(map(is_alive, pids))
    assert not list(examples.temporary.glob("mirrorha-pair-*"))
