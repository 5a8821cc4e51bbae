"""Everything that can happen next in a state, kind or unkind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mirrorha.core import events as v
from mirrorha.core.messages import Standing
from mirrorha.testing.explore.scene import (
    NAMES,
    STEP_MS,
    Scene,
    other,
)
from mirrorha.testing.explore.stage import Stage

Action = tuple[str, Callable[[Stage], None]]


def choices(scene: Scene) -> Iterator[Action]:  # noqa: C901, PLR0912 - one entry for each unkindness
    """Everything that can happen next, with its name for the trace."""
    left = scene.budget
    up = [name for name in NAMES if scene.sites[name].node is not None]
    for name in NAMES:
        peer = other(name)
        if scene.control[name] and peer in up:
            yield f"{peer} hears {type(scene.control[name][0]).__name__}", _deliver_control(name)
        if scene.stream[name] and peer in up:
            yield f"{peer} gets {scene.stream[name][0][0]}", _deliver_stream(name)
        if name in scene.reads:
            yield f"arbiter answers {name}'s read", _answer_read(name)
        if name in scene.attempts:
            yield from _fates(scene, name)
        if name in up and left.writes and is_writable(scene, name):
            yield f"a client writes on {name}", _write(name)
        if name in up and left.crashes:
            yield f"{name} is killed", _crash(name, power=False)
            yield f"{name} loses power", _crash(name, power=True)
        if name not in up:
            yield f"{name} starts", _start(name)
        if name in up and left.suspicions and not suspects(scene, name):
            yield f"{name} takes {peer} for lost", _suspect(name)
        if name in up and left.swaps and is_writable(scene, name):
            yield f"swap asked on {name}", _swap(name)
    for index, (base, record) in enumerate(scene.late):
        if base == scene.register:
            yield f"a late CAS lands: {record.epoch} {sorted(record.in_sync)}", _late(index)
    if scene.link and left.breaks:
        yield "the link breaks", _break
    if not scene.link and len(up) == len(NAMES):
        yield "the link opens", _connect
    if left.ticks:
        yield "time passes", _tick


def _fates(scene: Scene, name: str) -> Iterator[Action]:
    record = scene.attempts[name][2]
    text = f"{name}'s CAS {record.epoch} {sorted(record.in_sync)}"
    if record.epoch > scene.budget.epochs:
        return
    yield f"{text} is answered", _answer_cas(name)
    if scene.budget.unanswered:
        yield f"{text} is done, the reply is lost", _lose_reply(name)
        yield f"{text} lingers", _linger(name)


def is_writable(scene: Scene, name: str) -> bool:
    node = scene.sites[name].node
    return node is not None and node.state.standing is Standing.SOURCE


def suspects(scene: Scene, name: str) -> bool:
    node = scene.sites[name].node
    detector: Any = node.state.detector if node else None
    return detector is not None and bool(detector.lost)


def _deliver_control(name: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        message = stage.scene.control[name].pop(0)
        stage.give(other(name), v.Heard(message=message))

    return act


def _deliver_stream(name: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        message = stage.scene.stream[name].pop(0)
        stage.volumes[other(name)].receive(message)

    return act


def _answer_read(name: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        token = stage.scene.reads.pop(name)
        found = stage.scene.register
        stage.give(name, v.RegisterRead(token=token, found=found or v.Gone.ABSENT))

    return act


def _answer_cas(name: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        token, base, record = stage.scene.attempts.pop(name)
        won = stage.land(base, record)
        outcome = v.CasOutcome.WON if won else v.CasOutcome.REFUSED
        stage.give(name, v.CasDone(token=token, outcome=outcome))

    return act


def _lose_reply(name: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        stage.scene.budget.unanswered -= 1
        token, base, record = stage.scene.attempts.pop(name)
        stage.land(base, record)
        stage.give(name, v.CasDone(token=token, outcome=v.CasOutcome.UNKNOWN))

    return act


def _linger(name: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        stage.scene.budget.unanswered -= 1
        token, base, record = stage.scene.attempts.pop(name)
        stage.scene.late.append((base, record))
        stage.give(name, v.CasDone(token=token, outcome=v.CasOutcome.UNKNOWN))

    return act


def _write(name: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        stage.scene.budget.writes -= 1
        stage.scene.value += 1
        stage.volumes[name].write(stage.scene.value)

    return act


def _crash(name: str, *, power: bool) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        stage.scene.budget.crashes -= 1
        stage.crash(name, power=power)

    return act


def _start(name: str) -> Callable[[Stage], None]:
    return lambda stage: stage.start(name)


def _suspect(name: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        stage.scene.budget.suspicions -= 1
        node = stage.scene.sites[name].node
        if node is not None:
            detector: Any = node.state.detector
            detector.lost = True
        stage.give(name, v.Tick())

    return act


def _swap(name: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        stage.scene.budget.swaps -= 1
        stage.give(name, v.Command(operation="x", verb=v.Verb.SWAP))

    return act


def _late(index: int) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        base, record = stage.scene.late.pop(index)
        stage.land(base, record)

    return act


def _break(stage: Stage) -> None:
    stage.scene.budget.breaks -= 1
    stage.disconnect()


def _connect(stage: Stage) -> None:
    for name in NAMES:
        node = stage.scene.sites[name].node
        if node is not None:
            detector: Any = node.state.detector
            detector.lost = False
    stage.connect()


def _tick(stage: Stage) -> None:
    stage.scene.budget.ticks -= 1
    stage.scene.now_ms += STEP_MS
    for name in NAMES:
        stage.give(name, v.Tick())
