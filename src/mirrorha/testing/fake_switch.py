"""A switch for tests: clients are a word in memory, and it fails when told to."""

from __future__ import annotations

from typing import ClassVar, Final, final

import attrs
import trio

from mirrorha.abc import Switch
from mirrorha.errors import SwitchError


@final
@attrs.define(eq=False)
class SwitchStore:
    """Where clients are sent, as the `MemorySwitch`es of one node share it.

    Attributes:
        is_engaged: they reach this node.
        calls: every call, in order.
        trouble: what each call raises; empty: nothing.
        passes_within_s: what the error says of that.
        hangs: no call returns.
    """

    is_engaged: bool = False
    calls: list[str] = attrs.field(factory=list)
    trouble: str = ""
    passes_within_s: float = 0
    hangs: bool = False


@final
class MemorySwitch(Switch):
    """Clients in memory. A call can be cancelled before it takes effect and after."""

    kind: ClassVar[str] = "memory"

    def __init__(self, store: SwitchStore | None = None) -> None:
        self.store: Final = SwitchStore() if store is None else store

    async def engage(self) -> None:
        await self._begin("engage")
        self.store.is_engaged = True
        await trio.lowlevel.checkpoint()

    async def disengage(self) -> None:
        await self._begin("disengage")
        self.store.is_engaged = False
        await trio.lowlevel.checkpoint()

    async def is_engaged(self) -> bool:
        await self._begin("is_engaged")
        return self.store.is_engaged

    async def renew(self) -> None:
        await self._begin("renew")

    async def _begin(self, call: str) -> None:
        self.store.calls.append(call)
        await trio.lowlevel.checkpoint()
        if self.store.hangs:
            await trio.sleep_forever()
        if self.store.trouble:
            raise SwitchError(self.store.trouble, passes_within_s=self.store.passes_within_s)
