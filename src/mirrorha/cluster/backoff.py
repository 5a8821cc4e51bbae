"""How long to wait before the next attempt: ever longer, never in step with anybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import ensure

if TYPE_CHECKING:
    import random

FIRST_MS: Final = 50


@final
class Backoff:
    """Doubles from about FIRST_MS up to `max_ms`; between half and all of it, by chance."""

    def __init__(self, rng: random.Random, *, max_ms: int = 10_000) -> None:
        ensure(max_ms >= FIRST_MS, "a wait is not shorter than the first one")
        self._rng: Final = rng
        self.max_ms = max_ms
        self._attempts = 0

    def reset(self) -> None:
        """It worked: begin anew."""
        self._attempts = 0

    def next_ms(self) -> int:
        """How long to wait now."""
        limit_ms = min(self.max_ms, FIRST_MS * 2**self._attempts)
        self._attempts = min(self._attempts + 1, 30)
        return self._rng.randrange(limit_ms // 2, limit_ms + 1)
