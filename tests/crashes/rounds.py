"""Rounds of crashes: what happens in one is drawn from a seed and its number, and nothing else.

Each begins with a pair that mirrors and clients that write. At a moment that nobody has chosen one
node or both are ended; they come back; the pair must mirror again by itself, hold what was
promised, and be the same on both disks.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, final

import attrs

from tests.crashes.machines import LOOK_S, CheckerProcess, Machines, open_machines
from tests.crashes.record import Event
from tests.crashes.walk import differences
from tests.mounted.machine import MachineError
from tests.mounted.real_pair import NODES, Setup

#: Short enough to wait for it, and no shorter than `timeout`.
WAIT_PEER_S: Final = 3.0
TIMEOUT_S: Final = 2.0
MIRROR_S: Final = 60.0
#: A moment as a pair that mirrors again.
SETTLED_S: Final = 0.3
#: Who is to wait for its peer still waits so long after `wait_peer`.
LINGER_S: Final = 1.0
CLIENTS: Final = 3
#: Of the rounds in which both nodes are down, so many have the first one wait for the other.
HOLDS: Final = 0.4
#: What a waiting node must name when it may lack writes: who is waited for, and what overrides.
OVERRIDE: Final = "after_power_loss"


@attrs.frozen(kw_only=True)
class Plan:
    """What happens in a round.

    Attributes:
        first: the roles that are ended at one moment: "primary", "second" or both; and how: True
            is with a loss of power.
        load_s: how long clients write before that.
        then: what is ended afterwards, named as seen at the start; () for nothing.
        then_s: so much later.
        comes_back: the first one has been started again before that.
        order: who is started first, if both are down.
        pause_s: how long after the crash, and between the two.
        holds: the second one is not started before the first one has done what it may alone.
    """

    first: tuple[tuple[str, bool], ...]
    load_s: float
    then: tuple[tuple[str, bool], ...]
    then_s: float
    comes_back: bool
    order: tuple[str, str]
    pause_s: float
    holds: bool

    @property
    def text(self) -> str:
        parts = [_text_of(self.first)]
        if self.then:
            back = "and its return " if self.comes_back else ""
            parts.append(f"{back}{self.then_s:.2f} s later {_text_of(self.then)}")
        return ", ".join(parts)


def _text_of(what: tuple[tuple[str, bool], ...]) -> str:
    return " and ".join(f"{'power of' if power else 'kill'} {role}" for role, power in what)


def draw(seed: int, number: int) -> Plan:
    """The plan of round `number`: half of them a kill, half a loss of power."""
    rng = random.Random(f"{seed} {number}")
    power = number % 2 == 1
    one = rng.choice(("primary", "second"))
    other = "second" if one == "primary" else "primary"
    kind = rng.choice(("one", "one", "both", "both", "mixed", "then", "then", "back"))
    first: tuple[tuple[str, bool], ...] = ((one, power),)
    then: tuple[tuple[str, bool], ...] = ()
    if kind == "both":
        first += ((other, power),)
    elif kind == "mixed":
        first += ((other, not power),)
    elif kind == "then":
        then = ((other, rng.random() < 0.5),)
    elif kind == "back":
        then = ((rng.choice((one, other)), rng.random() < 0.5),)
    order = (one, other) if rng.random() < 0.5 else (other, one)
    return Plan(
        first=first,
        load_s=rng.uniform(0.2, 1.6),
        then=then,
        then_s=rng.choice((rng.uniform(0.0, 0.3), rng.uniform(0.3, 4.0))),
        comes_back=kind == "back",
        order=order,
        pause_s=rng.choice((0.0, rng.uniform(0.0, 2.0))),
        holds=rng.random() < HOLDS,
    )


@attrs.define(kw_only=True)
class Round:
    """One round as it was played. `faults` is empty if every promise was kept."""

    number: int
    plan: str
    primary: str
    held: str = ""
    answered: int = 0
    synced: int = 0
    mirrored_s: float = 0.0
    took_s: float = 0.0
    load: float = 0.0
    faults: list[str] = attrs.Factory(list)


@final
class Campaign:
    """Plays rounds on one pair. Blocking."""

    def __init__(
        self, machines: Machines, checker: CheckerProcess, *, places: dict[str, str]
    ) -> None:
        self._machines: Final = machines
        self._checker: Final = checker
        self._places: Final = places
        self._told: dict[str, Any] = {"answered": 0, "synced": 0}
        # Nobody was a PRIM then. A join ends with a sync of both, before it makes one.
        self._alone_s = 0.0

    def begin(self, *, env: dict[str, str] | None = None) -> None:
        """Start both nodes, and wait until they mirror. `env`: see `RealPair.launch`."""
        self._machines.pair.start(env=env)
        self._wait("the two nodes mirror", lambda: self._machines.is_mirrored)
        # What the nodes have done until now outlives all rounds, even if they were lied to by sync.
        self._machines.sync()

    def play(self, number: int, plan: Plan) -> Round:
        """Play one round to its end.

        Raises:
            MachineError: it could not be ended: the pair does not mirror again, say.
        """
        began_s = time.monotonic()
        roles = self.roles()
        played = Round(number=number, plan=plan.text, primary=roles["primary"])
        self._checker.go(self._places[roles["primary"]])
        time.sleep(plan.load_s)
        mirrored = self._machines.is_mirrored
        events = self._crash(plan, roles)
        crashed_s = time.monotonic()
        self._bring_back(plan, roles, events, played)
        self.recover()
        played.mirrored_s = time.monotonic() - crashed_s
        self.end(played, events if mirrored else _only_synced(events))
        played.took_s = time.monotonic() - began_s
        played.load = os.getloadavg()[0]
        return played

    def roles(self) -> dict[str, str]:
        """Who is the "primary", and who the "second"."""
        primary = self._machines.serving()
        if not primary:
            raise MachineError("nobody serves at the begin of a round")
        return {"primary": primary, "second": self._machines.pair.other(primary)}

    def _crash(self, plan: Plan, roles: dict[str, str]) -> list[Event]:
        events = self._machines.crash([(roles[role], power) for role, power in plan.first])
        if plan.then:
            if plan.comes_back:
                self._machines.return_(roles[plan.first[0][0]])
            self._wait_while_writing(plan.then_s)
            there = [(roles[role], power) for role, power in plan.then]
            events += self._machines.crash(there)
        return events

    def _wait_while_writing(self, wait_s: float) -> None:
        """Let time pass; clients write wherever a node serves."""
        ends = time.monotonic() + wait_s
        while time.monotonic() < ends:
            self.follow()
            time.sleep(min(LOOK_S, max(0.0, ends - time.monotonic())))

    def follow(self) -> bool:
        """Have the clients write where a node serves. True: the pair mirrors."""
        now_s = time.monotonic()
        if "PRIM" not in [self._machines.status(name).get("role") for name in NODES]:
            self._alone_s = now_s
        serving = self._machines.serving()
        if serving:
            self._checker.go(self._places[serving])
        return self._machines.is_mirrored

    def _bring_back(
        self, plan: Plan, roles: dict[str, str], events: list[Event], played: Round
    ) -> None:
        down = [
            roles[role] for role in plan.order if roles[role] not in self._machines.pair.machines
        ]
        self._wait_while_writing(plan.pause_s)
        for node in down:
            self._machines.return_(node)
            if len(down) == len(NODES) and node is down[0]:
                if plan.holds:
                    played.held, faults = self._hold(node, events)
                    played.faults += faults
                else:
                    self._wait_while_writing(plan.pause_s)

    def _hold(self, node: str, events: list[Event]) -> tuple[str, list[str]]:
        """One node alone has come back: it serves, or says why it waits, as the register has it."""
        self._wait(
            f"{node} has read the register",
            lambda: (self._machines.status(node).get("arbiter") or {}).get("register"),
        )
        members = self._register(node)["in_sync"]
        lost_power = any(one.power for one in events if one.node == node)
        may_serve = members == [node] or (node in members and not lost_power)
        limit_s = MIRROR_S if may_serve else WAIT_PEER_S + LINGER_S
        ends = time.monotonic() + limit_s
        while time.monotonic() < ends and not (may_serve and self._machines.serving()):
            self.follow()
            time.sleep(LOOK_S)
        status = self._machines.status(node)
        role, why = status.get("role"), str(status.get("why"))
        told = f"{node} alone, lost power: {lost_power}, in_sync {members}: {role}: {why}"
        if may_serve:
            return told, [] if role == "ALONE" else [f"does not serve by itself: {told}"]
        wanted = OVERRIDE if node in members else self._machines.pair.other(node)
        says = role == "WAIT" and (wanted in why or "peer" in why)
        return told, [] if says else [f"should wait and say why: {told}"]

    def recover(self) -> None:
        """Start what does not run, or has stopped; return when the pair mirrors again."""
        machines = self._machines
        for node in NODES:
            if machines.status(node).get("role") == "STOP":
                machines.crash([(node, False)])
            if node not in machines.pair.machines:
                machines.return_(node)
        self._wait("the two nodes mirror again", self.follow)
        self._wait_while_writing(SETTLED_S)

    def _register(self, node: str) -> dict[str, Any]:
        return dict(self._machines.status(node)["arbiter"]["register"])

    def end(self, played: Round, events: list[Event]) -> None:
        """Have the clients rest, and compare what there is with what there should be."""
        told = self._checker.pause()
        played.answered = told["answered"] - self._told["answered"]
        played.synced = told["synced"] - self._told["synced"]
        self._told = told
        self._wait("nothing is on its way", self._machines.is_quiet)
        trees = {name: self._machines.tree(name) for name in NODES}
        played.faults += differences(trees[NODES[0]], trees[NODES[1]])
        with self._machines.beneath(self._machines.serving() or played.primary) as root:
            played.faults += self._checker.check(root, events, synced_s=self._alone_s)

    def _wait(self, what: str, holds: Callable[[], Any]) -> None:
        self._machines.pair.wait(what, holds, limit_s=MIRROR_S)


def _only_synced(events: list[Event]) -> list[Event]:
    """The pair did not mirror at first: nobody knows on how many copies an answer rested."""
    over_s = max(one.over_s for one in events)
    return [attrs.evolve(events[0], node=name, power=True, over_s=over_s) for name in NODES]


def play(
    root: Path,
    setup: Setup,
    *,
    plans: Iterable[tuple[int, Plan]],
    seed: int = 0,
    places: dict[str, str] | None = None,
) -> Iterator[Round]:
    """Play these rounds; yield each as it ends.

    Args:
        root: an empty directory; it keeps the logs.
        plans: each with the number that the round has in its seed.
        seed: for what the clients write.
        places: where clients write on each node; by default in its directory, which is mounted.

    Raises:
        MachineError: a round could not be played to its end.
    """
    with open_machines(root, setup) as machines:
        mounts = {name: str(machines.pair.directory(name)) for name in NODES}
        checker = CheckerProcess(seed, clients=CLIENTS, log=root / "checker.log")
        try:
            campaign = Campaign(machines, checker, places=places or mounts)
            campaign.begin()
            for number, plan in plans:
                yield campaign.play(number, plan)
        finally:
            checker.close()
