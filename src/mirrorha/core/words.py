"""The vocabulary: one word a concept, in code, logs, commands, console and docs."""

from __future__ import annotations

import enum
from typing import Final


class Role(enum.Enum):
    """What a node does for the service."""

    STOP = "STOP"
    WAIT = "WAIT"
    ALONE = "ALONE"  # serves, no redundancy
    PRIM = "PRIM"  # serves, mirrored
    SECOND = "SECOND"  # stands by

    @property
    def serves(self) -> bool:
        return self in SERVING


SERVING: Final = frozenset({Role.ALONE, Role.PRIM})


class Data(enum.Enum):
    """What this node's copy is worth. It alone decides who may take over."""

    UP_TO_DATE = "up_to_date"
    CONSISTENT = "consistent"  # unknown whether latest
    OUTDATED = "outdated"
    INCONSISTENT = "inconsistent"  # a resynchronisation is under way


class Mode(enum.Enum):
    """How a serving node's volumes acknowledge."""

    MIRROR = "MIRROR"  # acknowledged by both
    LOG = "LOG"  # acknowledged alone, and recorded
    FROZEN = "FROZEN"  # nothing is acknowledged


class Colour(enum.Enum):
    """For people. Never shown without the role's word."""

    GREEN = "green"
    ORANGE = "orange"
    RED = "red"
    GREY = "grey"


class Ack(enum.Enum):
    """When a mirrored write returns: the peer has applied it, or both disks hold it."""

    APPLIED = "applied"
    DURABLE = "durable"


class Allow(enum.Enum):
    """What an operator who forces a node allows it besides."""

    WITHOUT_ARBITER = "without-arbiter"  # by a forced epoch, if the arbiter does not answer
    INCONSISTENT = "inconsistent-data"  # though a resync into this node was not finished


class Boot(enum.Enum):
    """How this node's previous incarnation ended, as its durable state and boot id show."""

    FIRST = "first"  # there was none
    CLEAN = "clean"  # stopped, everything synced
    PROCESS_CRASH = "process_crash"  # the page cache survived
    OS_CRASH = "os_crash"  # acknowledged but unsynced writes may be gone
