"""A check is made now and then, and whatever it does, the node learns of it and goes on."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from mirrorha.abc import Check
from mirrorha.checks import Checker, CheckReport, CheckRunner, CheckState, Custom, Situation
from mirrorha.checks.runner import Hysteresis
from mirrorha.errors import CheckFailedError

S = CheckState


@attrs.define
class Patient:
    """What is checked: does what the test says, and counts."""

    behave: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint
    attempts_at: list[float] = attrs.field(factory=list)
    reports: list[CheckReport] = attrs.field(factory=list)
    running: int = 0
    most_running: int = 0

    async def examine(self) -> object:
        self.attempts_at.append(trio.current_time())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self.behave()
        finally:
            self.running -= 1

    @property
    def states(self) -> list[CheckState]:
        return [report.state for report in self.reports]

    @property
    def last(self) -> CheckReport:
        return self.reports[-1]

    def amounts_to(self, state: CheckState) -> bool:
        return self.last.state is state


async def ill() -> None:
    raise CheckFailedError("out of paper")


@asynccontextmanager
async def running(
    patient: Patient, *, situation: Situation = Situation.SERVING, **options: Any
) -> AsyncGenerator[CheckRunner, None]:
    """Run the check every 5 s; the block's own time passes in no time."""
    runner = CheckRunner(Checker(Custom(patient.examine), **options), patient.reports.append)
    runner.set_situation(situation)
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        await wait_all_tasks_blocked()
        yield runner
        nursery.cancel_scope.cancel()
    assert patient.most_running <= 1


async def test_it_is_made_every_few_seconds_from_start_to_start(
    autojump_clock: MockClock,
) -> None:
    patient = Patient(behave=partial(trio.sleep, 3))
    began = trio.current_time()
    async with running(patient):
        await trio.sleep(24)
    assert [at - began for at in patient.attempts_at] == [5, 10, 15, 20]
    assert patient.states == [S.UNKNOWN, S.WELL, S.WELL, S.WELL, S.WELL]
    assert [report.changed for report in patient.reports] == [True, True, False, False, False]
    assert patient.last.duration_ms == 3000
    assert patient.last.name == "custom examine"


async def test_two_failures_in_a_row_are_a_failure(autojump_clock: MockClock) -> None:
    patient = Patient(behave=ill)
    async with running(patient, on_failure="hand_over") as runner:
        await trio.sleep(5.5)
        assert patient.amounts_to(S.UNKNOWN)
        assert patient.last.text == "out of paper", "shown before it counts"
        await trio.sleep(5)
        assert patient.last == CheckReport(
            name="custom examine",
            kind="custom",
            on_failure="hand_over",
            state=S.FAILED,
            changed=True,
            text="out of paper",
            in_a_row=2,
            duration_ms=0,
        )
        await trio.sleep(5)
        assert (patient.last.state, patient.last.changed) == (S.FAILED, False)
        patient.behave = trio.lowlevel.checkpoint
        await trio.sleep(5)
        assert (patient.last.state, patient.last.changed) == (S.WELL, True)
        assert patient.last.text == ""
        assert runner.latest is patient.last


class OddError(BaseException):
    """Derives from what nobody should derive from."""


@pytest.mark.parametrize("error", [ZeroDivisionError("z"), SystemExit(1), OddError(), "group"])
async def test_whatever_it_raises_the_node_goes_on(
    error: BaseException | str, autojump_clock: MockClock
) -> None:
    async def behave() -> None:
        if isinstance(error, BaseException):
            raise error
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ill)
            await trio.sleep_forever()

    patient = Patient(behave=behave)
    async with running(patient):
        await trio.sleep(26)
    assert len(patient.attempts_at) == 5
    assert patient.amounts_to(S.FAILED)
    assert patient.last.text


async def test_one_that_hangs_has_failed_in_time(autojump_clock: MockClock) -> None:
    patient = Patient(behave=trio.sleep_forever)
    async with running(patient, timeout_s=2, fall=1):
        await trio.sleep(6.9)
        assert patient.amounts_to(S.UNKNOWN)
        await trio.sleep(0.2)
        assert patient.amounts_to(S.FAILED)
        assert patient.last.text == "no answer within 2 s"
        assert patient.last.duration_ms == 2000
        assert patient.running == 0
        patient.behave = trio.lowlevel.checkpoint
        await trio.sleep(3)
        assert patient.amounts_to(S.WELL)


