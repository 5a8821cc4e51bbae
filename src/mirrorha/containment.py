"""Run code that is not ours so that nothing it raises ends the node.

What a callback, a check or a request handler raises comes back as a value. Only cancellation,
Ctrl-C and the interpreter's own closing of a coroutine pass through, for swallowing those would
make the program unstoppable.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

#: A message is shown in a status document and logged; a page of text belongs in neither.
TEXT_CHARS_MAX: Final = 500

_PASSING: Final = (trio.Cancelled, KeyboardInterrupt, GeneratorExit)
_log: Final = logging.getLogger(__name__)


@attrs.frozen
class Returned(Generic[T]):
    """The call returned `value`."""

    value: T


@attrs.frozen
class Raised:
    """The call raised `error`, which is not one of those that must pass."""

    error: BaseException

    @property
    def text(self) -> str:
        """One bounded line for people."""
        return describe(self.error)


def describe(error: BaseException) -> str:
    """Say in one bounded line what was raised; the first leaf of a group speaks for it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said = " ".join(str(error).split())
    kind = type(error).__name__
    return (f"{kind}: {said}" if said else kind)[:TEXT_CHARS_MAX]


async def contain(call: Callable[[], Awaitable[T]]) -> Returned[T] | Raised:
    """Await `call()` and return what became of it; `SystemExit` and its like included.

    Raises:
        trio.Cancelled, KeyboardInterrupt: these pass, alone or in a group. Whatever else was
            in such a group is logged here and left behind: it would end the caller's nursery.
    """
    try:
        return Returned(await call())
    except BaseExceptionGroup as group:
        passing, rest = group.split(_PASSING)
        if passing is None:
            return Raised(group)
        if rest is not None:
            _log.warning("raised while being cancelled, and dropped: %s", describe(rest))
        raise passing from None
    except _PASSING:
        raise
    except BaseException as error:
        return Raised(error)
