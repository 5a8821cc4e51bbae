"""A limit of bytes a second, for tasks: whoever takes more than there is waits."""

from __future__ import annotations

from typing import Final, final

from mirrorha.volume.tasks.task import Pool, Steps, Take, Tasks

# What is slower than this ends too late to protect anything: on a volume of 1 TB after 12 days.
RATE_MIN_BYTES_PER_S: Final = 1024 * 1024
# So much of a second may be taken at once; ticks come ten times a second.
_BURSTS_PER_S: Final = 4
_UNLIMITED: Final = 1 << 60


@final
class Allowance:
    """So many bytes a second; at the beginning without a limit.

    Args:
        burst_bytes_min: So much can be taken at once however low the rate is.
    """

    def __init__(self, tasks: Tasks, *, burst_bytes_min: int) -> None:
        self._pool: Final = Pool(tasks, _UNLIMITED)
        self._burst_bytes_min: Final = burst_bytes_min
        self.rate_bytes_per_s = 0
        self._refilled_ms = 0

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """Give out at most so much a second, 0: as much as is asked for. Takes effect at once.

        Anything below RATE_MIN_BYTES_PER_S counts as that.
        """
        self.rate_bytes_per_s = rate_bytes_per_s and max(rate_bytes_per_s, RATE_MIN_BYTES_PER_S)
        burst_bytes = max(self.rate_bytes_per_s // _BURSTS_PER_S, self._burst_bytes_min)
        self._pool.resize(burst_bytes if self.rate_bytes_per_s else _UNLIMITED)

    def refill(self, now_ms: int) -> None:
        """Allow what the time since the last call allows."""
        allowed_bytes = (now_ms - self._refilled_ms) * self.rate_bytes_per_s // 1000
        if not self.rate_bytes_per_s:
            self._refilled_ms = now_ms
        elif allowed_bytes > 0:
            self._refilled_ms = now_ms
            self._pool.put(min(allowed_bytes, self._pool.taken))

    def give_back(self, count: int) -> None:
        """Of what was taken, so many bytes were not needed."""
        self._pool.put(min(count, self._pool.taken))

    def take(self, count: int) -> Steps[None]:
        """Wait until so many bytes are allowed."""
        yield Take(self._pool, count)
