"""The one task that owns the core: an event at a time, durable before visible."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Never, final

import trio

from mirrorha.cluster.inbox import Inbox
from mirrorha.core.events import AnyEvent, Tick
from mirrorha.errors import InvariantViolation, StateError, describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirrorha.core.effects import AnyEffect
    from mirrorha.core.meta import Meta
    from mirrorha.core.node import Node
    from mirrorha.core.state import State

_log: Final = logging.getLogger("mirrorha")


@final
class Loop:
    """Steps the node. Nothing that an effect does blocks it, but the disk under the state.

    Args:
        node: made from a state that is durable already.
        clock_ms: the clock of everything that the node is told.
        persist: makes the state durable; StateError if it cannot be done.
        perform: begins one effect. Never blocks, never raises but InvariantViolation.
        on_step: looks at the node after each step, with the time. Never blocks.
        fence: called with the reason when the node must not go on: closes the volumes, at once.
        listened_at_ms: when the heartbeats were last surely listened to.
    """

    def __init__(
        self,
        node: Node,
        *,
        clock_ms: Callable[[], int],
        persist: Callable[[Meta], Awaitable[None]],
        perform: Callable[[AnyEffect], None],
        on_step: Callable[[State, int], None],
        fence: Callable[[str], None],
        listened_at_ms: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._node: Final = node
        self._clock_ms: Final = clock_ms
        self._persist: Final = persist
        self._perform: Final = perform
        self._on_step: Final = on_step
        self._fence: Final = fence
        self._listened_at_ms: Final = listened_at_ms
        self._inbox: Final = Inbox()

    @property
    def state(self) -> State:
        """To be read only, and between two steps: also while one is being made durable."""
        return self._node.state

    def give(self, event: AnyEvent) -> None:
        """Tell the node something; it is taken in later, in order. Never blocks."""
        self._inbox.put(event)

    async def wait_room(self) -> None:
        """Wait while the peer says more than is taken in. Always a checkpoint."""
        await self._inbox.wait_room()

    async def run(self) -> Never:
        """Step until cancelled.

        Raises:
            InvariantViolation, StateError: the node must not go on, and has been fenced.
        """
        try:
            while True:
                await self._turn()
        except Exception as error:
            self._fence(str(error))
            _log.critical("this node fences itself: %s", describe(error))
            if isinstance(error, InvariantViolation | StateError):
                raise
            raise InvariantViolation(describe(error)) from error

    async def _turn(self) -> None:
        event = self._inbox.take()
        if event is None:
            wait_ms = self._node.next_deadline_ms() - self._clock_ms()
            if wait_ms > 0:
                await self._inbox.wait(until=trio.current_time() + wait_ms / 1000)
                return
            event = Tick(listened_at_ms=self._listened_at_ms())
        now_ms = self._clock_ms()
        batch = self._node.step(event, now_ms)
        if batch.persist is not None:
            await self._persist(batch.persist)
        for effect in batch.after:
            self._perform(effect)
        self._on_step(self._node.state, now_ms)
        await trio.lowlevel.checkpoint()
