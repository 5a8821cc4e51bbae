"""Simulated time: one queue of what happens when. Same seed, same run."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Final, final

AT_ONCE_MAX: Final = 5_000


class Violation(AssertionError):  # noqa: N818 - a verdict, not an error to handle
    """An invariant of the design does not hold. The text names it; the seed replays it."""


@final
class World:
    """Time, chance, the trace, and counters of what has been exercised.

    Attributes:
        now_ms: simulated time.
        rng: the only source of chance.
        counts: how often each fault, role edge and named rule was seen.
    """

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.seed = seed
        self.now_ms = 0
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.events = 0
        self.trace: list[str] = []
        self._tracing = trace
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._at_once = 0

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Run `action` in `delay_ms`; what is asked for at one instant runs in that order."""
        self._number += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._number, action))

    def run_until(self, end_ms: int) -> None:
        queue = self._queue
        while queue and queue[0][0] <= end_ms:
            self._take()()
        self.now_ms = max(self.now_ms, end_ms)

    def next_ms(self) -> int | None:
        """When the next event is due; None if there is none."""
        return self._queue[0][0] if self._queue else None

    def run_next(self) -> None:
        """Run the next event. Time passes until then."""
        self._take()()

    def pass_until(self, end_ms: int) -> None:
        """Let time pass, but not beyond the next event: that is to be run first."""
        due_ms = self.next_ms()
        self.now_ms = max(self.now_ms, end_ms if due_ms is None else min(end_ms, due_ms))

    def _take(self) -> Callable[[], None]:
        """The next action. Many thousands of them at one instant are a loop that never ends."""
        at_ms, _, action = heapq.heappop(self._queue)
        self._at_once = self._at_once + 1 if at_ms == self.now_ms else 0
        if self._at_once > AT_ONCE_MAX:
            raise Violation(f"I10 {AT_ONCE_MAX} events at one instant: something spins")
        self.now_ms = at_ms
        self.events += 1
        return action

    def run_while(self, going: Callable[[], bool], *, at_most_ms: int) -> bool:
        """Run until `going` is false; False if that takes more than `at_most_ms`."""
        end_ms = self.now_ms + at_most_ms
        while going():
            if not self._queue or self._queue[0][0] > end_ms:
                return False
            self._take()()
        return True

    def say(self, text: str) -> None:
        if self._tracing:
            self.trace.append(f"{self.now_ms:>8} {text}")

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def between(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)
