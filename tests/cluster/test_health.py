"""What a node shows to people: the worth of its data, and a colour."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mirrorha.core.detector import Detector
from mirrorha.core.events import Gone
from mirrorha.core.health import colour_of, data_of, primary_of, why_of
from mirrorha.core.messages import RescueNote, Standing
from mirrorha.core.meta import Meta
from mirrorha.core.register import Register
from mirrorha.core.settings import Settings
from mirrorha.core.state import Decision, Kind, Stage, State
from mirrorha.core.words import Boot, Colour, Data, Mode, Role

MINE = Register("c", 3, "lyon", (("lyon", "n1"),))
BOTH = Register("c", 3, "lyon", (("lyon", "n1"), ("paris", "n2")))
THEIRS = Register("c", 4, "paris", (("paris", "n3"),))


def make(*, meta: dict[str, Any] | None = None, **facts: Any) -> State:
    settings = Settings(node="lyon", peer="paris", first="lyon", volumes=("a",), paths=("p",))
    state = State(
        settings=settings,
        meta=Meta(node="lyon", **(meta or {})),
        boot=Boot.CLEAN,
        rng=random.Random(1),
        detector=Detector(("p",), pulse_ms=250, timeout_ms=3000, now_ms=0),
    )
    for name, value in facts.items():
        setattr(state, name, value)
    return state


MEMBER = {"cluster_id": "c", "held": MINE}
PAIR = {"cluster_id": "c", "held": BOTH}
SPLIT = {**PAIR, "outdated": True, "split": "g2/g3", "lineage": ("g1", "g2")}
DISPUTED = {**SPLIT, "outdated": False, "disputed": True}
KEPT = RescueNote("a", ".mirrorha-rescue/x", 2, 3)
ORANGE = Colour.ORANGE
SERVING = {"standing": Standing.SOURCE, "frozen": False, "role": Role.ALONE, "mode": Mode.LOG}
MIRRORED = {**SERVING, "role": Role.PRIM, "mode": Mode.MIRROR}
SECOND = {"standing": Standing.FOLLOWER, "frozen": False, "role": Role.SECOND}
WAITING = {"standing": Standing.WAITING, "role": Role.WAIT}

CASES = [
    ("serves mirrored", PAIR, MIRRORED, Data.UP_TO_DATE, Colour.GREEN),
    ("stands by", PAIR, SECOND, Data.UP_TO_DATE, Colour.GREEN),
    ("serves alone", MEMBER, SERVING, Data.UP_TO_DATE, Colour.ORANGE),
    ("PRIM, frozen", PAIR, {**MIRRORED, "frozen": True}, Data.CONSISTENT, Colour.ORANGE),
    ("SECOND, frozen", PAIR, {**SECOND, "frozen": True}, Data.CONSISTENT, Colour.ORANGE),
    ("being filled", {**PAIR, "inconsistent": True}, WAITING, Data.INCONSISTENT, Colour.ORANGE),
    ("waits, the last member", MEMBER, {**WAITING, "seen": MINE}, Data.UP_TO_DATE, Colour.ORANGE),
    ("waits, both members", PAIR, {**WAITING, "seen": BOTH}, Data.CONSISTENT, Colour.ORANGE),
    ("waits, no member", PAIR, {**WAITING, "seen": THEIRS}, Data.OUTDATED, Colour.ORANGE),
    ("waits, gave up", {**PAIR, "outdated": True}, WAITING, Data.OUTDATED, Colour.ORANGE),
    ("waits, lost a split", SPLIT, WAITING, Data.OUTDATED, ORANGE),
    ("nobody has settled a split", DISPUTED, WAITING, Data.CONSISTENT, Colour.RED),
    ("keeps its side", {**PAIR, "rescued": (KEPT,)}, SECOND, Data.UP_TO_DATE, Colour.RED),
    ("its peer keeps", PAIR, {**MIRRORED, "peer_rescued": (KEPT,)}, Data.UP_TO_DATE, ORANGE),
    ("gave up its side of a split", {**SPLIT, "lineage": ()}, WAITING, Data.OUTDATED, ORANGE),
    ("disk failed", MEMBER, {**WAITING, "sick": "EIO"}, Data.CONSISTENT, Colour.RED),
    (
        "takes no resync",
        {**PAIR, "inconsistent": True},
        {**WAITING, "unfilled": "ENOSPC"},
        Data.INCONSISTENT,
        Colour.RED,
    ),
    ("no directory", MEMBER, {**WAITING, "problem": "missing"}, Data.CONSISTENT, Colour.RED),
    ("stopped", MEMBER, {"standing": Standing.STOPPED}, Data.UP_TO_DATE, Colour.RED),
    ("register unreadable", PAIR, {**WAITING, "seen": Gone.CORRUPT}, Data.CONSISTENT, Colour.RED),
    (
        "new here, with files",
        {},
        {**WAITING, "seen": MINE, "has_files": True},
        Data.OUTDATED,
        Colour.RED,
    ),
]


@pytest.mark.parametrize(("name", "meta", "facts", "data", "colour"), CASES)
def test_what_is_shown(
    name: str, meta: dict[str, Any], facts: dict[str, Any], data: Data, colour: Colour
) -> None:
    state = make(meta=meta, **facts)
    assert (data_of(state), colour_of(state)) == (data, colour), name


def test_who_may_write_now() -> None:
    assert primary_of(make(**MIRRORED)) == "lyon"
    assert primary_of(make(**SECOND)) == "paris"
    assert primary_of(make(**WAITING, seen=THEIRS)) == "paris"
    assert primary_of(make(**WAITING, seen=BOTH)) is None, "the register's word is not enough"
    assert primary_of(make(**WAITING)) is None


def test_a_node_that_may_acknowledge_nothing_does_not_say_that_all_is_well() -> None:
    state = make(meta=PAIR, **MIRRORED, why="paris is in sync")
    assert why_of(state) == "paris is in sync"
    state.frozen = True
    state.decision = Decision(kind=Kind.ALONE, stage=Stage.ASK, why="paris is lost", since_ms=0)
    assert why_of(state).startswith("paris is lost: nothing is acknowledged")
    state.pair.why = "it must come back"
    assert why_of(state) == "it must come back"
    state.frozen = False
    assert why_of(state) == "paris is in sync"
