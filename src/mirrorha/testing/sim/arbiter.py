"""A simulated arbiter: linearizable, and with every unkindness that a network can add."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import final

import attrs

from mirrorha.core.events import CasOutcome, Gone
from mirrorha.core.register import Register
from mirrorha.testing.sim.world import Violation, World


class Fate(enum.Enum):
    """What becomes of one attempt whose answer never comes."""

    LOST_REQUEST = "lost request"
    LOST_REPLY = "lost reply"
    LATE = "late"


@attrs.define
class ArbiterFaults:
    """How often what goes wrong; reachable: by node."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    late: float = 0.0
    slow_ms: int = 5
    reachable: dict[str, bool] = attrs.Factory(dict)
    misread: dict[str, Register | Gone] = attrs.Factory(dict)  # by node: what it finds instead
    fates: list[Fate] = attrs.Factory(list)  # of the next attempts, whoever makes them


def _nothing(_node: str, _expected: Register | None, _new: Register) -> None:
    """Nobody waits for an attempt."""


@final
class SimArbiter:
    def __init__(self, world: World) -> None:
        self.world = world
        self.register: Register | None = None
        self.faults = ArbiterFaults()
        self.on_landed: Callable[[Register | None, Register], None] = lambda _before, _now: None
        self.on_lost: Callable[[Register | None], None] = lambda _before: None
        self.on_cas: Callable[[str, Register | None, Register], None] = _nothing
        self._highest = 0
        self._life = 0  # rises when it goes back: what was under way is lost
        self.landed: list[Register] = []

    def forget_hook(self) -> None:
        self.on_cas = _nothing

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
            found = faults.misread.get(node, found)
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
        self.on_cas(node, expected, new)
        fate = faults.fates.pop(0) if faults.fates else None
        if fate is Fate.LOST_REQUEST or world.chance(faults.lost_request):
            world.count("cas lost request")
            world.after(2_000, lambda: answer(CasOutcome.UNKNOWN))
        elif fate is Fate.LATE or world.chance(faults.late):
            world.count("cas late")
            world.after(2_000, lambda: answer(CasOutcome.UNKNOWN))
            self._land_in(world.between(100, 30_000 if fate is None else 6_000), expected, new)
        else:
            lost = fate is Fate.LOST_REPLY or world.chance(faults.lost_reply)
            self._serve(node, expected, new, answer, lost_reply=lost)

    def _land_in(self, delay_ms: int, expected: Register | None, new: Register) -> None:
        life = self._life

        def land() -> None:
            if self._life == life:
                self._land(expected, new, "late")

        self.world.after(delay_ms, land)

    def _serve(
        self,
        node: str,
        expected: Register | None,
        new: Register,
        answer: Callable[[CasOutcome], None],
        *,
        lost_reply: bool,
    ) -> None:
        world, life = self.world, self._life

        def serve() -> None:
            lost = lost_reply or self._life != life
            won = self._life == life and node not in self.faults.misread
            won = won and self._land(expected, new, "cas")
            if lost:
                world.count("cas lost reply")
                world.after(2_000, lambda: answer(CasOutcome.UNKNOWN))
            else:
                outcome = CasOutcome.WON if won else CasOutcome.REFUSED
                world.count(f"cas {outcome.value}")
                world.after(world.between(0, self.faults.slow_ms), lambda: answer(outcome))

        world.after(world.between(0, self.faults.slow_ms), serve)

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

    def go_back_to(self, record: Register) -> None:
        """It returns as it was when `record` was the latest; what was under way is lost."""
        self.on_lost(self.register)
        self.register = record
        self._highest = record.epoch
        self._life += 1
        self.world.count("register went back")
        self.world.say(f"the arbiter returns with epoch {record.epoch}")
