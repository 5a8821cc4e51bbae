"""The role table, walked completely and asked questions."""

from __future__ import annotations

import itertools

import pytest

from mirrorha.core.roles import ROLE_TABLE, Trigger, next_role
from mirrorha.core.words import SERVING, Role
from mirrorha.errors import InvariantViolation

EVERY = list(itertools.product(Role, Trigger))


@pytest.mark.parametrize(("role", "trigger"), EVERY)
def test_every_pair_has_an_edge_or_is_refused(role: Role, trigger: Trigger) -> None:
    if (role, trigger) in ROLE_TABLE:
        assert next_role(role, trigger) is ROLE_TABLE[role, trigger]
    else:
        with pytest.raises(InvariantViolation, match=trigger.value):
            next_role(role, trigger)


def edges_into(*targets: Role) -> set[tuple[Role, Trigger]]:
    return {edge for edge, to in ROLE_TABLE.items() if to in targets}


ALONE = {Trigger.WON_ALONE, Trigger.FORCED}


def test_alone_is_reached_only_by_a_won_cas_or_an_operators_word() -> None:
    assert {trigger for _, trigger in edges_into(Role.ALONE)} == ALONE


def test_a_waiting_node_serves_only_by_a_won_cas_or_an_operators_word() -> None:
    serving = {trigger for role, trigger in edges_into(*SERVING) if role is Role.WAIT}
    assert serving == ALONE


def test_a_stopped_node_does_nothing_but_start() -> None:
    from_stop = {trigger for role, trigger in ROLE_TABLE if role is Role.STOP}
    assert from_stop == {Trigger.STARTED, Trigger.STOPPED}


def test_second_is_reached_by_admission_or_the_register() -> None:
    assert {trigger for _, trigger in edges_into(Role.SECOND)} == {
        Trigger.ADMITTED,
        Trigger.SWAPPED_OUT,
        Trigger.READ_SECOND,
    }


def test_every_role_can_be_stopped_and_every_trigger_is_used() -> None:
    assert {role for role, trigger in ROLE_TABLE if trigger is Trigger.STOPPED} == set(Role)
    assert {trigger for _, trigger in ROLE_TABLE} == set(Trigger)


def test_stepping_down_always_ends_in_waiting() -> None:
    ends = {to for (_, trigger), to in ROLE_TABLE.items() if trigger is Trigger.STEPPED_DOWN}
    assert ends == {Role.WAIT}
