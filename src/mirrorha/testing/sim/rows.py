"""All that a campaign must have exercised, and what cannot happen in which mode, and why."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

from mirrorha.core import authority, detector, evidence, lineage, split
from mirrorha.core.orders import StopReason
from mirrorha.core.roles import ROLE_TABLE
from mirrorha.core.words import Boot
from mirrorha.testing.crash_points import Moment
from mirrorha.testing.sim.arbiter import Fate
from mirrorha.testing.sim.faults import Faults
from mirrorha.testing.sim.first_start import FirstStart
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.trap import DISK_NAMES, LATE, STATE_NAMES, row
from mirrorha.testing.sim.world import World

MODES: Final = ("arbiter", "consistent", "available")
WITHOUT_ARBITER: Final = ("consistent", "available")

# What the core notes by a name of its own; a test reads them out of its source.
NOTES: Final = (
    "admission-unknown",
    "cas-unknown",
    "data-given-up",
    "different-cas",
    "disk-put-back",
    "fenced",
    "force-asked",
    "forced-apart",
    "forced-secondary",
    "forced-yields",
    "going-alone",
    "goodbye-granted",
    "join-broken-off",
    "no-answer-from-the-pair",
    "path-back",
    "path-lost",
    "path-one-way",
    "paused",
    "peer-is-back",
    "peer-rescued",
    "peer-stalled",
    "peer-turns-again",
    "register-lost",
    "rescue-acknowledged",
    "rescue-begins",
    "rescued",
    "resume",
    "resumed",
    "resynchronised",
    "service-failed",
    "service-started",
    "service-stop-killed",
    "split",
    "swap",
    "swap-aborted",
    "swap-refused",
)

# What the faults bring about, beyond their own names.
HAPPENED: Final = (
    "acked alone",
    "acked durable",
    "acked mirrored",
    "arbiter silent",
    "beat doubled",
    "beat lost",
    "beat overtaken",
    "cas not sent",
    "cas refused",
    "cas won",
    "connection half open",
    "fenced",
    "forced by a cas",
    "forced line made good",
    "forced without the arbiter",
    "fsync alone",
    "fsync mirrored",
    "goodbye",
    "image restored",
    "isolation checks answered: False",
    "isolation checks answered: True",
    "machine replaced",
    "os crash",
    "port refused",
    "process crash",
    "promised",
    "register lost",
    "register went back",
    "service start failed",
    "setting 1 volumes",
    "setting 2 volumes",
    "setting 3 volumes",
    "setting applied",
    "setting durable",
    "setting failover=False",
    "split",
    "stream broken",
    "write lost by force",
)


def rows() -> tuple[str, ...]:
    """Every row of the report, in its order."""
    faults = {name: None for mode in MODES for name in _fault_kinds(mode)}
    named = (
        *(f"fault {name}" for name in sorted(faults)),
        *(f"first start {each.value}" for each in FirstStart),
        *(f"cas {each.value}" for each in Fate),
        *(f"boot {each.value}" for each in Boot),
        *HAPPENED,
        *(f"edge {role.value}-{trigger.value}" for role, trigger in ROLE_TABLE),
        *(f"rule {name}" for name in (*NOTES, *_values(lineage.Rule), *_values(StopReason))),
        *(f"detector {name}" for name in _values(detector.Rule)),
        *(f"standing {name}" for name in _values(authority.Bar)),
        *(f"copies {name}" for name in _values(split.Rule)),
        *(f"proof {name}" for name in _values(evidence.Proof)),
        *(row(name, moment) for name in (*STATE_NAMES, *DISK_NAMES) for moment in Moment),
    )
    return tuple(dict.fromkeys(named))  # two rules of lineage and split have one name


def _values(kind: type[enum.Enum]) -> list[str]:
    return [str(each.value) for each in kind]


def _fault_kinds(mode: str) -> tuple[str, ...]:
    world = World(0)
    return Faults(world, Pair(world, mode), wide=True).every


@attrs.frozen
class Impossible:
    """Why a row cannot be seen in these modes. Seeing it all the same fails the campaign."""

    why: str
    modes: tuple[str, ...] = MODES


_NO_ARBITER: Final = Impossible("there is no arbiter", WITHOUT_ARBITER)
_NO_COPIES: Final = Impossible("the arbiter keeps the only copy of the register", ("arbiter",))
_NO_CHECKS: Final = Impossible("nobody goes on by isolation checks", ("arbiter", "consistent"))
_COPIES_ROLL_BACK: Final = Impossible(
    "a disk that goes back takes half of the register back: a stated non-promise", WITHOUT_ARBITER
)

_OF_ARBITER: Final = (
    "cas lost request",
    "cas lost reply",
    "cas late",
    "cas not sent",
    "cas refused",
    "cas won",
    "arbiter silent",
    "register lost",
    "register went back",
    "forced by a cas",
    "forced line made good",
    "forced without the arbiter",
    "fault arbiter cut",
    "fault arbiter faults",
    "fault arbiter goes back",
    "fault arbiter loses data",
    "fault arbiter misread",
    "fault admission goes wrong",
    "fault cas goes wrong",
    "fault swap goes wrong",
    "rule admission-unknown",
    "rule cas-unknown",
    "rule forced-apart",
    "rule forced-yields",
    "rule register-lost",
)
_OF_STEPS_OF_COPIES: Final = tuple(
    row(name, moment)
    for name in (
        "promised to the peer",
        "promise settled",
        "copy of the register",
        "parted from the peer",
        "split reported",
        "split settled",
    )
    for moment in Moment
)
# Of steps that are taken after a split, or by an operator, or after files have lost their ids.
SELDOM: Final = frozenset(
    row(name, moment)
    for name in (
        *LATE,
        "split reported",
        "side given up",
        "force prepared, or over",
        "forced",
        "serving by force",
        "force made good, or lost",
        "stood down",
        "standing taken again",
        "id given",
    )
    for moment in Moment
)
_OF_IMAGES: Final = (
    "fault image",
    "fault new machine",
    "fault resync --full",
    "image restored",
    "machine replaced",
)
_OF_COPIES: Final = (
    *(f"copies {each.value}" for each in split.Rule),
    *(f"proof {each.value}" for each in evidence.Proof),
    "fault accept",
    "fault cut at a promise",
    "fault crash at a promise",
    "fault crash when alone",
    "fault isolated",
    "fault long cut",
    "fenced",
    "isolation checks answered: False",
    "isolation checks answered: True",
    "promised",
    "rule fenced",
    "rule goodbye-granted",
    "rule no-answer-from-the-pair",
)
_OF_CHECKS: Final = (
    "proof isolation-checks-answered",
    "isolation checks answered: False",
    "isolation checks answered: True",
)

_PUT_BACK_WHOLE: Final = Impossible(
    "disks are put back whole; see the directed scenarios for that of a volume alone"
)
IMPOSSIBLE: Final[Mapping[str, Impossible]] = {
    **dict.fromkeys(_OF_ARBITER, _NO_ARBITER),
    **dict.fromkeys(_OF_IMAGES, _COPIES_ROLL_BACK),
    **dict.fromkeys(_OF_COPIES, _NO_COPIES),
    **dict.fromkeys(_OF_CHECKS, _NO_CHECKS),
    "split": _NO_COPIES,
    **dict.fromkeys(_OF_STEPS_OF_COPIES, _NO_COPIES),
    **{
        row("op applied here alone", moment): Impossible("nothing is excluded in a simulation")
        for moment in Moment
    },
    **{row("admission voided", moment): _PUT_BACK_WHOLE for moment in Moment},
    "rule disk-put-back": _PUT_BACK_WHOLE,
    **{
        row("volume marked", moment): Impossible("a simulated directory is what it is taken for")
        for moment in Moment
    },
    **{
        row("hole punched", moment): Impossible("the simulator's files are shorter than a block")
        for moment in Moment
    },
    "edge STOP-stopped": Impossible("who is stopped already is not stopped again"),
    "edge SECOND-admitted": Impossible("who is admitted was WAIT: a SECOND is a member"),
    "edge PRIM-joined-peer": Impossible("a join begins in ALONE, and ends there or as PRIM"),
    "edge ALONE-read-second": Impossible(
        "a record in which this node agreed to be the SECOND is older than that of its going alone"
    ),
    "rule not-ours": Impossible("a newcomer with files does not accept, so nobody judges it"),
    "rule source-is-behind": Impossible("who serves alone does so by a generation of its own"),
    "copies copies-of-two-clusters": Impossible(
        "the two were made one cluster at the first start; see the directed scenario"
    ),
}
