"""A loop of one thread: descriptors, timers, and calls from other threads.

After what has arrived was handled, and before it waits again, the loop calls `on_turn` once: what
was collected in this turn goes out together.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, final

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
_EVENTS_MAX: Final = 32
_IDLE_MS: Final = 60_000
#: A wait is short that ends sooner. After some in a row the next one begins with looking, so long;
#: after twice as many where that was in vain.
SHORT_NS: Final = 100_000
LOOKING_NS: Final = 50_000
_SHORT_WAITS: Final = 2
_SHORT_WAITS_MAX: Final = 1024
_NEVER_MS: Final = 1 << 62


def monotonic_ms() -> int:
    """Milliseconds of a clock that never jumps."""
    return time.monotonic_ns() // 1_000_000


@final
class Timer:
    """A call that is due at a time, unless it is cancelled."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Not to be called any more. Idempotent."""
        self.call = None


@final
class Loop:
    """Runs handlers one after the other, in the thread that calls `run`.

    A handler that raises ends the loop: `run` raises it.

    To sleep and to be woken takes about as long as a turn does. So while waits are short, it looks
    a few times whether something has come, before it sleeps. At rest it never does.

    Args:
        clock_ms: counts milliseconds; never backwards.
        pause: lets others run between two looks. None: it sleeps at once; who has one processor
            only waits for others in vain while he looks.
    """

    def __init__(
        self,
        *,
        clock_ms: Callable[[], int] = monotonic_ms,
        pause: Callable[[], object] | None = None,
    ) -> None:
        self.clock_ms: Final = clock_ms
        self.on_turn: Callable[[], None] = _nothing
        #: When the present turn began; 0 while the loop waits. Other threads may look.
        self.turn_since_ms = 0
        #: The longest turn since somebody set this to 0.
        self.turn_ms_max = 0
        self._pause: Final = pause
        self._short_waits = 0  # in a row
        self._patience = _SHORT_WAITS  # so many are asked for before it looks
        self._epoll: Final = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[int, int, Timer]] = []
        self._due_ms = _NEVER_MS  # the first of them
        self._numbers: Final = itertools.count()
        self._soon: deque[Callable[[], None]] = deque()
        self._lock: Final = threading.Lock()
        self._calls: list[Callable[[], None]] = []
        self._wakeup: Final = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_stopped = False
        self._is_closed = False
        self.watch(self._wakeup, self._woken)

    def watch(self, fd: int, handler: Callable[[int], None], events: int = IN) -> None:
        """Call `handler` with what epoll says whenever one of `events` is there, or a hang-up."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def watch_for(self, fd: int, events: int) -> None:
        """Watch a descriptor for other events from now on."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Before it is closed. What has arrived in this turn already is not handled any more."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def arrived(self) -> set[int]:
        """The descriptors that would be handled now. Does not wait, and handles nothing."""
        return {fd for fd, _ in self._epoll.poll(0, _EVENTS_MAX)}

    def after(self, delay_ms: int, call: Callable[[], None]) -> Timer:
        """Have `call` called once, `delay_ms` from now at the earliest."""
        timer = Timer(call)
        heapq.heappush(self._timers, (self.clock_ms() + delay_ms, next(self._numbers), timer))
        self._due_ms = self._timers[0][0]
        return timer

    def soon(self, call: Callable[[], None]) -> None:
        """Have `call` called in the next turn, which begins without waiting."""
        self._soon.append(call)

    def from_thread(self, call: Callable[[], None]) -> None:
        """Have `call` called in the loop's thread. Any thread may ask; after the end it is void."""
        with self._lock:
            if self._is_closed:
                return
            self._calls.append(call)
            if len(self._calls) == 1:
                os.eventfd_write(self._wakeup, 1)

    def stop(self) -> None:
        """End `run` after the present turn."""
        self._is_stopped = True

    def run(self) -> None:
        """Turn until `stop`."""
        handlers, clock_ms = self._handlers, self.clock_ms
        now_ms = clock_ms()
        while not self._is_stopped:
            events = self._wait(self._wait_s(now_ms))
            began_ms = self.turn_since_ms = clock_ms()
            for fd, event in events:
                handler = handlers.get(fd)
                if handler is not None:
                    handler(event)
            if self._soon or self._due_ms <= began_ms:
                self._call_due()
            self.on_turn()
            now_ms = clock_ms()
            self.turn_ms_max = max(self.turn_ms_max, now_ms - began_ms)
            self.turn_since_ms = 0

    def close(self) -> None:
        """After `run`. Descriptors that were watched stay open. Idempotent."""
        with self._lock:  # a thread that comes late must not wake who has the number by then
            if not self._is_closed:
                self._is_closed = True
                self._epoll.close()
                os.close(self._wakeup)

    def _wait(self, wait_s: float) -> list[tuple[int, int]]:
        poll, pause = self._epoll.poll, self._pause
        if pause is None or not wait_s:
            return poll(wait_s, _EVENTS_MAX)
        now_ns = time.monotonic_ns
        began_ns = now_ns()
        events: list[tuple[int, int]] = []
        has_looked = False
        if self._short_waits >= self._patience:
            until_ns = began_ns + LOOKING_NS
            events = poll(0, _EVENTS_MAX)
            has_looked = not events
            while not events and now_ns() < until_ns:
                pause()
                events = poll(0, _EVENTS_MAX)
        if not events:
            events = poll(wait_s, _EVENTS_MAX)
        is_short = now_ns() - began_ns < SHORT_NS
        self._short_waits = self._short_waits + 1 if is_short else 0
        if has_looked:
            # In vain, or others had the processor meanwhile, who may have long work to do.
            patience = self._patience // 2 if is_short else self._patience * 2
            self._patience = min(max(patience, _SHORT_WAITS), _SHORT_WAITS_MAX)
        return events

    def _wait_s(self, now_ms: int) -> float:
        if self._soon or self._due_ms <= now_ms:
            return 0
        return min(self._due_ms - now_ms, _IDLE_MS) / 1000

    def _call_due(self) -> None:
        now_ms = self.clock_ms()
        while self._timers and self._timers[0][0] <= now_ms:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                call()
        self._due_ms = self._timers[0][0] if self._timers else _NEVER_MS
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def _woken(self, _events: int) -> None:
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            return
        with self._lock:
            calls, self._calls = self._calls, []
        for call in calls:
            call()


def _nothing() -> None:
    """No turn has an end yet."""
