"""Simulated time under trio, and the file API of a simulated node.

The World's queue and trio's mock clock are one time: the driver sleeps until the next event is due
and runs it once every other task is blocked, so that computing takes no time at all.
"""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING, Final, final

import attrs
import trio
import trio.testing

from mirrorha.errors import NotPrimaryError
from mirrorha.testing.sim.production_volume import ProductionVolume, Shelf
from mirrorha.testing.sim.world import Violation
from mirrorha.volume.disk import DiskError
from mirrorha.volume.events import Change, Failure, Flush, Reply, outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.testing.sim.node import SimNode
    from mirrorha.testing.sim.world import World
    from mirrorha.volume.disk import AnyRequest
    from mirrorha.volume.ops import AnyOp

VOLUME: Final = "data"
# Far below a millisecond, far above what is lost in adding up seconds as floats.
ROUNDING_S: Final = 1e-6


@final
class Drive:
    """Runs the World in trio's time, which must be a mock clock's.

    Attributes:
        fault: the invariant that an event violated, if one did. Nothing runs any more.
    """

    def __init__(self, world: World) -> None:
        self.world: Final = world
        self.fault: Exception | None = None
        self._begin_s: Final = trio.current_time() - world.now_ms / 1000
        self._poked = trio.Event()
        self._moved = trio.Event()

    async def run(self, on_fault: Callable[[], None]) -> None:
        """Run events as they become due, until cancelled or until one violates an invariant."""
        while self.fault is None:
            await trio.testing.wait_all_tasks_blocked()
            self._poked = trio.Event()
            due_ms = self.world.next_ms()
            if due_ms is None:
                await self._poked.wait()
            elif self._begin_s + due_ms / 1000 > trio.current_time() + ROUNDING_S:
                with trio.move_on_at(self._begin_s + due_ms / 1000):
                    await self._poked.wait()
            else:
                try:
                    self.world.run_next()
                except Exception as error:
                    self.fault = error
                    on_fault()
                self.tell()

    def catch_up(self) -> None:
        """The World's time becomes trio's. Called before a task gives the World something."""
        elapsed_s = trio.current_time() - self._begin_s
        self.world.pass_until(math.floor((elapsed_s + ROUNDING_S) * 1000))

    def tell(self) -> None:
        """Something was given to the World, or it moved: whoever waits looks again."""
        self._poked.set()
        self._moved.set()
        self._moved = trio.Event()

    async def wait_until(self, holds: Callable[[], bool], *, what: str, timeout_s: float) -> None:
        """Block until `holds()`. Always a checkpoint.

        Raises:
            Violation: it does not within `timeout_s` of simulated time. The text ends with the
                last lines of the trace.
        """
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(timeout_s):
            while not holds():
                await self._moved.wait()
            return
        last = "\n".join(self.world.trace[-12:])
        raise Violation(f"after {timeout_s:g} s: not {what}. The trace ends:\n{last}")


@attrs.define(eq=False)
class _Waiter:
    done: trio.Event = attrs.field(factory=trio.Event)
    reply: Reply | None = None

    def answer(self, reply: Reply) -> None:
        self.reply = reply
        self.done.set()


@final
class SimEngine:
    """An engine for `mirrorha.volume.files.streamed.Files`: one life of one node's volume.

    Args:
        primary: the node that serves now, as far as is known.
    """

    def __init__(self, drive: Drive, node: SimNode, *, primary: Callable[[], str | None]) -> None:
        self._drive: Final = drive
        self._node: Final = node
        self._life: Final = node.life
        self._primary: Final = primary
        self._volume: Final = node.volumes.get(VOLUME)
        self._waiters: Final = set[_Waiter]()

    @property
    def is_alive(self) -> bool:
        """Whether the node still is the process for which this was made."""
        return self._node.up and self._node.life == self._life

    def killed(self) -> None:
        """The node was killed: nobody answers any more."""
        for waiter in self._waiters:
            waiter.done.set()

    async def change(self, op: AnyOp) -> AnyOp | None:
        """See `mirrorha.volume.files.streamed.Engine`."""
        reply = await self._ask(lambda token: Change(token, op), type(op).__name__)
        return outcome(reply, primary=self._primary())

    async def flush(self, fid: int, *, data_only: bool = False) -> None:
        """See `mirrorha.volume.files.streamed.Engine`."""
        reply = await self._ask(lambda token: Flush(token, fid, data_only), "Flush")
        outcome(reply, primary=self._primary())

    async def query(self, request: AnyRequest) -> object:
        """See `mirrorha.volume.files.streamed.Engine`."""
        await trio.lowlevel.checkpoint()
        store = self._node.durable.platters[VOLUME]
        if not self.is_alive or not isinstance(store, Shelf):
            raise OSError(errno.EIO, f"{self._node.name} is down")
        try:
            return store.disk.perform(request)
        except DiskError as error:
            raise OSError(errno.EIO, str(error)) from error

    async def _ask(self, make: Callable[[int], Change | Flush], name: str) -> Reply:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.is_alive or not isinstance(self._volume, ProductionVolume):
            raise NotPrimaryError(primary=self._primary(), why=f"{self._node.name} is down")
        self._drive.catch_up()
        waiter = _Waiter()
        self._waiters.add(waiter)
        try:
            self._volume.ask(make, waiter.answer)
            self._drive.tell()
            await waiter.done.wait()
        finally:
            self._waiters.discard(waiter)
        reply = waiter.reply or Reply(0, Failure.UNKNOWN, why=f"{self._node.name} was killed")
        self._drive.world.say(f"{self._node.name} {name}: {reply.failure.name.lower()}")
        return reply