@pytest.mark.parametrize("timeout_s", [None, 7])
async def test_one_that_hangs_until_the_next_is_due(
    timeout_s: float | None, autojump_clock: MockClock
) -> None:
    """What was cancelled then has had no time to end, which takes a moment."""

    async def behave() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)

    patient = Patient(behave=behave)
    async with running(patient, timeout_s=timeout_s):
        await trio.sleep(27)
        assert patient.amounts_to(S.FAILED)
    assert {each.text for each in patient.reports[1:]} == {f"no answer within {timeout_s or 5} s"}


async def test_one_that_cannot_be_cancelled_fails_at_every_round(
    autojump_clock: MockClock,
) -> None:
    async def ignore_everything() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(14)

    patient = Patient(behave=ignore_everything)
    async with running(patient, timeout_s=2, fall=3):
        await trio.sleep(15.5)
        assert patient.states == [S.UNKNOWN, S.UNKNOWN, S.UNKNOWN, S.FAILED]
        assert "begun 10 s ago was interrupted, and has not ended" in patient.last.text
        assert len(patient.attempts_at) == 1, "and none is made beside it"
        patient.behave = trio.lowlevel.checkpoint
        await trio.sleep(5)
        assert patient.amounts_to(S.WELL), "it has returned meanwhile"


async def test_it_pauses_where_it_does_not_apply_and_forgets(autojump_clock: MockClock) -> None:
    patient = Patient(behave=ill)
    async with running(patient, situation=Situation.NEITHER) as runner:
        await trio.sleep(60)
        assert not patient.attempts_at
        assert runner.latest.state is S.PAUSED
        runner.set_situation(Situation.SERVING)
        await trio.sleep(5.5)
        assert patient.last.in_a_row == 1
        runner.set_situation(Situation.NEITHER)
        await wait_all_tasks_blocked()
        assert patient.amounts_to(S.PAUSED)
        runner.set_situation(Situation.SERVING)
        await trio.sleep(5.5)
        assert patient.amounts_to(S.UNKNOWN), "the failure before the pause does not count"
        assert patient.last.in_a_row == 1
        await trio.sleep(5)
        assert patient.amounts_to(S.FAILED)


async def test_a_restart_between_two_looks_is_not_missed(autojump_clock: MockClock) -> None:
    patient = Patient(behave=ill)
    async with running(patient) as runner:
        await trio.sleep(10.5)
        assert patient.amounts_to(S.FAILED)
        runner.set_situation(Situation.NEITHER)
        runner.set_situation(Situation.SERVING)
        await wait_all_tasks_blocked()
        assert patient.amounts_to(S.UNKNOWN)
        made = len(patient.attempts_at)
        await trio.sleep(4.9)
        assert len(patient.attempts_at) == made, "the new life begins with a pause"
        await trio.sleep(0.2)
        assert len(patient.attempts_at) == made + 1


async def test_what_failed_before_the_service_started_fails_again(
    autojump_clock: MockClock,
) -> None:
    """Or nobody would act on what always applies, and never changes."""
    patient = Patient(behave=ill)
    async with running(patient, situation=Situation.SECOND, when="always", fall=1) as runner:
        await trio.sleep(6)
        assert (patient.last.state, patient.last.changed) == (S.FAILED, True)
        await trio.sleep(5)
        assert not patient.last.changed
        runner.set_situation(Situation.NEITHER)
        await wait_all_tasks_blocked()
        assert patient.amounts_to(S.FAILED), "its life goes on"
        runner.set_situation(Situation.SERVING)
        await wait_all_tasks_blocked()
        assert patient.amounts_to(S.UNKNOWN)
        await trio.sleep(5.5)
        assert (patient.last.state, patient.last.changed) == (S.FAILED, True)


@attrs.define
class Sentinel(Check):
    """A check that is told of what it looks for; counts."""

    kind: ClassVar[str] = "sentinel"
    fall: ClassVar[int] = 1

    is_well: bool = True
    attempts_at: list[float] = attrs.field(factory=list)
    waits: int = 0
    running: int = 0
    sign: trio.Event = attrs.field(factory=trio.Event)
    behave: Callable[[], Awaitable[object]] | None = None

    async def check(self) -> None:
        assert not self.running, "never at once with a wait"
        self.attempts_at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if not self.is_well:
            await ill()

    async def wait_unwell(self) -> None:
        self.waits += 1
        self.running += 1
        try:
            await (self.sign.wait() if self.behave is None else self.behave())
        finally:
            self.running -= 1


@asynccontextmanager
async def guarded(sentinel: Sentinel) -> AsyncGenerator[list[CheckReport], None]:
    reports: list[CheckReport] = []
    runner = CheckRunner(Checker(sentinel), reports.append)
    runner.set_situation(Situation.SERVING)
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        yield reports
        nursery.cancel_scope.cancel()


