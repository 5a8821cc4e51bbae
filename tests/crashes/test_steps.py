"""Every step that makes something durable is known by name, and a node crashes there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mirrorha
from mirrorha.testing.crash_points import OTHERS, REAL_STEPS, Moment
from tests.crashes.rounds import TIMEOUT_S, WAIT_PEER_S
from tests.crashes.steps import SEEN, Aim, aims, play_steps
from tests.mounted.real_pair import Setup
from tests.requirements import require_device, require_root

SOURCE = Path(mirrorha.__file__).parent
PRIMITIVES = {"fsync", "fdatasync", "syncfs"}
STEPS = {step.name: step for step in REAL_STEPS}


def durable_functions() -> Iterator[tuple[str, str]]:
    """(module, function) of every one in the source that syncs, or commits."""
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        if module.startswith("testing"):
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = (one for one in ast.walk(function) if isinstance(one, ast.Call))
                if any(is_durable(call) for call in calls):
                    yield module, function.name


def is_durable(call: ast.Call) -> bool:
    if not call.args:
        return False
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    first = call.args[0]
    says = first.value if isinstance(first, ast.Constant) else ""
    return name.lstrip("_") in PRIMITIVES or (name == "execute" and says == "COMMIT")


def test_every_function_that_makes_something_durable_has_a_name() -> None:
    known = {(step.module, step.function) for step in REAL_STEPS} | OTHERS.keys()
    found = set(durable_functions())
    assert found <= known
    # Whose calls the source does not show: they are handed to threads.
    assert known - found == {("volume.local_disk.sync_threads", "work")}


def test_names_are_given_once_and_each_is_tried_or_says_why_not() -> None:
    assert len(STEPS) == len(REAL_STEPS)
    assert {aim.step.name for aim in aims()} == {
        name for name, step in STEPS.items() if not step.seldom
    }


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_crashes_where_it_is_told_and_every_step_that_it_takes_is_known(
    tmp_path: Path,
) -> None:
    require_root()
    require_device("/dev/fuse")
    setup = Setup(timeout_s=TIMEOUT_S, wait_peer_s=WAIT_PEER_S, witness=True)
    which = [
        Aim(step=STEPS[name], moment=moment, power=power)
        for name, moment, power in (
            ("state.atomic: _write_new of node.json", Moment.AFTER, True),
            ("volume.local_disk.touched_store: _commit of record", Moment.BEFORE, False),
            ("volume.local_disk.sync_threads: work", Moment.BEFORE, True),
        )
    ]
    for played in play_steps(tmp_path, setup, which):
        assert played.faults == [], played.plan
    taken = set((tmp_path / SEEN).read_text().splitlines())
    assert taken <= STEPS.keys()
    assert "volume.local_disk.touched_store: _commit of record" in taken
