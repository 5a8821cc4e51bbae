"""Starts the programs of one machine of a test, so that all of them can die at one instant.

A program of its own: `shepherd.py`. Reads a JSON object a line, `{"id": 1, "argv": [...]}` and what
else `subprocess.Popen` takes (`log` names the file for its output); answers `{"id": 1, "pid": 7}`
when it was started and `{"id": 1, "code": 0}` when it has ended. Whatever its programs leave behind
becomes its child. Ends with its input, and its programs with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
END_S = 10.0


def say(**line: Any) -> None:
    # One write: several threads speak. At the end nobody listens any more.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(line).encode() + b"\n")


def start(asked: dict[str, Any]) -> None:
    """Start one program; a thread tells when it has ended."""
    number = asked.pop("id")
    with open(asked.pop("log"), "ab") as log:
        try:
            process = subprocess.Popen(
                asked.pop("argv"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **asked
            )
        except OSError as error:
            say(id=number, code=127, why=str(error))
            return
    say(id=number, pid=process.pid)
    threading.Thread(target=lambda: say(id=number, code=process.wait()), daemon=True).start()


def end_all() -> None:
    """Kill what descends from this process: children, then those that thereby become children."""
    ends = time.monotonic() + END_S
    while time.monotonic() < ends:
        tasks = Path("/proc/self/task").glob("*/children")
        pids = [int(pid) for path in tasks for pid in path.read_text().split()]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


def main() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1):
        raise OSError(ctypes.get_errno(), "this system knows no subreaper")
    say(ready=os.getpid())
    for line in sys.stdin:
        start(json.loads(line))
    end_all()


if __name__ == "__main__":
    main()