async def test_a_sign_that_it_is_not_well_is_followed_at_once(autojump_clock: MockClock) -> None:
    sentinel, began = Sentinel(), trio.current_time()
    sentinel.sign.set()  # of another life: nobody listens yet
    async with guarded(sentinel) as reports:
        await trio.sleep(4.9)
        assert (sentinel.attempts_at, sentinel.waits) == ([], 0)
        sentinel.sign = trio.Event()
        await trio.sleep(2.1)
        assert sentinel.waits == 1
        sentinel.is_well = False
        sentinel.sign.set()
        await wait_all_tasks_blocked()
        assert reports[-1].state is S.FAILED, "one certain failure is enough"
        await trio.sleep(4.9)
        assert sentinel.waits == 1, "nobody waits for what has happened"
        sentinel.is_well, sentinel.sign = True, trio.Event()
        await trio.sleep(5.3)
        assert reports[-1].state is S.WELL
    assert [at - began for at in sentinel.attempts_at] == [5, 7, 12, 17]


async def test_nobody_waits_for_a_sign_of_what_is_not_well(autojump_clock: MockClock) -> None:
    sentinel = Sentinel(is_well=False)
    async with guarded(sentinel) as reports:
        await trio.sleep(16)
        assert reports[-1].state is S.FAILED
    assert (len(sentinel.attempts_at), sentinel.waits) == (3, 0)


async def test_false_alarms_cost_one_attempt_each_time(autojump_clock: MockClock) -> None:
    sentinel = Sentinel(behave=trio.lowlevel.checkpoint)
    async with guarded(sentinel) as reports:
        await trio.sleep(26)
    assert len(sentinel.attempts_at) == 10, "one beside each that was due"
    assert reports[-1].state is S.WELL


async def test_a_wait_that_raises_is_no_more_than_an_alarm(autojump_clock: MockClock) -> None:
    sentinel = Sentinel(behave=ill)
    async with guarded(sentinel) as reports:
        await trio.sleep(26)
    assert reports[-1].state is S.WELL
    assert not [report for report in reports if report.text]


async def test_a_wait_that_cannot_be_ended_is_seen(autojump_clock: MockClock) -> None:
    async def ignore_everything() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(30)

    sentinel = Sentinel(behave=ignore_everything)
    async with guarded(sentinel) as reports:
        await trio.sleep(26)
        assert reports[-1].state is S.FAILED
        assert "was interrupted, and has not ended" in reports[-1].text
        sentinel.behave = None
        await trio.sleep(20)
        assert reports[-1].state is S.WELL


async def test_an_attempt_in_flight_at_a_pause_is_dropped(autojump_clock: MockClock) -> None:
    patient = Patient(behave=trio.sleep_forever)
    async with running(patient, fall=1) as runner:
        await trio.sleep(6)
        assert patient.running == 1
        runner.set_situation(Situation.NEITHER)
        await wait_all_tasks_blocked()
        assert patient.running == 0
        assert patient.states == [S.UNKNOWN, S.PAUSED]


async def test_one_stuck_since_before_a_pause_fails_after_it(autojump_clock: MockClock) -> None:
    """Or a thread that hangs would silently end all checking of a restarted service."""

    async def ignore_everything() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    patient = Patient(behave=ignore_everything)
    async with running(patient, fall=1) as runner:
        await trio.sleep(6)
        runner.set_situation(Situation.NEITHER)
        runner.set_situation(Situation.SERVING)
        await trio.sleep(5.5)
        assert patient.amounts_to(S.FAILED)


@pytest.mark.parametrize(
    ("when", "situation", "applies"),
    [
        (when, situation, when in (situation.value, "always"))
        for when, situation in itertools.product(("serving", "second", "always"), Situation)
    ],
)
async def test_when(
    when: str, situation: Situation, applies: bool, autojump_clock: MockClock
) -> None:
    patient = Patient()
    async with running(patient, situation=situation, when=when):
        await trio.sleep(6)
    assert bool(patient.attempts_at) is applies


@given(fall=st.integers(1, 4), rise=st.integers(1, 4), outcomes=st.lists(st.booleans()))
def test_hysteresis_against_its_definition(fall: int, rise: int, outcomes: list[bool]) -> None:
    hysteresis = Hysteresis(fall, rise)
    expected = S.UNKNOWN
    for n, is_well in enumerate(outcomes, 1):
        tail = outcomes[:n]
        if is_well and tail[-rise:] == [True] * rise:
            expected = S.WELL
        if not is_well and tail[-fall:] == [False] * fall:
            expected = S.FAILED
        assert hysteresis.observe(is_well=is_well) is expected
    hysteresis.reset()
    assert hysteresis == Hysteresis(fall, rise)
