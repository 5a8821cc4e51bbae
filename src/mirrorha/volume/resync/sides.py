"""The two sides of a resync, as a volume's machine asks for them."""

from __future__ import annotations

from typing import final

from mirrorha.core.orders import BecomeTarget, StartResync
from mirrorha.volume.resync.source import ResyncSource
from mirrorha.volume.resync.target import ResyncTarget
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.touched import TouchedState


@final
class ComparingResyncs:
    """Makes sides that compare and copy."""

    def source(self, order: StartResync, touched: TouchedState) -> ResyncSource:
        """The side that serves."""
        return ResyncSource(order, touched)

    def target(self, order: BecomeTarget, touched: TouchedState, filled: FidSet) -> ResyncTarget:
        """The side that becomes what the source is."""
        return ResyncTarget(order, touched, filled)
