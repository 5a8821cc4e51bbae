"""Has the peer stopped, by the fencers in order, and tells the core whether one confirmed it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha.abc import Fencer
from mirrorha.containment import Raised, contain
from mirrorha.core import evidence
from mirrorha.core.events import FencerAnswered
from mirrorha.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrorha.core.effects import AskFencer
    from mirrorha.core.state import State


@final
@attrs.frozen
class FencerRule:
    """A fencer, and how long it may take.

    Args:
        fencer: One of `mirrorha.fencers`, or your own `mirrorha.abc.Fencer`.
        timeout_s: Seconds after which one that has not answered has confirmed nothing.

    Raises:
        ConfigError: the time is none, or it is no fencer.
    """

    fencer: Fencer
    timeout_s: float = attrs.field(default=30.0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        problems = []
        if not 0 < self.timeout_s < float("inf"):
            problems.append(f"fencer.timeout_s: expected seconds, not {self.timeout_s}")
        given: object = self.fencer
        if not isinstance(given, Fencer):
            problems.append(f"fencer: expected a mirrorha.abc.Fencer, not {given!r}")
        if problems:
            raise ConfigError(tuple(problems))

    @property
    def title(self) -> str:
        """How it is shown."""
        is_described = type(self.fencer).__str__ is not object.__str__
        return str(self.fencer) if is_described else self.fencer.kind


@attrs.define(eq=False)
class _Asking:
    """What is under way: for which incarnation of the peer, and which request waits for it."""

    incarnation: int
    token: int
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


@final
class Fencing:
    """Asks the fencers, one after the other until one confirms; never twice at once.

    Args:
        cluster: its name, for commands.
        state: the core's, to be read: nobody is fenced who is no more to be.
        give: takes the answer.
        note: told of what a person should know.
    """

    def __init__(
        self,
        rules: Sequence[FencerRule],
        *,
        cluster: str,
        state: Callable[[], State],
        give: Callable[[FencerAnswered], None],
        note: Callable[[str, str, bool], None],
    ) -> None:
        self._rules: Final = tuple(rules)
        self._cluster: Final = cluster
        self._state: Final = state
        self._give: Final = give
        self._note: Final = note
        self._asking: _Asking | None = None
        self._turn: Final = trio.Lock()  # held until a fencer that was interrupted has ended

    async def ask(self, effect: AskFencer) -> None:
        """Have that incarnation of the peer stopped, and tell the core. Bounded.

        A request that comes while the same is under way takes its answer over. One about another
        incarnation ends it: what was confirmed of the former life says nothing of this one.
        """
        under_way = self._asking
        if under_way is not None and under_way.incarnation == effect.incarnation:
            under_way.token = effect.token
            return
        if under_way is not None:
            under_way.scope.cancel()
        asking = self._asking = _Asking(effect.incarnation, effect.token)
        stopped = False
        with asking.scope:
            async with self._turn:
                stopped = await self._ask_all(asking)
        if self._asking is asking:
            self._asking = None
            self._give(FencerAnswered(token=asking.token, stopped=stopped))

    async def _ask_all(self, asking: _Asking) -> bool:
        for rule in self._rules:
            s = self._state()
            if not evidence.is_fencer_awaited(s, asking.token):
                return False  # the peer is back, or it was decided otherwise
            trouble = await self._ask_one(rule, s)
            if not trouble:
                return True
            self._note("not-fenced", f"{rule.title}: {trouble}", True)
        return False

    async def _ask_one(self, rule: FencerRule, s: State) -> str:
        """What is wrong, or "" if the peer is confirmed to be stopped."""
        call = partial(rule.fencer.fence, s.other, environment=self._environment(s))
        with trio.move_on_after(rule.timeout_s):
            outcome = await contain(call)
            if isinstance(outcome, Raised):
                return outcome.text
            return "" if outcome.value is True else "it could not confirm that it stopped the peer"
        return f"no answer within {rule.timeout_s:g} s"

    def _environment(self, s: State) -> dict[str, str]:
        return {
            "MIRRORHA_CLUSTER": self._cluster,
            "MIRRORHA_NODE": s.me,
            "MIRRORHA_PEER": s.other,
            "MIRRORHA_EPOCH": str(s.epoch),
            "MIRRORHA_WHY": s.why.replace("\0", ""),
        }
