"""Two nodes in simulated time, for an application's own tests.

    async with open_pair(serve=my_serve, seed=1) as pair:
        await pair.wait_mirrored()
        ...
        pair.kill(pair.primary)

Roles, mirroring, takeover and resynchronisation are decided by the production code; disks, network,
arbiter and time are simulated. A minute takes a fraction of a second, and the same seed is the
same run.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, final

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from mirrorha.core import events as v
from mirrorha.core.messages import Standing
from mirrorha.core.state import ServiceState
from mirrorha.core.words import Role
from mirrorha.errors import CommandRefusedError, LocalUsageError
from mirrorha.testing.kit_engine import VOLUME, Drive, SimEngine
from mirrorha.testing.kit_service import Application, AppService
from mirrorha.testing.sim.pair import NAMES, Pair
from mirrorha.testing.sim.production_volume import Shelf
from mirrorha.testing.sim.world import World
from mirrorha.volume.disk import Kind
from mirrorha.volume.files.streamed import Files

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from mirrorha.testing.sim.node import SimNode

#: Simulated. A first start takes a second, a takeover four, a join after a cut some more.
WAIT_S: Final = 120.0
#: Where the files' times begin: 2020-01-01.
EPOCH_NS: Final = 1_577_836_800 * 10**9


@final
class SimulatedPair:
    """Two running nodes. Made by `open_pair`, never directly.

    Waiting methods raise `mirrorha.testing.sim.world.Violation`, an AssertionError, when what they
    wait for does not come about; its text ends with the last lines of the trace.
    """

    def __init__(self, world: World, sim: Pair, drive: Drive, apps: dict[str, AppService]) -> None:
        self._world: Final = world
        self._sim: Final = sim
        self._drive: Final = drive
        self._apps: Final = apps
        self._engines: Final[dict[str, SimEngine]] = {}
        self._data: Final[dict[str, Files]] = {}
        self._operations = 0

    @property
    def nodes(self) -> tuple[str, str]:
        """The two nodes' names."""
        return NAMES

    @property
    def trace(self) -> list[str]:
        """What happened so far, a line each, with milliseconds since the beginning."""
        return list(self._world.trace)

    @property
    def primary(self) -> str | None:
        """The node that serves now, alone or mirrored, with its service started; else None."""
        return next((name for name in NAMES if self._serves(name)), None)

    @property
    def second(self) -> str | None:
        """The node that stands by with everything, or None."""
        return next((name for name in NAMES if self.role(name) is Role.SECOND), None)

    def role(self, node: str) -> Role | None:
        """The node's role; None while it is down."""
        core = self._node(node).node
        return core.state.role if core is not None else None

    def data(self, node: str) -> Files:
        """The mirrored directory, as code on that node sees it.

        It belongs to the process that runs now: once that is killed, changes that are pending raise
        `OutcomeUnknownError`, later ones `NotPrimaryError`, and reading raises OSError (EIO).
        """
        sim_node = self._node(node)
        engine = self._engines.get(node)
        if engine is None or not engine.is_alive:
            engine = SimEngine(self._drive, sim_node, primary=lambda: self.primary)
            self._engines[node] = engine
            self._data[node] = Files(
                f"/{VOLUME}", engine, clock_ns=lambda: EPOCH_NS + self._world.now_ms * 10**6
            )
        return self._data[node]

    def files(self, node: str) -> dict[str, bytes]:
        """What the node's disk holds now, up or down: every regular file, by path."""
        store = self._node(node).durable.platters[VOLUME]
        if not isinstance(store, Shelf):
            raise TypeError("a pair of this kit has production volumes")
        seen = store.disk.snapshot()
        return {path: each.content for path, each in seen.items() if each.kind is Kind.FILE}

    def kill(self, node: str | None, *, power: bool = False) -> None:
        """End the node's process at once; with `power`, the machine loses what was not synced.

        The application's code there is cancelled: what it does then reaches nothing.
        """
        sim_node = self._node(node)
        self._drive.catch_up()
        sim_node.crash(power=power)
        if sim_node.name in self._engines:
            self._engines[sim_node.name].killed()
        self._apps[sim_node.name].killed()
        self._drive.tell()

    def start(self, node: str) -> None:
        """Start a node that is down; returns at once."""
        self._drive.catch_up()
        self._node(node).start()
        self._drive.tell()

    def cut(self) -> None:
        """Cut the network between the two nodes. Both still reach the arbiter."""
        self._set_open(False)

    def heal(self) -> None:
        """Undo `cut`."""
        self._set_open(True)

    async def swap(self, *, timeout_s: float = WAIT_S) -> None:
        """Move the service to the other node; returns once it is started there and mirrored.

        Raises:
            CommandRefusedError: it cannot be done now, or was given up; the text says why.
        """
        before = self.primary
        if before is None:
            raise CommandRefusedError("no node serves: there is nothing to swap")
        self._operations += 1
        operation = f"swap-{self._operations}"
        self._drive.catch_up()
        self._node(before).give(v.Command(operation=operation, verb=v.Verb.SWAP))
        self._drive.tell()
        commands = self._sim.commands
        await self._wait(lambda: operation in commands, "swapped", timeout_s)
        if not commands[operation].done:
            raise CommandRefusedError(commands[operation].text)
        await self._wait(lambda: self.primary not in (None, before), "swapped", timeout_s)
        await self.wait_mirrored(timeout_s=timeout_s)

    async def wait_mirrored(self, *, timeout_s: float = WAIT_S) -> None:
        """Block until one node serves, its service started, and the other has everything."""
        await self._wait(self._is_mirrored, "mirrored", timeout_s)

    async def wait_role(self, node: str | None, role: Role, *, timeout_s: float = WAIT_S) -> None:
        """Block until the node has this role; one that serves, until its service is started."""
        name = self._node(node).name
        await self._wait(
            lambda: self.role(name) is role and (not role.serves or self._serves(name)),
            f"{name} {role.value}",
            timeout_s,
        )

    async def _wait(self, holds: Callable[[], bool], what: str, timeout_s: float) -> None:
        await self._drive.wait_until(holds, what=what, timeout_s=timeout_s)

    def _is_mirrored(self) -> bool:
        source = self._sim.source()
        if source is None or source.node is None or not self._serves(source.name):
            return False
        # The one that serves must know of it as well: only then it can swap.
        state, peer = source.node.state, source.node.state.peer
        if peer is None or peer.frozen or peer.paired != state.meta.incarnation:
            return False
        is_standing_by = peer.standing is Standing.FOLLOWER and peer.epoch == state.epoch
        return is_standing_by and self._sim.mirrored()

    def _serves(self, name: str) -> bool:
        core = self._node(name).node
        if core is None:
            return False
        state = core.state
        is_on = state.service is ServiceState.ON
        return state.standing is Standing.SOURCE and state.role.serves and is_on

    def _set_open(self, is_open: bool) -> None:
        self._drive.catch_up()
        for way in self._sim.net.open:
            self._sim.net.open[way] = is_open
        if not is_open:
            self._sim.break_link()
        self._world.say("the network is healed" if is_open else "the network is cut")
        self._drive.tell()

    def _node(self, name: str | None) -> SimNode:
        if name is None or name not in self._sim.nodes:
            raise LocalUsageError(f"there is no node {name!r}; the two are {' and '.join(NAMES)}")
        return self._sim.nodes[name]


