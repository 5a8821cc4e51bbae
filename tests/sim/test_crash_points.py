"""Every durable step has a name, and a simulated crash right before and right after it."""

from __future__ import annotations

import typing

import attrs
import pytest

from mirrorha.core.meta import Meta
from mirrorha.testing.crash_points import (
    DISK_STEPS,
    READS,
    STATE_FIELDS_LEFT_OUT,
    STATE_STEPS,
    Moment,
    disk_steps,
    state_steps,
)
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.rows import IMPOSSIBLE, MODES, rows
from mirrorha.testing.sim.trap import LATE, OFTEN, Trap, row
from mirrorha.testing.sim.world import World
from mirrorha.volume import disk as d

NAMES = [*(step.name for step in STATE_STEPS), *DISK_STEPS.values()]


def test_every_field_of_a_nodes_state_belongs_to_a_step() -> None:
    named = {field for step in STATE_STEPS for field in step.fields}
    assert named | STATE_FIELDS_LEFT_OUT == {field.name for field in attrs.fields(Meta)}


def test_every_request_to_a_disk_is_a_step_or_changes_nothing() -> None:
    assert {*DISK_STEPS, *READS} == set(typing.get_args(d.AnyRequest))


def test_names_are_given_once_and_each_is_tried_or_said_to_be_impossible() -> None:
    assert len(set(NAMES)) == len(NAMES)
    never = {each for each, why in IMPOSSIBLE.items() if set(why.modes) == set(MODES)}
    impossible = {name for name in NAMES if row(name, Moment.BEFORE) in never}
    assert set(OFTEN) == set(NAMES) - impossible
    assert set(OFTEN) >= LATE
    assert {row(name, one) for name in NAMES for one in Moment} <= set(rows())


def test_a_step_is_told_by_what_changes() -> None:
    before = Meta(node="lyon", dirty=True)
    assert state_steps(before, before) == ()
    after = attrs.evolve(before, dirty=False, lineage=("g",))
    assert state_steps(before, after) == ("generation rotated", "stopped in good order")


def test_a_request_of_many_takes_all_their_steps_once() -> None:
    many = d.Many([d.SyncTree(), d.ReadBytes(1, 0, 1), d.Many([d.SyncTree(), d.SyncFiles([1])])])
    assert disk_steps(many) == ("tree synced", "files synced")
    assert disk_steps(d.ReadBytes(1, 0, 1)) == ()


@pytest.mark.parametrize(("moment", "durable"), [(Moment.BEFORE, False), (Moment.AFTER, True)])
def test_a_crash_is_on_the_side_of_the_step_that_it_names(moment: Moment, durable: bool) -> None:
    world = World(1)
    pair = Pair(world)
    for node in pair.nodes.values():
        node.start()
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=60_000)
    node = pair.source()
    assert node is not None
    pair.trap = Trap(world)
    pair.trap.set("record held, alone", moment)
    pair.peer(node).crash(power=False)
    assert world.run_while(lambda: node.up, at_most_ms=30_000)
    held = node.durable.meta.held
    assert held is not None
    assert held.is_alone(node.name) is durable
    assert world.counts[row("record held, alone", moment)] == 1
    assert pair.arbiter.register is not None
    assert pair.arbiter.register.is_alone(node.name)
    for each in pair.nodes.values():
        each.start()
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=60_000)
