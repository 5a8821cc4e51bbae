"""What a node that is going to be filled must keep, by the two chains of generations."""

from __future__ import annotations

import random

import pytest

from mirrorha.core import rescue
from mirrorha.core.detector import Detector
from mirrorha.core.messages import PeerState, Standing
from mirrorha.core.meta import Meta
from mirrorha.core.settings import Settings
from mirrorha.core.state import State
from mirrorha.core.words import Boot

MINE = ("g1", "g2")


def peer(lineage: tuple[str, ...]) -> PeerState:
    return PeerState(
        number=0,
        incarnation=1,
        standing=Standing.SOURCE,
        epoch=3,
        alone=True,
        paired=0,
        held=None,
        nonces=frozenset(),
        unresolved=False,
        deciding=False,
        unclean=False,
        inconsistent=False,
        fresh=False,
        restarted=Boot.CLEAN.value,
        lineage=lineage,
        base=None,
        has_files=True,
        accepts=True,
        promotable=True,
        ready=True,
        sick=False,
        paused=False,
        top_epoch=3,
        service="",
        why="",
    )


def owed(meta: dict[str, object], theirs: tuple[str, ...]) -> str:
    settings = Settings(node="lyon", peer="paris", first="lyon", volumes=("a",), paths=("p",))
    state = State(
        settings=settings,
        meta=Meta(node="lyon", **meta),  # type: ignore[arg-type]
        boot=Boot.CLEAN,
        rng=random.Random(1),
        detector=Detector(("p",), pulse_ms=250, timeout_ms=3000, now_ms=0),
    )
    state.peer = peer(theirs)
    return rescue.owed_by(state)


@pytest.mark.parametrize(
    ("meta", "theirs", "expected"),
    [
        ({"lineage": MINE}, MINE, ""),
        ({"lineage": MINE}, (*MINE, "g3"), ""),
        ({"lineage": MINE}, ("g1", "g3"), "g2"),
        ({"lineage": (*MINE, "g4")}, (*MINE, "g3"), "g4"),
        ({"lineage": ()}, MINE, ""),
        # Given up by a person: what was acknowledged apart is kept nevertheless.
        ({"lineage": (), "given_up": MINE}, ("g1", "g3"), "g2"),
        ({"lineage": (), "given_up": MINE}, (*MINE, "g3"), ""),
        # Forced since both had the same: the source may lack what is here.
        ({"lineage": MINE}, (*MINE, "forced-1"), "g2"),
        ({"lineage": MINE}, (*MINE, "forced-inconsistent-1", "g5"), "g2"),
        ({"lineage": (*MINE, "forced-1")}, (*MINE, "forced-1", "g5"), ""),
        # Begun before: until this node is admitted.
        ({"lineage": MINE, "rescue": "g0"}, (*MINE, "g3"), "g0"),
        ({"lineage": MINE, "rescue": "g0"}, ("g1", "g3"), "g2"),
    ],
)
def test_what_is_owed(meta: dict[str, object], theirs: tuple[str, ...], expected: str) -> None:
    assert owed(meta, theirs) == expected
