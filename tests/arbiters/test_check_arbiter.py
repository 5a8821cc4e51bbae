"""The conformance suite passes arbiters that keep the contract, and finds each kind of lie."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, ClassVar

import pytest
import trio
from trio.testing import MockClock

from mirrorha.abc import Arbiter
from mirrorha.errors import (
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    LocalUsageError,
)
from mirrorha.testing.check_arbiter import ArbiterConformanceError, check_arbiter
from mirrorha.testing.fake_arbiter import FaultRates, FaultyArbiter, MemoryArbiter, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_memory_arbiter_conforms(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    await check_arbiter(lambda: MemoryArbiter(store))
    assert store.version > 50


async def test_make_may_be_async(autojump_clock: MockClock) -> None:
    store = MemoryStore()

    async def make() -> Arbiter:
        return MemoryArbiter(store)

    await check_arbiter(make, races=2)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "rates",
    [
        FaultRates(silence=0.3),
        FaultRates(lost_request=0.3),
        FaultRates(lost_reply=0.3),
        FaultRates(late=0.4, land=0.1),
        FaultRates(silence=0.1, lost_request=0.1, lost_reply=0.1, late=0.1, delay_s_max=0.05),
    ],
    ids=["silence", "lost-request", "lost-reply", "late", "all"],
)
async def test_faults_that_the_contract_allows_conform(
    autojump_clock: MockClock, rates: FaultRates, seed: int
) -> None:
    store = MemoryStore()
    rng = random.Random(seed)
    await check_arbiter(
        lambda: FaultyArbiter(MemoryArbiter(store), rng, rates=rates), races=20, seed=seed
    )


class Liar(Arbiter):
    """A client of a record in memory, for lies to be derived from."""

    kind: ClassVar[str] = "liar"

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def read(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self.store.record

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return self.store.compare_and_swap(expected, new)


class TwoWin(Liar):
    """Compares, waits for its disk, then writes: two can compare before one writes."""

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        if self.store.record != expected:
            return False
        await trio.sleep(0.001)
        self.store.record = new
        return True


class NeverCompares(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        self.store.record = new
        return True


class CreatesTwice(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return self.store.compare_and_swap(self.store.record if expected is None else expected, new)


class CreatesWhatWasExpected(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return self.store.compare_and_swap(None if self.store.record is None else expected, new)


class ComparesBeginnings(Liar):
    """As one that keeps the record in a field that is too short."""

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        record = self.store.record
        if (record is None) is not (expected is None):
            return False
        if record is not None and expected is not None and not record.startswith(expected[:60]):
            return False
        self.store.record = new
        return True


class CachesReads(Liar):
    """Reads what it last wrote or read, and looks again only every other time."""

    _cache: bytes | None = None
    _reads = 0

    async def read(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        self._reads += 1
        if self._reads % 2:
            self._cache = self.store.record
        return self._cache


class LaggingReplica(Liar):
    """Serves reads from a copy that follows after a moment."""

    def __init__(self, store: MemoryStore, replica: MemoryStore) -> None:
        super().__init__(store)
        self.replica = replica

    async def read(self) -> bytes | None:
        record = self.replica.record
        await trio.sleep(0.001)
        self.replica.record = self.store.record
        return record


class SaysNoButApplies(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        return await super().compare_and_swap(expected, new) and self.store.version % 7 != 0


class SaysYesButForgets(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        if self.store.version % 7 == 5:
            self.store.version += 1
            return self.store.record == expected
        return await super().compare_and_swap(expected, new)


class SaysUnavailableButApplies(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        won = await super().compare_and_swap(expected, new)
        if won and self.store.version % 7 == 0:
            raise ArbiterUnavailableError("surely nothing happened")
        return won


class SaysNothing(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        await super().compare_and_swap(expected, new)
        return None  # type: ignore[return-value]


class LandsWithoutComparing(Liar):
    """What it calls unknown is written later, whatever the record is then."""

    _late: bytes | None = None
    _swaps = 0

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        if self._late is not None:
            self.store.record, self._late = self._late, None
        self._swaps += 1
        if self._swaps % 5 == 0:
            self._late = new
            raise ArbiterOutcomeUnknownError("it may land")
        return await super().compare_and_swap(expected, new)


class RefusesAtRandom(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        self.store.version += 1
        if self.store.version % 10 == 0:
            return False
        return await super().compare_and_swap(expected, new)


class CutsLargeRecords(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        return await super().compare_and_swap(expected, new[:2048])


class TakesTextOnly(Liar):
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        return await super().compare_and_swap(expected, new.decode("utf-8", "replace").encode())


class EqualIsNotEqual(Liar):
    """Compares versions of its own, so that a record that is swapped for itself is refused."""

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        return await super().compare_and_swap(expected, new) if expected != new else False


class DiesWhenCancelled(Liar):
    _is_dead = False

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        if self._is_dead:
            raise ArbiterUnavailableError("the connection was lost once")
        try:
            return await super().compare_and_swap(expected, new)
        except trio.Cancelled:
            self._is_dead = True
            raise


class NeverAnswers(Liar):
    async def read(self) -> bytes | None:
        await trio.sleep(2)
        raise ArbiterUnavailableError("no route to host")


def lagging() -> Callable[[MemoryStore], Arbiter]:
    replica = MemoryStore()
    return lambda store: LaggingReplica(store, replica)


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        (TwoWin, "contenders won from one record"),
        (NeverCompares, "there was no record"),
        (CreatesTwice, "a swap that expected no record won"),
        (CreatesWhatWasExpected, "there was no record"),
        (ComparesBeginnings, "won, though there was"),
        (CachesReads, "a read found"),
        (lagging(), "a read found"),
        (SaysNoButApplies, "refused|did not take effect"),
        (SaysYesButForgets, "a read found|a read finds"),
        (SaysUnavailableButApplies, "called unavailable took effect|did not take effect|must be"),
        (SaysNothing, "returned None, not a bool"),
        (LandsWithoutComparing, "a read found|did not take effect|a read finds"),
        (RefusesAtRandom, "refused"),
        (CutsLargeRecords, "a read found"),
        (TakesTextOnly, "a read found"),
        (EqualIsNotEqual, "was what it expected"),
        (DiesWhenCancelled, "none took effect"),
        (NeverAnswers, "20 reads in a row failed, at last with: no route to host"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_lies_are_found(
    autojump_clock: MockClock, lie: Callable[[MemoryStore], Arbiter], text: str
) -> None:
    store = MemoryStore()
    with pytest.raises(ArbiterConformanceError, match=text):
        await check_arbiter(lambda: lie(store))


async def test_every_client_is_closed_even_after_a_lie(autojump_clock: MockClock) -> None:
    closed: list[Arbiter] = []

    class Closing(TwoWin):
        async def aclose(self) -> None:
            closed.append(self)

    store = MemoryStore()
    with pytest.raises(ArbiterConformanceError):
        await check_arbiter(lambda: Closing(store), contenders=3)
    assert len(closed) == 3


async def test_an_existing_record_is_not_touched(autojump_clock: MockClock) -> None:
    store = MemoryStore(record=b"of a cluster that lives")
    with pytest.raises(LocalUsageError, match="cluster that lives"):
        await check_arbiter(lambda: MemoryArbiter(store))
    assert store == MemoryStore(record=b"of a cluster that lives")


async def test_a_race_needs_two() -> None:
    with pytest.raises(LocalUsageError, match="at least 2"):
        await check_arbiter(MemoryArbiter, contenders=1)
