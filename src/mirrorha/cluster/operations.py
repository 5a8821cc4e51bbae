"""Commands under way: each gets exactly one outcome, also when the node ends."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha.core.effects import CommandDone
from mirrorha.core.events import Command, Verb
from mirrorha.errors import CommandRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.core.words import Allow

#: More at once are no operator's.
OPERATIONS_MAX: Final = 64


@attrs.define(eq=False)
class _Operation:
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: CommandDone | None = None


@final
class Operations:
    """Gives commands to the core and waits for what becomes of them."""

    def __init__(self, give: Callable[[Command], None]) -> None:
        self._give: Final = give
        self._numbers: Final = itertools.count(1)
        self._pending: dict[str, _Operation] = {}

    async def run(
        self, verb: Verb, *, limit_s: float, allowed: frozenset[Allow] = frozenset()
    ) -> str:
        """Give a command; return what was done, for people.

        `allowed`: what an operator who forces allows besides.

        Cancelled, it goes on nevertheless.

        Raises:
            CommandRefusedError: it was refused, or did not end within `limit_s`.
        """
        if len(self._pending) >= OPERATIONS_MAX:
            raise CommandRefusedError(f"{OPERATIONS_MAX} commands are under way already")
        name = f"{verb.value}-{next(self._numbers)}"
        operation = self._pending[name] = _Operation()
        self._give(Command(operation=name, verb=verb, allowed=allowed))
        try:
            with trio.move_on_after(limit_s):
                await operation.done.wait()
        finally:
            del self._pending[name]
        outcome = operation.outcome
        if outcome is None:
            raise CommandRefusedError(
                f"'{verb.value}' has not ended within {limit_s:g} s; it may still be carried out"
            )
        if not outcome.done:
            raise CommandRefusedError(outcome.text)
        return outcome.text

    def done(self, effect: CommandDone) -> None:
        """The core has answered. Never blocks."""
        operation = self._pending.get(effect.operation)
        if operation is not None:
            operation.outcome = effect
            operation.done.set()

    def end(self) -> None:
        """The node ends: what is pending is refused."""
        for name in self._pending:
            text = "the node has ended; whether it was carried out its next start shows"
            self.done(CommandDone(operation=name, done=False, text=text))
