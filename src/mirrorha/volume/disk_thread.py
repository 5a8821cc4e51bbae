"""A thread that performs a volume's disk requests, one after the other, and hands results back.

To whichever loop drives the volume: trio's, or a worker's own. Imports neither.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import describe
from mirrorha.volume.disk import Apply, ApplyAll, DiskError, ReadAttributes, ReadBytes
from mirrorha.volume.events import DiskDone
from mirrorha.volume.op_rules import size_bytes
from mirrorha.volume.patience import Patience
from mirrorha.wire.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest

    Call = tuple[int, AnyRequest]  # with its token

_log: Final = logging.getLogger(__name__)

#: How long a loop waits for a request, and for each that goes with it: longer than a page cache
#: takes, and no longer than to be called back is worth to a loop that has other things to do.
WAIT_S: Final = 0.000_09
WAIT_EACH_S: Final = 0.000_013
#: What one request may change or read, to be short.
SHORT_BYTES: Final = 32 * KIB
_SHORT_OPS: Final = 4


def is_short(request: AnyRequest) -> bool:
    """Whether a disk that answers from memory does it in a few microseconds."""
    if isinstance(request, Apply):
        return size_bytes(request.op) <= SHORT_BYTES
    if isinstance(request, ApplyAll):
        ops = request.ops
        return len(ops) <= _SHORT_OPS and sum(map(size_bytes, ops)) <= SHORT_BYTES
    if isinstance(request, ReadBytes):
        return request.length <= SHORT_BYTES
    return isinstance(request, ReadAttributes)


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
        self._requests: Final[queue.SimpleQueue[tuple[Call, ...] | None]] = queue.SimpleQueue()
        self._lock: Final = threading.Lock()
        self._done: list[DiskDone] = []
        self._is_awaited = False  # the loop waits for what is done next
        self._answered: Final = threading.Lock()  # released to end that
        self._answered.acquire()
        # The loop's alone.
        self._under_way = 0  # requests that were not handed back to it
        self._patience: Final = Patience()
        self._is_stopped = False
        self._thread: Final = threading.Thread(
            target=self._run, name=f"mirrorha-{name}", daemon=True
        )
        self._thread.start()

    def submit(self, *calls: Call) -> None:
        """Queue requests, whose results are handed back together; never blocks.

        The machine's windows bound how many there are.
        """
        self._under_way += len(calls)
        self._requests.put(calls)

    def submit_and_wait(self, *calls: Call) -> list[DiskDone]:
        """Queue short requests and wait a moment for their results; none: handed back as ever.

        To be called back takes the loop longer than a short request does. Blocks for WAIT_S and
        WAIT_EACH_S a request at the most; not at all behind other requests, nor, for a while, where
        it was in vain before: a disk that is slow, or hangs, holds up nobody's loop.
        """
        if self._under_way or not self._patience.is_next():
            self.submit(*calls)
            return []
        self._is_awaited = True
        self.submit(*calls)
        was_woken = self._answered.acquire(timeout=WAIT_S + WAIT_EACH_S * len(calls))
        with self._lock:
            self._is_awaited = False
            done, self._done = self._done, []
            if done and not was_woken:
                self._answered.acquire()  # it came in between: at once
        self._under_way -= len(done)
        self._patience.note(went_well=bool(done))
        return done

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
            for calls in iter(self._requests.get, None):
                done = []
                for token, request in calls:
                    if self._is_stopped:
                        return
                    done.append(perform_one(self._perform, token, request))
                self._hand_back(done)
        finally:
            if self._ended is not None:
                self._hand_over(self._ended)

    def _hand_back(self, done: list[DiskDone]) -> None:
        with self._lock:
            is_first = not self._done
            self._done += done
            if self._is_awaited:
                self._is_awaited = False
                self._answered.release()
                return
        if is_first:
            self._hand_over(self._take)

    # In the loop.

    def _take(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        self._under_way -= len(done)
        if not self._is_stopped:
            self._deliver(done)
