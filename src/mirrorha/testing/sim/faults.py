"""What goes wrong, and how often: each seed draws its own mixture of kinds and rates.

A run that has every fault at once exercises less than many runs that each lack some: what one fault
hides, its absence shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, final

import attrs

from mirrorha.core import authority
from mirrorha.core import events as v
from mirrorha.core.authority import Bar
from mirrorha.core.messages import Standing
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.parting import Parting
from mirrorha.testing.sim.trap import Trap
from mirrorha.testing.sim.wide import WideFaults
from mirrorha.testing.sim.world import World

# What costs much time or leaves little else to happen.
RARE: Final = {
    "arbiter goes back",
    "arbiter misread",
    "ack level changes",
    "new machine",
    "not mounted",
    "disk slow",
    "disk dies",
}

# In so many seeds, of kinds that came later.
APART: Final = 0.15
CRASH_AT_A_STEP: Final = "crash at a step"
# In so many, of crashes at steps: there are many steps.
TRAPS: Final = 0.6


def _without_arbiter(kinds: dict[str, Callable[[], None]]) -> dict[str, Callable[[], None]]:
    """The kinds that make sense where the register is on the nodes' own disks.

    A disk that is rolled back rolls half of the register back: a stated non-promise.
    """
    left_out = {"arbiter cut", "arbiter faults", "arbiter loses data", "image"}
    return {name: act for name, act in kinds.items() if name not in left_out}


@final
class Faults:
    """Injects faults into a pair until `stop`; `heal` undoes what lasts."""

    def __init__(self, world: World, pair: Pair, *, wide: bool = False) -> None:
        self.world, self.pair = world, pair
        self.going = True
        self.wide = WideFaults(world, pair) if wide else None
        kinds: dict[str, Callable[[], None]] = {
            "process crash": self._process_crash,
            "os crash": self._os_crash,
            "both crash": self._both_crash,
            "cut": self._cut,
            "one-way beats": self._one_way,
            "break link": self._break_link,
            "break stream": self._break_stream,
            "streams cut": self._streams_cut,
            "pause": self._pause,
            "arbiter cut": self._arbiter_cut,
            "arbiter faults": self._arbiter_faults,
            "swap": self._swap,
            "stop": self._stop,
            "restart service": self._restart,
            "service fails": self._service_fails,
            "arbiter loses data": self._arbiter_loses,
            "image": self._image,
            "disk fails": self._disk_fails,
            "pause command": self._pause_command,
        }
        if pair.shared is not None:
            kinds = _without_arbiter(kinds) | Parting(world, pair).kinds()
        rare = {"arbiter loses data", "disk fails", "both crash", "image", "pause command"}
        if self.wide is not None:
            kinds |= self.wide.kinds()
            rare = (rare | RARE) - {"image"}
        self.every = tuple(kinds)
        self.kinds = {
            name: act for name, act in kinds.items() if world.chance(0.12 if name in rare else 0.45)
        }
        if "image" in self.kinds:
            # A register that is lost *and* a copy that was rolled back: no record of it is left
            # anywhere. A stated non-promise; each alone is simulated.
            # And a clock that is set to a later time outlives the image, if both are turned back.
            for name in ("arbiter loses data", "arbiter goes back", "clock jumps"):
                self.kinds.pop(name, None)
        self.gap_ms = world.rng.choice([300, 1_000, 3_000])
        pair.net.delay_ms = world.rng.choice([1, 5, 40])
        pair.net.beat_loss = world.rng.choice([0.0, 0.0, 0.05, 0.3])
        if self.wide is not None:
            self.wide.begin(self.kinds)
            self._draw_apart(self.wide.later_kinds())
            self._set_trap()
        world.after(world.between(0, 3_000), self._loop)

    def _draw_apart(self, kinds: dict[str, Callable[[], None]]) -> None:
        self.every += tuple(kinds)
        apart = random.Random(f"{self.world.seed} apart")
        self.kinds |= {name: act for name, act in kinds.items() if apart.random() < APART}

    def _set_trap(self) -> None:
        """Crashes at steps, not at moments; not chosen among the others, but all the time."""
        self.every += (CRASH_AT_A_STEP,)
        trap = self.pair.trap = Trap(self.world)
        if trap.rng.random() < TRAPS:
            self.world.count(f"fault {CRASH_AT_A_STEP}")
            trap.going = True
            if trap.rng.random() < TRAPS:
                # Or there is seldom a pair, and nobody gets to most of the steps.
                self.kinds.clear()

    def _loop(self) -> None:
        if not self.going:
            return
        quiet = self.wide is not None and self.world.now_ms < self.wide.quiet_until_ms
        if self.kinds and not quiet:
            name = self.world.rng.choice(list(self.kinds))
            self.world.count(f"fault {name}")
            self.kinds[name]()
        for node in self.pair.nodes.values():
            if not node.up and not node.away and self.world.chance(0.3):
                self._maybe_restore(node)
                node.start()
        self.world.after(self.world.between(0, 2 * self.gap_ms), self._loop)

    def heal(self) -> None:
        """Everything works again from now on; nodes that are down are started."""
        self.going = False
        pair = self.pair
        if pair.trap is not None:
            pair.trap.heal()
        for way in pair.net.open:
            pair.net.open[way] = True
            pair.net.beats[way] = True
        pair.net.streams = True
        pair.net.beat_loss = 0.0
        faults = pair.arbiter.faults
        faults.lost_request = faults.lost_reply = faults.late = 0.0
        faults.reachable.clear()
        if pair.shared is not None:
            pair.shared.heal()
        if self.wide is not None:
            self.wide.heal()
        self.world.say("healed")
        for node in pair.nodes.values():
            node.fail_service = 0.0
            core = node.node
            if core is not None and (core.state.sick or core.state.gave_up):
                node.crash(power=False)
            if not node.up:
                node.start()
        self._keep_started()

    def let_move(self) -> None:
        """The operator sets `failover = true`, which must agree, and starts both anew."""
        self.world.count("failover allowed by the operator")
        for node in self.pair.nodes.values():
            node.crash(power=False)
            node.settings = attrs.evolve(node.settings, failover=True)

    def settle_by_hand(self) -> None:
        """What a waiting node asks of a person: the right disk back, or to serve what is left."""
        register = self.pair.arbiter.register
        for node in self.pair.nodes.values():
            core = node.node
            if core is None or register is None:
                continue
            for disk in reversed(node.put_away):
                if register.nonce_of(node.name) in disk.meta.nonces():
                    self.world.say(f"operator: the disk of {node.name} is put back")
                    node.crash(power=False)
                    node.replace_disk(disk)
                    return
            if authority.bar(core.state, register) is Bar.UNCLEAN:
                self._serve_what_is_left(node)
                return

    def _serve_what_is_left(self, node: SimNode) -> None:
        self.world.say(f"operator: {node.name} serves with what it has")
        node.crash(power=False)
        node.settings = attrs.evolve(node.settings, serve_after_power_loss=True)
        for name, store in node.durable.platters.items():
            self.pair.oracle.settled_for(node.name, name, set(store.cache))

    def _keep_started(self) -> None:
        """What was asked of a node before (a stop, a pause) may be carried out after healing."""
        for node in self.pair.nodes.values():
            if not node.up:
                node.start()  # a fencer that was asked before
            if node.node is not None and node.node.state.standing is Standing.STOPPED:
                node.give(v.Command(operation="", verb=v.Verb.START))
            if node.node is not None and (node.node.state.sick or node.node.state.gave_up):
                node.crash(power=False)
                node.start()
            if node.node is not None and node.node.state.meta.paused:
                node.give(v.Command(operation="", verb=v.Verb.RESUME))
        if self.wide is not None:
            self.wide.keep_well()
        self.world.after(1_000, self._keep_started)

    def _node(self) -> SimNode:
        return self.world.rng.choice(list(self.pair.nodes.values()))

    def _maybe_restore(self, node: SimNode) -> None:
        if "image" in self.kinds and node.image is not None and self.world.chance(0.5):
            register = self.pair.arbiter.register
            nonce = register.nonce_of(node.name) if register is not None else None
            image_holds = nonce is not None and nonce in node.image.meta.nonces()
            # The same record still holds: undetectable without checkpoints, a stated non-promise.
            if not image_holds:
                node.restore_image()

    def _process_crash(self) -> None:
        self._node().crash(power=False)

    def _os_crash(self) -> None:
        self._node().crash(power=True)

    def _both_crash(self) -> None:
        power = self.world.chance(0.5)
        for node in self.pair.nodes.values():
            node.crash(power=power)

    def _cut(self) -> None:
        self._set_open(False)
        self.pair.break_link()
        self.world.after(self.world.between(100, 15_000), lambda: self._set_open(True))

    def _set_open(self, is_open: bool) -> None:
        for way in self.pair.net.open:
            self.pair.net.open[way] = is_open

    def _one_way(self) -> None:
        way = self.world.rng.choice(list(self.pair.net.beats))
        self.pair.net.beats[way] = False

        def undo() -> None:
            self.pair.net.beats[way] = True

        self.world.after(self.world.between(100, 10_000), undo)

    def _break_link(self) -> None:
        self.pair.break_link()

    def _break_stream(self) -> None:
        self.pair.break_stream(self.world.rng.choice(("a", "b")))

    def _streams_cut(self) -> None:
        self.pair.net.streams = False
        for name in ("a", "b"):
            self.pair.break_stream(name)

        def undo() -> None:
            self.pair.net.streams = True

        self.world.after(self.world.between(100, 10_000), undo)

    def _pause(self) -> None:
        node = self._node()
        node.paused_until_ms = self.world.now_ms + self.world.between(100, 10_000)

    def _arbiter_cut(self) -> None:
        names = self.world.rng.choice([["lyon"], ["paris"], ["lyon", "paris"]])
        for name in names:
            self.pair.arbiter.faults.reachable[name] = False

        def undo() -> None:
            for name in names:
                self.pair.arbiter.faults.reachable[name] = True

        self.world.after(self.world.between(100, 30_000), undo)

    def _arbiter_faults(self) -> None:
        faults = self.pair.arbiter.faults
        faults.lost_request = self.world.rng.choice([0.0, 0.2])
        faults.lost_reply = self.world.rng.choice([0.0, 0.3])
        faults.late = self.world.rng.choice([0.0, 0.3])
        faults.slow_ms = self.world.rng.choice([5, 300])

    def _command(self, verb: v.Verb) -> None:
        node = self._node()
        if node.up:
            node.give(v.Command(operation="x", verb=verb))

    def _swap(self) -> None:
        source = self.pair.source()
        if source is not None:
            source.give(v.Command(operation="x", verb=v.Verb.SWAP))

    def _stop(self) -> None:
        node = self._node()
        if node.up:
            node.give(v.Command(operation="x", verb=v.Verb.STOP))

            def again() -> None:
                if node.up:
                    node.give(v.Command(operation="x", verb=v.Verb.START))

            self.world.after(self.world.between(500, 10_000), again)

    def _restart(self) -> None:
        self._command(v.Verb.RESTART)

    def _service_fails(self) -> None:
        node = self._node()
        node.fail_service = 0.7
        if node.up and node.running:
            token = node.service_token
            node.give(v.ServiceFailed(token=token, text="simulated"))

    def _arbiter_loses(self) -> None:
        self.pair.arbiter.lose()

    def _image(self) -> None:
        self._node().take_image()

    def _disk_fails(self) -> None:
        node = self._node()
        if node.up:
            node.disk_fails()

    def _pause_command(self) -> None:
        self._command(v.Verb.PAUSE)
        self.world.after(self.world.between(500, 10_000), lambda: self._command(v.Verb.RESUME))
