"""Reads that the page cache below cannot answer: they wait for the disk, and nobody else does.

A few threads read, and answer by themselves, for a reply is one write. What such a read finds is
never older than what was there when it was asked for: changes made meanwhile go to the same page
cache. A page that is being read is locked in the kernel, so what it makes the kernel forget waits.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.fuse.interface import View
    from mirrorha.volume.fuse.replies import Desk

#: More would only queue up in the disk.
THREADS_MAX: Final = 4


class _Read(NamedTuple):
    unique: int
    fd: int  # ours to close
    offset: int
    size: int
    then: Callable[[], None]


@final
class ColdReads:
    """Reads and answers. The threads begin with the first reads, and are left behind at the end."""

    def __init__(self, desk: Desk) -> None:
        self._desk: Final = desk
        self._view: Final[View] = desk.view
        self._queue: Final[queue.SimpleQueue[_Read]] = queue.SimpleQueue()
        self._lock: Final = threading.Lock()
        self._under_way: Final[dict[int, float]] = {}  # since when, by the request
        self._threads = 0
        self._is_closed = False

    def read(self, unique: int, fid: int, offset: int, size: int, then: Callable[[], None]) -> None:
        """Answer a READ once the disk has. Never blocks; callers wait, and so bound how many.

        Args:
            then: Called after the answer, in another thread.

        Raises:
            OSError: the file is no more, or no descriptor is free.
        """
        one = _Read(unique, self._view.pin(fid), offset, size, then)
        with self._lock:
            self._under_way[unique] = time.monotonic()
            begins = self._threads < min(len(self._under_way), THREADS_MAX)
            self._threads += begins
        self._queue.put(one)
        if begins:
            threading.Thread(target=self._run, name="mirrorha-cold-read", daemon=True).start()

    def longest_ms(self) -> int:
        """How long the oldest has been under way; 0 if there is none. Any thread."""
        with self._lock:
            since_s = min(self._under_way.values(), default=None)
        return 0 if since_s is None else int((time.monotonic() - since_s) * 1000)

    def close(self) -> None:
        """Answer nothing any more: the device's number may be something else's from now on."""
        with self._lock:
            self._is_closed = True

    def _run(self) -> None:
        while True:
            one = self._queue.get()
            number, data = 0, b""
            try:
                data = self._view.read_pinned(one.fd, one.offset, one.size)
            except OSError as error:
                number = error.errno or errno.EIO
            except Exception:
                self._desk.failures.note("in a cold read")
                number = errno.EIO
            self._answer(one, number, data)

    def _answer(self, one: _Read, number: int, data: bytes) -> None:
        with self._lock:
            del self._under_way[one.unique]
            if self._is_closed:
                return
            if number:
                self._desk.error(one.unique, number)
            else:
                self._desk.data(one.unique, data)
        one.then()
