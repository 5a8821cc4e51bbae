"""People are told what has begun and what is over, each once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import trio

from mirrorha import Checker, NotifyRule
from mirrorha.checks import CheckReport, CheckState, Custom
from mirrorha.cluster import making
from mirrorha.cluster.notifying import OVER_AFTER_MS, Notifying, Sight
from mirrorha.config import NotifyConfig
from mirrorha.core.words import Colour, Role
from mirrorha.errors import CheckFailedError
from mirrorha.notify import Notice
from mirrorha.switches import SwitchReport, SwitchState
from tests.cluster.rig import open_pair, start_pair, wait_until


@attrs.define
class Told:
    """A notifier that remembers."""

    kind: ClassVar[str] = "told"

    notices: list[Notice] = attrs.field(factory=list)

    async def tell(self, notice: Notice) -> None:
        await trio.lowlevel.checkpoint()
        self.notices.append(notice)

    def of(self, subject: str) -> list[Notice]:
        return [each for each in self.notices if each.subject == subject]


WELL = Sight(
    node="paris", role=Role.PRIM, epoch=7, since_why="it was asked", why="x", colour=Colour.GREEN
)


@attrs.define
class Watched:
    """What was put into the outboxes, without sending it."""

    watch: Notifying
    now_ms: int = 0

    def look(self, sight: Sight = WELL, *, after_ms: int = 250) -> list[tuple[str, bool]]:
        """Look once more; return what is new to tell."""
        self.now_ms += after_ms
        self.watch.look(sight, self.now_ms)
        waiting = self.watch._outboxes[0]._waiting
        found = [(each.subject, each.is_over) for each in waiting]
        waiting.clear()
        return found


@pytest.fixture
def watched() -> Watched:
    one = Watched(Notifying([NotifyRule(Told())], cluster="orders", wall_s=lambda: 0.0))
    assert one.look() == [("role", False)]
    return one


def seen(**facts: Any) -> Sight:
    return attrs.evolve(WELL, **facts)


def failing(name: str = "tcp 8080") -> CheckReport:
    return CheckReport(
        name=name, kind="tcp", on_failure="none", state=CheckState.FAILED, text="refused"
    )


def test_a_change_of_role_is_told_once(watched: Watched) -> None:
    assert watched.look() == []
    assert watched.look(seen(role=Role.WAIT)) == [("role", False)]
    assert watched.look(seen(role=Role.WAIT)) == []


def test_a_failing_check_is_told_when_it_begins_and_when_it_is_over(watched: Watched) -> None:
    assert watched.look(seen(checks=[failing()])) == [("check", False)]
    for _ in range(1000):
        assert watched.look(seen(checks=[failing()])) == []
    assert watched.look(seen(checks=[failing(), failing("disk")])) == [("check", False)]
    assert watched.look(seen(checks=[failing("disk")])) == []
    assert watched.look(seen(checks=[failing("disk")]), after_ms=OVER_AFTER_MS) == [("check", True)]


def test_what_comes_and_goes_is_told_once(watched: Watched) -> None:
    told = []
    for _ in range(100):
        told += watched.look(seen(checks=[failing()]), after_ms=5_000)
        told += watched.look(after_ms=5_000)
    assert told == [("check", False)]
    assert watched.look(after_ms=OVER_AFTER_MS) == [("check", True)]


def test_what_ends_by_itself_at_once_is_nobodys_business(watched: Watched) -> None:
    switch = SwitchReport(name="vip", kind="virtual_ip", state=SwitchState.FAILED, text="in use")
    alone = seen(colour=Colour.ORANGE, switches=[switch])
    for after_ms in (250, 4_000):
        assert watched.look(alone, after_ms=after_ms) == []
    assert watched.look() == []
    assert watched.look(alone, after_ms=60_000) == []
    told = watched.look(alone, after_ms=5_000)
    assert told == [("degraded", False), ("switch", False)]


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("colour", [Colour.GREEN, Colour.ORANGE, Colour.RED])
def test_when_a_node_is_degraded(watched: Watched, role: Role, colour: Colour) -> None:
    state = seen(role=role, colour=colour)
    told = watched.look(state) + watched.look(state, after_ms=10_000)
    is_red = colour is Colour.RED and role is not Role.STOP
    expected = is_red or (role.serves and colour is Colour.ORANGE)
    assert (("degraded", False) in told) is expected


def test_a_split_is_told_and_so_is_its_end(watched: Watched) -> None:
    split = seen(split="7-9")
    assert watched.look(split) == [("split", False)]
    assert watched.look(split) == []
    assert watched.look(seen(kept=("/a/.mirrorha-rescue/x",))) == [("split", False)]
    told = watched.look(after_ms=OVER_AFTER_MS)
    assert told == [("split", True), ("split", True)]


async def test_a_real_pair_tells(tmp_path: Path) -> None:
    async def ill() -> None:
        raise CheckFailedError("out of paper")

    async with open_pair(tmp_path) as pair:
        told = {node.name: Told() for node in pair}
        for node in pair:
            node.cluster.notify(NotifyRule(told[node.name]))
            checker = Checker(Custom(ill), every_s=0.1, fall=2, on_failure="none", name="paper")
            node.cluster.check(checker)
        first, second = await start_pair(pair)
        await wait_until(lambda: told[first.name].of("check"))
        (notice,) = told[first.name].of("check")
        assert notice.text == "paper: out of paper"
        assert (notice.cluster, notice.node, notice.role in ("PRIM", "ALONE")) == (
            "orders",
            first.name,
            True,
        )
        await first.cluster.swap()
        await wait_until(lambda: told[second.name].of("role")[-1].role == "PRIM")
        roles = [each.role for each in told[first.name].of("role")]
        assert roles[-1] == "SECOND"
        assert all(one != other for one, other in pairwise(roles))


async def test_a_file_can_name_them(tmp_path: Path) -> None:
    named = [
        NotifyConfig(kind="command", on=["role"], options={"command": ["/n"]}),
        NotifyConfig(kind="webhook", options={"url": "https://host.example/x"}),
    ]
    async with open_pair(tmp_path, notifications=named) as (one, _):
        first, second = making.make_notified(one.cluster.config)
        assert (str(first.notifier), first.on) == ("command /n", ("role",))
        assert str(second.notifier) == "webhook host.example"
        assert "split" in second.on