@asynccontextmanager
async def open_pair(
    *,
    serve: Callable[..., Awaitable[object]] | None = None,
    on_start: Callable[..., Awaitable[object]] | None = None,
    on_stop: Callable[..., Awaitable[object]] | None = None,
    seed: int = 0,
) -> AsyncGenerator[SimulatedPair]:
    """Start two nodes, and kill what is left of them at the end of the block.

    Under trio's mock clock only: `trio.run(main, clock=MockClock(autojump_threshold=0))`, or the
    fixture `autojump_clock` of pytest-trio. Threads and sockets know nothing of simulated time.

    Args:
        serve: `async serve(why, data, *, task_status)` runs while its node serves, as with
            `Cluster.serve`; `data` is the mirrored directory, as in `SimulatedPair.data`.
        on_start, on_stop: or instead `async on_start(why, data)` and `async on_stop(why, data)`.
        seed: of every delay and chance. Same seed, same trace.

    Raises:
        LocalUsageError: trio's clock here is not a MockClock.
        Violation, InvariantViolation: mirrorha itself broke a promise. Please report the seed.
    """
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        raise LocalUsageError(
            "open_pair needs simulated time: give the test the fixture autojump_clock, or use "
            "trio.run(..., clock=trio.testing.MockClock(autojump_threshold=0))"
        )
    clock.autojump_threshold = 0
    application = Application(serve=serve, on_start=on_start, on_stop=on_stop)
    apps = {name: AppService(name, application) for name in NAMES}
    world = World(seed, trace=True)
    sim = Pair(world, production=True, services=apps, volumes=(VOLUME,))
    sim.writing = False
    drive = Drive(world)
    pair = SimulatedPair(world, sim, drive, apps)
    failed: BaseException | None = None
    with _scheduled_by(seed):
        async with trio.open_nursery() as nursery:
            for app in apps.values():
                app.attach(nursery, drive, pair.data)
            nursery.start_soon(drive.run, nursery.cancel_scope.cancel)
            for name in NAMES:
                pair.start(name)
            try:
                yield pair
            except trio.Cancelled:
                raise
            except BaseException as error:
                failed = error  # raised below as it is, not in a group
            nursery.cancel_scope.cancel()
    if drive.fault is not None:
        raise drive.fault
    if failed is not None:
        raise failed


@contextmanager
def _scheduled_by(seed: int) -> Iterator[None]:
    """Let the seed decide which of several tasks that can run is first, as trio lets Hypothesis."""
    name = "_ALLOW_DETERMINISTIC_SCHEDULING"
    was_allowed, state = getattr(trio_run, name), trio_run._r.getstate()
    setattr(trio_run, name, True)
    trio_run._r.seed(seed)
    try:
        yield
    finally:
        setattr(trio_run, name, was_allowed)
        trio_run._r.setstate(state)
