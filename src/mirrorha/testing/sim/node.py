"""One simulated server: durable state, a process that comes and goes, a service, volumes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, final

import attrs

from mirrorha.core import effects as e
from mirrorha.core import events as v
from mirrorha.core.detector import PeerBeat
from mirrorha.core.messages import AnyMessage, Standing
from mirrorha.core.meta import Meta, begin_incarnation
from mirrorha.core.node import Node
from mirrorha.core.orders import AnyOrder, Close, StopReason, Trouble
from mirrorha.core.settings import Settings
from mirrorha.core.words import Boot, Role
from mirrorha.testing.sim.clock import Clock
from mirrorha.testing.sim.model_volume import ModelVolume, Platter
from mirrorha.testing.sim.production_volume import ProductionVolume, Shelf
from mirrorha.testing.sim.world import Violation, World
from mirrorha.volume.resync.sides import ComparingResyncs


@attrs.define
class Durable:
    """What survives a process; `power_loss` decides what of it survives that."""

    meta: Meta
    platters: dict[str, Platter | Shelf]


class ServiceOfNode(Protocol):
    """What is started and stopped in the place of the simulated service.

    `done` takes what came of it, whenever that is; what comes after the node was killed is void.
    """

    def start(self, effect: e.StartService, done: Callable[[v.AnyEvent], None]) -> None: ...
    def stop(self, effect: e.StopService, done: Callable[[v.AnyEvent], None]) -> None: ...


@final
class SimNode:
    """Performs what the core asks, in its order: persist first, then the rest.

    Args:
        hub: what connects the nodes: arbiter, network, oracle. See `pair.Pair`.
        service: what is started and stopped here; a simulated one if None.
    """

    def __init__(
        self, world: World, settings: Settings, hub: Any, service: ServiceOfNode | None = None
    ) -> None:
        self._service = service
        self.world, self.settings, self.hub = world, settings, hub
        self.name = settings.node
        self.durable = Durable(
            meta=Meta(node=self.name),
            platters={volume: hub.make_store() for volume in settings.volumes},
        )
        self.boot_number = 1
        self.up = False
        self.paused_until_ms = 0
        self.blocked_since_ms = self.blocked_until_ms = 0  # the application blocks the loop
        self.stuck_until_ms = 0  # its volumes read nothing
        self.away = False  # nobody starts it
        self.problem = ""  # why its volumes cannot be used
        self.clock = Clock(world)
        self.node: Node | None = None
        self.volumes: dict[str, ModelVolume | ProductionVolume] = {}
        self._undriven: set[str] = set()  # volumes whose driver ended
        self.life = 0  # rises at each start and crash: what an earlier life left behind is void
        self.running = False  # the service
        self.service_token = 0
        self.sequence = 0
        self._inbox: deque[v.AnyEvent] = deque()
        self._busy = False
        self.fail_service = 0.0
        self._has_lost = False  # its disk, what no process has been told of
        self.kill_stop = 0.0  # how often a stop of the service misses its deadline
        self.heard: dict[str, tuple[int, int]] = {}  # by path: incarnation, sequence of a beat
        self.image: Durable | None = None
        self.put_away: list[Durable] = []  # disks that were taken out, latest last

    # ---- life ----

    def start(self) -> None:
        """Start the process; the state it finds decides what it is."""
        if self.up:
            return
        self.life += 1
        self.up = True
        self._inbox.clear()
        self._busy = False
        self.running = False
        meta, boot = begin_incarnation(
            self.durable.meta, boot_id=f"boot-{self.boot_number}", at_least=self.clock.wall_ms()
        )
        self.durable.meta = meta
        self.world.count(f"boot {boot.value}")
        rng = self.world.rng
        self.node = Node(self.settings, meta, boot, rng=rng, now_ms=self.clock.now_ms())
        self.durable.meta = self.node.state.meta
        self._lose_what_failed()
        self.sequence = 0
        self.heard = {}
        self.volumes = {name: self._make_volume(name) for name in self.settings.volumes}
        self._undriven.clear()
        self.world.say(f"{self.name} starts, incarnation {meta.incarnation} after {boot.value}")
        self.inspect()
        self.give(v.Command(operation="", verb=v.Verb.START))
        self._tick(self.life)
        self.hub.node_started(self)

    def _lose_what_failed(self) -> set[str]:
        """What a disk that failed could not write back is not read from it either.

        Returns the volumes that are on such a disk.
        """
        stores = self.durable.platters.items()
        failed = {name for name, each in stores if isinstance(each, Shelf) and each.disk.has_failed}
        for name in failed:
            self.durable.platters[name].lose_power(self.world)
        if failed:
            self.hub.os_crashed(self.name)
        return failed

    def _open_what_failed(self) -> None:
        """A node that stopped closes its directories: it starts again with all of them anew."""
        failed = self._lose_what_failed()
        failed |= {name for name, volume in self.volumes.items() if volume.dead}
        for name in sorted(failed):
            self._replace(name)

    def _replace(self, name: str) -> None:
        self.volumes[name].dead = True
        self.hub.break_stream(name)
        self.volumes[name] = self._make_volume(name)

    def inspect(self, *, anew: bool = False) -> None:
        """Tell the core what its directories are."""
        has_files = any(platter.cache for platter in self.durable.platters.values())
        # The system tells whoever opens a directory next of what it could not write back.
        lost, self._has_lost = self._has_lost, False
        self.give(
            v.VolumesInspected(
                has_files=has_files, ours=True, problem=self.problem, lost=lost, anew=anew
            )
        )

    def _make_volume(self, name: str) -> ModelVolume | ProductionVolume:
        life = self.life

        def alive(action: Callable[..., None]) -> Callable[..., None]:
            def call(*args: Any) -> None:
                if self.life == life:
                    action(*args)

            return call

        port: dict[str, Any] = {
            "send": lambda message: self.hub.stream_send(self, name, message),
            "report": alive(lambda report: self.give(v.VolumeReported(name, report))),
            "acked": lambda value, epoch, both: self.hub.acked(self, name, value, epoch, both),
            "on_synced": lambda values: self.hub.synced(self.name, name, values),
            "on_more": lambda values: self.hub.synced_more(self.name, name, values),
            "on_fsynced": lambda values, both: self.hub.fsynced(self, name, values, both=both),
            "durable": self.settings.ack_durable,
        }
        store = self.durable.platters[name]
        if isinstance(store, Shelf):
            store.start()
            return ProductionVolume(
                self.world,
                name,
                store,
                reset=lambda: self.hub.break_stream(name),
                resyncs=ComparingResyncs(),
                **port,
            )
        return ModelVolume(self.world, name, store, **port)

    def crash(self, *, power: bool) -> None:
        """The process ends at once; with `power`, what was not synced may be gone as well."""
        if self.up:
            self.hub.node_stopping(self)
        self.up = False
        self.life += 1
        self.paused_until_ms = self.blocked_until_ms = self.stuck_until_ms = 0
        for volume in self.volumes.values():
            volume.dead = True
        self.node = None
        self.running = False
        self.world.count("os crash" if power else "process crash")
        self.world.say(f"{self.name} {'loses power' if power else 'is killed'}")
        if power:
            self.boot_number += 1
            for platter in self.durable.platters.values():
                platter.lose_power(self.world)
            self.hub.os_crashed(self.name)

    def take_image(self) -> None:
        """An image of the disk, as a snapshot of a stopped or running server takes it."""
        self.image = Durable(
            meta=self.durable.meta,
            platters={
                name: platter.as_image(self.world)
                for name, platter in self.durable.platters.items()
            },
        )

    def restore_image(self) -> None:
        """Put the old image back. The process must be down."""
        if self.up or self.image is None:
            raise ValueError("an image is restored while the node is down, and after it was taken")
        self.replace_disk(self.image)
        self.image = None
        self.hub.oracle.restored(self.name)
        self.world.count("image restored")
        self.world.say(f"{self.name} is restored from an image")

    def replace_disk(self, durable: Durable) -> None:
        """Put another disk in. The process must be down; the old one is kept by somebody."""
        self.put_away.append(self.durable)
        self._has_lost = False
        self.durable = durable
        self.boot_number += 1

    # ---- the loop that owns the core ----

    def give(self, event: v.AnyEvent) -> None:
        """Queue an event; the loop takes one at a time and waits for each persist."""
        if not self.up:
            return
        self._inbox.append(event)
        self._turn(self.life)

    def _turn(self, life: int) -> None:
        while self._inbox and not self._busy and self.life == life and self.up:
            held_until_ms = max(self.paused_until_ms, self.blocked_until_ms)
            if self.world.now_ms < held_until_ms:
                delay_ms = held_until_ms - self.world.now_ms
                self._busy = True
                self.world.after(delay_ms, lambda: self._unpause(life))
                return
            event = self._inbox.popleft()
            self._step(event)

    def _unpause(self, life: int) -> None:
        if self.life == life:
            self._busy = False
            self._turn(life)

    def _step(self, event: v.AnyEvent) -> None:
        node = self.node
        if node is None:
            return
        epoch_before = node.state.meta.held.epoch if node.state.meta.held else 0
        batch = node.step(event, self.clock.now_ms())
        self.hub.after_step(self, event)
        held = node.state.meta.held
        if (held.epoch if held else 0) < epoch_before:
            raise Violation(f"I3 {self.name}: the epoch held falls")
        self._take_in(batch)

    def _take_in(self, batch: e.Batch) -> None:
        """Durable before visible: the rest of the batch waits for the disk."""
        if batch.persist is None:
            self._perform(batch)
            return
        self._busy = True
        life, meta = self.life, batch.persist

        def persisted() -> None:
            if self.life != life:
                return
            before, self.durable.meta = self.durable.meta, meta
            self._busy = False
            self.hub.persisted(self, before)
            if self.life != life:
                return
            self._perform(batch)
            self._turn(life)

        self.world.after(self.world.between(0, 3), persisted)

    def _tick(self, life: int) -> None:
        if self.life != life or not self.up or self.node is None:
            return
        if self.world.now_ms >= self.paused_until_ms:
            # The heartbeat thread last turned up to a pulse ago.
            age_ms = self.world.now_ms % self.node.state.settings.pulse_ms
            self.give(v.Tick(listened_at_ms=self.clock.now_ms() - age_ms))
        if self.node is not None and self.life == life:
            wait_ms = max(1, self.node.next_deadline_ms() - self.clock.now_ms())
            self.world.after(wait_ms + self.world.between(0, 3), lambda: self._tick(life))

    # ---- effects ----

    def _perform(self, batch: e.Batch) -> None:
        for effect in batch.after:
            if self.up:
                self._perform_one(effect)

    def _perform_one(self, effect: e.AnyEffect) -> None:  # noqa: C901, PLR0912
        life = self.life
        match effect:
            case e.SendPeer():
                self.hub.control_send(self, effect.link, effect.message)
            case e.ReadRegister():
                token = effect.token
                self.hub.arbiter.read(
                    self.name,
                    lambda found: self._answer(life, v.RegisterRead(token=token, found=found)),
                )
            case e.Cas():
                token = effect.token
                self.hub.arbiter.cas(
                    self.name,
                    effect.expected,
                    effect.new,
                    lambda outcome: self._answer(life, v.CasDone(token=token, outcome=outcome)),
                )
            case e.Feed():
                self.give(effect.event)
            case e.RunIsolationChecks():
                token = effect.token
                self.hub.check_isolation(
                    self,
                    lambda ok: self._answer(life, v.IsolationChecked(token=token, all_answered=ok)),
                )
            case e.AskFencer():
                token = effect.token
                self.hub.fence(
                    self, lambda ok: self._answer(life, v.FencerAnswered(token=token, stopped=ok))
                )
            case e.Give():
                self.hub.given(self, effect.order)
                self._order(effect.volume, effect.order)
            case e.StartService():
                self._start_service(effect)
            case e.StopService():
                self._stop_service(effect)
            case e.SayGoodbye():
                self.hub.goodbye(self)
            case e.ProbePort():
                self.hub.probe(self, effect.incarnation)
            case e.DropLink():
                self.hub.drop_link(effect.link)
            case e.RoleMoved():
                self._role_moved(effect)
            case e.Note():
                self.world.count(f"rule {effect.rule}")
                self.hub.noted(self, effect.rule)
                self.world.say(f"{self.name} {effect.rule}: {effect.text}")
            case e.CommandDone():
                self.hub.commands[effect.operation] = effect

    def _role_moved(self, effect: e.RoleMoved) -> None:
        if effect.to_role is Role.STOP:
            self._open_what_failed()
        if effect.to_role.serves:
            self.hub.check_primary(self, f"at {effect.rule}", epoch=effect.epoch)
        self.world.count(f"edge {effect.from_role.value}-{effect.rule}")
        self.world.say(
            f"{self.name} {effect.from_role.value}->{effect.to_role.value} "
            f"e{effect.epoch} ({effect.rule}) {effect.why}"
        )

    def _answer(self, life: int, event: v.AnyEvent) -> None:
        if self.life == life:
            self.give(event)

    def _start_service(self, effect: e.StartService) -> None:
        life = self.life
        if self.running:
            raise Violation(f"I9 {self.name}: a start while the service runs")
        if self.node is not None and self.node.state.standing is not Standing.SOURCE:
            return
        self.running = True
        self.service_token = effect.token
        if self._service is not None:
            self._service.start(effect, lambda event: self._answer(life, event))
            return
        failed = self.world.chance(self.fail_service)

        def done() -> None:
            event: v.AnyEvent = v.ServiceStarted(token=effect.token)
            if failed:
                self.world.count("service start failed")
                event = v.ServiceFailed(token=effect.token, text="start failed")
            self._answer(life, event)

        self.world.after(self.world.between(0, 100), done)

    def _stop_service(self, effect: e.StopService) -> None:
        life = self.life

        def stopped(event: v.AnyEvent) -> None:
            if self.life == life:
                self.running = False
                self._answer(life, event)

        if self._service is not None:
            self._service.stop(effect, stopped)
            return

        clean = not (self.kill_stop and self.world.chance(self.kill_stop))

        def done() -> None:
            stopped(v.ServiceStopped(token=effect.token, clean=clean))

        self.world.after(self.world.between(0, 100), done)

    # ---- what happens to it ----

    def beat(self, path: str, peer: int | None) -> PeerBeat | None:
        """A heartbeat, sent by a thread of its own: also while the loop is blocked, not stopped.

        It echoes what was heard of the peer's incarnation `peer`.
        """
        if not self.up or self.node is None or self.world.now_ms < self.paused_until_ms:
            return None
        self.sequence += 1
        blocked = self.world.now_ms < self.blocked_until_ms
        heard = self.heard.get(path)
        return PeerBeat(
            incarnation=self.node.state.meta.incarnation,
            sequence=self.sequence,
            echo_sequence=heard[1] if heard and heard[0] == peer else None,
            loop_age_ms=self.world.now_ms - self.blocked_since_ms if blocked else 0,
            goodbye=self.node.state.standing is Standing.STOPPED and self.node.state.tokens > 0,
        )

    def hear(self, message: AnyMessage) -> None:
        self.give(v.Heard(message=message))

    def disk_fails(self) -> None:
        """It could not write back what was in the page cache: that may be gone, as by a power loss.

        The process goes on, and its volumes answer nothing any more. A node that is stopped has
        nothing open.
        """
        if self.node is None or self.node.state.role is Role.STOP:
            return
        self.world.count("disk failed")
        for volume in self.volumes.values():
            volume.dead = True
        for platter in self.durable.platters.values():
            platter.lose_power(self.world)
        self._has_lost = True
        self.hub.os_crashed(self.name)
        report = Trouble(reason=StopReason.OWN_DISK, text="simulated EIO")
        self.give(v.VolumeReported(self.settings.volumes[0], report))

    def driver_ends(self, name: str, text: str) -> None:
        """What drives a volume is gone; a while later all of them are closed and opened again."""
        if self.node is None or self.node.state.role is Role.STOP or self.volumes[name].dead:
            return
        self.volumes[name].dead = True
        self._undriven.add(name)
        self.hub.break_stream(name)
        self.give(v.VolumeReported(name, Trouble(StopReason.NOT_DRIVEN, text)))
        life = self.life
        self.world.after(self.world.between(500, 8_000), lambda: self._drive_anew(life))

    def _drive_anew(self, life: int) -> None:
        if self.life != life or not self._undriven:
            return
        if self.running:  # whoever still runs must not get to see the directories themselves
            self.world.after(500, lambda: self._drive_anew(life))
            return
        for name in self.settings.volumes:
            self._replace(name)
        self._undriven.clear()
        self.inspect(anew=True)

    def _order(self, name: str, order: AnyOrder) -> None:
        if name in self._undriven:
            if not isinstance(order, Close):
                trouble = Trouble(StopReason.NOT_DRIVEN, "the volume is not open")
                self.give(v.VolumeReported(name, trouble))
            return
        self.volumes[name].order(order)

    @property
    def boot(self) -> Boot | None:
        return self.node.state.boot if self.node else None
