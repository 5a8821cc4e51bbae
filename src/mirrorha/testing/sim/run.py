"""One seed, from first start through faults to healing; and what a report says of many."""

from __future__ import annotations

from collections import Counter
from typing import Final

import attrs

from mirrorha.core import authority
from mirrorha.core.authority import Bar
from mirrorha.core.messages import Standing
from mirrorha.errors import InvariantViolation
from mirrorha.testing.sim.faults import Faults
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.parting import settle_split
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
) -> Outcome:
    """Run one seed. Same seed, same trace: the only source of difference are the arguments.

    Args:
        mode: "arbiter", or how a pair without one behaves: "consistent" or "available".
        production: drive the production volume machines on memory disks, not the model volume.
    """
    world = World(seed, trace=trace)
    pair = Pair(world, mode, production=production, services=None, **_settings(world, mode))
    problem = ""
    try:
        _play(world, pair, faulty_ms)
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


def _settings(world: World, mode: str) -> dict[str, object]:
    """What is drawn for a pair without an arbiter; one with an arbiter stays as it was."""
    if mode == "arbiter":
        return {}
    policies = ["former_prim", "former_prim", "newest", "refuse"]
    return {"fencer": world.chance(0.3), "split_policy": world.rng.choice(policies)}


def _play(world: World, pair: Pair, faulty_ms: int) -> None:
    for node in pair.nodes.values():
        node.start()
    if not world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000):
        raise Violation("I10 the first start does not lead to a pair")
    faults = Faults(world, pair)
    world.run_until(world.now_ms + faulty_ms)
    faults.heal()
    world.run_until(world.now_ms + LINGER_MS)
    if pair.shared is not None:
        _settle_splits(world, pair)
    if not world.run_while(lambda: not pair.mirrored(), at_most_ms=SETTLE_MS):
        if _needs_a_person(world, pair):
            world.count("needs the operator")
            return
        raise Violation(f"I10 no pair again after healing: {_standings(pair)}")
    pair.writing = False
    world.run_until(world.now_ms + 2_000)
    if not pair.mirrored():
        raise Violation(f"I10 the pair does not last: {_standings(pair)}")
    pair.check_equal()
    for node in pair.nodes.values():
        pair.check_primary(node, "at the end")
    if pair.shared is not None:
        pair.shared.check_reports()


def _settle_splits(world: World, pair: Pair) -> None:
    """After healing a split stays until a person ends it; whoever waits for that is seen to wait.

    Nothing of what waits is overwritten before: `SharedRegister.overwritten`.
    """
    for _ in range(6):
        world.run_while(lambda: not pair.mirrored(), at_most_ms=10_000)
        if pair.mirrored():
            return
        settle_split(world, pair)


def _needs_a_person(world: World, pair: Pair) -> bool:
    """The only copies that held every acknowledged write were replaced by old disk images.

    Then no node may serve by itself, and both must be waiting and say why.
    """
    if not world.counts["image restored"]:
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
