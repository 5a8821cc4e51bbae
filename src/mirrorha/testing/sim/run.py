"""One seed, from first start through faults to healing; and what a report says of many."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import attrs

from mirrorha.core import authority
from mirrorha.core import events as v
from mirrorha.core.authority import Bar
from mirrorha.core.messages import Standing
from mirrorha.errors import InvariantViolation
from mirrorha.testing.sim import first_start
from mirrorha.testing.sim.comparing import Comparing
from mirrorha.testing.sim.faults import Faults
from mirrorha.testing.sim.first_start import FirstStart
from mirrorha.testing.sim.operator import settle_forces
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.parting import settle_split
from mirrorha.testing.sim.wide import draw_settings, prepare
from mirrorha.testing.sim.world import Violation, World

SETTLE_MS: Final = 180_000
LINGER_MS: Final = 11_000  # as long as a pause or a cut lasts that began before healing


@attrs.frozen
class Outcome:
    """What became of one seed. `problem` is empty if every invariant held."""

    seed: int
    problem: str
    events: int
    acked: int
    trace: tuple[str, ...]
    counts: Counter[str]


def run_seed(
    seed: int,
    *,
    trace: bool = False,
    faulty_ms: int = 60_000,
    mode: str = "arbiter",
    production: bool = False,
    wide: bool = False,
) -> Outcome:
    """Run one seed. Same seed, same trace: the only source of difference are the arguments.

    Args:
        mode: "arbiter", or how a pair without one behaves: "consistent" or "available".
        production: drive the production volume machines on memory disks, not the model volume.
        wide: draw settings, first starts and clocks as well, and from more kinds of faults.
    """
    world = World(seed, trace=trace)
    settings = _settings(world, mode)
    if wide:
        settings |= draw_settings(world)
    pair = Pair(world, mode, production=production, services=None, **settings)
    comparing = Comparing(world, pair)
    problem = ""
    try:
        _begin(world, pair, wide=wide)
        comparing.begin()
        _play(world, pair, Faults(world, pair, wide=wide), comparing, faulty_ms)
    except (Violation, InvariantViolation) as violation:
        problem = f"{type(violation).__name__}: {violation}"
    return Outcome(
        seed=seed,
        problem=problem,
        events=world.events,
        acked=sum(len(oracle.acked) for oracle in pair.oracles()),
        trace=tuple(world.trace),
        counts=world.counts,
    )


def _settings(world: World, mode: str) -> dict[str, Any]:
    """What is drawn for a pair without an arbiter; one with an arbiter stays as it was."""
    if mode == "arbiter":
        return {}
    policies = ["former_prim", "former_prim", "newest", "refuse"]
    return {"fencer": world.chance(0.3), "split_policy": world.rng.choice(policies)}


def _begin(world: World, pair: Pair, *, wide: bool) -> None:
    first_start.begin(world, pair, prepare(world, pair) if wide else FirstStart.EMPTY)


def _play(world: World, pair: Pair, faults: Faults, comparing: Comparing, faulty_ms: int) -> None:
    world.run_until(world.now_ms + faulty_ms)
    faults.heal()
    world.run_until(world.now_ms + LINGER_MS)
    if pair.shared is not None or pair.forces.were_asked:
        _settle_splits(world, pair)
    settled = world.run_while(lambda: not pair.mirrored(), at_most_ms=SETTLE_MS)
    if not settled and _may_not_move(pair):
        faults.let_move()
        settled = world.run_while(lambda: not pair.mirrored(), at_most_ms=SETTLE_MS)
    if not settled and _needs_a_person(world, pair):
        world.count("needs the operator")
        settled = _settled_by_hand(world, pair, faults)
    if not settled:
        raise Violation(f"I10 no pair again after healing: {_standings(pair)}")
    comparing.check_flips()
    pair.writing = False
    world.run_until(world.now_ms + 2_000)
    if not pair.mirrored():
        raise Violation(f"I10 the pair does not last: {_standings(pair)}")
    pair.check_equal()
    for node in pair.nodes.values():
        pair.check_primary(node, "at the end")
    pair.owed.check()
    if pair.shared is not None:
        pair.shared.check_reports()
    _acknowledge(world, pair)


def _acknowledge(world: World, pair: Pair) -> None:
    """The operator looks at what was kept of splits; until then it is told."""
    pair.trap = None  # a node that crashes as it notes that is asked again, which is no test
    for node in pair.nodes.values():
        if node.durable.meta.rescued:
            node.give(v.Command(operation="seen", verb=v.Verb.ACKNOWLEDGE))
            world.run_until(world.now_ms + 100)
            if node.durable.meta.rescued:
                raise Violation(f"{node.name} does not take it that its rescue was seen")


def _settle_splits(world: World, pair: Pair) -> None:
    """After healing a split stays until a person ends it; whoever waits for that is seen to wait.

    Nothing of what waits is overwritten before: `SharedRegister.overwritten`.
    """
    for _ in range(6):
        world.run_while(lambda: not pair.mirrored(), at_most_ms=10_000)
        if pair.mirrored():
            return
        settled = world.counts["split settled by the operator"]
        settle_split(world, pair)
        if pair.forces.were_asked and settled == world.counts["split settled by the operator"]:
            settle_forces(world, pair)


def _settled_by_hand(world: World, pair: Pair, faults: Faults) -> bool:
    """First the right disk; if its machine had crashed as well, what it holds has to do."""
    for _ in range(3):
        faults.settle_by_hand()
        if world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000):
            return True
    return False


def _may_not_move(pair: Pair) -> bool:
    """`failover = false`, and only the peer's copy is whole: a person must let the service move."""
    register = pair.arbiter.register
    barred = False
    for node in pair.nodes.values():
        core = node.node
        if core is None or core.state.settings.failover or core.state.standing is Standing.SOURCE:
            return False
        record = core.state.meta.copy if pair.shared is not None else register
        barred |= record is not None and authority.bar(core.state, record) is not Bar.NONE
    return barred


def _needs_a_person(world: World, pair: Pair) -> bool:
    """The only copies that held every acknowledged write were replaced by old disk images.

    Then no node may serve by itself, and both must be waiting and say why.
    """
    if not world.counts["image restored"] and not world.counts["machine replaced"]:
        return False
    for node in pair.nodes.values():
        if node.node is None:
            return False
        state, register = node.node.state, pair.arbiter.register
        if state.standing is not Standing.WAITING or state.decision is not None or not state.why:
            return False
        usable = register if not state.register_problem else None
        if usable is not None and authority.bar(state, usable) is Bar.NONE:
            return False
    return True


def _standings(pair: Pair) -> str:
    parts = []
    for node in pair.nodes.values():
        if node.node is None:
            parts.append(f"{node.name} down")
            continue
        s = node.node.state
        doing = f"{s.decision.kind.value}/{s.decision.stage.value}" if s.decision else "-"
        parts.append(
            f"{node.name} {s.role.value} {s.standing.name} {s.mode.value} e{s.epoch} "
            f"deciding {doing} frozen={s.frozen} unresolved={len(s.unresolved)} "
            f"service={s.service.value} why={s.why!r}"
        )
    return "; ".join(parts)
