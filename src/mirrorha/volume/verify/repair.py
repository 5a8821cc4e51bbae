"""Making the follower's copy what the source's is, where ops of the stream can."""

from __future__ import annotations

from typing import Final, Protocol, final

from mirrorha.volume.disk import Kind
from mirrorha.volume.ops import SetAttributes, Truncate, Write
from mirrorha.volume.tasks.task import Box, Receive, Steps, Tasks
from mirrorha.volume.verify.differences import RESTATED, Difference, differing_fields
from mirrorha.volume.verify.exchange import Both, Exchange
from mirrorha.volume.verify.messages import Attributes, Blocks, Item, SeenAttributes
from mirrorha.wire.limits import BLOCK_BYTES

# Where the source has no room for one more change, or holds them, it is tried again with each tick.
TRIES_MAX: Final = 300

Restated = Write | Truncate | SetAttributes


class Line(Protocol):
    """The stream of a source, as a comparison needs it."""

    @property
    def seq(self) -> int:
        """The last op that was applied to the source's tree, as far as it has been told."""
        ...

    def restate(self, op: Restated) -> bool:
        """Have what this node holds of what `op` is about sent as an op. False: not now.

        What is asked of the disk after that is performed after it.
        """
        ...


@final
class Repair:
    """Restates what the source holds, and looks whether that was enough."""

    def __init__(self, tasks: Tasks, exchange: Exchange, line: Line) -> None:
        self._tasks: Final = tasks
        self._exchange: Final = exchange
        self._line: Final = line
        self._resting: list[Box[None]] = []

    def tick(self) -> None:
        """Time has passed: what could not be done may be done now."""
        resting, self._resting = self._resting, []
        for box in resting:
            box.put(None)

    def attributes(self, both: Both) -> Steps[bool]:
        """Make a file's attributes the same. False: a resync has to."""
        mine, fid = both.mine, both.item.fid
        if not isinstance(mine, SeenAttributes):
            return False
        what = {one.what for one in differing_fields(both)}
        if not what <= RESTATED or mine.kind not in (Kind.FILE, Kind.DIRECTORY):
            return False
        ops: list[Restated] = [Truncate(fid, 0, 0)] if "size" in what else []
        ops.append(SetAttributes(fid, None, None, None, 0))
        return (yield from self._restate(ops, Attributes(fid)))

    def block(self, difference: Difference) -> Steps[bool]:
        """Make a block of a file's content the same. False: a resync has to."""
        fid, offset = difference.fid, difference.offset
        write = Write(fid, offset, bytes(difference.length), 0)
        return (yield from self._restate([write], Blocks(fid, offset // BLOCK_BYTES, 1)))

    def _restate(self, ops: list[Restated], item: Item) -> Steps[bool]:
        for op in ops:
            tries = 1
            while not self._line.restate(op):
                if tries == TRIES_MAX:
                    return False
                tries += 1
                box: Box[None] = Box(self._tasks)
                self._resting.append(box)
                yield Receive(box)
        (both,) = yield from self._exchange.ask([item])
        return not both.differ
