"""Breadth first through every state, so that what is found is a shortest trace."""

from __future__ import annotations

import argparse
import gc
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

import attrs

from mirrorha.core import epochs
from mirrorha.testing.explore import actor as a
from mirrorha.testing.explore.breakages import KNOWN, broken
from mirrorha.testing.explore.choices import apply, choices, describe
from mirrorha.testing.explore.scene import NAMES, Budget
from mirrorha.testing.explore.world import State, World
from mirrorha.testing.sim.world import Violation

_UNBOUNDED: Final = 1 << 20
SAY_EVERY_S: Final = 10.0


@attrs.frozen
class Found:
    """What an exploration saw.

    Attributes:
        complete: every state was visited.
        locals: states of single nodes, and of messages, of which the others are made.
    """

    states: int
    transitions: int
    depth: int
    seconds: float
    complete: bool
    locals: int = 0
    problem: str = ""
    trace: tuple[str, ...] = ()


def first_state(world: World) -> State:
    """A healthy pair, reached by letting everything happen that is kind."""
    limit, world.epochs = world.epochs, _UNBOUNDED
    reduce, world.reduce = world.reduce, False
    empty: tuple[Any, ...] = ((),) * len(world.volumes)
    state = State(
        sites=[world.site_term(a.Actor(name, len(world.volumes))) for name in NAMES],
        control=[(), ()],
        stream=[empty, empty],
        register=(),
        former=(),
        replies=[None, None],
        late=(),
        linked=False,
        acked=0,
        alone=[0, 0],
        primaries=(),
        left=[0] * len(attrs.fields(Budget)),
    )
    for kind in ("start", "start", "connect"):
        action = next(one for one in choices(world, state) if one[0] == kind)
        state = apply(world, state, action)
    kind_ones = ("hear", "get", "cas", "read", "time")
    for _ in range(500):
        talk = [one for one in choices(world, state) if one[0] in kind_ones]
        talk = [one for one in talk if one[0] != "read" or not is_mirrored(world, state)]
        if not talk:
            break
        talk.sort(key=lambda one: kind_ones.index(one[0]))
        state = apply(world, state, talk[0])
    if not is_mirrored(world, state):
        raise Violation("I10 the first start does not lead to a pair")
    state = world.decode(world.encode(state))
    state.left = list(attrs.astuple(world.budget))
    world.reduce = reduce
    world.epochs = (limit - 1) * epochs.STEP + world.told[state.register[0]].epoch
    return state


def is_mirrored(world: World, state: State) -> bool:
    facts = [world.facts[site[0]] for site in state.sites]
    open_ones = [one for one in facts if one.mirrors and one.open_volumes]
    told = world.told.get(state.register[0]) if state.register else None
    return bool(open_ones) and told is not None and len(told.members) == len(NAMES)


def explore(
    budget: Budget,
    *,
    states_max: int,
    without: str = "",
    reduce: bool = True,
    say: Callable[[str], None] = lambda _text: None,
) -> Found:
    """Visit states until all are seen, one is wrong, or `states_max` are.

    Args:
        without: a loss of `breakages.KNOWN`; the rule that prevents it is taken out, once the
            first state is reached.
        reduce: leave out what only makes more states. False: to see that it only does that.
    """
    world = World(budget, reduce=reduce)
    first = world.encode(first_state(world))
    world.memo.clear()  # what was worked out with every rule in place
    with broken(without) if without else nullcontext():
        return _search(world, first, states_max, say)


def _search(world: World, first: bytes, states_max: int, say: Callable[[str], None]) -> Found:
    began = time.monotonic()
    parents: dict[bytes, bytes | None] = {first: None}
    level, depth, transitions = [first], 0, 0
    last_said = began

    def found(*, complete: bool = False, problem: str = "", trace: tuple[str, ...] = ()) -> Found:
        return Found(
            states=len(parents),
            transitions=transitions,
            depth=depth,
            seconds=time.monotonic() - began,
            complete=complete,
            locals=len(world.terms),
            problem=problem,
            trace=trace,
        )

    while level:
        following: list[bytes] = []
        for key in level:
            state = world.decode(key)
            for action in choices(world, state):
                transitions += 1
                try:
                    after = apply(world, state, action)
                    reached = world.encode(after)
                    if reached in parents:
                        continue
                    world.judge(after)
                except Violation as problem:
                    steps = (*_trace(world, parents, key), describe(world, state, action))
                    return found(problem=str(problem), trace=steps)
                parents[reached] = key
                following.append(reached)
            if len(parents) >= states_max:
                return found()
        depth += 1
        level = following
        if time.monotonic() - last_said > SAY_EVERY_S:
            last_said = time.monotonic()
            say(
                f"depth {depth}: {len(parents)} states, {len(level)} of them new, "
                f"{transitions} transitions, {last_said - began:.0f} s"
            )
    return found(complete=True)


def _trace(world: World, parents: dict[bytes, bytes | None], key: bytes) -> tuple[str, ...]:
    """The way to a state: at each step, which choice it was is found by trying them."""
    steps: list[str] = []
    while (parent := parents[key]) is not None:
        state = world.decode(parent)
        for action in choices(world, state):
            if world.encode(apply(world, state, action)) == key:
                steps.append(describe(world, state, action))
                break
        key = parent
    return tuple(reversed(steps))


def main(arguments: list[str] | None = None) -> int:
    """Explore with the bounds asked for."""
    parser = argparse.ArgumentParser(prog="python -m mirrorha.testing.explore")
    parser.add_argument("--states", type=int, default=50_000_000, help="stop after this many")
    parser.add_argument("--without", choices=sorted(KNOWN), default="", help="a rule taken out")
    parser.add_argument("--known", action="store_true", help="take out each rule, one at a time")
    for field in attrs.fields(Budget):
        parser.add_argument(f"--{field.name}", type=int, default=None)
    options = parser.parse_args(arguments)
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)  # nearly everything that is made here is kept
    if options.known:
        return _show_known(options.states)
    scope = KNOWN[options.without].budget if options.without else Budget()
    asked = {field.name: getattr(options, field.name) for field in attrs.fields(Budget)}
    scope = attrs.evolve(scope, **{name: much for name, much in asked.items() if much is not None})
    print(f"scope: {in_words(scope)}")
    found = explore(scope, states_max=options.states, without=options.without, say=_say)
    for number, text in enumerate(found.trace, 1):
        print(f"{number:>3} {text}")
    how = "exhausted" if found.complete else "stopped at the limit"
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{found.states} states, {found.transitions} transitions, depth {found.depth}, "
        f"{found.seconds:.0f} s, {memory_mb} MB; violations: {found.problem or 'none'}; "
        f"{'stopped at a violation' if found.problem else how}"
    )
    return 1 if found.problem else 0


def _say(text: str) -> None:
    print(text, flush=True)


def in_words(scope: Budget) -> str:
    """What is bounded, without what does not happen at all."""
    bounds = attrs.asdict(scope)
    return "2 nodes, " + ", ".join(f"{much} {name}" for name, much in bounds.items() if much)


def _show_known(states_max: int) -> int:
    """A line for each rule taken out. All of them must be missed."""
    missed = 0
    for loss, known in KNOWN.items():
        found = explore(known.budget, states_max=states_max, without=loss)
        missed += not found.problem
        _say(
            f"{loss:<20} {found.states:>8} states {found.seconds:>6.1f} s "
            f"{len(found.trace):>3} steps  {found.problem or 'NOT FOUND'}"
        )
    return 1 if missed else 0
