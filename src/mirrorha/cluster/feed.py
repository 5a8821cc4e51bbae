"""What happens on a node, as whoever watches it hears it: in order, bounded, no silent loss."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal, final
from weakref import WeakSet

import attrs
import trio

from mirrorha.core.words import Role

EventKind = Literal["role", "note", "alarm"]

#: A reader that lies further behind than this has stopped reading.
BEHIND_MAX: Final = 1024


@final
@attrs.frozen(kw_only=True)
class NodeEvent:
    """Something that happened on this node.

    Attributes:
        kind: "role" for a change of role, "alarm" for what a person should look at, else "note".
        at_s: when, in seconds since 1970, by this node's clock.
        node: where.
        epoch: under which number of the register this node acted.
        role: what the node was from then on.
        rule: the name of the rule that fired.
        text: why, for people.
        from_role: what it was before, for a change of role.
    """

    kind: EventKind
    at_s: float
    node: str
    epoch: int
    role: Role
    rule: str
    text: str
    from_role: Role | None = None


@final
@attrs.frozen
class Gap:
    """This reader was too slow: so many events were left out here. The history has them."""

    missed: int


@final
class EventStream:
    """An asynchronous iterator over what happens, from the moment it was made.

    Ends when the node ends. One task at a time may iterate. Forgotten, it costs nothing more.
    """

    def __init__(self, *, behind_max: int = BEHIND_MAX) -> None:
        self._behind_max: Final = behind_max
        self._events: deque[NodeEvent] = deque()
        self._missed = 0
        self._news = trio.Event()
        self._is_over = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> NodeEvent | Gap:
        """Wait for the next event; a `Gap` stands where some were missed. Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._missed:
                missed, self._missed = self._missed, 0
                return Gap(missed)
            if self._events:
                return self._events.popleft()
            if self._is_over:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()

    def put(self, event: NodeEvent) -> None:
        """Never blocks. A reader that lies too far behind misses the oldest."""
        if len(self._events) >= self._behind_max:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._news.set()

    def end(self) -> None:
        """Nothing follows."""
        self._is_over = True
        self._news.set()


@final
class Feed:
    """Tells every reader everything from the moment it began to read."""

    def __init__(self) -> None:
        self._streams: Final[WeakSet[EventStream]] = WeakSet()

    def tell(self, event: NodeEvent) -> None:
        """Never blocks."""
        for stream in self._streams:
            stream.put(event)

    def end(self) -> None:
        """Nothing follows: readers end once they have read what there is."""
        for stream in self._streams:
            stream.end()

    def open(self) -> EventStream:
        """Read from now on."""
        stream = EventStream()
        self._streams.add(stream)
        return stream
