"""Scripted runs of the simulated pair, for what random seeds reach too rarely.

A `Play` is a healthy pair in simulated time of which nothing goes wrong by itself. Its methods make
something go wrong, let time pass, and look. What the oracle and the invariants say holds here as
in the seeded runs: a `Violation` is raised where it happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from mirrorha.core import events as v
from mirrorha.core.effects import CommandDone
from mirrorha.core.events import CasOutcome
from mirrorha.core.messages import AnyMessage
from mirrorha.core.register import Register
from mirrorha.core.state import Stage, State
from mirrorha.core.words import Allow
from mirrorha.errors import ensure
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.world import World

SETTLE_MS: Final = 120_000


@final
class Play:
    """A pair on a stage.

    Args:
        paired: begin with a healthy pair, of which lyon is the PRIM; else with nothing started.
        settings: of both nodes; see `Settings`.
    """

    def __init__(self, *, paired: bool = True, seed: int = 1, **settings: Any) -> None:
        self.world = World(seed, trace=True)
        self.pair = Pair(self.world, **settings)
        self.pair.writing = False
        self.lyon, self.paris = self.pair.nodes.values()
        self._fates: dict[str, list[str]] = {}
        self._late: list[tuple[Register | None, Register]] = []
        self._real_cas: Callable[..., None] = self.pair.arbiter.cas
        self._real_send: Callable[..., None] = self.pair.control_send
        self._stalled: dict[str, list[Callable[[], None]]] = {}
        cast_arbiter: Any = self.pair.arbiter
        cast_arbiter.cas = self._cas
        cast_pair: Any = self.pair
        cast_pair.control_send = self._send
        self._value = 1_000_000
        if paired:
            self.start()
            self.until_mirrored()

    # ---- looking ----

    @property
    def register(self) -> Register:
        register = self.pair.arbiter.register
        ensure(register is not None, "there is a register")
        return register  # type: ignore[return-value]

    def state(self, node: SimNode) -> State:
        core = node.node
        ensure(core is not None, f"{node.name} is up")
        return core.state  # type: ignore[union-attr]

    def role(self, node: SimNode) -> str:
        return self.state(node).role.value

    def is_acked(self, value: int) -> bool:
        return any(one.value == value for one in self.pair.oracle.acked)

    # ---- time ----

    def run(self, duration_ms: int) -> None:
        self.world.run_until(self.world.now_ms + duration_ms)

    def until(self, condition: Callable[[], bool], *, at_most_ms: int = SETTLE_MS) -> None:
        met = self.world.run_while(lambda: not condition(), at_most_ms=at_most_ms)
        ensure(met, "what the scenario waits for happens:\n" + "\n".join(self.world.trace[-30:]))

    def until_mirrored(self, *, at_most_ms: int = SETTLE_MS) -> None:
        """Until both are a healthy pair; then compare their copies."""
        self.until(self.pair.mirrored, at_most_ms=at_most_ms)
        self.run(1_000)
        ensure(self.pair.mirrored(), "the pair lasts")
        self.pair.check_equal()
        for node in (self.lyon, self.paris):
            self.pair.check_primary(node, "at the end")

    # ---- what happens ----

    def start(self, *nodes: SimNode) -> None:
        for node in nodes or (self.lyon, self.paris):
            node.start()

    def force(self, node: SimNode, verb: v.Verb, *allowed: Allow) -> None:
        self.pair.forces.ask(node, verb, *allowed)

    def answer(self, node: SimNode, verb: v.Verb) -> CommandDone | None:
        """What became of a force."""
        return self.pair.commands.get(f"{verb.value} {node.name}")

    def command(self, node: SimNode, verb: v.Verb) -> None:
        node.give(v.Command(operation=verb.value, verb=verb))

    def stands_at(self, node: SimNode, stage: Stage) -> bool:
        """Whether the node's decision, if it has one, is at this stage."""
        decision = self.state(node).decision
        return decision is not None and decision.stage is stage

    def write(self, node: SimNode, volume: str = "a") -> int:
        """A client writes on this node; the value tells whether it was acknowledged."""
        self._value += 1
        node.volumes[volume].write(self._value)
        return self._value

    def cut(self) -> None:
        """Nothing passes between the two, either way."""
        for way in self.pair.net.open:
            self.pair.net.open[way] = False
        self.pair.break_link()

    def heal(self) -> None:
        for way in self.pair.net.open:
            self.pair.net.open[way] = True
            self.pair.net.beats[way] = True
        self.pair.net.streams = True

    def silence(self, sender: SimNode) -> None:
        """Its beats do not arrive; its connections work."""
        self.pair.net.beats[sender.name, sender.settings.peer] = False

    def arbiter_open(self, node: SimNode, *, is_open: bool) -> None:
        self.pair.arbiter.faults.reachable[node.name] = is_open

    def fate(self, node: SimNode, *fates: str) -> None:
        """What becomes of the node's next attempts: "late" (until `land`), "lost", "lost-reply"."""
        self._fates.setdefault(node.name, []).extend(fates)

    def until_fated(self, node: SimNode) -> None:
        """Until that has become of the node's attempts; the last has no answer for 2 s yet."""
        self.until(lambda: not self._fates.get(node.name))

    def land(self) -> None:
        """What lingers reaches the arbiter now."""
        late, self._late = self._late, []
        for expected, new in late:
            self.pair.arbiter._land(expected, new, "late")

    def stall(self, sender: SimNode) -> None:
        """What it says on the control session from now on arrives only after `unstall`."""
        self._stalled[sender.name] = []

    def unstall(self, sender: SimNode) -> None:
        for deliver in self._stalled.pop(sender.name, []):
            deliver()

    # ---- hooks of the simulated world ----

    def _cas(
        self,
        node: str,
        expected: Register | None,
        new: Register,
        answer: Callable[[CasOutcome], None],
    ) -> None:
        fates = self._fates.get(node)
        if not fates:
            self._real_cas(node, expected, new, answer)
            return
        fate = fates.pop(0)
        self.world.say(f"{node}'s CAS {new.epoch} {sorted(new.in_sync)}: {fate}")
        if fate == "late":
            self._late.append((expected, new))
        elif fate == "lost-reply":
            self.pair.arbiter._land(expected, new, "its reply is lost")
        self.world.after(2_000, lambda: answer(CasOutcome.UNKNOWN))

    def _send(self, sender: SimNode, link: int, message: AnyMessage) -> None:
        waiting = self._stalled.get(sender.name)
        if waiting is None:
            self._real_send(sender, link, message)
        else:
            waiting.append(lambda: self._real_send(sender, link, message))
