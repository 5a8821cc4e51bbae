"""Two simulated nodes, what connects them, and a client that remembers every answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, final

import attrs

from mirrorha.core import effects as e
from mirrorha.core import events as v
from mirrorha.core import orders as o
from mirrorha.core.detector import PeerBeat
from mirrorha.core.messages import AnyMessage, Standing
from mirrorha.core.meta import Meta
from mirrorha.core.register import Register
from mirrorha.core.settings import Settings
from mirrorha.core.words import Mode, Role
from mirrorha.testing.sim.arbiter import SimArbiter
from mirrorha.testing.sim.forced import Forces
from mirrorha.testing.sim.model_volume import Message, Platter
from mirrorha.testing.sim.node import ServiceOfNode, SimNode
from mirrorha.testing.sim.oracle import Oracle
from mirrorha.testing.sim.owed import Owed
from mirrorha.testing.sim.production_volume import Shelf
from mirrorha.testing.sim.shared import SharedRegister
from mirrorha.testing.sim.trap import Trap
from mirrorha.testing.sim.watch import Watch
from mirrorha.testing.sim.world import Violation, World

NAMES: Final = ("lyon", "paris")
LAST_EPOCH: Final = 1 << 62


@attrs.define
class Net:
    """What gets through. One-way cuts concern beats; a session needs both directions."""

    open: dict[tuple[str, str], bool] = attrs.Factory(
        lambda: {("lyon", "paris"): True, ("paris", "lyon"): True}
    )
    beats: dict[tuple[str, str], bool] = attrs.Factory(
        lambda: {("lyon", "paris"): True, ("paris", "lyon"): True}
    )
    streams: bool = True
    delay_ms: int = 2
    beat_loss: float = 0.0
    beat_delay_ms: int = 20
    echoes: bool = False  # whether beats tell what was heard
    # Heartbeat networks that are down: who is not heard on which.
    paths_cut: set[tuple[str, str]] = attrs.Factory(set)

    def both_ways(self) -> bool:
        return all(self.open.values())


@final
class Pair:
    """The hub: arbiter, network, client and invariants around two `SimNode`s.

    Args:
        services: by node, what is started and stopped in the place of a simulated service.
    """

    def __init__(
        self,
        world: World,
        mode: str = "arbiter",
        *,
        production: bool = False,
        services: Mapping[str, ServiceOfNode] | None = None,
        **settings: object,
    ) -> None:
        self.world = world
        self._production = production
        self.net = Net()
        self.arbiter = SimArbiter(world)
        self.oracle = Oracle(world)
        # The record on which promises rest, also once the arbiter has lost it or went back.
        self.in_force: Register | None = None
        self.arbiter.on_landed = self._landed
        self.arbiter.on_lost = self._lost
        self.mode = mode
        self.shared: SharedRegister | None = None
        self.forces = Forces(world, self)
        if mode != "arbiter":
            settings = {"arbiter": False, "split_brain": mode, **settings}
        self.link = 0
        self._links = 0
        self._stream_life: Counter[str] = Counter()
        self.streams_up: set[str] = set()
        self._last_ms: dict[tuple[str, str], int] = {}
        self._severed: set[tuple[str, str, int]] = (
            set()
        )  # half-open connections that lost something
        self.nodes: dict[str, SimNode] = {}
        for name, peer in (NAMES, NAMES[::-1]):
            options: dict[str, object] = {
                "volumes": ("a", "b"),
                "paths": ("one",),
                "wait_peer_ms": 5_000,
                "freeze_max_ms": 20_000,
                **settings,
            }
            made = Settings(node=name, peer=peer, first=NAMES[0], **options)  # type: ignore[arg-type]
            service = services[name] if services is not None else None
            self.nodes[name] = SimNode(world, made, self, service)
        self.owed = Owed(world, self.nodes)
        if mode != "arbiter":
            self.shared = SharedRegister(
                world, self.nodes, self.forces, self.owed, is_available=mode == "available"
            )
        self.commands: dict[str, e.CommandDone] = {}
        self._value = 0
        self.writing = True
        self.fsyncs = 0.0  # how often a client has its writes synced
        self.on_compared: Callable[[SimNode, str, o.AnyVerifyReport], None] = _nothing
        self.watch = Watch(world)
        self.trap: Trap | None = None
        world.after(1, self._connect_loop)
        world.after(1, self._beat_loop)
        world.after(1, self._write_loop)

    def make_store(self) -> Platter | Shelf:
        """What a volume of a node survives on: a model's, or a disk for the production machine."""
        return Shelf(self.world) if self._production else Platter()

    def peer(self, node: SimNode) -> SimNode:
        return self.nodes[node.settings.peer]

    # ---- sessions and streams ----

    def _connect_loop(self) -> None:
        self.connect()
        self.world.after(self.world.between(20, 200), self._connect_loop)

    def connect(self) -> None:
        """Open what is closed between the two, if they can reach each other."""
        a, b = self.nodes.values()
        both = a.up and b.up and self._reachable(a) and self._reachable(b)
        if self.net.both_ways() and both:
            if not self.link:
                self._open_link()
            elif self.net.streams:
                self._open_streams()

    def _reachable(self, node: SimNode) -> bool:
        return self.world.now_ms >= node.paused_until_ms

    def _open_link(self) -> None:
        self._links += 1
        self.link = self._links
        for node in self.nodes.values():
            peer = self.peer(node).node
            if peer is not None:
                node.give(v.LinkOpened(link=self.link, incarnation=peer.state.meta.incarnation))

    def _open_streams(self) -> None:
        for name in next(iter(self.nodes.values())).settings.volumes:
            if name not in self.streams_up:
                self.streams_up.add(name)
                for node in self.nodes.values():
                    node.volumes[name].link_up()

    def drop_link(self, link: int) -> None:
        if link == self.link:
            self.break_link()

    def break_link(self) -> None:
        """Every connection between the two breaks; each side learns of it in its own time."""
        link, self.link = self.link, 0
        if link:
            for node in self.nodes.values():
                life = node.life
                delay_ms = self.world.between(0, 50)
                self.world.after(delay_ms, self._closed(node, life, link))
        for name in sorted(self.streams_up):
            self.break_stream(name)

    def _closed(self, node: SimNode, life: int, link: int) -> Callable[[], None]:
        def tell() -> None:
            if node.life == life:
                node.give(v.LinkClosed(link=link))

        return tell

    def break_stream(self, name: str) -> None:
        if name in self.streams_up:
            self.world.count("stream broken")
            self.streams_up.discard(name)
            self._stream_life[name] += 1
            for node in self.nodes.values():
                if name in node.volumes:
                    node.volumes[name].link_down()

    def control_send(self, sender: SimNode, link: int, message: AnyMessage) -> None:
        if link != self.link:
            return
        receiver, life = self.peer(sender), self.peer(sender).life

        def arrive() -> None:
            if link != self.link or receiver.life != life:
                return
            if self._gets_through((sender.name, "", link), lambda: self.drop_link(link)):
                receiver.hear(message)

        self._in_order((sender.name, ""), arrive)

    def stream_send(self, sender: SimNode, volume: str, message: Message) -> None:
        if volume not in self.streams_up:
            return
        receiver, stream = self.peer(sender), self._stream_life[volume]
        life = receiver.life

        def arrive() -> None:
            same = stream == self._stream_life[volume] and volume in self.streams_up
            if not same or receiver.life != life:
                return
            if self._gets_through((sender.name, volume, stream), lambda: self.break_stream(volume)):
                receiver.volumes[volume].receive(message)

        self._in_order((sender.name, volume), arrive, not_before_ms=receiver.stuck_until_ms)

    def _gets_through(self, connection: tuple[str, str, int], close: Callable[[], None]) -> bool:
        """What a cut in this direction swallows is lost, and with it all that follows it on this
        connection, which breaks once that is noticed."""
        sender = connection[0]
        if connection in self._severed:
            return False
        if self.net.open[sender, self.nodes[sender].settings.peer]:
            return True
        self._severed.add(connection)
        self.world.count("connection half open")
        self.world.after(self.world.between(0, 3_000), close)
        return False

    def _in_order(
        self, channel: tuple[str, str], arrive: Callable[[], None], *, not_before_ms: int = 0
    ) -> None:
        """A connection delivers in order; what goes over another one can overtake it."""
        at_ms = self.world.now_ms + self.world.between(0, self.net.delay_ms)
        at_ms = max(self._last_ms.get(channel, 0), at_ms, not_before_ms)
        self._last_ms[channel] = at_ms
        self.world.after(at_ms - self.world.now_ms, arrive)

    def node_started(self, node: SimNode) -> None:
        """Its sessions are new: whatever was open belongs to an earlier life."""
        self.owed.check()

    def node_stopping(self, node: SimNode) -> None:
        self.break_link()

    # ---- heartbeats ----

    def _beat_loop(self) -> None:
        for node in self.nodes.values():
            for path in node.settings.paths:
                self._send_beat(node, path)
        self.world.after(250, self._beat_loop)

    def _send_beat(self, node: SimNode, path: str) -> None:
        receiver, world = self.peer(node), self.world
        core = receiver.node
        echoed = core if self.net.echoes else None
        beat = node.beat(path, echoed.state.meta.incarnation if echoed is not None else None)
        if beat is None or not self._passes(node, path):
            return
        if world.chance(self.net.beat_loss):
            world.count("beat lost")
            return
        copies = 2 if world.chance(0.02) else 1
        if copies > 1:
            world.count("beat doubled")
        for _ in range(copies):
            world.after(world.between(0, self.net.beat_delay_ms), self._beat(receiver, path, beat))

    def _passes(self, node: SimNode, path: str) -> bool:
        way = (node.name, node.settings.peer)
        return (
            self.net.open[way]
            and self.net.beats[way]
            and (node.name, path) not in self.net.paths_cut
        )

    def _beat(self, receiver: SimNode, path: str, beat: PeerBeat) -> Callable[[], None]:
        def arrive() -> None:
            if receiver.up and self._reachable(receiver):
                before = receiver.heard.get(path)
                if before is not None and before > (beat.incarnation, beat.sequence):
                    self.world.count("beat overtaken")
                else:
                    receiver.heard[path] = (beat.incarnation, beat.sequence)
                heard_ms = receiver.clock.now_ms()
                receiver.give(v.BeatHeard(path=path, beat=beat, heard_at_ms=heard_ms))

        return arrive

    def goodbye(self, node: SimNode) -> None:
        self.world.count("goodbye")
        path = node.settings.paths[0]
        beat = node.beat(path, None)
        if beat is not None and self._passes(node, path):
            last = attrs.evolve(beat, goodbye=True)
            self.world.after(self.world.between(0, 5), self._beat(self.peer(node), path, last))

    def probe(self, node: SimNode, incarnation: int) -> None:
        """The peer's port refuses if its process is gone and its machine is not."""
        since_ms, life = node.clock.now_ms(), node.life
        refuses = not self.peer(node).up and self.net.both_ways()
        if self.shared is not None and self.shared.lying_firewall and not self.net.both_ways():
            refuses = True
        if refuses and self.world.chance(0.7):
            self.world.count("port refused")
            event = v.PortRefused(incarnation=incarnation, probed_since_ms=since_ms)

            def tell() -> None:
                if node.life == life:
                    node.give(event)

            self.world.after(self.world.between(0, 20), tell)

    # ---- the client ----

    def _write_loop(self) -> None:
        if self.writing:
            for node in self.nodes.values():
                if node.up and node.running:
                    self._value += 1
                    name = self.world.rng.choice(node.settings.volumes)
                    node.volumes[name].write(self._value)
                    if self.fsyncs and self.world.chance(self.fsyncs):
                        node.volumes[name].fsync()
        self.world.after(self.world.between(5, 60), self._write_loop)

    def acked(self, node: SimNode, volume: str, value: int, epoch: int, both: bool) -> None:
        now = self.in_force
        oracle = self.oracle_of(node.name)
        if self.shared is not None:
            now = self.shared.branches[node.name].register
            self.shared.acked(node.name, both=both)
        if (line := self.forces.line_of(node.name)) is not None:
            now = line.record
        if now is None:
            raise Violation("a write was acknowledged before there was a register")
        self.world.count("acked mirrored" if both else "acked alone")
        other = node.settings.peer if both else None
        durable = node.settings.ack_durable
        oracle.ack(
            volume=volume,
            value=value,
            epoch=epoch,
            by=node.name,
            other=other,
            now=now,
            durable=durable,
        )
        if durable:
            self.world.count("acked durable")
            self._check_durable(node, volume, {value}, both=both)

    def _check_durable(self, node: SimNode, volume: str, values: set[int], *, both: bool) -> None:
        """What a client was told to be durable is on the disks that it rests on."""
        for each in (node, self.peer(node)) if both else (node,):
            if not each.durable.platters[volume].surely_holds(values):
                raise Violation(
                    f"I1 {node.name} called {len(values)} values of {volume} durable, and they are "
                    f"not on the disk of {each.name}"
                )

    def fsynced(self, node: SimNode, volume: str, values: set[int], *, both: bool) -> None:
        """A client's fsync returned: these survive the loss of power."""
        self.world.count("fsync mirrored" if both else "fsync alone")
        self._check_durable(node, volume, values, both=both)
        holders = {node.name, node.settings.peer} if both else {node.name}
        self.oracle_of(node.name).fsynced(volume, values, holders)

    def oracle_of(self, node: str) -> Oracle:
        """The client's record by which `node` is judged: after a split each side has its own."""
        if self.shared is not None:
            return self.shared.branches[node].oracle
        line = self.forces.line_of(node)
        return self.oracle if line is None else line.oracle

    def oracles(self) -> list[Oracle]:
        owed = self.owed.oracles()
        if self.shared is not None:
            return [*self.shared.oracles(), *owed]
        return [self.oracle, *self.forces.oracles(), *owed]

    def os_crashed(self, node: str) -> None:
        for oracle in self.oracles():
            oracle.os_crashed(node)

    def restored(self, node: str) -> None:
        """Its disk was replaced by an older or an empty one."""
        for oracle in self.oracles():
            oracle.restored(node)

    def synced(self, node: str, volume: str, values: set[int]) -> None:
        for oracle in self.oracles():
            oracle.synced(node, volume, values)

    def synced_more(self, node: str, volume: str, values: set[int]) -> None:
        for oracle in self.oracles():
            oracle.synced_more(node, volume, values)

    # ---- without an arbiter ----

    def persisted(self, node: SimNode, before: Meta) -> None:
        self.forces.persisted(node, before)
        if self.shared is not None:
            self.shared.persisted(node, self.peer(node), before)

    def noted(self, node: SimNode, rule: str) -> None:
        if self.shared is not None and rule == "split":
            self.shared.reported(node)
        if rule in ("split", "split-rescued"):
            self.forces.split_told(node)

    def reported(self, node: SimNode, volume: str, report: o.AnyReport) -> None:
        """What a volume reports is for its node, but for what whoever compares wants to know."""
        if isinstance(report, o.CutDone):
            self.check_cut_over(node, volume)
        if isinstance(report, o.AnyVerifyReport):
            self.on_compared(node, volume, report)
        else:
            node.give(v.VolumeReported(volume, report))

    def given(self, node: SimNode, order: o.AnyOrder) -> None:
        if not isinstance(order, o.BecomeTarget):
            return
        if self.shared is not None:
            self.shared.overwritten(node, order)
        self.forces.overwritten(node)

    def check_isolation(self, node: SimNode, answer: Callable[[bool], None]) -> None:
        if self.shared is not None:
            self.shared.check_isolation(node, answer)

    def fence(self, node: SimNode, answer: Callable[[bool], None]) -> None:
        if self.shared is not None:
            self.shared.fence(node, self.peer(node), answer)

    # ---- invariants ----

    def _landed(self, _before: Register | None, now: Register) -> None:
        for name, nonce in now.nonces:
            node = self.nodes[name]
            # When the CAS was sent it was there; the disk may have been replaced since.
            disks = (node.durable, *node.put_away)
            known = any(nonce in disk.meta.nonces() for disk in disks)
            # Below what the node has seen it is a register that went back: nobody acts on it.
            known = known or now.epoch <= node.durable.meta.seen_epoch
            if not known and not self.world.counts["register lost"]:
                raise Violation(f"5.0 epoch {now.epoch} landed without the nonce of {name} on disk")
        if all(now.epoch < node.durable.meta.seen_epoch for node in self.nodes.values()):
            # An old create-if-absent that landed after the register was lost: both nodes have
            # seen a higher epoch and refuse it, so no promise rests on it.
            return
        self.forces.landing(self.in_force, now)
        self.oracle.landed(self.in_force, now)
        self.in_force = now

    def _lost(self, register: Register | None) -> None:
        if register is None or register != self.in_force or len(register.in_sync) > 1:
            return
        if self.nodes[register.primary].durable.meta.held != register:
            self.oracle.lost_unheard(register.primary)

    def after_step(self, node: SimNode, event: v.AnyEvent) -> None:
        """What must hold of a node after every step of its core."""
        self.watch.look(node, event)
        core = node.node
        if core is None:
            return
        s = core.state
        if s.standing is Standing.SOURCE and s.mode is Mode.LOG:
            record = s.meta.unconfirmed or s.meta.held
            if record is None or not record.is_alone(node.name):
                raise Violation(f"I2 {node.name} acknowledges alone without holding such a record")
            if s.meta.inconsistent or s.meta.unclean:
                raise Violation(f"I6 {node.name} serves unclean or inconsistent data")
        if s.standing is Standing.SOURCE and s.role.serves is False:
            raise Violation(f"{node.name} is a source in role {s.role}")

    def check_primary(self, node: SimNode, where: str, *, epoch: int = LAST_EPOCH) -> None:
        for name, platter in node.durable.platters.items():
            values = set(platter.cache)
            oracle = self.oracle_of(node.name)
            oracle.check_holds(node.name, name, values, where=where, epoch=epoch)

    def mirrored(self) -> bool:
        """A healthy pair: one PRIM, one SECOND, the service on, nothing pending."""
        standings = []
        for node in self.nodes.values():
            if not node.up or node.node is None:
                return False
            s = node.node.state
            if s.decision is not None or s.frozen or s.unresolved:
                return False
            if s.role not in (Role.PRIM, Role.SECOND):
                return False  # it mirrors, and its peer is not admitted yet
            register = self.arbiter.register
            if self.shared is None and (register is None or s.epoch != register.epoch):
                return False  # something landed of which it has not heard
            standings.append((s.standing, s.mode))
            if s.standing is Standing.SOURCE and (s.mode is not Mode.MIRROR or not node.running):
                return False
        kinds = {standing for standing, _ in standings}
        return kinds == {Standing.SOURCE, Standing.FOLLOWER}

    def source(self) -> SimNode | None:
        for node in self.nodes.values():
            if node.node is not None and node.node.state.standing is Standing.SOURCE:
                return node
        return None

    def check_equal(self) -> None:
        """I7, at rest: both hold the same."""
        for name in next(iter(self.nodes.values())).settings.volumes:
            self._check_equal(name, "although the pair is at rest")

    def check_cut_over(self, source: SimNode, name: str) -> None:
        """I7: changes are held, and both have synced. Unless the target has died meanwhile."""
        target = self.peer(source)
        if target.node is not None and target.node.state.standing is Standing.TARGET:
            self.world.count("cut over")
            self._check_equal(name, "at the cut-over")

    def _check_equal(self, name: str, when: str) -> None:
        a, b = (_contents(node.durable.platters[name]) for node in self.nodes.values())
        if a != b:
            raise Violation(f"I7 the copies of {name} differ {when}")


def _nothing(*_arguments: object) -> None:
    """Nobody wants to know."""


def _contents(store: Platter | Shelf) -> object:
    """All that must be equal: a model's list; a tree's names, ids, contents and attributes."""
    return store.disk.snapshot() if isinstance(store, Shelf) else store.cache
