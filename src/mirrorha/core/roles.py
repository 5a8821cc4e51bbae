"""The role table: every edge between roles, as data.

The docs' diagram is drawn from it, the tests walk it, and what it does not list is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from mirrorha.core.words import Role
from mirrorha.errors import ensure


class Trigger(enum.Enum):
    """Why a role changes. Named, so that logs and history can say it."""

    STARTED = "started"  # by the process or an operator
    STOPPED = "stopped"  # by an operator, or the restart limit
    WON_ALONE = "won-alone"  # a CAS naming this node alone was won by this incarnation
    FORCED = "forced"  # the same because an operator said so, with a CAS or without
    JOINED_PEER = "joined-peer"  # a CAS naming both was won: the peer was admitted
    ADMITTED = "admitted"  # the peer admitted this node
    SWAPPED_OUT = "swapped-out"
    SWAPPED_IN = "swapped-in"
    READ_PRIMARY = "read-primary"  # the register says: primary, and both
    READ_SECOND = "read-second"  # the register says: the peer is primary, and both
    STEPPED_DOWN = "stepped-down"  # the register, the disk or the freeze's deadline says so


ROLE_TABLE: Final[Mapping[tuple[Role, Trigger], Role]] = {
    (Role.STOP, Trigger.STARTED): Role.WAIT,
    (Role.WAIT, Trigger.WON_ALONE): Role.ALONE,
    (Role.WAIT, Trigger.FORCED): Role.ALONE,
    (Role.WAIT, Trigger.ADMITTED): Role.SECOND,
    (Role.WAIT, Trigger.STEPPED_DOWN): Role.WAIT,
    (Role.ALONE, Trigger.WON_ALONE): Role.ALONE,
    (Role.ALONE, Trigger.JOINED_PEER): Role.PRIM,
    (Role.ALONE, Trigger.READ_PRIMARY): Role.PRIM,
    (Role.ALONE, Trigger.READ_SECOND): Role.SECOND,
    (Role.ALONE, Trigger.STEPPED_DOWN): Role.WAIT,
    (Role.PRIM, Trigger.WON_ALONE): Role.ALONE,
    (Role.PRIM, Trigger.FORCED): Role.ALONE,
    (Role.PRIM, Trigger.JOINED_PEER): Role.PRIM,
    (Role.PRIM, Trigger.READ_PRIMARY): Role.PRIM,
    (Role.PRIM, Trigger.SWAPPED_OUT): Role.SECOND,
    (Role.PRIM, Trigger.READ_SECOND): Role.SECOND,
    (Role.PRIM, Trigger.STEPPED_DOWN): Role.WAIT,
    (Role.SECOND, Trigger.WON_ALONE): Role.ALONE,
    (Role.SECOND, Trigger.FORCED): Role.ALONE,
    (Role.SECOND, Trigger.ADMITTED): Role.SECOND,
    (Role.SECOND, Trigger.SWAPPED_IN): Role.PRIM,
    (Role.SECOND, Trigger.READ_PRIMARY): Role.PRIM,
    (Role.SECOND, Trigger.READ_SECOND): Role.SECOND,
    (Role.SECOND, Trigger.STEPPED_DOWN): Role.WAIT,
    **{(role, Trigger.STOPPED): Role.STOP for role in Role},
}


def next_role(role: Role, trigger: Trigger) -> Role:
    """The role after `trigger`.

    Raises:
        InvariantViolation: the table has no such edge; the node must not act on it.
    """
    ensure((role, trigger) in ROLE_TABLE, f"{trigger.value} is not possible while {role.value}")
    return ROLE_TABLE[role, trigger]
