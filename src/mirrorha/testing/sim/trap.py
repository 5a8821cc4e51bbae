"""A crash right before or right after a durable step, of whichever node comes to it first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from mirrorha.testing.crash_points import DISK_STEPS, STATE_STEPS, Moment

if TYPE_CHECKING:
    from mirrorha.testing.sim.node import SimNode
    from mirrorha.testing.sim.world import World

#: How often each is taken, about, in a minute of a run. So often, divided by it, it is a crash.
OFTEN: Final = {
    "incarnation begun": 10,
    "record intended": 12,
    "record held, alone": 6,
    "record held, both": 6,
    "record held, the peer's": 4,
    "record seen": 15,
    "generation rotated": 9,
    "dirty": 3,
    "stopped in good order": 3,
    "unclean": 2,
    "healed": 2,
    "all durable, or no more": 1,
    "being filled": 2.5,
    "filled": 2.5,
    "paused, or resumed": 2,
    "promised to the peer": 3.5,
    "promise settled": 3.5,
    "copy of the register": 15,
    "parted from the peer": 3.5,
    "alone last": 2,
    "standing given up": 1,
    "standing given back": 0.5,
    "split reported": 1,
    "split settled": 0.5,
    "force prepared, or over": 1,
    "forced": 0.5,
    "serving by force": 0.5,
    "force made good, or lost": 0.5,
    "stood down": 0.5,
    "standing taken again": 0.5,
    "side given up": 0.25,
    "rescue begun": 2,
    "rescue ended": 0.5,
    "rescue noted": 2,
    "op applied": 1000,
    "ops applied by the follower": 300,
    "files synced": 400,
    "tree synced": 60,
    "touched log recorded": 50,
    "touched log retired": 10,
    "checkpoint confirmed": 12,
    "name set aside": 7,
    "name placed": 3.5,
    "id given": 0.2,
    "limbo cleared": 7,
    "rescue directory made": 2,
    "files kept": 6,
    "attributes kept": 6,
    "names kept": 2,
    "replaced files noted": 6,
    "renamed files noted": 1,
}
CRASHES: Final = 0.35
CHANCE_MAX: Final = 0.6
#: Seldom taken before all faults are over: so tried then, too, but not without end.
LATE: Final = frozenset(
    {
        "standing given back",
        "split settled",
        "rescue begun",
        "rescue ended",
        "rescue noted",
        "rescue directory made",
        "files kept",
        "attributes kept",
        "names kept",
        "replaced files noted",
        "renamed files noted",
    }
)
LATE_CRASHES_MAX: Final = 5
STATE_NAMES: Final = tuple(step.name for step in STATE_STEPS)
DISK_NAMES: Final = tuple(DISK_STEPS.values())


def row(name: str, moment: Moment) -> str:
    """What the campaign counts these crashes as."""
    return f"crash {moment.value}: {name}"


@final
class Trap:
    """Of all steps that a run takes, some are a crash, the rarer ones more likely.

    Draws from a chance of its own: runs without it stay what they were.
    """

    def __init__(self, world: World) -> None:
        self._world: Final = world
        self.rng: Final = random.Random(f"{world.seed} trap")
        self.going = False
        self._late: int | None = None  # how many more, once all else is over
        self._set: tuple[str, Moment] | None = None

    def heal(self) -> None:
        """Nothing else goes wrong any more."""
        if self.going:
            self._late = LATE_CRASHES_MAX

    def set(self, name: str, moment: Moment) -> None:
        """The next time that this step is taken is a crash of the process."""
        self._set = (name, moment)

    def reached(self, node: SimNode, names: Sequence[str], moment: Moment) -> bool:
        """`node` is about to take these steps, or has taken them: True if that has killed it."""
        if not self.going and self._set is None:
            return False
        for name in names:
            if self._set == (name, moment) or (self.going and self._draws(name)):
                self._set = None
                self._world.count(row(name, moment))
                self._world.say(f"{node.name} crashes {moment.value}: {name}")
                if self._late is not None:
                    self._late -= 1
                # A last loss of power is a fault that leaves no time to heal.
                node.crash(power=self.going and self._late is None and self.rng.random() < 0.5)
                return True
        return False

    def _draws(self, name: str) -> bool:
        often = OFTEN.get(name)
        if self._late is not None and (name not in LATE or not self._late):
            return False
        return often is not None and self.rng.random() < min(CHANCE_MAX, CRASHES / often)
