"""Notices are told in order; who puts them there waits for nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

import attrs
import pytest
import trio
from trio.testing import MockClock

from mirrorha.errors import ConfigError, NotifyError
from mirrorha.notify import Notice, NotifyRule, Outbox
from mirrorha.notify.outbox import END_S, PAUSES_S, WAITING_MAX


def notice(text: str, subject: str = "role") -> Notice:
    return Notice(
        subject=subject,  # type: ignore[arg-type]
        cluster="orders",
        node="paris",
        epoch=1,
        role="PRIM",
        at_s=0,
        text=text,
    )


@attrs.define
class FakeNotifier:
    kind: ClassVar[str] = "fake"

    behave: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint
    told: list[str] = attrs.field(factory=list)

    async def tell(self, notice: Notice) -> None:
        self.told.append(notice.text)
        await self.behave()


async def fail() -> None:
    raise NotifyError("the mail server is out")


async def test_in_order_and_only_what_is_wanted(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    notifier = FakeNotifier()
    outbox = Outbox(NotifyRule(notifier, on=["role", "check"]))
    outbox.put(notice("a"))
    nursery.start_soon(outbox.run)
    await trio.sleep(1)
    outbox.put(notice("b", "split"))
    outbox.put(notice("c", "check"))
    await trio.sleep(1)
    assert notifier.told == ["a", "c"]


@pytest.mark.parametrize("behave", [fail, trio.sleep_forever])
async def test_what_cannot_be_told_is_tried_and_left_out(
    behave: Callable[[], Awaitable[object]], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    notifier = FakeNotifier(behave)
    outbox = Outbox(NotifyRule(notifier, timeout_s=10))
    nursery.start_soon(outbox.run)
    outbox.put(notice("a"))
    await trio.sleep(sum(PAUSES_S) + 10 * (len(PAUSES_S) + 1) + 1)
    assert notifier.told == ["a"] * (len(PAUSES_S) + 1)
    assert outbox.lost == 1
    notifier.behave = trio.lowlevel.checkpoint
    outbox.put(notice("b"))
    await trio.sleep(1)
    assert notifier.told[-1] == "b"


async def test_one_attempt_that_fails_costs_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    notifier = FakeNotifier(fail)
    outbox = Outbox(NotifyRule(notifier))
    nursery.start_soon(outbox.run)
    outbox.put(notice("a"))
    outbox.put(notice("b"))
    await trio.sleep(PAUSES_S[0] / 2)
    notifier.behave = trio.lowlevel.checkpoint
    await trio.sleep(PAUSES_S[0])
    assert notifier.told == ["a", "a", "b"]
    assert outbox.lost == 0


async def test_too_many_cost_the_oldest(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    notifier = FakeNotifier(fail)
    outbox = Outbox(NotifyRule(notifier))
    nursery.start_soon(outbox.run)
    outbox.put(notice("first"))
    await trio.sleep(0.1)
    for number in range(WAITING_MAX):
        outbox.put(notice(str(number)))
    assert outbox.lost == 1
    notifier.behave = trio.lowlevel.checkpoint
    await trio.sleep(60)
    assert notifier.told == ["first", *map(str, range(WAITING_MAX))]


@pytest.mark.parametrize("behave", [trio.lowlevel.checkpoint, fail, trio.sleep_forever])
async def test_the_end_tells_what_is_left_and_is_bounded(
    behave: Callable[[], Awaitable[object]], autojump_clock: MockClock
) -> None:
    notifier = FakeNotifier(trio.sleep_forever)
    outbox = Outbox(NotifyRule(notifier))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        outbox.put(notice("a"))
        outbox.put(notice("b"))
        await trio.sleep(0.1)
        notifier.behave = behave
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began <= END_S
    expected = ["a", "a"] if behave is trio.sleep_forever else ["a", "a", "b"]
    assert notifier.told == expected


def test_a_rule_that_makes_no_sense_is_refused_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        NotifyRule(FakeNotifier(), on=["role", "weather"], timeout_s=0)  # type: ignore[list-item]
    assert len(caught.value.problems) == 2
