"""One process at a time runs a node: the lock on its state directory."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.errors import LocalUsageError, StateError

if TYPE_CHECKING:
    from pathlib import Path

LOCK_NAME: Final = "node.lock"
_TEXT_BYTES_MAX: Final = 64


@final
class StateLock:
    """Held until `release`, or until the process ends, however it ends.

    It is the operating system's lock on an open file: nothing has to be cleaned up after a crash.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    async def acquire(cls, directory: Path) -> StateLock:
        """Take the lock of `directory`, which is made if it is missing. Works in a thread.

        Raises:
            LocalUsageError: another process has it, or this one has.
            StateError: the directory cannot be used.
        """
        descriptor = await trio.to_thread.run_sync(
            _lock, directory, limiter=trio.CapacityLimiter(1)
        )
        return cls(descriptor)

    def release(self) -> None:
        """Give it up. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _lock(directory: Path) -> int:
    # Here, for there is none on Windows, where only the file API is of use.
    import fcntl  # noqa: PLC0415

    path = directory / LOCK_NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"state_dir {directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, _TEXT_BYTES_MAX, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise LocalUsageError(f"{who} runs this node already: it holds {path}") from error
    # For people only: who holds the lock is the kernel's knowledge.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
