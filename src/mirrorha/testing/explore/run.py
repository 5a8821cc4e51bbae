"""Small-scope exploration: every interleaving of the production core and the register.

Two nodes, one volume (a `ModelVolume`), an arbiter. Messages wait until they are delivered or their
connection breaks; a CAS can be answered, answered to nobody, or land much later; suspicion is
arbitrary; a process or an operating system crashes. What is bounded is how often: writes, epochs,
crashes, breaks, suspicions, lost replies and ticks of time. Breadth first, so that what it finds
is a shortest trace.

`python -m mirrorha.testing.explore --states 100000` prints how many states were visited.
"""

from __future__ import annotations

import argparse
import pickle
import time
from collections import deque
from typing import Any

import attrs

from mirrorha.core import authority
from mirrorha.core import events as v
from mirrorha.core.messages import Standing
from mirrorha.core.meta import Meta
from mirrorha.core.words import Mode
from mirrorha.errors import InvariantViolation
from mirrorha.testing.explore.choices import choices
from mirrorha.testing.explore.keys import key_of
from mirrorha.testing.explore.scene import (
    NAMES,
    Budget,
    Dice,
    Scene,
    Site,
)
from mirrorha.testing.explore.stage import Stage
from mirrorha.testing.sim.world import Violation


def judge(scene: Scene) -> None:
    """I1, by the register: whoever may serve has every acknowledged write.

    With one crash in all, only what was acknowledged alone, and never synced, can be void.
    """
    acked = set(scene.acked)
    register = scene.register
    if register is None:
        return
    for name, site in scene.sites.items():
        if site.node is None:
            continue
        state = site.node.state
        allowed = authority.bar(state, register) is authority.Bar.NONE
        serving = state.standing is Standing.SOURCE and state.mode is Mode.LOG
        missing = acked - set(site.platter.cache)
        if missing and (allowed or serving):
            raise Violation(f"I1 {name} may serve and lacks acknowledged {sorted(missing)}")


@attrs.frozen
class Found:
    """What an exploration saw."""

    states: int
    complete: bool
    problem: str = ""
    trace: tuple[str, ...] = ()


def first_scene(budget: Budget) -> Scene:
    """A healthy pair, reached by letting everything happen that is kind."""
    sites = {name: Site(meta=Meta(node=name)) for name in NAMES}
    scene = Scene(budget=attrs.evolve(budget), sites=sites, dice=Dice())
    stage = Stage(scene)
    for name in NAMES:
        stage.start(name)
    stage.settle()
    stage.connect()
    stage.settle()
    for _ in range(500):
        if _is_mirrored(stage.scene) and not _is_talking(stage.scene):
            break
        possible = list(choices(stage.scene))
        kind = [act for text, act in possible if " hears " in text or " gets " in text]
        kind += [act for text, act in possible if " answer" in text]
        (kind or [_kind_tick])[0](stage)
        stage.settle()
        stage.save()
    scene = stage.save()
    if not _is_mirrored(scene):
        raise Violation("I10 the first start does not lead to a pair")
    scene.now_ms = 0
    epoch = scene.register.epoch if scene.register else 0
    scene.budget = attrs.evolve(budget, epochs=budget.epochs + epoch)
    return scene


def _is_talking(scene: Scene) -> bool:
    return any(scene.control.values()) or any(scene.stream.values())


def _kind_tick(stage: Stage) -> None:
    for name in NAMES:
        stage.give(name, v.Tick())


def _is_mirrored(scene: Scene) -> bool:
    standings = set()
    for site in scene.sites.values():
        if site.node is None or site.node.state.frozen or site.node.state.decision is not None:
            return False
        standings.add(site.node.state.standing)
        if site.volume.get("mode") not in (None, "mirror", "follow"):
            return False
    return standings == {Standing.SOURCE, Standing.FOLLOWER}


def explore(budget: Budget, *, states_max: int) -> Found:
    """Visit states breadth first until all are seen, one is wrong, or `states_max` are."""
    first = first_scene(budget)
    blob = pickle.dumps(first)
    seen = {key_of(first)}
    queue: deque[tuple[bytes, tuple[Any, ...] | None]] = deque([(blob, None)])
    while queue:
        blob, path = queue.popleft()
        count = len(list(choices(pickle.loads(blob))))
        for index in range(count):
            scene: Scene = pickle.loads(blob)
            text, act = list(choices(scene))[index]
            stage = Stage(scene)
            step = (text, path)
            try:
                act(stage)
                stage.settle()
                judge(stage.save())
            except (Violation, InvariantViolation) as problem:
                return Found(len(seen), complete=False, problem=str(problem), trace=_trace(step))
            key = key_of(scene)
            if key not in seen:
                seen.add(key)
                queue.append((pickle.dumps(scene), step))
        if len(seen) >= states_max:
            return Found(len(seen), complete=False)
    return Found(len(seen), complete=True)


def _trace(step: tuple[Any, ...] | None) -> tuple[str, ...]:
    steps: list[str] = []
    while step is not None:
        text, step = step
        steps.append(text)
    return tuple(reversed(steps))


def main(arguments: list[str] | None = None) -> int:
    """Explore with the bounds asked for."""
    parser = argparse.ArgumentParser(prog="python -m mirrorha.testing.explore")
    parser.add_argument("--states", type=int, default=20_000, help="stop after this many")
    for field in attrs.fields(Budget):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    options = parser.parse_args(arguments)
    budget = Budget(**{field.name: getattr(options, field.name) for field in attrs.fields(Budget)})
    began = time.monotonic()
    found = explore(budget, states_max=options.states)
    how = "exhaustive" if found.complete else "stopped at the bound"
    took_s = time.monotonic() - began
    for number, text in enumerate(found.trace, 1):
        print(f"{number:>3} {text}")
    print(f"{found.states} states, {found.problem or how}, {budget}, {took_s:.0f} s")
    return 1 if found.problem else 0
