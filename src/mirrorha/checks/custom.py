"""A check of your own, as a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import attrs
import trio

from mirrorha.abc import Check
from mirrorha.containment import call
from mirrorha.errors import CheckFailedError

if TYPE_CHECKING:
    from collections.abc import Callable


@final
@attrs.frozen
class Custom(Check):
    """A function says whether the service is well: by returning, or by raising what is wrong.

    Returning False counts as failure too, since `return answer.ok` is what one writes.

    Args:
        function: Asynchronous, or an ordinary function, which runs in a thread. One in a thread
            cannot be interrupted: while it hangs, the check fails at every round.
    """

    kind: ClassVar[str] = "custom"

    function: Callable[[], object]
    # One thread: a function that hangs is never called a second time beside itself.
    _limiter: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(1), init=False, repr=False, eq=False
    )

    def __str__(self) -> str:
        return f"custom {getattr(self.function, '__name__', type(self.function).__name__)}"

    async def check(self) -> None:
        """Call the function.

        Raises:
            CheckFailedError: it returned False. Whatever it raises comes out as it is.
        """
        answer = await call(self.function, limiter=self._limiter)
        if answer is False:
            raise CheckFailedError("it returned False")
