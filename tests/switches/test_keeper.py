"""A switch is brought where it should be and kept there, whatever it does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mirrorha.errors import ConfigError
from mirrorha.switches import SwitchKeeper, SwitchReport, SwitchRule, SwitchState
from mirrorha.switches.keeper import END_S, QUARREL_S, QUARREL_TIMES, RETRY_S
from mirrorha.testing.fake_switch import MemorySwitch, SwitchStore

S = SwitchState


@attrs.define
class Kept:
    """A keeper, what its switch does, and what it reported."""

    store: SwitchStore
    keeper: SwitchKeeper
    reports: list[SwitchReport]

    @property
    def states(self) -> list[SwitchState]:
        return [report.state for report in self.reports]


@asynccontextmanager
async def kept(store: SwitchStore | None = None) -> AsyncGenerator[Kept]:
    store = SwitchStore() if store is None else store
    reports: list[SwitchReport] = []
    rule = SwitchRule(MemorySwitch(store), every_s=3, timeout_s=10)
    keeper = SwitchKeeper(rule, reports.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        yield Kept(store, keeper, reports)
        nursery.cancel_scope.cancel()


async def test_it_follows_what_is_wanted(mock_clock: MockClock) -> None:
    async with kept() as one:
        await wait_all_tasks_blocked()
        one.keeper.set_wanted(True)
        await one.keeper.wait_settled()
        assert one.store.is_engaged
        one.keeper.set_wanted(False)
        await one.keeper.wait_settled()
        assert not one.store.is_engaged
        assert one.states == [S.DISENGAGED, S.MOVING, S.ENGAGED, S.MOVING, S.DISENGAGED]
        assert one.store.calls == ["is_engaged", "engage", "disengage"]


async def test_what_a_former_life_left_is_ended(mock_clock: MockClock) -> None:
    async with kept(SwitchStore(is_engaged=True)) as one:
        await wait_all_tasks_blocked()
        assert not one.store.is_engaged


@pytest.mark.parametrize("wanted", [True, False])
async def test_what_somebody_else_changed_is_put_right(
    autojump_clock: MockClock, wanted: bool
) -> None:
    async with kept() as one:
        one.keeper.set_wanted(wanted)
        await one.keeper.wait_settled()
        one.store.is_engaged = not wanted
        await trio.sleep(one.keeper.rule.every_s + RETRY_S)
        assert one.store.is_engaged is wanted


@pytest.mark.parametrize("wanted", [True, False])
async def test_who_changes_it_again_and_again_is_told_of_once(
    autojump_clock: MockClock, wanted: bool
) -> None:
    """Two clusters on one machine with one address: each would put it right, in silence."""
    async with kept() as one:
        one.keeper.set_wanted(wanted)
        await one.keeper.wait_settled()
        for number in range(12):
            one.store.is_engaged = not wanted
            await trio.sleep(one.keeper.rule.every_s + RETRY_S)
            assert one.store.is_engaged is wanted
            assert (one.keeper.latest.state is S.FAILED) is (number >= QUARREL_TIMES - 1)
        assert "by somebody else" in one.keeper.latest.text
        assert one.states.count(S.FAILED) == 1
        await trio.sleep(QUARREL_S + one.keeper.rule.every_s)
        assert one.keeper.latest.state is (S.ENGAGED if wanted else S.DISENGAGED)


async def test_one_that_failed_for_long_is_no_quarrel(autojump_clock: MockClock) -> None:
    async with kept(SwitchStore(trouble="not permitted")) as one:
        one.keeper.set_wanted(True)
        await trio.sleep(10)
        one.store.trouble = ""
        await trio.sleep(2 * one.keeper.rule.every_s)
        assert one.keeper.latest.state is S.ENGAGED


async def test_what_is_engaged_is_renewed(autojump_clock: MockClock) -> None:
    async with kept() as one:
        one.keeper.set_wanted(True)
        await trio.sleep(2.5 * one.keeper.rule.every_s)
        assert one.store.calls.count("renew") == 2
        assert one.store.calls.count("engage") == 1
        one.keeper.set_wanted(False)
        await trio.sleep(2.5 * one.keeper.rule.every_s)
        assert one.store.calls.count("renew") == 2


async def test_a_failure_is_reported_and_tried_again(autojump_clock: MockClock) -> None:
    async with kept() as one:
        one.store.trouble = "no such route table"
        one.keeper.set_wanted(True)
        await one.keeper.wait_settled()
        report = one.keeper.latest
        assert report.state is S.FAILED
        assert report.text == "serving, traffic not moved: no such route table"
        one.store.trouble = ""
        await trio.sleep(2 * RETRY_S)
        assert one.store.is_engaged
        assert one.keeper.latest.state is S.ENGAGED
        assert not one.keeper.latest.text


async def test_attempts_grow_rare_up_to_the_ordinary_rounds(autojump_clock: MockClock) -> None:
    async with kept() as one:
        one.store.trouble = "no"
        one.keeper.set_wanted(True)
        await trio.sleep(60)
        # 0.1, 0.2, … 3.2 s and then every 3.
        assert 15 < len(one.store.calls) < 30


async def test_a_switch_that_hangs_is_reported(autojump_clock: MockClock) -> None:
    async with kept() as one:
        one.store.hangs = True
        one.keeper.set_wanted(True)
        began = trio.current_time()
        await one.keeper.wait_settled()
        assert trio.current_time() - began == pytest.approx(one.keeper.rule.timeout_s)
        assert one.keeper.latest.text == "serving, traffic not moved: no answer within 10 s"


async def test_an_engage_under_way_ends_when_it_is_not_wanted_any_more(
    autojump_clock: MockClock,
) -> None:
    async with kept() as one:
        await wait_all_tasks_blocked()
        one.store.hangs = True
        one.keeper.set_wanted(True)
        await wait_all_tasks_blocked()
        one.store.hangs = False
        began = trio.current_time()
        one.keeper.set_wanted(False)
        await one.keeper.wait_settled()
        assert trio.current_time() == began
        assert one.store.calls[-2:] == ["engage", "disengage"]
        assert S.FAILED not in one.states


async def test_a_change_there_and_back_is_no_failure(autojump_clock: MockClock) -> None:
    async with kept() as one:
        await wait_all_tasks_blocked()
        one.store.hangs = True
        one.keeper.set_wanted(True)
        await wait_all_tasks_blocked()
        one.store.hangs = False
        one.keeper.set_wanted(False)
        one.keeper.set_wanted(True)
        await one.keeper.wait_settled()
        assert one.store.is_engaged
        assert S.FAILED not in one.states


async def test_clients_are_sent_away_at_the_end(autojump_clock: MockClock) -> None:
    store = SwitchStore()
    async with kept(store) as one:
        one.keeper.set_wanted(True)
        await one.keeper.wait_settled()
        assert store.is_engaged
    assert not store.is_engaged


async def test_the_end_is_bounded(autojump_clock: MockClock) -> None:
    store = SwitchStore()
    async with kept(store) as one:
        one.keeper.set_wanted(True)
        await one.keeper.wait_settled()
        store.hangs = True
        began = trio.current_time()
    assert trio.current_time() - began <= END_S + RETRY_S


def test_a_rule_that_makes_no_sense_is_refused_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        SwitchRule("x", when="later", every_s=0, timeout_s=-1)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 4


async def test_what_may_pass_is_waited_for_and_no_longer(autojump_clock: MockClock) -> None:
    store = SwitchStore(trouble="in use", passes_within_s=15)
    async with kept(store) as one:
        await one.keeper.wait_hopefully()
        one.keeper.set_wanted(True)
        await one.keeper.wait_settled()
        began = trio.current_time()
        with trio.move_on_after(10):
            await one.keeper.wait_hopefully()
        assert trio.current_time() - began == 10
        await one.keeper.wait_hopefully()
        assert trio.current_time() - began == pytest.approx(15 + one.keeper.rule.every_s)
        await one.keeper.wait_hopefully()
        assert trio.current_time() - began < 20, "from the first failure on, not from each"


async def test_who_waits_goes_on_once_it_has_passed_or_is_not_wanted(
    autojump_clock: MockClock,
) -> None:
    for ends in ("passed", "unwanted"):
        store = SwitchStore(trouble="in use", passes_within_s=15)
        async with kept(store) as one, trio.open_nursery() as nursery:
            one.keeper.set_wanted(True)
            await one.keeper.wait_settled()
            began = trio.current_time()
            nursery.start_soon(one.keeper.wait_hopefully)
            await trio.sleep(5)
            if ends == "passed":
                store.trouble = ""
            else:
                one.keeper.set_wanted(False)
            nursery.cancel_scope.deadline = trio.current_time() + 8
        assert not nursery.cancel_scope.cancelled_caught
        assert trio.current_time() - began <= 5 + one.keeper.rule.every_s


async def test_who_knows_when_it_passes_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with kept(SwitchStore(trouble="not permitted")) as one:
        one.keeper.set_wanted(True)
        await one.keeper.wait_settled()
        began = trio.current_time()
        await one.keeper.wait_hopefully()
        assert trio.current_time() == began
