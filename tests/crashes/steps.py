"""Crashes of a real node at one of its durable steps, right before it or right after.

The node is told by what it runs in (`hook/sitecustomize.py`) at which step to crash. It is then
taken through what a node goes through (it is filled, follows, goes on alone, fills its peer, is
stopped) until it has come to that step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, final

import attrs

from mirrorha.testing.crash_points import REAL_STEPS, Moment, RealStep
from tests.crashes.machines import LOOK_S, CheckerProcess, Machines, open_machines
from tests.crashes.record import Event
from tests.crashes.rounds import CLIENTS, Campaign, Round
from tests.mounted.machine import environment
from tests.mounted.real_pair import NODES, Setup

HOOK: Final = Path(__file__).with_name("hook")
#: How long each part of a node's life lasts, if nothing is to be waited for.
WHILE_S: Final = 1.5
STAGE_S: Final = 30.0
#: In the directory of the rounds: the steps that the two nodes took before the first of them.
SEEN: Final = "seen"


@attrs.frozen(kw_only=True)
class Aim:
    """Where a node is to crash, and how."""

    step: RealStep
    moment: Moment
    power: bool
    nth: int = 1

    @property
    def text(self) -> str:
        how = "loses power" if self.power else "is killed"
        return f"{how} {self.moment.value} {self.step.name} ({self.step.text}), time {self.nth}"


def aims() -> Iterator[Aim]:
    """All there are, of steps that an ordinary run gets to."""
    for step in REAL_STEPS:
        if not step.seldom:
            for moment in Moment:
                for power in (False, True):
                    yield Aim(step=step, moment=moment, power=power)


def watching(seen: Path) -> dict[str, str]:
    """What a node's processes are to find, so that each step they take is noted in `seen`."""
    return {"CRASH_SEEN": str(seen), **_hooked()}


def _hooked() -> dict[str, str]:
    return {"PYTHONPATH": f"{HOOK}:{environment()['PYTHONPATH']}"}


def play_steps(root: Path, setup: Setup, which: Iterable[Aim], *, seed: int = 0) -> Iterator[Round]:
    """Play a round for each; yield it as it ends. A step that is not come to is a fault.

    Raises:
        MachineError: a round could not be played to its end.
    """
    with open_machines(root, setup) as machines:
        places = {name: str(machines.pair.directory(name)) for name in NODES}
        checker = CheckerProcess(seed, clients=CLIENTS, log=root / "checker.log")
        try:
            campaign = Campaign(machines, checker, places=places)
            campaign.begin(env=watching(root / SEEN))
            rounds = StepRounds(campaign, machines, root)
            for aim in which:
                yield rounds.play(aim)
        finally:
            checker.close()


@final
class StepRounds:
    """Plays rounds of one campaign."""

    def __init__(self, campaign: Campaign, machines: Machines, notes: Path) -> None:
        self._campaign: Final = campaign
        self._machines: Final = machines
        self._notes: Final = notes
        self._played = 0

    def play(self, aim: Aim) -> Round:
        """Crash the node that stands by at this step.

        Raises:
            MachineError: the round could not be played to its end.
        """
        began_s = time.monotonic()
        self._played += 1
        note = self._notes / f"reached-{self._played}"
        campaign, machines = self._campaign, self._machines
        roles = campaign.roles()
        node, peer = roles["second"], roles["primary"]
        played = Round(number=self._played, plan=f"{node} {aim.text}", primary=peer)
        campaign.follow()
        events = machines.crash([(node, False)])
        machines.pair.launch(node, env=self._environment(aim, node, note))
        for stage in (self._fill, self._take_over, self._fill_peer, self._stop):
            began = stage(node, peer, note)
            # What one acknowledges alone, and the other never had, is another matter.
            events = began or events
            if note.exists():
                break
        if note.exists():
            machines.bury(node, power=aim.power)
            now_s = time.monotonic()
            crash = Event(node=node, at_s=events[-1].over_s, over_s=now_s, power=aim.power)
            events = [*events, crash]
        else:
            played.faults.append("the node did not come to that step")
        reached_s = time.monotonic()
        campaign.recover()
        played.mirrored_s = time.monotonic() - reached_s
        campaign.end(played, events)
        played.took_s = time.monotonic() - began_s
        return played

    def _environment(self, aim: Aim, node: str, note: Path) -> dict[str, str]:
        at = {
            "step": aim.step.name,
            "moment": aim.moment.value,
            "nth": aim.nth,
            "disk": str(self._machines.pair.directory(node).parent) if aim.power else "",
            "note": str(note),
        }
        return {"CRASH_AT": json.dumps(at), **_hooked()}

    def _fill(self, _node: str, _peer: str, note: Path) -> list[Event]:
        self._go_on(note, lambda: self._machines.is_mirrored)
        return []

    def _take_over(self, node: str, peer: str, note: Path) -> list[Event]:
        events = self._machines.crash([(peer, False)])
        self._go_on(note, lambda: self._machines.serving() == node)
        return events

    def _fill_peer(self, _node: str, peer: str, note: Path) -> list[Event]:
        self._machines.pair.launch(peer)
        self._go_on(note, lambda: self._machines.is_mirrored)
        return []

    def _stop(self, node: str, _peer: str, note: Path) -> list[Event]:
        self._machines.pair.ask_to_stop(node)
        self._go_on(note, lambda: self._machines.status(node).get("role") == "STOP")
        return []

    def _go_on(self, note: Path, holds: Callable[[], bool]) -> None:
        """Until it holds, and a while longer; or until the node has crashed."""
        ends = time.monotonic() + STAGE_S
        while time.monotonic() < ends and not note.exists() and not holds():
            self._campaign.follow()
            time.sleep(LOOK_S)
        ends = min(ends, time.monotonic() + WHILE_S)
        while time.monotonic() < ends and not note.exists():
            self._campaign.follow()
            time.sleep(LOOK_S)
