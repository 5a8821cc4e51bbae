"""A thread that performs the disk requests which take long, and hands results to the loop.

An fsync must not hold up what the loop does meanwhile. Requests are performed in their order.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.disk import DiskError
from mirrorha.volume.events import DiskDone

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest
    from mirrorha.volume.worker.loop import Loop

_log: Final = logging.getLogger(__name__)

_TEXT_CHARS_MAX: Final = 500


def perform_one(perform: Callable[[AnyRequest], object], token: int, req: AnyRequest) -> DiskDone:
    """Perform a request; whatever comes of it is a result, an exception too. Blocks."""
    try:
        return DiskDone(token, perform(req))
    except DiskError as error:
        return DiskDone(token, None, str(error) or "the disk failed")
    except Exception as error:
        _log.exception("a bug in the disk's adapter")
        text = f"{type(error).__name__}: {error}"[:_TEXT_CHARS_MAX]
        return DiskDone(token, None, f"a bug in mirrorha: {text}")


@final
class SyncLane:
    """One thread. What hangs in the kernel cannot be ended: the process's end does not wait for it.

    Args:
        perform: blocks.
        deliver: takes results in the loop's thread, in the order of the requests, those together
            that are there at the same time.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        perform: Callable[[AnyRequest], object],
        deliver: Callable[[list[DiskDone]], None],
    ) -> None:
        self._loop: Final = loop
        self._perform: Final = perform
        self._deliver: Final = deliver
        self._requests: Final[queue.SimpleQueue[tuple[int, AnyRequest] | None]] = (
            queue.SimpleQueue()
        )
        self._lock: Final = threading.Lock()
        self._done: list[DiskDone] = []
        self._is_stopped = False
        self._thread: Final = threading.Thread(target=self._run, name="mirrorha-sync", daemon=True)
        self._thread.start()

    def submit(self, token: int, request: AnyRequest) -> None:
        """Queue a request; never blocks. The machine's windows bound how many there are."""
        self._requests.put((token, request))

    def stop(self) -> None:
        """Perform nothing more once the request under way has ended. Never blocks; idempotent."""
        self._is_stopped = True
        self._requests.put(None)

    def wait_ended(self, timeout_s: float) -> bool:
        """Whether the thread has ended, after `stop`; waits for that a while."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopped:
            item = self._requests.get()
            if item is None:
                return
            done = perform_one(self._perform, *item)
            with self._lock:
                self._done.append(done)
                is_first = len(self._done) == 1
            if is_first:
                self._loop.from_thread(self._hand_over)

    def _hand_over(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        if not self._is_stopped:
            self._deliver(done)
