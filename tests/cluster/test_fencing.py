"""A lost peer is fenced before this node goes on alone, and only a confirmed stop counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mirrorha import FencerRule
from mirrorha.abc import Fencer
from mirrorha.cluster.fencing import Fencing
from mirrorha.core.effects import AskFencer
from mirrorha.core.state import Kind
from mirrorha.core.words import Role
from mirrorha.errors import ConfigError, FencerError
from tests.cluster.rig import open_pair, start_pair, wait_until


@attrs.define(eq=False)
class FakeFencer(Fencer):
    """Answers as told, and counts."""

    kind: ClassVar[str] = "fake"

    behave: Callable[[], Awaitable[object]]
    asked: list[tuple[str, Mapping[str, str]]] = attrs.field(factory=list)

    async def fence(self, peer: str, *, environment: Mapping[str, str]) -> bool:
        self.asked.append((peer, environment))
        return await self.behave()  # type: ignore[return-value]


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


async def something() -> str:
    return "stopped"


async def fail() -> bool:
    raise FencerError("no such outlet")


async def fail_badly() -> bool:
    raise SystemExit(0)


@attrs.define
class _Pair:
    fencing: int = 1


@attrs.define
class _Decision:
    kind: Kind = Kind.ALONE


@attrs.define
class _State:
    """Of a node's state, what fencing looks at."""

    me: str = "paris"
    other: str = "lyon"
    epoch: int = 7
    why: str = "lyon is lost"
    pair: _Pair = attrs.field(factory=_Pair)
    decision: _Decision | None = attrs.field(factory=_Decision)
    link: int = 0


@attrs.define
class Asked:
    state: _State = attrs.field(factory=_State)
    answers: list[tuple[int, bool]] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    def fencing(self, *fencers: Fencer, timeout_s: float = 30) -> Fencing:
        return Fencing(
            [FencerRule(each, timeout_s=timeout_s) for each in fencers],
            cluster="orders",
            state=lambda: self.state,  # type: ignore[arg-type, return-value]
            give=lambda event: self.answers.append((event.token, event.stopped)),
            note=lambda rule, text, alarm: self.notes.append(text),
        )


async def test_a_confirmed_stop_is_told() -> None:
    asked, fencer = Asked(), FakeFencer(yes)
    await asked.fencing(fencer).ask(AskFencer(1, incarnation=5))
    assert asked.answers == [(1, True)]
    ((peer, environment),) = fencer.asked
    assert peer == "lyon"
    assert environment == {
        "MIRRORHA_CLUSTER": "orders",
        "MIRRORHA_NODE": "paris",
        "MIRRORHA_PEER": "lyon",
        "MIRRORHA_EPOCH": "7",
        "MIRRORHA_WHY": "lyon is lost",
    }


@pytest.mark.parametrize("behave", [no, something, fail, fail_badly, trio.sleep_forever])
async def test_nothing_else_confirms(
    behave: Callable[[], Awaitable[object]], autojump_clock: MockClock
) -> None:
    asked = Asked()
    began = trio.current_time()
    await asked.fencing(FakeFencer(behave), timeout_s=30).ask(AskFencer(1, incarnation=5))
    assert asked.answers == [(1, False)]
    assert len(asked.notes) == 1
    assert trio.current_time() - began <= 30


async def test_one_that_confirms_is_enough(autojump_clock: MockClock) -> None:
    asked, last = Asked(), FakeFencer(yes)
    fencers = [FakeFencer(trio.sleep_forever), FakeFencer(fail), FakeFencer(yes), last]
    await asked.fencing(*fencers).ask(AskFencer(1, incarnation=5))
    assert asked.answers == [(1, True)]
    assert [len(each.asked) for each in fencers] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"pair": _Pair(fencing=0)},
        {"link": 4},
        {"decision": None},
        {"decision": _Decision(Kind.JOIN)},
    ],
    ids=["forgotten", "peer-is-back", "decided", "something-else-is-decided"],
)
async def test_nobody_is_fenced_who_is_no_more_to_be(change: dict[str, Any]) -> None:
    asked, fencer = Asked(), FakeFencer(yes)
    asked.state = attrs.evolve(asked.state, **change)
    await asked.fencing(fencer).ask(AskFencer(1, incarnation=5))
    assert not fencer.asked
    assert asked.answers == [(1, False)]


