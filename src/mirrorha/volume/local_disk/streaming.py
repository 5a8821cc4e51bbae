"""Large files that stream through a disk: written out early, and let go of behind that.

Nobody reads on a node that follows what its source sends, and beneath a mount the kernel has kept
for its callers what they wrote. Until it becomes durable it is in the page cache here, as promised;
after that it need not be. So memory is not filled with a second copy of everything, a sync finds
little left to write, and the pages that were let go of are the next ones to be filled: where a
hypervisor takes back what a machine does not use, memory that was not used lately costs ten times
as much to write to.

It is done in a thread: to hand pages to a disk that is busy blocks.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.local_disk.syscalls import start_writing_out
from mirrorha.wire.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Callable

#: Smaller writes are no stream. What is rewritten soon had better stay in memory until then.
LARGE_BYTES_MIN: Final = 128 * KIB
WINDOW_SHIFT: Final = 23
WINDOW_BYTES: Final = 1 << WINDOW_SHIFT
#: A window is let go of when so many after it are full: until then it is on its way to the disk.
BEHIND: Final = 2
# Windows that wait for the thread. A disk that is slower than this gets its work from the kernel.
_WAITING_MAX: Final = 16
_END_S: Final = 1.0


@final
class Streaming:
    """Watches the large writes of one disk. Any failure is the next sync's to find, not ours.

    Args:
        start: begins to write out a range of a file. Tests watch it, and `let_go`.
        let_go: takes what is on the disk of a range out of memory.
    """

    def __init__(
        self,
        *,
        start: Callable[[int, int, int], None] = start_writing_out,
        let_go: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self._start: Final = start
        self._let_go: Final = _let_go if let_go is None else let_go
        # A duplicate of the file's descriptor, and the number of a window that is full.
        self._full: Final[queue.SimpleQueue[tuple[int, int] | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def wrote(self, fd: int, offset: int, end: int) -> None:
        """A large write was made. Never blocks."""
        window = end >> WINDOW_SHIFT
        if window == offset >> WINDOW_SHIFT or self._is_closed:
            return  # it has filled none
        if self._full.qsize() >= _WAITING_MAX:
            return
        with contextlib.suppress(OSError):  # no descriptor is free
            self._full.put((os.dup(fd), window - 1))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="mirrorha-streaming", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Let go of every descriptor. A disk that hangs keeps one, and is left behind. Idempotent.

        Blocks for a second at most.
        """
        self._is_closed = True
        if self._thread is not None:
            self._full.put(None)
            self._thread.join(_END_S)

    # In the thread.

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            fd, window = item
            try:
                if not self._is_closed:
                    self._write_out(fd, window)
            finally:
                os.close(fd)

    def _write_out(self, fd: int, window: int) -> None:
        # Neither takes note of an error that the kernel keeps for the next fsync.
        with contextlib.suppress(OSError):
            self._start(fd, window << WINDOW_SHIFT, WINDOW_BYTES)
            if window >= BEHIND:
                self._let_go(fd, (window - BEHIND) << WINDOW_SHIFT, WINDOW_BYTES)


def _let_go(fd: int, offset: int, length: int) -> None:
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
