"""A thread that performs a volume's disk requests, one after the other, and hands results back.

A volume has one for its tree and one for its syncs: an fsync takes long, and nothing should queue
behind it. The way there and back costs about 30 µs; `trio.to_thread` costs more and keeps no
order.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.containment import describe
from mirrorha.volume.disk import DiskError
from mirrorha.volume.events import DiskDone

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest

_log: Final = logging.getLogger(__name__)


@final
class LaneThread:
    """Performs what is submitted, in order, and calls `deliver` in the trio loop that made it.

    Results that are there at the same time are handed back together. Nothing is handed back after
    `stop`. A request that hangs in the kernel cannot be ended: the thread is left behind then.

    Args:
        perform: blocks; DiskError is a result as well, and so is any other exception.
        deliver: takes the results in the order of the requests.
    """

    def __init__(
        self,
        name: str,
        *,
        perform: Callable[[AnyRequest], object],
        deliver: Callable[[list[DiskDone]], None],
    ) -> None:
        self._perform: Final = perform
        self._deliver: Final = deliver
        self._requests: Final[queue.SimpleQueue[tuple[int, AnyRequest] | None]] = (
            queue.SimpleQueue()
        )
        self._done: list[DiskDone] = []
        self._lock: Final = threading.Lock()
        self._token: Final = trio.lowlevel.current_trio_token()
        self._stopped = False
        self._ended: Final = trio.Event()
        self._thread: Final = threading.Thread(
            target=self._run, name=f"mirrorha-{name}", daemon=True
        )
        self._thread.start()

    def submit(self, token: int, request: AnyRequest) -> None:
        """Queue a request; never blocks. The machine's windows bound how many there are."""
        self._requests.put((token, request))

    def stop(self) -> None:
        """Perform nothing more once the request under way has ended. Never blocks; idempotent."""
        self._stopped = True
        self._requests.put(None)

    async def wait_ended(self) -> None:
        """Wait until the thread has ended, after `stop`. May be for ever: the caller bounds it."""
        await self._ended.wait()

    # In the thread.

    def _run(self) -> None:
        try:
            while not self._stopped:
                item = self._requests.get()
                if item is None:
                    break
                self._hand_back(self._perform_one(*item))
        finally:
            self._tell(self._ended.set)

    def _perform_one(self, token: int, request: AnyRequest) -> DiskDone:
        try:
            return DiskDone(token, self._perform(request))
        except DiskError as error:
            return DiskDone(token, None, str(error) or "the disk failed")
        except Exception as error:
            _log.exception("a bug in the disk's adapter")
            return DiskDone(token, None, f"a bug in mirrorha: {describe(error)}")

    def _hand_back(self, done: DiskDone) -> None:
        with self._lock:
            self._done.append(done)
            is_first = len(self._done) == 1
        if is_first:
            self._tell(self._take)

    def _tell(self, call: Callable[[], object]) -> None:
        try:
            self._token.run_sync_soon(call)
        except trio.RunFinishedError:
            return  # nobody is left to be told

    # In the loop.

    def _take(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        if not self._stopped:
            self._deliver(done)
