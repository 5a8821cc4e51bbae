"""How fast a resync's source goes, and how it keeps out of the way of whoever writes meanwhile.

- What is gone through in a second is limited, whether it is compared or sent: an application does
  not care for which of the two its disk was busy.
- What the disk and the loop do for a resync in one piece is what a change of the application may
  have to wait for. So while somebody changes something the pieces are small; as they are under a
  limit, so that it is kept to. Nobody about, they are as large as is fast.
- A limit gives way where it would never come to an end: where the application touches more, pass
  after pass, than may be gone through meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar, final

from mirrorha.errors import ensure
from mirrorha.volume.resync.messages import CONTENT_BYTES_MAX
from mirrorha.volume.tasks.allowance import Allowance
from mirrorha.volume.tasks.task import Steps, Tasks
from mirrorha.wire.limits import BLOCK_BYTES

T = TypeVar("T")

# Reading, hashing and sending so much takes about as long as a change with all that goes with it.
GENTLE_BLOCKS: Final = 4
GENTLE_FILES: Final = 8
# Somebody who has changed nothing for so long is not waiting for anything.
QUIET_MS: Final = 1_000
# No link is faster. A limit that was raised beyond this is none.
_RATE_MAX: Final = 1 << 40

ensure(GENTLE_BLOCKS * BLOCK_BYTES <= CONTENT_BYTES_MAX, "a piece is never more than a burst")


@final
class Pace:
    """The limit, and the size of the pieces."""

    def __init__(self, tasks: Tasks) -> None:
        self._allowance: Final = Allowance(tasks, burst_bytes_min=CONTENT_BYTES_MAX)
        self._now_ms = 0
        self._touched_ms: int | None = None

    @property
    def rate_bytes_per_s(self) -> int:
        """The limit in force, 0: there is none."""
        return self._allowance.rate_bytes_per_s

    @property
    def is_gentle(self) -> bool:
        """Whether pieces are small."""
        since_ms = self._touched_ms
        is_busy = since_ms is not None and self._now_ms - since_ms < QUIET_MS
        return is_busy or bool(self.rate_bytes_per_s)

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """Go through at most so much a second, 0: as much as can be. Takes effect at once.

        Anything below `tasks.allowance.RATE_MIN_BYTES_PER_S` counts as that: it goes on always.
        """
        self._allowance.set_rate(rate_bytes_per_s)

    def give_way(self) -> None:
        """The limit was in the way of ever coming to an end: twice as much is allowed."""
        rate_bytes_per_s = 2 * self.rate_bytes_per_s
        self.set_rate(rate_bytes_per_s if rate_bytes_per_s < _RATE_MAX else 0)

    def refill(self, now_ms: int) -> None:
        """Allow what the time since the last call allows."""
        self._now_ms = now_ms
        self._allowance.refill(now_ms)

    def note_change(self) -> None:
        """The application has changed something."""
        self._touched_ms = self._now_ms

    def take(self, count_bytes: int) -> Steps[None]:
        """Wait until so much may be gone through."""
        yield from self._allowance.take(count_bytes)

    def give_back(self, count_bytes: int) -> None:
        """Of what was taken, so much turned out to be nothing: holes, or beyond the end."""
        self._allowance.give_back(count_bytes)

    def pieces(self, first: int, count: int, *, blocks_max: int) -> Iterator[tuple[int, int]]:
        """Cut blocks into what is done at once: first and how many, by the pace at that moment."""
        end = first + count
        while first < end:
            blocks = min(GENTLE_BLOCKS if self.is_gentle else blocks_max, end - first)
            yield first, blocks
            first += blocks

    def batches(self, things: Sequence[T], count_max: int) -> Iterator[Sequence[T]]:
        """Cut files into those that are looked at at once."""
        at = 0
        while at < len(things):
            count = GENTLE_FILES if self.is_gentle else count_max
            yield things[at : at + count]
            at += count
