"""Run code that is not ours so that nothing it raises ends the node.

What a callback, a check or a request handler raises comes back as a value. Only cancellation,
Ctrl-C and the interpreter's own closing of a coroutine pass through, for swallowing those would
make the program unstoppable.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import attrs
import trio

from mirrorha.errors import describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

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


async def call(
    function: Callable[..., object],
    *args: object,
    limiter: trio.CapacityLimiter,
    in_thread: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> object:
    """Call `function`, asynchronous or ordinary, and return what it returns.

    An ordinary one runs in a thread, and so may block. Cancelled, such a thread is left behind
    until it ends by itself; it holds its place in `limiter` as long. `in_thread` makes a context
    for the wait.
    """
    if _is_async(function):
        answer = function(*args)
    else:
        # In a list, for trio takes a bare coroutine for a mistake. Here it is none: a lambda
        # around an asynchronous function returns one.
        with in_thread():
            (answer,) = await trio.to_thread.run_sync(
                lambda: [function(*args)], abandon_on_cancel=True, limiter=limiter
            )
    return await answer if inspect.isawaitable(answer) else answer


def _is_async(function: Callable[..., object]) -> bool:
    called = getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
