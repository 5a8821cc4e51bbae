"""Arbiters for tests: one in memory, and one that puts a network's faults around any other."""

from __future__ import annotations

import collections
import contextlib
import enum
from typing import TYPE_CHECKING, ClassVar, Final, assert_never, final

import attrs
import trio

from mirrorha.abc import Arbiter
from mirrorha.errors import (
    ArbiterError,
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    LocalUsageError,
)

if TYPE_CHECKING:
    import random


@final
@attrs.define
class MemoryStore:
    """What the `MemoryArbiter`s of one cluster share. Tests may look into it and change it.

    Attributes:
        record: the record as it is now.
        version: how often it was replaced.
    """

    record: bytes | None = None
    version: int = 0

    def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        if self.record != expected:
            return False
        self.record = new
        self.version += 1
        return True


@final
class MemoryArbiter(Arbiter):
    """One client of a record in memory.

    A call can be cancelled before it takes effect and after, as over a network.

    Args:
        store: The record; clients of one cluster are given the same. None makes a new one.
    """

    kind: ClassVar[str] = "memory"

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store: Final = MemoryStore() if store is None else store

    async def read(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        record = self.store.record
        await trio.lowlevel.checkpoint()
        return record

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        won = self.store.compare_and_swap(expected, new)
        await trio.lowlevel.checkpoint()
        return won


class Fault(enum.Enum):
    """What may happen to one call of a `FaultyArbiter`."""

    NONE = "none"
    SILENCE = "silence"
    """The request surely never left: unavailable."""
    LOST_REQUEST = "lost-request"
    """It left and never arrived. A swap is unknown, and never lands; a read is unavailable."""
    LOST_REPLY = "lost-reply"
    """It arrived and the reply was lost. A swap is unknown, and has landed if it could."""
    LATE = "late"
    """It is under way. A swap is unknown, and lands later if it still can."""


@final
@attrs.frozen(kw_only=True)
class FaultRates:
    """How likely each fault is, per call; what is left of 1 are calls without a fault.

    Attributes:
        delay_s_max: every call is first delayed by up to this, evenly spread.
        land: how likely each swap that is under way lands before the next call.
    """

    silence: float = 0.0
    lost_request: float = 0.0
    lost_reply: float = 0.0
    late: float = 0.0
    delay_s_max: float = 0.0
    land: float = 0.5

    def __attrs_post_init__(self) -> None:
        rates = attrs.astuple(self)
        if min(rates) < 0 or self.land > 1:
            raise LocalUsageError(f"likelihoods are from 0 to 1, not {self}")
        faults = self.silence + self.lost_request + self.lost_reply + self.late
        if faults > 1:
            raise LocalUsageError(f"together the faults are {faults} likely; that is more than 1")


NO_FAULTS: Final = FaultRates()


@final
class FaultyArbiter(Arbiter):
    """Any arbiter, with faults that the contract of `Arbiter` allows. Same rng, same faults.

    What was put down by `fail_next` comes first, one fault a call; then `is_silent`; then chance,
    by `rates`. All three may be changed at any time.

    Args:
        inner: What answers when nothing fails.
        rng: The only source of chance.
        rates: How often chance lets something fail.
    """

    kind: ClassVar[str] = "faulty"

    def __init__(
        self, inner: Arbiter, rng: random.Random, *, rates: FaultRates = NO_FAULTS
    ) -> None:
        self.inner: Final = inner
        self.rates = rates
        self.is_silent = False
        self._rng = rng
        self._next: collections.deque[Fault] = collections.deque()
        self._late: list[tuple[bytes | None, bytes]] = []
        #: How often each fault struck.
        self.counts: Final[collections.Counter[Fault]] = collections.Counter()

    def fail_next(self, *faults: Fault) -> None:
        """Let the next calls have these faults, one each; `Fault.NONE` lets one pass."""
        self._next.extend(faults)

    @property
    def late(self) -> int:
        """How many swaps are under way."""
        return len(self._late)

    async def land_late(self) -> int:
        """Let every swap that is under way arrive, in any order; return how many took effect."""
        landing, self._late = self._late, []
        self._rng.shuffle(landing)
        return await self._land(landing)

    def drop_late(self) -> None:
        """Lose every swap that is under way."""
        self._late.clear()

    async def read(self) -> bytes | None:
        match await self._begin():
            case Fault.NONE:
                return await self.inner.read()
            case Fault.LOST_REPLY:
                await self.inner.read()
        raise ArbiterUnavailableError("no answer from the arbiter (a fault made by the test)")

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        fault = await self._begin()
        match fault:
            case Fault.NONE:
                return await self.inner.compare_and_swap(expected, new)
            case Fault.SILENCE:
                raise ArbiterUnavailableError("the arbiter is silent (a fault made by the test)")
            case Fault.LOST_REPLY:
                await self.inner.compare_and_swap(expected, new)
            case Fault.LATE:
                self._late.append((expected, new))
            case Fault.LOST_REQUEST:
                pass
            case _:
                assert_never(fault)
        raise ArbiterOutcomeUnknownError(f"{fault.value} (a fault made by the test)")

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _begin(self) -> Fault:
        await trio.lowlevel.checkpoint()
        if self.rates.delay_s_max > 0:
            await trio.sleep(self._rng.uniform(0, self.rates.delay_s_max))
        under_way, self._late = self._late, []
        landing: list[tuple[bytes | None, bytes]] = []
        for swap in under_way:
            (landing if self._rng.random() < self.rates.land else self._late).append(swap)
        await self._land(landing)
        fault = self._draw()
        self.counts[fault] += 1
        return fault

    def _draw(self) -> Fault:
        if self._next:
            return self._next.popleft()
        if self.is_silent:
            return Fault.SILENCE
        rates = self.rates
        faults = (Fault.SILENCE, Fault.LOST_REQUEST, Fault.LOST_REPLY, Fault.LATE)
        likely = (rates.silence, rates.lost_request, rates.lost_reply, rates.late)
        (fault,) = self._rng.choices((Fault.NONE, *faults), (1 - sum(likely), *likely))
        return fault

    async def _land(self, swaps: list[tuple[bytes | None, bytes]]) -> int:
        landed = 0
        for expected, new in swaps:
            # What fails below is lost on the way: a swap that is under way may be.
            with contextlib.suppress(ArbiterError):
                landed += await self.inner.compare_and_swap(expected, new)
        return landed
