"""The two sides of a resync, as a volume's machine asks for them."""

from __future__ import annotations

from typing import final

from mirrorha.core.orders import BecomeTarget, StartResync
from mirrorha.volume.resync.source import ResyncSource
from mirrorha.volume.resync.target import ResyncTarget
from mirrorha.volume.touched import TouchedState


@final
class ComparingResyncs:
    """Makes sides that compare and copy; one for each volume.

    Args:
        rate_bytes_per_s: See `set_rate`.
    """

    def __init__(self, *, rate_bytes_per_s: int = 0) -> None:
        self._rate_bytes_per_s = rate_bytes_per_s
        self._last: ResyncSource | None = None

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """Send at most so much content a second, 0: as much as can be. At once, and from now on.

        Anything below `tasks.allowance.RATE_MIN_BYTES_PER_S` counts as that.
        """
        self._rate_bytes_per_s = rate_bytes_per_s
        if self._last is not None:
            self._last.set_rate(rate_bytes_per_s)

    def source(self, order: StartResync, touched: TouchedState) -> ResyncSource:
        """The side that serves."""
        self._last = ResyncSource(order, touched, rate_bytes_per_s=self._rate_bytes_per_s)
        return self._last

    def target(self, order: BecomeTarget, touched: TouchedState) -> ResyncTarget:
        """The side that becomes what the source is."""
        return ResyncTarget(order, touched)
