"""What waits to be told, in order and bounded, so that whoever puts it there waits for nothing."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha.containment import Raised, contain
from mirrorha.errors import ConfigError
from mirrorha.notify.notice import SUBJECTS

if TYPE_CHECKING:
    from mirrorha.notify.notice import Notice, Notifier, Subject

#: What is older is left out: who has not been told for so long reads the history.
WAITING_MAX: Final = 64
#: Pauses between the attempts at one notice, seconds.
PAUSES_S: Final = (1.0, 5.0, 30.0)
#: What a node that ends waits for what is left to be told.
END_S: Final = 2.0

_log: Final = logging.getLogger(__name__)


def _as_tuple(values: Iterable[Subject]) -> tuple[Subject, ...]:
    return tuple(values)


@final
@attrs.frozen
class NotifyRule:
    """Who is told, and of what.

    Args:
        notifier: `mirrorha.notify.Command` or `Webhook`.
        on: Of which subjects; of all by default.
        timeout_s: Seconds after which an attempt that has not ended has failed.

    Raises:
        ConfigError: a value is out of range; the error lists all of them.
    """

    notifier: Notifier
    on: tuple[Subject, ...] = attrs.field(default=SUBJECTS, kw_only=True, converter=_as_tuple)
    timeout_s: float = attrs.field(default=10.0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        problems = [
            f"notify.on: expected some of {', '.join(SUBJECTS)}, not {each!r}"
            for each in self.on
            if each not in SUBJECTS
        ]
        if not 0 < self.timeout_s < math.inf:
            problems.append(f"notify.timeout_s: expected seconds, not {self.timeout_s}")
        if problems:
            raise ConfigError(tuple(problems))


@final
class Outbox:
    """Tells one notifier, one notice at a time. A notice that cannot be told is logged."""

    def __init__(self, rule: NotifyRule) -> None:
        self._rule: Final = rule
        self._waiting: Final[deque[Notice]] = deque()
        self._stirred = trio.Event()
        #: How many were left out, because too many waited or every attempt failed.
        self.lost = 0

    def put(self, notice: Notice) -> None:
        """Have it told, if it is of a subject that is wanted. Never blocks."""
        if notice.subject not in self._rule.on:
            return
        if len(self._waiting) >= WAITING_MAX:
            self._lose(self._waiting.popleft(), "too many wait to be told")
        self._waiting.append(notice)
        self._stirred.set()

    async def run(self) -> None:
        """Tell until cancelled; what waits then is tried once, within `END_S`."""
        try:
            while True:
                while self._waiting:
                    await self._tell_next()
                self._stirred = trio.Event()
                await self._stirred.wait()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(END_S):
                while self._waiting:
                    await self._try(self._waiting.popleft())

    async def _tell_next(self) -> None:
        notice = self._waiting[0]
        trouble = ""
        for pause_s in (0.0, *PAUSES_S):
            await trio.sleep(pause_s)
            if not self._waiting or self._waiting[0] is not notice:
                return  # left out meanwhile
            trouble = await self._try(notice)
            if not trouble:
                break
        if self._waiting and self._waiting[0] is notice:
            self._waiting.popleft()
            if trouble:
                self._lose(notice, trouble)

    async def _try(self, notice: Notice) -> str:
        """One attempt. Returns what is wrong, or ""."""
        with trio.move_on_after(self._rule.timeout_s):
            outcome = await contain(partial(self._rule.notifier.tell, notice))
            return outcome.text if isinstance(outcome, Raised) else ""
        return f"no answer within {self._rule.timeout_s:g} s"

    def _lose(self, notice: Notice, why: str) -> None:
        self.lost += 1
        _log.warning("nobody was told that %s: %s", notice.title, why)
