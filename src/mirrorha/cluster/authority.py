"""The arbiter, as the core asks for it: one attempt, three answers, never late."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio

from mirrorha.containment import Raised, Returned, contain
from mirrorha.core.events import CasDone, CasOutcome, Gone, RegisterRead
from mirrorha.core.register import Register, RegisterCorruptError
from mirrorha.errors import ArbiterError, ArbiterUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.abc import Arbiter
    from mirrorha.core.effects import Cas, ReadRegister

_log: Final = logging.getLogger(__name__)

#: An arbiter takes about 2 s at most and then knows better than we what became of its request;
#: this is for one that breaks that promise.
DEADLINE_S: Final = 2.5

T = TypeVar("T")
Outcome = Returned[T] | Raised
_LATE: Final = Raised(ArbiterError("no answer within the deadline"))


@final
class Authority:
    """Carries the core's requests to the arbiter and its answers back.

    Args:
        arbiter: None: nobody answers, for the core answers itself.
        give: takes the answer, as an event of the core.
    """

    def __init__(
        self,
        arbiter: Arbiter | None,
        give: Callable[[RegisterRead | CasDone], None],
        *,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._arbiter: Final = arbiter
        self._give: Final = give
        self._deadline_s: Final = deadline_s
        self._trouble = ""
        self._answered = False

    @property
    def kind(self) -> str:
        return self._arbiter.kind if self._arbiter is not None else "none"

    @property
    def is_reachable(self) -> bool:
        """Whether the latest request was answered."""
        return (self._answered and not self._trouble) or self._arbiter is None

    @property
    def trouble(self) -> str:
        """What became of the latest request, if it was not answered."""
        return self._trouble

    async def answers(self) -> bool:
        """Ask it now, for somebody who is about to need it. True without one."""
        if self._arbiter is None:
            return True
        with trio.move_on_after(self._deadline_s):
            return isinstance(await contain(self._read), Returned)
        return False

    async def read(self, effect: ReadRegister) -> None:
        """Read the register, once. Ends within the deadline, with exactly one answer given."""
        outcome: Outcome[Register | Gone] = _LATE
        with trio.move_on_after(self._deadline_s):
            outcome = await contain(self._read)
        found = outcome.value if isinstance(outcome, Returned) else None
        self._note("" if isinstance(outcome, Returned) else f"read: {outcome.text}")
        self._give(RegisterRead(token=effect.token, found=found))

    async def swap(self, effect: Cas) -> None:
        """Make one attempt. Whatever is not a plain answer may still land.

        Cancelled, nothing is given: the node that asked is no more, and its next incarnation
        reads.
        """
        expected = None if effect.expected is None else effect.expected.to_bytes()
        new = effect.new.to_bytes()
        outcome: Outcome[bool] = _LATE
        with trio.move_on_after(self._deadline_s):
            outcome = await contain(lambda: self._swap(expected, new))
        self._note("" if isinstance(outcome, Returned) else f"compare-and-swap: {outcome.text}")
        self._give(CasDone(token=effect.token, outcome=_verdict(outcome)))

    async def _read(self) -> Register | Gone:
        if self._arbiter is None:
            raise ArbiterUnavailableError("there is none: the two nodes keep the register")
        raw = await self._arbiter.read()
        if raw is None:
            return Gone.ABSENT
        try:
            return Register.from_bytes(raw)
        except RegisterCorruptError as error:
            _log.error("the arbiter: %s", error)
            return Gone.CORRUPT

    async def _swap(self, expected: bytes | None, new: bytes) -> bool:
        if self._arbiter is None:
            raise ArbiterUnavailableError("there is none: the two nodes keep the register")
        return await self._arbiter.compare_and_swap(expected, new)

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            _log.warning("the arbiter (%s): %s", self.kind, trouble)
        self._answered = not trouble
        self._trouble = trouble


def _verdict(outcome: Outcome[bool]) -> CasOutcome:
    """Only a plain yes or no is an answer; everything else may land later."""
    if isinstance(outcome, Raised):
        unsent = isinstance(outcome.error, ArbiterUnavailableError)
        return CasOutcome.NOT_SENT if unsent else CasOutcome.UNKNOWN
    if outcome.value is True:
        return CasOutcome.WON
    return CasOutcome.REFUSED if outcome.value is False else CasOutcome.UNKNOWN
