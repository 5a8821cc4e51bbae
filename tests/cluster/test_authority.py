"""The arbiter as the core sees it: only a plain answer is one."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from mirrorha.abc import Arbiter
from mirrorha.cluster.authority import DEADLINE_S, Authority
from mirrorha.core.effects import Cas, ReadRegister
from mirrorha.core.events import CasDone, CasOutcome, Gone, RegisterRead
from mirrorha.core.register import Register
from mirrorha.errors import ArbiterOutcomeUnknownError, ArbiterUnavailableError

RECORD = Register("c1", 3, "lyon", (("lyon", "n1"),))
NEXT = Register("c1", 4, "lyon", (("lyon", "n2"),))


class Scripted(Arbiter):
    """Returns, raises or hangs, as it is told."""

    kind: ClassVar[str] = "scripted"

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    async def read(self) -> bytes | None:
        return await self._answer("read")

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        return await self._answer((expected, new))

    async def _answer(self, what: Any) -> Any:
        self.asked.append(what)
        await trio.lowlevel.checkpoint()
        if self.answer == "hang":
            await trio.sleep_forever()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


GROUP = ExceptionGroup("", [ArbiterUnavailableError("deep inside")])
READS = [
    (RECORD.to_bytes(), RECORD),
    (None, Gone.ABSENT),
    (b"no register", Gone.CORRUPT),
    (RECORD.to_bytes().replace(b'"format":1', b'"format":9'), Gone.CORRUPT),
    ("hang", None),
    (ArbiterUnavailableError("no"), None),
    (ValueError("a bug"), None),
    (GROUP, None),
    (SystemExit(), None),
    (7, None),
]
SWAPS = [
    (True, CasOutcome.WON),
    (False, CasOutcome.REFUSED),
    (None, CasOutcome.UNKNOWN),
    (1, CasOutcome.UNKNOWN),
    ("hang", CasOutcome.UNKNOWN),
    (ArbiterUnavailableError("never left"), CasOutcome.NOT_SENT),
    (ArbiterOutcomeUnknownError("lost"), CasOutcome.UNKNOWN),
    (ValueError("a bug"), CasOutcome.UNKNOWN),
    (GROUP, CasOutcome.UNKNOWN),
    (SystemExit(), CasOutcome.UNKNOWN),
]


@pytest.mark.parametrize(("answer", "found"), READS)
async def test_what_a_read_amounts_to(
    answer: Any, found: Any, autojump_clock: trio.testing.MockClock
) -> None:
    given: list[Any] = []
    authority = Authority(Scripted(answer), given.append)
    began = trio.current_time()
    await authority.read(ReadRegister(5))
    assert given == [RegisterRead(token=5, found=found)]
    assert trio.current_time() - began <= DEADLINE_S
    assert authority.is_reachable is (found is not None)


@pytest.mark.parametrize(("answer", "outcome"), SWAPS)
async def test_what_an_attempt_amounts_to(
    answer: Any, outcome: CasOutcome, autojump_clock: trio.testing.MockClock
) -> None:
    given: list[Any] = []
    arbiter = Scripted(answer)
    authority = Authority(arbiter, given.append)
    await authority.swap(Cas(6, expected=RECORD, new=NEXT))
    assert given == [CasDone(token=6, outcome=outcome)]
    assert arbiter.asked == [(RECORD.to_bytes(), NEXT.to_bytes())], "one attempt, never more"


async def test_a_cancelled_attempt_answers_nobody() -> None:
    given: list[Any] = []
    authority = Authority(Scripted("hang"), given.append)
    with trio.move_on_after(0.01):
        await authority.swap(Cas(6, expected=None, new=NEXT))
    assert given == []
