"""A node's clocks: they agree with nobody else's, and run at a pace of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from mirrorha.testing.sim.world import World


@final
class Clock:
    """The monotonic clock of one server, and its wall clock.

    Attributes:
        wall_ahead_ms: how far the wall clock is ahead of the simulated time.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._rate = 1.0
        self._since_ms = 0
        self._base_ms = 0
        self.wall_ahead_ms = 0

    def now_ms(self) -> int:
        """By which deadlines and silence are measured. Never goes back."""
        return self._base_ms + int((self._world.now_ms - self._since_ms) * self._rate)

    def wall_ms(self) -> int:
        """What the administrator believes. May jump."""
        return max(0, self._world.now_ms + self.wall_ahead_ms)

    def run_at(self, rate: float) -> None:
        """Run at `rate` from now on."""
        self._base_ms, self._since_ms = self.now_ms(), self._world.now_ms
        self._rate = rate

    def boot(self, ahead_ms: int) -> None:
        """The machine starts: its monotonic clock begins anew, anywhere."""
        self._base_ms, self._since_ms = ahead_ms, self._world.now_ms