async def test_a_request_that_is_repeated_waits_for_the_same_answer(mock_clock: MockClock) -> None:
    asked, over = Asked(), trio.Event()

    async def behave() -> bool:
        await over.wait()
        return True

    fencer = FakeFencer(behave)
    fencing = asked.fencing(fencer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fencing.ask, AskFencer(1, incarnation=5))
        await wait_all_tasks_blocked()
        asked.state.pair.fencing = 2
        nursery.start_soon(fencing.ask, AskFencer(2, incarnation=5))
        await wait_all_tasks_blocked()
        over.set()
    assert len(fencer.asked) == 1
    assert asked.answers == [(2, True)]


async def test_what_was_confirmed_of_a_former_life_says_nothing_of_this_one(
    mock_clock: MockClock,
) -> None:
    asked, overs, ended = Asked(), [trio.Event(), trio.Event()], list[int]()

    async def behave() -> bool:
        number = len(fencer.asked) - 1
        try:
            await overs[number].wait()
        finally:
            ended.append(number)
        return True

    fencer = FakeFencer(behave)
    fencing = asked.fencing(fencer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fencing.ask, AskFencer(1, incarnation=5))
        await wait_all_tasks_blocked()
        asked.state.pair.fencing = 2
        nursery.start_soon(fencing.ask, AskFencer(2, incarnation=6))
        await wait_all_tasks_blocked()
        assert ended == [0], "the first is not run on beside the second"
        assert asked.answers == []
        overs[1].set()
    assert asked.answers == [(2, True)]


async def test_one_that_takes_its_time_to_end_is_waited_for(autojump_clock: MockClock) -> None:
    """A command gets TERM first, and KILL seconds later: two would pull at one plug."""
    asked, running = Asked(), 0

    async def behave() -> bool:
        nonlocal running
        running += 1
        assert running == 1
        try:
            await trio.sleep(20 if len(fencer.asked) == 1 else 0)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            running -= 1
        return True

    fencer = FakeFencer(behave)
    fencing = asked.fencing(fencer)
    async with trio.open_nursery() as nursery:
        for token, incarnation in ((1, 5), (2, 6), (3, 7)):
            asked.state.pair.fencing = token
            nursery.start_soon(fencing.ask, AskFencer(token, incarnation=incarnation))
            await trio.sleep(1)
    assert asked.answers == [(3, True)]
    assert len(fencer.asked) == 2


def test_a_rule_that_makes_no_sense_is_refused_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        FencerRule("x", timeout_s=0)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 2


@asynccontextmanager
async def fenced_pair(base: Path, fencers: list[FakeFencer]) -> Any:
    async with open_pair(base, split_brain="consistent") as pair:
        for node, fencer in zip(pair, fencers, strict=True):
            node.cluster.fencer(FencerRule(fencer))
        yield await start_pair(pair)


async def test_a_node_goes_on_once_its_peer_is_confirmed_to_be_stopped(tmp_path: Path) -> None:
    fencers = [FakeFencer(yes), FakeFencer(yes)]
    async with fenced_pair(tmp_path, fencers) as (first, second):
        assert not any(each.asked for each in fencers)
        await first.end()
        await second.cluster.wait_role(Role.ALONE)
        await wait_until(lambda: second.is_serving)
        assert sum(len(each.asked) for each in fencers) == 1


async def test_a_node_waits_while_its_fencer_fails(tmp_path: Path) -> None:
    fencers = [FakeFencer(fail), FakeFencer(fail)]
    async with fenced_pair(tmp_path, fencers) as (first, second):
        await first.end()
        await wait_until(lambda: any(each.asked for each in fencers))
        with trio.move_on_after(1):
            await second.cluster.wait_role(Role.ALONE)
        assert not second.is_serving
        events = await second.cluster.history()
        assert any(each.rule == "not-fenced" for each in events)
