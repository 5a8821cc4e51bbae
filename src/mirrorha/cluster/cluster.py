"""The public face of a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, final

import attrs
import trio

from mirrorha.cluster.at_rest import Document, not_running
from mirrorha.cluster.feed import EventStream, Feed
from mirrorha.config import ClusterConfig, VolumeConfig, check_authority, format_rate
from mirrorha.config.model import RATE_MAX, RATE_MIN
from mirrorha.core.events import Verb
from mirrorha.core.state import ServiceState
from mirrorha.core.words import Allow, Role
from mirrorha.errors import CommandRefusedError, LocalUsageError
from mirrorha.volume.replicator import Replicator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mirrorha.abc import Arbiter
    from mirrorha.checks.runner import Checker
    from mirrorha.cluster.fencing import FencerRule
    from mirrorha.cluster.runtime import Runtime, Seams, _Parts
    from mirrorha.core.change import RoleChange
    from mirrorha.core.state import State
    from mirrorha.notify import NotifyRule
    from mirrorha.probe import HealthProbe
    from mirrorha.state.history import HistoryEvent
    from mirrorha.switches.keeper import SwitchRule
    from mirrorha.volume.engine import Engine
    from mirrorha.volume.worker.client import WorkerEngine

F = TypeVar("F", bound="Callable[..., object]")

#: What an operator's command may take beyond the service's own deadlines: a decision at the
#: arbiter and a last sync of the disks.
SLACK_S: Final = 30.0
#: A command that is only noted down.
NOTED_S: Final = 10.0
_NOT_RUNNING: Final = "the node does not run: `run` is not under way"


@final
class Cluster:
    """This node of a cluster. `trio.run(cluster.run)`, or `await nursery.start(cluster.run)`.

    Everything but `run` may be called before; what asks something of a running node says so.
    Used in one trio loop, and by one task at a time where it is being put together.

    Args:
        config: The cluster, seen from this node.
        arbiter: Where the register is kept, if the configuration does not name it.

    Raises:
        ConfigError: the two contradict each other.
        LocalUsageError: the configuration does not say which node this is.
    """

    def __init__(self, config: ClusterConfig, arbiter: Arbiter | None = None) -> None:
        if arbiter is not None and config.arbiter is not None:
            raise LocalUsageError("the arbiter is given twice: in the configuration and beside it")
        check_authority(config, arbiter is not None or config.arbiter is not None)
        self._config = config
        self._me: Final = config.me.name
        self._arbiter: Final = arbiter
        self._seams: Seams | None = None  # the real ones
        self._feed: Final = Feed()
        self._changed: Final = trio.lowlevel.ParkingLot()
        self._runtime: Runtime | None = None
        self._added: list[VolumeConfig] = []
        self._replicators: dict[str, Replicator] = {}
        self._checkers: list[Checker] = []
        self._switches: list[SwitchRule] = []
        self._fencers: list[FencerRule] = []
        self._notified: list[NotifyRule] = []
        self._probe: HealthProbe | None = None
        self._start: Callable[..., object] | None = None
        self._stop: Callable[..., object] | None = None
        self._serve: Callable[..., Awaitable[object]] | None = None
        self._can_promote: list[Callable[[], object]] = []
        self._on_role: list[Callable[[RoleChange], object]] = []
        for each in config.volumes:
            self._replicator(each.path)

    # ---- putting it together ----

    @property
    def config(self) -> ClusterConfig:
        """The configuration, with what was added to it."""
        return _with_volumes(self._config, self._added)

    @property
    def node(self) -> str:
        """This node's name."""
        return self._me

    def replicate(
        self,
        path: str,
        *,
        peer_path: str | None = None,
        ack: Literal["applied", "durable"] = "applied",
        mount: bool | None = None,
        exclude: Sequence[str] = (),
    ) -> Replicator:
        """Replicate a directory; return its file API. Before `run`. See `VolumeConfig`.

        Raises:
            ConfigError: it contradicts the configuration.
        """
        self._check_idle()
        volume = VolumeConfig(
            path=path,
            peer_path=peer_path,
            ack=ack,
            mount=mount,
            exclude=exclude,  # type: ignore[arg-type]
        )
        _with_volumes(self._config, [*self._added, volume])
        self._added.append(volume)
        return self._replicator(path)

    @property
    def volumes(self) -> dict[str, Replicator]:
        """Every replicated directory, by its path on this node."""
        return dict(self._replicators)

    def check(self, checker: Checker) -> None:
        """Check the service so while this node serves. Before `run`."""
        self._check_idle()
        self._checkers.append(checker)

    def switch(self, rule: SwitchRule) -> None:
        """Send clients to the node that serves so. Before `run`."""
        self._check_idle()
        self._switches.append(rule)

    def fencer(self, rule: FencerRule) -> None:
        """Ask this fencer, after those that were given before, for the end of a lost peer."""
        self._check_idle()
        self._fencers.append(rule)

    def notify(self, rule: NotifyRule) -> None:
        """Have this command or webhook told of what a person should know. Before `run`."""
        self._check_idle()
        self._notified.append(rule)

    def probe(self, probe: HealthProbe) -> None:
        """Answer load balancers so. Before `run`, once.

        Raises:
            LocalUsageError: there is a probe already.
        """
        self._check_idle()
        if self._probe is not None or self._config.probe is not None:
            raise LocalUsageError("there is a probe already")
        self._probe = probe

    def on_start(self, function: F) -> F:
        """Decorator: `function(why)` starts the service, and returns when it is started."""
        self._check_idle()
        self._start = _once("on_start", self._start, function)
        return function

    def on_stop(self, function: F) -> F:
        """Decorator: `function(why)` stops the service, and returns when it has stopped."""
        self._check_idle()
        self._stop = _once("on_stop", self._stop, function)
        return function

    def serve(self, function: F) -> F:
        """Decorator: the task `function(why, *, task_status)` runs while this node serves.

        `task_status.started()` ends the start; it is cancelled to stop it. Returning or raising
        before that is a failed service.
        """
        self._check_idle()
        self._serve = _once("serve", self._serve, function)
        return function

    def can_promote(self, function: F) -> F:
        """Decorator: `function()` is asked now and then on a SECOND whether it may take over.

        All such functions must return something true. One that raises, or does not answer
        within two seconds, says no.
        """
        self._check_idle()
        self._can_promote.append(function)
        return function

    def on_role(self, function: F) -> F:
        """Decorator: `function(why)` is told of each change of role, after it, one at a time."""
        self._check_idle()
        self._on_role.append(function)
        return function

    # ---- running ----

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be this node until cancelled. `task_status.started()` is called once it can be asked.

        Cancelled, pending changes are answered with errors, the service is stopped within its
        deadline, and the peer is told if that went well. A planned end is `stop` first, which
        also lets the peer go on at once and needs nothing repaired at the next start.

        Raises:
            LocalUsageError, StateError, ConfigError: the node cannot be started; the text says
                why. Nothing has been changed.
            StateError, InvariantViolation: it must not go on, and has stopped serving.
        """
        self._check_idle()
        # In a thread: keys are read for it, and all that a running node needs is imported.
        runtime = await trio.to_thread.run_sync(self._assemble, limiter=trio.CapacityLimiter(1))
        self._runtime = runtime
        try:
            await runtime.run(task_status=task_status)
        except BaseExceptionGroup as group:
            raise _plainest(group) from None
        finally:
            self._runtime = None
            self._changed.unpark_all()

    def status(self) -> Document:
        """The status document: plain values, JSON-able, of schema 1. Never blocks."""
        found = self._runtime.document() if self._runtime else None
        return found or not_running(
            cluster=self._config.name,
            node=self._me,
            link=self._config.link,
            volumes=list(self._replicators),
        )

    @property
    def role(self) -> Role:
        """What this node is now."""
        state = self._state
        return state.role if state else Role.STOP

    @property
    def probe_port(self) -> int | None:
        """Where the probe listens, while the node runs."""
        return self._runtime.probe_port if self._runtime else None

    async def wait_role(self, *roles: Role | str) -> Role:
        """Block until this node has one of `roles`; return it. Always a checkpoint. Cancel-safe."""
        wanted = {Role(role) for role in roles}
        await self._wait_for(lambda: self.role in wanted)
        return self.role

    def events(self) -> EventStream:
        """What happens on this node from now on: `async for event in cluster.events()`.

        Yields `NodeEvent`, and a `Gap` where this reader was too slow. Ends with the node.
        """
        return self._feed.open()

    async def history(self, *, limit: int = 100) -> list[HistoryEvent]:
        """The latest `limit` events that this node keeps, oldest first. Reads in a thread.

        Raises:
            LocalUsageError: the node does not run.
            HistoryError: they cannot be read.
        """
        history = self._runtime.history if self._runtime else None
        if history is None:
            raise LocalUsageError(_NOT_RUNNING)
        return await history.newest(limit=limit)

    # ---- commands ----

    async def start(self) -> str:
        """Start a node that was stopped. Returns what was done, as all commands do.

        Raises:
            CommandRefusedError: it cannot be done now; the text says why. Every command may.
            LocalUsageError: the node does not run. Every command may.
        """
        self._running().volumes.open_again()
        return await self._command(Verb.START, NOTED_S)

    async def stop(self) -> str:
        """Stop this node in good order: the service, then the stream, then a goodbye.

        An up-to-date peer takes over at once. `run` goes on, so that `start` can be called. Once
        this returns the directories are ordinary ones: what anybody changes in them is noticed.

        Raises:
            CommandRefusedError: also if the node has stopped, and a volume is still in use by it.
        """
        volumes = self._running().volumes
        text = await self._command(Verb.STOP, self._phases_s + SLACK_S)
        if not await volumes.wait_closed():
            raise CommandRefusedError(
                f"{text}, but its volumes are not closed: change nothing in their directories "
                "before this program has ended"
            )
        return text

    async def restart(self) -> str:
        """Restart the service in place, and return when it is started again.

        Where it failed before, that is forgotten: it may be restarted as often again. That holds
        on a node, too, where it does not run now.
        """
        state = self._running().loop.state
        # One that is not started yet is not started twice: its start is the answer.
        before = state.service_token if state.service is ServiceState.ON else None
        was_here = state.role.serves
        text = await self._command(Verb.RESTART, NOTED_S)
        if not was_here:
            return text
        ended = await self._wait_some(
            lambda: (
                self.role not in (Role.PRIM, Role.ALONE)
                or (state.service is ServiceState.ON and state.service_token != before)
                or bool(state.gave_up)
            )
        )
        if not ended or state.service is not ServiceState.ON:
            why = state.gave_up or state.why
            raise CommandRefusedError(f"the service did not start again: {why}")
        return text

    async def swap(self) -> str:
        """Exchange the roles; return once the other node (or this one) is PRIM."""
        was_second = self.role is Role.SECOND
        text = await self._command(Verb.SWAP, self._phases_s + SLACK_S)
        if not was_second:
            return text
        if not await self._wait_some(lambda: self.role is not Role.SECOND):
            raise CommandRefusedError(f"{text}, and did not: its history says why")
        return f"{self._me} is {self.role.value}"

    async def pause(self) -> str:
        """Maintenance: suspend service actions and takeover until `resume`. Survives restarts."""
        return await self._command(Verb.PAUSE, NOTED_S)

    async def resume(self) -> str:
        """End maintenance."""
        return await self._command(Verb.RESUME, NOTED_S)

    async def init(self) -> str:
        """Begin the cluster with this node's directories. The other's may be overwritten."""
        return await self._command(Verb.INIT, NOTED_S)

    async def accept(self) -> str:
        """Give up this node's directories: they are filled by the other node's."""
        return await self._command(Verb.ACCEPT, NOTED_S)

    async def acknowledge(self) -> str:
        """A person has seen what this node kept of its side of a split: end that alarm."""
        return await self._command(Verb.ACKNOWLEDGE, NOTED_S)

    async def verify(
        self,
        volume: str | None = None,
        *,
        repair: bool = False,
        rate_bytes_per_s: int | None = None,
        source: str | None = None,
        found: bool = False,
    ) -> str:
        """Compare the two copies by content, while both go on; return what came of it.

        Whatever is merely under way is no difference. It may take hours; cancelled, it goes on
        nevertheless, until `stop_verify`. Called again meanwhile, with a rate: it goes on at that.

        Args:
            volume: The directory; None: all of them.
            repair: Make the other node's copy what this one's is.
            rate_bytes_per_s: How much content is read in a second on each node; None: as it is
                configured.
            source: Whose copy stands: the node that serves, which is the default. Another one has
                to serve first.
            found: Only the files in which the last comparison found something.

        Raises:
            CommandRefusedError: it cannot be done, was stopped, or there are differences that are
                not repaired; the text says which.
        """
        from mirrorha.cluster.verifying import Wish  # noqa: PLC0415 - of a running node

        wish = Wish(
            volume=volume,
            repair=repair,
            rate_bytes_per_s=rate_bytes_per_s,
            source=source,
            found=found,
        )
        return await self._running().verifying.verify(wish)

    async def stop_verify(self, volume: str | None = None) -> str:
        """Stop comparing `volume`, or all."""
        await trio.lowlevel.checkpoint()
        return self._running().verifying.stop(volume)

    async def set_resync_rate(self, rate_bytes_per_s: int) -> str:
        """Bring the other node up to date at most so fast from now on, until this process ends.

        A resync that is under way goes on at that rate. Where the application writes faster than
        that, it gives way, or there would never be an end.

        Args:
            rate_bytes_per_s: How much content of each volume is gone through in a second; 0: as
                much as can be. 1 MiB at the least.
        """
        await trio.lowlevel.checkpoint()
        if not 0 <= rate_bytes_per_s <= RATE_MAX:
            raise CommandRefusedError(f"{rate_bytes_per_s} bytes a second is no rate")
        rate_bytes_per_s = rate_bytes_per_s and max(rate_bytes_per_s, RATE_MIN)
        self._running().volumes.set_resync_rate(rate_bytes_per_s)
        rate = format_rate(rate_bytes_per_s) if rate_bytes_per_s else "as fast as it can"
        return f"whoever is brought up to date by {self.node} is so at {rate} from now on"

    async def force_primary(
        self, *, without_arbiter: bool = False, inconsistent_data: bool = False
    ) -> str:
        """Have this node serve with what it holds, whatever that lacks. For ever told as forced.

        Args:
            without_arbiter: also if the arbiter does not answer. Then both nodes may acknowledge
                writes apart from each other; that is told as a split once they meet.
            inconsistent_data: also if a resync into this node was not finished.
        """
        flags = {Allow.WITHOUT_ARBITER: without_arbiter, Allow.INCONSISTENT: inconsistent_data}
        allowed = frozenset(each for each, is_set in flags.items() if is_set)
        return await self._command(Verb.FORCE_PRIMARY, SLACK_S, allowed)

    async def force_secondary(self) -> str:
        """Have this node give up its standing, durably: it waits for the peer to fill it."""
        return await self._command(Verb.FORCE_SECONDARY, NOTED_S)

    # ---- inside ----

    @property
    def _phases_s(self) -> float:
        service = self._config.service
        return service.start_timeout_s + service.stop_timeout_s

    @property
    def _state(self) -> State | None:
        parts = self._runtime.parts if self._runtime else None
        return parts.loop.state if parts else None

    def _running(self) -> _Parts:
        parts = self._runtime.parts if self._runtime else None
        if parts is None:
            raise LocalUsageError(_NOT_RUNNING)
        return parts

    async def _command(
        self, verb: Verb, limit_s: float, allowed: frozenset[Allow] = frozenset()
    ) -> str:
        operations = self._running().operations
        return await operations.run(verb, limit_s=limit_s, allowed=allowed)

    async def _wait_some(self, holds: Callable[[], bool]) -> bool:
        """Wait as long as the service's phases may take; return whether it holds."""
        with trio.move_on_after(self._phases_s + SLACK_S):
            await self._wait_for(holds)
        return holds()

    async def _wait_for(self, holds: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not holds():
            await self._changed.park()

    def _wake(self) -> None:
        self._changed.unpark_all()

    def _check_idle(self) -> None:
        if self._runtime is not None:
            raise LocalUsageError("the node runs: this has to be done before")

    def _replicator(self, path: str) -> Replicator:
        made = self._replicators[path] = Replicator(path, driver=lambda: self._driver(path))
        return made

    def _driver(self, path: str) -> Engine | WorkerEngine | None:
        parts = self._runtime.parts if self._runtime else None
        if parts is None or parts.volumes.is_closed:
            return None
        name = next(each.name for each in parts.volumes.names if each.path == path)
        return parts.volumes.driver(name)

    def _assemble(self) -> Runtime:
        # Whoever only puts a node together does not pay for the parts of a running one.
        from mirrorha.cluster import making  # noqa: PLC0415
        from mirrorha.cluster.plan import Plan  # noqa: PLC0415
        from mirrorha.cluster.runtime import Runtime, Seams  # noqa: PLC0415

        config = self.config
        arbiter = self._arbiter or making.make_arbiter(config)
        plan = Plan(
            config=config,
            arbiter=arbiter,
            arbiter_text=making.arbiter_text(arbiter),
            phases=making.make_phases(
                config, start=self._start, stop=self._stop, serve=self._serve
            ),
            checkers=(*making.make_checkers(config), *self._checkers),
            switches=(*making.make_switches(config), *self._switches),
            fencers=(*making.make_fencers(config), *self._fencers),
            notified=(*making.make_notified(config), *self._notified),
            probe=self._probe or making.make_probe(config),
            can_promote=tuple(self._can_promote),
            on_role=tuple(self._on_role),
        )
        return Runtime(plan, feed=self._feed, changed=self._wake, seams=self._seams or Seams())


def _with_volumes(config: ClusterConfig, volumes: Sequence[VolumeConfig]) -> ClusterConfig:
    """The configuration with what the program replicates besides; all of it is checked again.

    Raises:
        ConfigError: they contradict it, or each other.
    """
    if not volumes:
        return config
    both = (*config.volumes, *volumes)
    # mypy takes the converter's type variable for a type.
    return attrs.evolve(config, volumes=both)  # type: ignore[arg-type]


def _once(what: str, before: object, function: Any) -> Any:
    if before is not None:
        raise LocalUsageError(f"@cluster.{what} is given twice")
    return function


def _plainest(group: BaseExceptionGroup[Any]) -> BaseException:
    """The one error that a group is about, without the group; the group if there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
