"""The fakes do what tests count on: each fault exactly as it is named."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from mirrorha.errors import (
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    LocalUsageError,
)
from mirrorha.testing.fake_arbiter import (
    Fault,
    FaultRates,
    FaultyArbiter,
    MemoryArbiter,
    MemoryStore,
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def faulty(store: MemoryStore) -> FaultyArbiter:
    return FaultyArbiter(MemoryArbiter(store), random.Random(0))


async def test_clients_share_a_store_and_strangers_do_not(store: MemoryStore) -> None:
    assert await MemoryArbiter(store).compare_and_swap(None, b"1")
    assert await MemoryArbiter(store).read() == b"1"
    assert await MemoryArbiter().read() is None


async def test_without_faults_it_is_transparent(faulty: FaultyArbiter, store: MemoryStore) -> None:
    assert await faulty.read() is None
    assert await faulty.compare_and_swap(None, b"1") is True
    assert await faulty.compare_and_swap(None, b"2") is False
    assert store.record == b"1"
    assert faulty.counts == {Fault.NONE: 3}


@pytest.mark.parametrize("fault", [Fault.SILENCE, Fault.LOST_REQUEST, Fault.LOST_REPLY, Fault.LATE])
async def test_a_read_that_fails_is_unavailable(faulty: FaultyArbiter, fault: Fault) -> None:
    faulty.fail_next(fault)
    with pytest.raises(ArbiterUnavailableError):
        await faulty.read()
    assert await faulty.read() is None


async def test_silence_changes_nothing(faulty: FaultyArbiter, store: MemoryStore) -> None:
    faulty.is_silent = True
    for _ in range(3):
        with pytest.raises(ArbiterUnavailableError):
            await faulty.compare_and_swap(None, b"1")
    assert store.record is None
    faulty.is_silent = False
    assert await faulty.compare_and_swap(None, b"1")


async def test_lost_request_is_unknown_and_never_lands(
    faulty: FaultyArbiter, store: MemoryStore
) -> None:
    faulty.fail_next(Fault.LOST_REQUEST)
    with pytest.raises(ArbiterOutcomeUnknownError):
        await faulty.compare_and_swap(None, b"1")
    assert await faulty.land_late() == 0
    assert store.record is None


async def test_lost_reply_is_unknown_and_has_landed(
    faulty: FaultyArbiter, store: MemoryStore
) -> None:
    faulty.fail_next(Fault.LOST_REPLY, Fault.LOST_REPLY)
    for record in (b"1", b"2"):
        with pytest.raises(ArbiterOutcomeUnknownError):
            await faulty.compare_and_swap(None, record)
        assert store.record == b"1", "the second was refused, and its caller cannot know"


async def test_late_swap_lands_when_told_if_it_still_can(
    faulty: FaultyArbiter, store: MemoryStore
) -> None:
    faulty.rates = FaultRates(land=0)
    faulty.fail_next(Fault.LATE, Fault.LATE)
    for record in (b"1", b"2"):
        with pytest.raises(ArbiterOutcomeUnknownError):
            await faulty.compare_and_swap(None, record)
    assert await faulty.read() is None
    assert faulty.late == 2
    assert await faulty.land_late() == 1
    assert faulty.late == 0
    assert store.record in (b"1", b"2")
    assert await faulty.land_late() == 0


async def test_late_swap_is_beaten_by_a_different_one(
    faulty: FaultyArbiter, store: MemoryStore
) -> None:
    faulty.rates = FaultRates(land=0)
    faulty.fail_next(Fault.LATE)
    with pytest.raises(ArbiterOutcomeUnknownError):
        await faulty.compare_and_swap(None, b"late")
    assert await faulty.compare_and_swap(None, b"other")
    assert await faulty.land_late() == 0
    assert store.record == b"other"


async def test_late_swap_lands_before_the_next_call(
    faulty: FaultyArbiter, store: MemoryStore
) -> None:
    faulty.rates = FaultRates(land=1)
    faulty.fail_next(Fault.LATE)
    with pytest.raises(ArbiterOutcomeUnknownError):
        await faulty.compare_and_swap(None, b"late")
    assert store.record is None
    assert await faulty.compare_and_swap(None, b"other") is False
    assert await faulty.read() == b"late"


async def test_late_swap_can_be_lost(faulty: FaultyArbiter, store: MemoryStore) -> None:
    faulty.fail_next(Fault.LATE)
    with pytest.raises(ArbiterOutcomeUnknownError):
        await faulty.compare_and_swap(None, b"late")
    faulty.drop_late()
    assert await faulty.land_late() == 0
    assert store.record is None


async def test_delay_is_bounded(autojump_clock: MockClock, store: MemoryStore) -> None:
    faulty = FaultyArbiter(
        MemoryArbiter(store), random.Random(1), rates=FaultRates(delay_s_max=2.0)
    )
    took_s = []
    for _ in range(20):
        began_s = trio.current_time()
        await faulty.read()
        took_s.append(trio.current_time() - began_s)
    assert max(took_s) <= 2.0
    assert len(set(took_s)) == 20


async def fault_trace(seed: int) -> list[str]:
    rates = FaultRates(silence=0.2, lost_request=0.2, lost_reply=0.2, late=0.2)
    store = MemoryStore()
    faulty = FaultyArbiter(MemoryArbiter(store), random.Random(seed), rates=rates)
    trace = []
    for number in range(50):
        try:
            trace.append(str(await faulty.compare_and_swap(store.record, str(number).encode())))
        except (ArbiterUnavailableError, ArbiterOutcomeUnknownError) as error:
            trace.append(str(error))
        trace.append(str(store.record))
    assert set(faulty.counts) == set(Fault), "50 calls meet every fault"
    return trace


async def test_same_seed_same_faults() -> None:
    assert await fault_trace(1) == await fault_trace(1)
    assert await fault_trace(1) != await fault_trace(2)


@pytest.mark.parametrize(
    "rates", [{"silence": -0.1}, {"land": 1.5}, {"late": 0.6, "lost_reply": 0.6}]
)
def test_impossible_rates_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(LocalUsageError):
        FaultRates(**rates)
