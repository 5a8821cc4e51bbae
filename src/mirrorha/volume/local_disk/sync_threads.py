"""Calls that block, made at the same time by a few threads.

To sync eight files one after the other takes about three times as long: what the file system
writes to its journal, and what the device has to put on its platters, is shared.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: With more there is nothing left to share.
THREADS_MAX: Final = 8


@final
class SyncThreads:
    """Threads that help one caller at a time; it works with them.

    Made when they are first needed, as many as can be had. Daemons: what hangs in the kernel must
    not keep a process from its end.

    Args:
        threads_max: At most so many calls are made at a time, the caller's own included.
    """

    def __init__(self, threads_max: int = THREADS_MAX) -> None:
        self._threads_max: Final = threads_max
        self._rounds: Final[queue.SimpleQueue[_Round | None]] = queue.SimpleQueue()
        self._threads: Final[list[threading.Thread]] = []

    def perform(self, calls: Iterable[Callable[[], None]]) -> None:
        """Make every call; return once they have all ended. A single one is made in this thread.

        Raises:
            Exception: what the first call that failed has raised. Every call that was begun has
                ended, and no other was begun after it.
        """
        round_ = _Round(calls)
        # As many as there are: what waits for a thread that never comes is kept for ever.
        for _ in range(self._helpers(min(round_.left, self._threads_max) - 1)):
            self._rounds.put(round_)
        round_.work()
        round_.wait_ended()

    def stop(self) -> None:
        """End the threads, and wait for that. Not while `perform` is under way. Idempotent."""
        for _ in self._threads:
            self._rounds.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _helpers(self, wanted: int) -> int:
        """How many threads there are to help, of so many wanted."""
        with contextlib.suppress(RuntimeError, MemoryError):  # no more threads can be had
            while len(self._threads) < wanted:
                self._threads.append(self._new_thread())
        return min(wanted, len(self._threads))

    def _new_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._help, name="mirrorha-sync-helper", daemon=True)
        thread.start()
        return thread

    def _help(self) -> None:
        while (round_ := self._rounds.get()) is not None:
            round_.work()


@final
class _Round:
    """The calls of one `perform`. A thread that comes late finds nothing left to do."""

    def __init__(self, calls: Iterable[Callable[[], None]]) -> None:
        self._todo: Final = deque(calls)
        self._changed: Final = threading.Condition()
        self._under_way = 0
        self._error: BaseException | None = None

    @property
    def left(self) -> int:
        """How many calls nobody has begun yet."""
        return len(self._todo)

    def work(self) -> None:
        """Make calls until none is left. Never raises."""
        while (call := self._take()) is not None:
            error: BaseException | None = None
            try:
                call()
            except BaseException as raised:  # whoever waits for the end raises it
                error = raised
            self._end(error)

    def wait_ended(self) -> None:
        """Return, or raise, once no call is under way. After `work`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)
        if self._error is not None:
            raise self._error

    def _take(self) -> Callable[[], None] | None:
        with self._changed:
            if not self._todo:
                return None
            self._under_way += 1
            return self._todo.popleft()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._under_way -= 1
            if error is not None and self._error is None:
                self._error = error
                self._todo.clear()
            self._changed.notify_all()
