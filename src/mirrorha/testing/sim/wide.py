"""The wide mixture: settings drawn for each run, and the faults that the plain mixture lacks.

A seed of the plain mixture is the same run as ever; what is added goes here.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, Final, final

import attrs

from mirrorha.core import events as v
from mirrorha.core.events import Gone
from mirrorha.core.messages import Standing
from mirrorha.core.meta import Meta
from mirrorha.core.orders import StopReason, Trouble
from mirrorha.core.register import Register
from mirrorha.testing.sim.arbiter import Fate
from mirrorha.testing.sim.first_start import FirstStart
from mirrorha.testing.sim.node import Durable, SimNode
from mirrorha.testing.sim.operator import Operator
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.production_volume import Shelf
from mirrorha.testing.sim.world import World

Kinds = dict[str, Callable[[], None]]

HOUR_MS: Final = 3_600_000
FOREIGN: Final = Register(
    cluster_id="f" * 32, epoch=1_000_000, primary="lyon", nonces=(("lyon", "0" * 16),)
)


def draw_settings(world: World) -> dict[str, Any]:
    """What both nodes are configured with."""
    rng = world.rng
    return {
        "ack_durable": world.chance(0.35),
        "volumes": rng.choice([("a",), ("a", "b"), ("a", "b"), ("a", "b", "c")]),
        "paths": rng.choice([("one",), ("one", "two")]),
        "failover": world.chance(0.85),
    }


def prepare(world: World, pair: Pair) -> FirstStart:
    """Before anything starts: clocks that agree on nothing; and how the cluster begins."""
    pair.net.echoes = True
    pair.fsyncs = 0.02
    for node in pair.nodes.values():
        node.clock.wall_ahead_ms = world.between(-HOUR_MS, HOUR_MS) + HOUR_MS
        node.clock.boot(world.between(0, 1_000 * HOUR_MS))
        node.clock.run_at(world.rng.choice([1.0, 1.0, 0.96, 1.04]))
    settings = next(iter(pair.nodes.values())).settings
    for what in ("durable" if settings.ack_durable else "applied", f"{len(settings.volumes)}"):
        world.count(f"setting {what}" + (" volumes" if what.isdigit() else ""))
    if not settings.failover:
        world.count("setting failover=False")
    first: FirstStart = world.rng.choice([FirstStart.EMPTY, *FirstStart])
    return first


@final
class WideFaults:
    """Each of them undoes itself after a while; `heal` undoes what is left."""

    def __init__(self, world: World, pair: Pair) -> None:
        self.world, self.pair = world, pair
        self._going = True
        self._operator = Operator(world, pair)
        self.quiet_until_ms = 0  # until then nothing else goes wrong

    def kinds(self) -> Kinds:
        kinds: Kinds = {
            "one-way cut": self._one_way_cut,
            "path cut": self._path_cut,
            "slow network": self._slow_network,
            "blocked loop": self._blocked_loop,
            "stuck volumes": self._stuck_volumes,
            "clock jumps": self._clock_jumps,
            "clock drifts": self._clock_drifts,
            "disk full": self._disk_full,
            "disk slow": self._disk_slow,
            "disk dies": self._disk_dies,
            "volume blames peer": self._volume_blames_peer,
            "not mounted": self._not_mounted,
            "not promotable": self._not_promotable,
            "service stop hangs": self._stop_hangs,
            "stop both": self._stop_both,
            "swap twice": self._swap_twice,
            "ack level changes": self._ack_level_changes,
        }
        if self.pair.shared is None:
            kinds |= {
                "cas goes wrong": self._cas_goes_wrong,
                "admission goes wrong": self._admission_goes_wrong,
                "swap goes wrong": self._swap_goes_wrong,
                "arbiter goes back": self._arbiter_goes_back,
                "arbiter misread": self._arbiter_misread,
                "new machine": self._new_machine,
                "resync --full": self._resync_full,
            }
        else:
            kinds["crash when alone"] = self._crash_when_alone
        return kinds

    def later_kinds(self) -> Kinds:
        """Kinds that came later. They are drawn apart: most seeds stay the runs that they were."""
        kinds: Kinds = {
            "driver ends": self._driver_ends,
            "disk hangs": self._disk_hangs,
            "touched log damaged": self._touched_log_damaged,
        }
        return kinds | self._operator.kinds()

    def begin(self, kinds: Container[str]) -> None:
        """What takes a whole pair, and leave to go on, comes first where it is drawn.

        Later there seldom is a pair, and never quiet.
        """
        if "crash when alone" in kinds:
            self.world.count("fault crash when alone")
            self.quiet_until_ms = self.world.now_ms + 16_000
            self.world.after(self.world.between(0, 500), self._crash_when_alone)

    def heal(self) -> None:
        self._going = self._operator.going = False
        self.pair.net.paths_cut.clear()
        self.pair.net.beat_delay_ms = 20
        self.pair.net.delay_ms = min(self.pair.net.delay_ms, 40)
        self.pair.arbiter.faults.misread.clear()
        self.pair.arbiter.faults.fates.clear()
        self.pair.arbiter.forget_hook()
        for node in self.pair.nodes.values():
            node.away = False
            node.kill_stop = 0.0
            self._mount(node)
            self._promotable(node, promotable=True)
            for store in node.durable.platters.values():
                _make_well(store)

    def keep_well(self) -> None:
        """After healing, a person answers what a waiting newcomer asks."""
        for node in self.pair.nodes.values():
            core = node.node
            if core is not None and core.state.meta.cluster_id is None and core.state.has_files:
                self._accept(node)

    def _node(self) -> SimNode:
        return self.world.rng.choice(list(self.pair.nodes.values()))

    def _later(self, low_ms: int, high_ms: int, undo: Callable[[], None]) -> None:
        self.world.after(self.world.between(low_ms, high_ms), undo)

    # ---- network ----

    def _one_way_cut(self) -> None:
        """What one says does not arrive; connections break only once that is noticed."""
        way = self.world.rng.choice(list(self.pair.net.open))
        self.pair.net.open[way] = False

        def undo() -> None:
            self.pair.net.open[way] = True

        self._later(100, 10_000, undo)

    def _path_cut(self) -> None:
        """One heartbeat network is down, perhaps in one direction; with one only, all beats are."""
        path = self.world.rng.choice(self._node().settings.paths)
        names = list(self.pair.nodes) if self.world.chance(0.5) else [self._node().name]
        cut = {(name, path) for name in names}
        self.pair.net.paths_cut |= cut
        self._later(500, 15_000, lambda: self.pair.net.paths_cut.difference_update(cut))

    def _slow_network(self) -> None:
        net = self.pair.net
        net.beat_delay_ms = self.world.rng.choice([20, 400, 900])
        net.delay_ms = self.world.rng.choice([1, 5, 40, 200])

    # ---- processes and clocks ----

    def _blocked_loop(self) -> None:
        """The application blocks its loop: beats go on, and tell of it."""
        node = self._node()
        node.blocked_since_ms = self.world.now_ms
        node.blocked_until_ms = self.world.now_ms + self.world.between(500, 10_000)

    def _stuck_volumes(self) -> None:
        """The worker of a node reads nothing; the cluster's process does not notice."""
        node = self._node()
        node.stuck_until_ms = self.world.now_ms + self.world.between(500, 8_000)

    def _clock_jumps(self) -> None:
        self._node().clock.wall_ahead_ms += self.world.between(0, HOUR_MS)

    def _clock_drifts(self) -> None:
        self._node().clock.run_at(self.world.rng.choice([0.96, 1.0, 1.04]))

    def _driver_ends(self) -> None:
        """What drives a volume is killed."""
        node = self._node()
        node.driver_ends(self.world.rng.choice(node.settings.volumes), "simulated")

    # ---- disks ----

    def _disk_full(self) -> None:
        node = self._node()
        stores = [each for each in node.durable.platters.values() if isinstance(each, Shelf)]
        for store in stores:
            store.disk.fill(self.world.between(0, 200))
            self._later(500, 10_000, store.disk.make_room)
        if not stores:
            self._report(self.pair.peer(node), StopReason.PEER_DISK, "simulated ENOSPC")

    def _disk_slow(self) -> None:
        slow_ms = self.world.rng.choice([50, 500, 4_000, 12_000])
        for store in self._node().durable.platters.values():
            if isinstance(store, Shelf):
                store.slow_ms = slow_ms
                self._later(500, 6_000, store.make_fast)

    def _disk_dies(self) -> None:
        """Every request fails from some moment on, until the process starts again."""
        node = self._node()
        store = self.world.rng.choice(list(node.durable.platters.values()))
        if isinstance(store, Shelf):
            store.disk.fail("simulated EIO", after=self.world.between(0, 30))
        else:
            node.disk_fails()
        self._later(500, 8_000, lambda: self._restart_if_sick(node))

    def _disk_hangs(self) -> None:
        """One request takes so long that the disk is held to be sick, and then ends after all."""
        node = self._node()
        volume = self.world.rng.choice(node.settings.volumes)
        node.give(v.VolumeReported(volume, Trouble(StopReason.DISK_SLOW, "simulated")))
        self._later(500, 8_000, lambda: self._restart_if_sick(node))

    def _touched_log_damaged(self) -> None:
        """A node dies, and what it knew of differences is found to be lost."""
        node = self._node()
        node.crash(power=False)
        for store in node.durable.platters.values():
            if isinstance(store, Shelf):
                store.disk.lose_touched()

    def _restart_if_sick(self, node: SimNode) -> None:
        if node.node is not None and node.node.state.sick:
            node.crash(power=False)

    def _volume_blames_peer(self) -> None:
        """Rightly or not."""
        source = self.pair.source()
        reasons = [StopReason.PEER_STUCK, StopReason.PEER_DISK, StopReason.STREAM_SLOW]
        if source is not None:
            self._report(source, self.world.rng.choice(reasons), "simulated")

    def _report(self, node: SimNode, reason: StopReason, text: str) -> None:
        volume = self.world.rng.choice(node.settings.volumes)
        if node.node is not None and node.node.state.standing is Standing.SOURCE:
            node.give(v.VolumeReported(volume, Trouble(reason=reason, text=text)))

    def _not_mounted(self) -> None:
        node = self._node()
        node.problem = "simulated: its disk is not mounted"
        node.crash(power=self.world.chance(0.5))
        self._later(2_000, 15_000, lambda: self._mount(node))

    def _mount(self, node: SimNode) -> None:
        if node.problem:
            node.problem = ""
            node.inspect()

    # ---- service and operators ----

    def _not_promotable(self) -> None:
        node = self._node()
        self._promotable(node, promotable=False)
        self._later(1_000, 15_000, lambda: self._promotable(node, promotable=True))

    def _promotable(self, node: SimNode, *, promotable: bool) -> None:
        node.give(v.PromotableChanged(promotable=promotable))

    def _stop_hangs(self) -> None:
        self._node().kill_stop = self.world.rng.choice([0.0, 0.7])

    def _stop_both(self) -> None:
        for node in self.pair.nodes.values():
            delay_ms = self.world.rng.choice([0, 0, self.world.between(0, 60)])
            self.world.after(delay_ms, self._commander(node, v.Verb.STOP))
            self._later(2_000, 12_000, self._commander(node, v.Verb.START))

    def _swap_twice(self) -> None:
        """Both operators ask: the second one comes too late, or while it cannot be."""
        for node in self.pair.nodes.values():
            self._later(0, 50, self._commander(node, v.Verb.SWAP))

    def _commander(self, node: SimNode, verb: v.Verb) -> Callable[[], None]:
        return lambda: node.give(v.Command(operation="x", verb=verb))

    def _ack_level_changes(self) -> None:
        """`ack` must agree, so both are restarted with the new one."""
        for node in self.pair.nodes.values():
            node.crash(power=self.world.chance(0.3))
        for node in self.pair.nodes.values():
            node.settings = attrs.evolve(node.settings, ack_durable=not node.settings.ack_durable)

    # ---- with an arbiter ----

    def _cas_goes_wrong(self) -> None:
        """The next attempts get no answer, and something else happens at the same time."""
        faults = self.pair.arbiter.faults
        faults.fates = [
            self.world.rng.choice(list(Fate)) for _ in range(self.world.rng.choice([1, 1, 2, 4]))
        ]
        action = self.world.rng.choice([None, self._cut, self.pair.break_link, self._crash_one])

        def soon(_node: str, _expected: Register | None, _new: Register) -> None:
            self.pair.arbiter.forget_hook()
            if action is not None:
                self.world.after(self.world.between(0, 2_500), action)

        self.pair.arbiter.on_cas = soon

    def _admission_goes_wrong(self) -> None:
        """It lands late, the link is lost as soon as that is feared, and what follows is lost."""
        arbiter = self.pair.arbiter
        arbiter.faults.fates = []

        def soon(_node: str, expected: Register | None, new: Register) -> None:
            if expected is not None and len(expected.in_sync) < len(new.in_sync):
                arbiter.forget_hook()
                lost = [Fate.LOST_REQUEST] * self.world.between(1, 2)
                arbiter.faults.fates = [Fate.LATE, *lost]
                self.world.after(self.world.between(1_900, 2_200), self._cut)

        arbiter.on_cas = soon

    def _swap_goes_wrong(self) -> None:
        """Its answer is lost; perhaps the link as well."""
        arbiter, source = self.pair.arbiter, self.pair.source()
        arbiter.faults.fates = []

        def soon(node: str, _expected: Register | None, new: Register) -> None:
            if new.primary != node:
                arbiter.forget_hook()
                arbiter.faults.fates = [self.world.rng.choice([Fate.LATE, Fate.LOST_REPLY])]
                if self.world.chance(0.5):
                    self.world.after(self.world.between(0, 2_500), self._cut)

        arbiter.on_cas = soon
        if source is not None:
            source.give(v.Command(operation="x", verb=v.Verb.SWAP))

    def _crash_when_alone(self) -> None:
        """Between the record that names it alone and all that follows from it; then both meet."""
        self._once_mirrored(self._part_and_crash, tries=100)

    def _once_mirrored(self, action: Callable[[], None], *, tries: int) -> None:
        if self._going and self.pair.mirrored():
            action()
        elif tries and self._going:
            self.world.after(100, lambda: self._once_mirrored(action, tries=tries - 1))

    def _part_and_crash(self) -> None:
        shared = self.pair.shared
        if shared is None:
            return

        def soon(node: SimNode) -> None:
            peer = self.pair.peer(node).node
            if peer is None or peer.state.standing not in (Standing.SOURCE, Standing.FOLLOWER):
                return
            shared.on_alone = lambda _node: None
            node.away = True
            self.world.after(0, lambda: node.crash(power=self.world.chance(0.3)))

        shared.on_alone = soon
        shared.isolation = dict.fromkeys(shared.isolation, True)
        self._cut(7_000, 14_000, self._bring_back)

    def _bring_back(self) -> None:
        """Who was away meets the other at once: a moment later it would serve by itself."""
        for node in self.pair.nodes.values():
            if node.away:
                node.away = False
                node.start()
        self.pair.connect()

    def _cut(
        self,
        low_ms: int = 100,
        high_ms: int = 8_000,
        then: Callable[[], None] | None = None,
    ) -> None:
        for way in self.pair.net.open:
            self.pair.net.open[way] = False
        self.pair.break_link()

        def undo() -> None:
            for way in self.pair.net.open:
                self.pair.net.open[way] = True
            if then is not None:
                then()

        self._later(low_ms, high_ms, undo)

    def _crash_one(self) -> None:
        self._node().crash(power=self.world.chance(0.5))

    def _arbiter_goes_back(self) -> None:
        """It returns with a state of which both nodes have seen a later one.

        To what only one of them knows to be old it must not go back: a stated non-promise.
        """
        arbiter = self.pair.arbiter
        seen = min(node.durable.meta.seen_epoch for node in self.pair.nodes.values())
        older = [record for record in arbiter.landed if record.epoch < seen]
        if older and arbiter.register is not None:
            arbiter.go_back_to(self.world.rng.choice(older[-4:]))

    def _arbiter_misread(self) -> None:
        """A wrong address, or rubbish: both find something that is not their register."""
        misread = self.pair.arbiter.faults.misread
        found: Register | Gone = FOREIGN if self.world.chance(0.5) else Gone.CORRUPT
        for name in self.pair.nodes:
            misread[name] = found
        self._later(500, 15_000, misread.clear)

    def _new_machine(self) -> None:
        """A node that is out for good is replaced, perhaps by one whose directories hold files."""
        node = self._node()
        node.crash(power=True)
        node.away = True

        def replace() -> None:
            node.away = False
            if not node.up and self._is_out(node):
                stores = {name: self.pair.make_store() for name in node.settings.volumes}
                node.replace_disk(Durable(meta=Meta(node=node.name), platters=stores))
                node.image = None
                if self.world.chance(0.5):
                    for store in node.durable.platters.values():
                        store.put(1 << 41)
                self.pair.restored(node.name)
                self.world.count("machine replaced")
                self.world.say(f"{node.name} is replaced by a new machine")

        self._later(4_000, 10_000, replace)

    def _is_out(self, node: SimNode) -> bool:
        register, peer = self.pair.arbiter.register, self.pair.peer(node)
        alone = register is not None and register.is_alone(peer.name)
        return alone and peer.durable.meta.held == register

    def _resync_full(self) -> None:
        """An operator gives up the copy of a node that is out."""
        node = self._node()
        if self._is_out(node):
            self._accept(node)

    def _accept(self, node: SimNode) -> None:
        node.give(v.Command(operation="x", verb=v.Verb.ACCEPT))


def _make_well(store: object) -> None:
    if isinstance(store, Shelf):
        store.disk.make_room()
        store.make_fast()
