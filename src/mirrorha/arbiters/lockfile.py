"""An exclusive lock between processes of one machine: `flock` on a file made for it.

The kernel gives the lock up when its holder dies, however it dies. Everything here blocks: call
it from a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Short beside the two seconds that an arbiter may take, long beside a held lock's 1 ms or so.
_POLL_S: Final = 0.005


class LockHeldError(Exception):
    """Another process, or another part of this one, holds the lock."""


@contextlib.contextmanager
def hold_lock(
    path: Path, *, patience_s: float = 0.0, give_up: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold the lock of the file at `path`, made if it is missing, for as long as the block lasts.

    The file is never removed: who still held the removed one would hold a lock that nobody else
    can see.

    Args:
        path: The lock's own file; its directory must exist.
        patience_s: How long to wait for a holder. A blocking `flock` could not be given up.
        give_up: Asked while waiting; True ends the wait.

    Raises:
        LockHeldError: it is held, and `patience_s` are over or `give_up` says so.
        OSError: the file cannot be opened or locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline_s = time.monotonic() + patience_s
        while not _try_lock(descriptor):
            if give_up() or time.monotonic() >= deadline_s:
                raise LockHeldError(f"another process holds the lock {path}")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
