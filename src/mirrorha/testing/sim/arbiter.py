"""A simulated arbiter: linearizable, and with every unkindness that a network can add."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs

from mirrorha.core.events import CasOutcome, Gone
from mirrorha.core.register import Register
from mirrorha.testing.sim.world import Violation, World


@attrs.define
class ArbiterFaults:
    """How often what goes wrong; reachable: by node."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    late: float = 0.0
    slow_ms: int = 5
    reachable: dict[str, bool] = attrs.Factory(dict)


@final
class SimArbiter:
    def __init__(self, world: World) -> None:
        self.world = world
        self.register: Register | None = None
        self.faults = ArbiterFaults()
        self.on_landed: Callable[[Register | None, Register], None] = lambda _before, _now: None
        self.on_lost: Callable[[Register | None], None] = lambda _before: None
        self._highest = 0
        self.landed: list[Register] = []

    def is_reachable(self, node: str) -> bool:
        return self.faults.reachable.get(node, True)

    def read(self, node: str, answer: Callable[[Register | Gone | None], None]) -> None:
        """One read: an answer after a while, or None (no answer)."""
        world, faults = self.world, self.faults
        if not self.is_reachable(node) or world.chance(faults.lost_request):
            world.count("arbiter silent")
            world.after(world.between(100, 2_000), lambda: answer(None))
            return
        delay_ms = world.between(0, faults.slow_ms)

        def serve() -> None:
            found: Register | Gone = self.register if self.register is not None else Gone.ABSENT
            if world.chance(faults.lost_reply):
                world.after(world.between(100, 2_000), lambda: answer(None))
            else:
                world.after(world.between(0, faults.slow_ms), lambda: answer(found))

        world.after(delay_ms, serve)

    def cas(
        self,
        node: str,
        expected: Register | None,
        new: Register,
        answer: Callable[[CasOutcome], None],
    ) -> None:
        """One attempt, with one of the four outcomes."""
        world, faults = self.world, self.faults
        if not self.is_reachable(node):
            if world.chance(0.5):
                world.count("cas not sent")
                world.after(world.between(0, 500), lambda: answer(CasOutcome.NOT_SENT))
            else:
                world.count("cas lost request")
                world.after(2_000, lambda: answer(CasOutcome.UNKNOWN))
            return
        if world.chance(faults.lost_request):
            world.count("cas lost request")
            world.after(2_000, lambda: answer(CasOutcome.UNKNOWN))
            return
        if world.chance(faults.late):
            world.count("cas late")
            world.after(2_000, lambda: answer(CasOutcome.UNKNOWN))

            def land() -> None:
                self._land(expected, new, "late")

            world.after(world.between(100, 30_000), land)
            return
        lost = world.chance(faults.lost_reply)

        def serve() -> None:
            won = self._land(expected, new, "cas")
            if lost:
                world.count("cas lost reply")
                world.after(2_000, lambda: answer(CasOutcome.UNKNOWN))
            else:
                outcome = CasOutcome.WON if won else CasOutcome.REFUSED
                world.count(f"cas {outcome.value}")
                world.after(world.between(0, faults.slow_ms), lambda: answer(outcome))

        world.after(world.between(0, faults.slow_ms), serve)

    def _land(self, expected: Register | None, new: Register, how: str) -> bool:
        if self.register != expected:
            return False
        if new.epoch <= self._highest:
            raise Violation(f"I3 the register's epoch falls from {self._highest} to {new.epoch}")
        self._highest = new.epoch
        before, self.register = self.register, new
        self.on_landed(before, new)
        self.landed.append(new)
        self.world.say(f"register ({how}): {new.epoch} {new.primary} {sorted(new.in_sync)}")
        return True

    def lose(self) -> None:
        """The arbiter loses its data: the record is absent from now on."""
        self.on_lost(self.register)
        self.register = None
        self._highest = 0  # an attempt based on "absent" may land again; the nodes must cope
        self.world.count("register lost")
        self.world.say("register lost")
