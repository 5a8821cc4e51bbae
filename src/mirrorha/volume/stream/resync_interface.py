"""What a volume's machine asks of the two sides of a resync, and gives them.

`Volume` owns the stream, the touched log and the pause of local changes; a resync's machines only
compare and copy. Each is started with `start()`, once both sides are ordered and connected, so
that no message finds nobody there, and then stepped. The tokens of their `DiskCall`s are their own
(the volume maps them), and only results that succeeded come back: a disk that fails ends the
volume. A `RecordTouched` that the source emits also enters the volume's touched log.

A machine lives for one session. When the stream breaks, the volume drops it and reports
`ResyncFailed`; another order ends it without a word. What its disk calls return after that is
thrown away.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from mirrorha.core.orders import BecomeTarget, StartResync
from mirrorha.volume.events import DiskCall, DiskDone, Received, Reported, Send, Tick
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.touched import TouchedState, TouchKey

ResyncEvent = Received | DiskDone | Tick
ResyncEffect = Send | DiskCall | Reported


class ResyncStatus(enum.Enum):
    """How far a side is. Told anew after every step."""

    RUNNING = "running"
    EQUAL = "equal"  # source: the last pass has ended. target: I am told that we are equal
    FAILED = "failed"  # the session is over; `failure` says why


class ResyncSide(Protocol):
    """Either side of a resync."""

    @property
    def status(self) -> ResyncStatus: ...

    @property
    def failure(self) -> str:
        """Why it failed, for people."""
        ...

    @property
    def failed_here(self) -> bool:
        """Whether it was this node's disk that refused something."""
        ...

    def start(self, now_ms: int) -> Sequence[ResyncEffect]:
        """The first effects of this side."""
        ...

    def step(self, event: ResyncEvent, now_ms: int) -> Sequence[ResyncEffect]:
        """Total: a message that has no place here makes the session fail, it raises nothing."""
        ...


class ResyncSourceSide(ResyncSide, Protocol):
    """The side that serves, and whose tree the other's becomes.

    It reports `Progress`, `NearlyEqual` and `Widened` by itself, as effects.
    """

    def touched(self, keys: Sequence[TouchKey]) -> None:
        """A local op that touched `keys` has just been applied: compare them (again)."""
        ...

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """Go through at most so much content a second, 0: as much as can be. At once."""
        ...

    def final_pass(self, now_ms: int) -> Sequence[ResyncEffect]:
        """Changes are paused, none is being applied: do the last pass, then be EQUAL."""
        ...


class Resyncs(Protocol):
    """Makes the two sides. `touched` is what this node's touched log holds at that moment."""

    def source(self, order: StartResync, touched: TouchedState) -> ResyncSourceSide: ...

    def target(self, order: BecomeTarget, touched: TouchedState, filled: FidSet) -> ResyncSide:
        """`filled` is for the side to remember what it has done, should it be interrupted."""
        ...
