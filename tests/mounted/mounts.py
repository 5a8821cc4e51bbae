"""Mounts that may hang: programs that use them end in time, and so do the mounts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

MNT_DETACH: Final = 2
LAST_S: Final = 5.0


@attrs.frozen
class Ended:
    """How a program ended. `code` is None if it had to be killed."""

    code: int | None
    said: str


def run_bounded(
    command: Sequence[str], *, limit_s: float, directory: Path, **options: Any
) -> Ended:
    """Run a program that uses the mount at `directory`, and everything it starts.

    One that takes too long is killed. If it hangs in the kernel, which no signal ends, the mount's
    connection is aborted: nothing waits for a mount for ever.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        **options,
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit_s)
        except BaseException as error:
            _kill_group(process.pid)
            try:
                said, _ = process.communicate(timeout=LAST_S)
            except subprocess.TimeoutExpired:
                abort(directory)
                said, _ = process.communicate(timeout=LAST_S)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Ended(None, said)
        _kill_group(process.pid)  # what it left behind
        return Ended(process.returncode, said)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def abort(directory: Path) -> None:
    """Have the kernel answer everything that waits for the FUSE mount there, if there is one."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(directory) and " - fuse" in line:
            number = fields[2].partition(":")[2]
            with contextlib.suppress(FileNotFoundError):
                Path(f"/sys/fs/fuse/connections/{number}/abort").write_text("1")


def detach(directory: Path) -> None:
    """Unmount all that is mounted there, however dead, without touching it."""
    with contextlib.suppress(OSError):
        abort(directory)
    umount2 = ctypes.CDLL(None, use_errno=True).umount2
    while umount2(os.fsencode(directory), MNT_DETACH) == 0:
        pass
