"""A thread that performs a volume's disk requests, one after the other, and hands results back.

To whichever loop drives the volume: trio's, or a worker's own. Imports neither.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import describe
from mirrorha.volume.disk import DiskError
from mirrorha.volume.events import DiskDone

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest

_log: Final = logging.getLogger(__name__)


def perform_one(perform: Callable[[AnyRequest], object], token: int, req: AnyRequest) -> DiskDone:
    """Perform a request; whatever comes of it is a result, an exception too. Blocks."""
    try:
        return DiskDone(token, perform(req))
    except DiskError as error:
        return DiskDone(token, None, str(error) or "the disk failed")
    except Exception as error:
        _log.exception("a bug in the disk's adapter")
        return DiskDone(token, None, f"a bug in mirrorha: {describe(error)}")


@final
class DiskThread:
    """Performs what is submitted, in order, and has `deliver` called in the loop.

    Results that are there at the same time are handed back together. Nothing is handed back after
    `stop`. What hangs in the kernel cannot be ended: the thread is left behind then.

    Args:
        perform: blocks; DiskError is a result as well, and so is any other exception.
        deliver: takes the results in the order of the requests.
        hand_over: has a call made in the loop; any thread may ask. Void once the loop has ended.
        ended: called in the loop when the thread ends.
    """

    def __init__(
        self,
        name: str,
        *,
        perform: Callable[[AnyRequest], object],
        deliver: Callable[[list[DiskDone]], None],
        hand_over: Callable[[Callable[[], None]], None],
        ended: Callable[[], None] | None = None,
    ) -> None:
        self._perform: Final = perform
        self._deliver: Final = deliver
        self._hand_over: Final = hand_over
        self._ended: Final = ended
        self._requests: Final[queue.SimpleQueue[tuple[int, AnyRequest] | None]] = (
            queue.SimpleQueue()
        )
        self._lock: Final = threading.Lock()
        self._done: list[DiskDone] = []
        self._is_stopped = False
        self._thread: Final = threading.Thread(
            target=self._run, name=f"mirrorha-{name}", daemon=True
        )
        self._thread.start()

    def submit(self, token: int, request: AnyRequest) -> None:
        """Queue a request; never blocks. The machine's windows bound how many there are."""
        self._requests.put((token, request))

    def stop(self) -> None:
        """Perform nothing more once the request under way has ended. Never blocks; idempotent."""
        self._is_stopped = True
        self._requests.put(None)

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended, after `stop`; blocks for that a while."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # In the thread.

    def _run(self) -> None:
        try:
            while not self._is_stopped:
                item = self._requests.get()
                if item is None:
                    break
                self._hand_back(perform_one(self._perform, *item))
        finally:
            if self._ended is not None:
                self._hand_over(self._ended)

    def _hand_back(self, done: DiskDone) -> None:
        with self._lock:
            self._done.append(done)
            is_first = len(self._done) == 1
        if is_first:
            self._hand_over(self._take)

    # In the loop.

    def _take(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        if not self._is_stopped:
            self._deliver(done)
