"""Files that were opened while this node served, and are read when it no longer does.

The kernel keeps what is read through such an open file, though others change the file now; through
those that are opened later it keeps nothing. So it is made to forget each such page again, from a
thread of its own, for to forget may wait for an answer that the loop has yet to give.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

#: In the handle of an open file: the kernel keeps what is read through it. No fid has this bit.
CACHED: Final = 1 << 63


@final
class Freshness:
    """Has the kernel forget what it keeps of single files.

    Args:
        forget: Tells it so; blocks.
    """

    def __init__(self, forget: Callable[[int], None]) -> None:
        self._forget: Final = forget
        self._lock: Final = threading.Lock()
        self._waiting: Final[set[int]] = set()
        self._fids: Final[queue.SimpleQueue[int]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def was_read(self, fid: int) -> None:
        """Something of `fid` was given to the kernel, which keeps it. Any thread; never blocks."""
        with self._lock:
            if fid in self._waiting:
                return
            self._waiting.add(fid)
            self._fids.put(fid)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="mirrorha-freshness", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while True:
            fid = self._fids.get()
            # First: what is read from now on is to be forgotten once more.
            with self._lock:
                self._waiting.discard(fid)
            self._forget(fid)
