"""One worker at a time has a volume's state: from before the mount until its process is gone.

The lock is the operating system's on an open file. A worker that should be gone and is not is
waited for, and then killed: its successor must not read what it may still write.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from pathlib import Path
from typing import Final

from mirrorha.errors import VolumeError

LOCK_NAME: Final = "worker.lock"
#: How long the one before us may take to end by itself, and then to die.
WAIT_S: Final = 2.0
KILL_S: Final = 3.0
_MODULE: Final = b"mirrorha.volume.worker"


def lock_state(directory: Path, *, wait_s: float = WAIT_S, kill_s: float = KILL_S) -> int:
    """Take the lock of a volume's state directory, which is made if it is missing. Blocks.

    Returns:
        A descriptor: the lock is held until it is closed, or until the process is gone.

    Raises:
        VolumeError: the directory cannot be used, or somebody holds the lock and does not go.
    """
    path = directory / LOCK_NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise VolumeError(f"{directory} cannot be used: {error.strerror}") from error
    if not _try(descriptor):
        _wait_for_holder(descriptor, wait_s=wait_s, kill_s=kill_s)
        if not _try(descriptor):
            holder = _holder(descriptor)
            os.close(descriptor)
            who = f"process {holder}" if holder else "another process"
            raise VolumeError(
                f"{who} still has this volume (it holds {path}) and does not end; if it hangs in "
                "the kernel, look at the disk under the volume"
            )
    return descriptor


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _wait_for_holder(descriptor: int, *, wait_s: float, kill_s: float) -> None:
    holder = _holder(descriptor)
    pidfd = _open_pidfd(holder) if holder else None
    if pidfd is None:
        # Gone meanwhile; or it is not to be seen from here: then nothing can be done but wait.
        _poll_lock(descriptor, wait_s)
        return
    try:
        if _is_gone(pidfd, wait_s) or holder != _holder(descriptor) or not _is_worker(holder):
            return
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _is_gone(pidfd, kill_s)
    finally:
        os.close(pidfd)


def _poll_lock(descriptor: int, wait_s: float) -> None:
    until_s = time.monotonic() + wait_s
    while time.monotonic() < until_s and not _try(descriptor):
        time.sleep(0.05)


def _is_gone(pidfd: int, wait_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(wait_s * 1000))


def _holder(descriptor: int) -> int:
    """Who holds the lock, by the kernel's own list; 0 if nobody is to be seen."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == place:
                return int(fields[4])
    return 0


def _is_worker(pid: int) -> bool:
    try:
        return _MODULE in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
