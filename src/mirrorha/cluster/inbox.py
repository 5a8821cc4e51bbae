"""What waits to be told to the node: in order, bounded, and never more of a kind than matters."""

from __future__ import annotations

from collections import deque
from typing import Final, final

import trio

from mirrorha.core.events import AnyEvent, BeatHeard, Heard, Tick, VolumeReported
from mirrorha.core.orders import Progress
from mirrorha.errors import ensure

#: What the peer says beyond this waits on its side of the session.
MESSAGES_MAX: Final = 256
#: Everything else answers something that was asked for, or is told once at each change: so much
#: of it means that the loop stands still while it is being asked, which is a bug.
EVENTS_MAX: Final = 16_384


@final
class Inbox:
    """Events for one loop. Used in one trio loop, never blocking but where it says so.

    Of heartbeats on a path and of a resync's progress only the latest counts; an earlier one that
    still waits is replaced where it stands, so the order of everything else is kept.
    """

    def __init__(self) -> None:
        self._events: deque[AnyEvent] = deque()
        self._latest: dict[object, AnyEvent] = {}
        self._messages = 0
        self._room: Final = trio.lowlevel.ParkingLot()
        self._news = trio.Event()

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: AnyEvent) -> None:
        """Add an event; never blocks."""
        key = _latest_key(event)
        if key is not None:
            waits = key in self._latest
            self._latest[key] = event
            if waits:
                return
        ensure(len(self._events) < EVENTS_MAX, "the node's inbox is emptied")
        self._events.append(event)
        self._messages += isinstance(event, Heard)
        self._news.set()

    async def wait_room(self) -> None:
        """Wait until one more message of the peer may be put. Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        while self._messages >= MESSAGES_MAX:
            await self._room.park()

    def take(self) -> AnyEvent | None:
        """The next event, or None."""
        if not self._events:
            return None
        event = self._events.popleft()
        if isinstance(event, Heard):
            self._messages -= 1
            self._room.unpark_all()
        key = _latest_key(event)
        return event if key is None else self._latest.pop(key)

    async def wait(self, *, until: float) -> None:
        """Wait for an event, or for `until` (by trio's clock). Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        if self._events:
            return
        self._news = trio.Event()
        with trio.move_on_at(until):
            await self._news.wait()


def _latest_key(event: AnyEvent) -> object:
    if isinstance(event, BeatHeard):
        return event.path, event.beat.incarnation
    if isinstance(event, VolumeReported) and isinstance(event.report, Progress):
        return event.volume, event.report.session
    return Tick if isinstance(event, Tick) else None
