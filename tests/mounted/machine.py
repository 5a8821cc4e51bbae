"""The processes of one machine of a test: started, waited for, and killed all at one instant."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

CHECKOUT: Final = Path(__file__).parents[2]
START_S: Final = 20.0
END_S: Final = 10.0


class MachineError(Exception):
    """A program could not be started, failed, or did not end in time; the text has its log."""


def environment() -> dict[str, str]:
    """So that a child finds `tests` and the package, installed or not."""
    paths = [str(CHECKOUT), str(CHECKOUT / "src"), os.environ.get("PYTHONPATH", "")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MIRRORHA_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "NO_COLOR": ""}


@final
class Program:
    """One program that was started on a machine. Made by `Machine.start`."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self.argv: Final = argv
        self.log: Final = log
        self.pid = 0
        self.code: int | None = None
        self.changed: Final = threading.Condition()

    def said(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    @property
    def is_running(self) -> bool:
        return self.code is None

    def wait(self, limit_s: float) -> int:
        """Block until it has ended; its exit status.

        Raises:
            MachineError: it still runs after `limit_s` seconds.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: self.code is not None, limit_s):
                raise MachineError(f"{self.argv[0]} still runs after {limit_s:g} s: {self.said()}")
        return int(self.code or 0)


@final
class Machine:
    """What runs on one machine. Blocking, for several threads; close it, or it runs on.

    Args:
        name: of the machine, for the names of its logs.
        logs: a directory outside of what is tested.
    """

    def __init__(self, name: str, logs: Path) -> None:
        self.name: Final = name
        self._logs: Final = logs
        self._programs: Final[dict[int, Program]] = {}
        self._turn: Final = threading.Lock()
        self._ready: Final = threading.Event()
        self._drawn = 0
        logs.mkdir(parents=True, exist_ok=True)
        self._shepherd: Final = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("shepherd.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            # Ctrl-C is for the test, which then ends what it started.
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if not self._ready.wait(START_S):
            raise MachineError("the shepherd does not start")

    def start(
        self,
        *argv: str,
        user: str | None = None,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> Program:
        """Start a program, as `user` if one is named; return when it runs.

        Raises:
            MachineError: it cannot be started, or the machine is dead.
        """
        with self._turn:
            self._drawn += 1
            number = self._drawn
            # A machine of this name may have run here before: its logs are not to be added to.
            place = f"{self.name}-{self._shepherd.pid}-{number:03}-{Path(argv[0]).name}.log"
            log = self._logs / place
            program = self._programs[number] = Program(argv, log)
        asked: dict[str, Any] = {"id": number, "argv": argv, "log": str(log)}
        asked["env"] = {**environment(), **(env or {})}
        asked["cwd"] = str(cwd or "/")
        if user is not None:
            asked |= {"user": user, "group": user, "extra_groups": []}
        if self._shepherd.stdin is None:
            raise MachineError("unreachable: the shepherd has an input")
        try:
            with self._turn:
                if self._shepherd.stdin.closed:
                    raise MachineError(f"{self.name} is closed")
                self._shepherd.stdin.write(json.dumps(asked).encode() + b"\n")
                self._shepherd.stdin.flush()
        except BrokenPipeError:
            raise MachineError(f"{self.name} is dead") from None
        with program.changed:
            started = program.changed.wait_for(
                lambda: program.pid or program.code is not None, START_S
            )
        if not started or not program.pid:
            raise MachineError(f"{argv[0]} does not start on {self.name}: {program.said()}")
        return program

    def run(self, *argv: str, limit_s: float = 60.0, **options: Any) -> str:
        """Run a program to its end; what it wrote.

        Raises:
            MachineError: it failed, or takes too long: then it is left running.
        """
        program = self.start(*argv, **options)
        if program.wait(limit_s):
            raise self.failed(program)
        return program.said()

    def failed(self, program: Program) -> MachineError:
        """What to raise about a program that has ended and should not have, or not so."""
        ended = f"{' '.join(program.argv)} ended with {program.code} on {self.name}"
        return MachineError(f"{ended}: {program.said()}")

    @contextlib.contextmanager
    def stopped(self) -> Any:
        """Everything stands still inside this block, as in a snapshot of a running machine."""
        pids = self._stop_all()
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9 of every process: first all are stopped, so that none sees another one die."""
        pids = self._stop_all()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._shepherd.wait(END_S)
        _wait_gone(pids)
        self._listener.join(END_S)

    def close(self) -> None:
        """End whatever still runs."""
        if self._shepherd.poll() is None:
            self.kill()
        with self._turn:  # a thread may be about to ask for one more program
            for pipe in (self._shepherd.stdin, self._shepherd.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def pids(self) -> list[int]:
        """The shepherd's and those of all that descends from it."""
        children: dict[int, list[int]] = {}
        for pid, parent in _parents():
            children.setdefault(parent, []).append(pid)
        found = [self._shepherd.pid]
        for pid in found:  # it grows meanwhile
            found += children.get(pid, ())
        return found

    def _stop_all(self) -> list[int]:
        """Stop all, until a look finds none that was not stopped: one may have had a child."""
        stopped: list[int] = []
        while new := [pid for pid in self.pids() if pid not in stopped]:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped += new
        return stopped

    def _listen(self) -> None:
        """Take what the shepherd says, until it ends; then all that it had started has ended."""
        if self._shepherd.stdout is None:
            return
        for line in self._shepherd.stdout:
            said = json.loads(line)
            if "ready" in said:
                self._ready.set()
                continue
            program = self._programs[said["id"]]
            with program.changed:
                program.pid = said.get("pid", program.pid)
                program.code = said.get("code", program.code)
                program.changed.notify_all()
        for program in list(self._programs.values()):
            with program.changed:
                program.code = -signal.SIGKILL if program.code is None else program.code
                program.changed.notify_all()


def _parents() -> list[tuple[int, int]]:
    """(process, its parent) of every process here."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            found.append((int(process.name), int(fields[1])))
    return found


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _wait_gone(pids: list[int]) -> None:
    ends = time.monotonic() + END_S
    while left := [pid for pid in pids if _is_alive(pid)]:
        if time.monotonic() > ends:
            raise MachineError(f"processes {left} outlive kill -9: they hang in the kernel")
        time.sleep(0.01)
