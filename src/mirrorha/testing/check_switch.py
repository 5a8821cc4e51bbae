"""The conformance suite of switches: ours, our fakes and yours pass it alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from mirrorha.errors import LocalUsageError, MirrorHAError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirrorha.abc import Switch

#: After so long, seconds, calls of `engage` are cancelled: at every point of the first moments.
_CUT_SHORT_S: Final = (0.0, 0.0005, 0.002, 0.01, 0.05)
#: What a cancelled call left under way has ended by then.
_LATE_S: Final = 0.1


class SwitchConformanceError(MirrorHAError):
    """The switch breaks the contract of `mirrorha.abc.Switch`; the text says which part.

    With such a switch clients could be sent to both nodes, or to neither. Do not use it.
    """


async def check_switch(make: Callable[[], Switch], *, limit_s: float = 30.0) -> None:
    """Try whether a switch keeps the contract of `mirrorha.abc.Switch`.

    It really moves clients: use an address that nobody uses. Clients reach this node when it
    begins or not; they do not when it ends well.

    Args:
        make: Returns one more switch of one and the same traffic, on this node.
        limit_s: Seconds that any one call may take.

    Raises:
        SwitchConformanceError: the switch broke the contract, or a call took too long.
        Exception: whatever the switch raises.
    """
    if limit_s <= 0:
        raise LocalUsageError(f"limit_s is more than 0, not {limit_s}")
    suite = _Suite(make, limit_s)
    await suite.check_both_ways()
    await suite.check_second_instance()
    await suite.check_cancellation()


class _Suite:
    def __init__(self, make: Callable[[], Switch], limit_s: float) -> None:
        self._make: Final = make
        self._limit_s: Final = limit_s

    async def check_both_ways(self) -> None:
        switch = self._make()
        for _ in range(2):
            for number in (1, 2):  # twice: idempotent
                await self._end(switch.disengage(), "disengage")
                await self._expect(switch, engaged=False, after=f"disengage number {number}")
            for number in (1, 2):
                await self._end(switch.engage(), "engage")
                await self._expect(switch, engaged=True, after=f"engage number {number}")
            await self._end(switch.renew(), "renew")
            await self._expect(switch, engaged=True, after="renew")

    async def check_second_instance(self) -> None:
        """A program that starts again finds what its former life has left, and can end it."""
        first, second = self._make(), self._make()
        await self._end(first.engage(), "engage")
        await self._expect(second, engaged=True, after="engage of another instance")
        await self._end(second.disengage(), "disengage")
        await self._expect(first, engaged=False, after="disengage of another instance")

    async def check_cancellation(self) -> None:
        """An engage that was given up does nothing once disengage has returned."""
        switch = self._make()
        for delay_s in _CUT_SHORT_S:
            with trio.move_on_after(delay_s):
                await switch.engage()
            await self._end(switch.disengage(), "disengage")
            await self._expect(switch, engaged=False, after=f"engage cut short at {delay_s} s")
            await trio.sleep(_LATE_S)
            await self._expect(switch, engaged=False, after="an engage that took effect late")

    async def _expect(self, switch: Switch, *, engaged: bool, after: str) -> None:
        found = await self._end(switch.is_engaged(), "is_engaged")
        if found is not engaged:
            raise SwitchConformanceError(f"is_engaged is {found!r} after {after}, not {engaged}")

    async def _end(self, call: Awaitable[object], name: str) -> object:
        with trio.move_on_after(self._limit_s):
            return await call
        raise SwitchConformanceError(f"{name} did not return within {self._limit_s:g} s")
