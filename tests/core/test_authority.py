"""Who may go alone: every combination of what bars a node, in the order of the reasons."""

from __future__ import annotations

import itertools
import random

import pytest

from mirrorha.core.authority import Bar, bar, holds, source_of_both
from mirrorha.core.detector import Detector
from mirrorha.core.meta import Meta
from mirrorha.core.register import Register
from mirrorha.core.settings import Settings
from mirrorha.core.state import State
from mirrorha.core.words import Boot

BOTH = Register(
    cluster_id="c", epoch=3, primary="lyon", nonces=(("lyon", "mine"), ("paris", "theirs"))
)
ALONE = Register(cluster_id="c", epoch=3, primary="lyon", nonces=(("lyon", "mine"),))
NOT_ME = Register(cluster_id="c", epoch=3, primary="paris", nonces=(("paris", "theirs"),))
BOOLS = (False, True)


def state(*, problem: bool, sick: bool, serve: bool = False, **meta: object) -> State:
    settings = Settings(
        node="lyon",
        peer="paris",
        first="lyon",
        volumes=("a",),
        paths=("one",),
        serve_after_power_loss=serve,
    )
    detector = Detector(("one",), pulse_ms=250, timeout_ms=3_000, now_ms=0)
    s = State(
        settings=settings,
        meta=Meta(node="lyon", cluster_id="c", **meta),  # type: ignore[arg-type]
        boot=Boot.CLEAN,
        rng=random.Random(1),
        detector=detector,
    )
    s.problem = "not mounted" if problem else ""
    s.sick = "EIO" if sick else ""
    return s


@pytest.mark.parametrize("record", [BOTH, ALONE, NOT_ME], ids=["both", "alone", "not-me"])
def test_every_combination(record: Register) -> None:
    flags = ("problem", "sick", "inconsistent", "outdated", "nonce", "unclean", "durable", "chosen")
    for values in itertools.product(BOOLS, repeat=len(flags)):
        case = dict(zip(flags, values, strict=True))
        s = state(
            problem=case["problem"],
            sick=case["sick"],
            inconsistent=case["inconsistent"],
            outdated=case["outdated"],
            unclean=case["unclean"],
            all_durable=case["durable"],
            held=record if case["nonce"] else None,
        )
        excused = case["durable"] or case["chosen"] or record is not BOTH
        reasons = [
            (case["problem"], Bar.NO_VOLUME),
            (case["sick"], Bar.SICK),
            (case["inconsistent"], Bar.INCONSISTENT),
            (case["outdated"], Bar.GAVE_UP),
            (record is NOT_ME, Bar.NOT_MEMBER),
            (not case["nonce"], Bar.NO_NONCE),
            (case["unclean"] and not excused, Bar.UNCLEAN),
        ]
        expected = next((why for holds_now, why in reasons if holds_now), Bar.NONE)
        assert bar(s, record, chosen=case["chosen"]) is expected, case
        assert holds(s, record) is (bar(s, record, chosen=True) is Bar.NONE)


def test_the_operator_may_choose_to_serve_after_a_power_loss() -> None:
    s = state(problem=False, sick=False, serve=True, held=BOTH, unclean=True)
    assert bar(s, BOTH) is Bar.NONE


def test_without_the_peer_nobody_is_chosen() -> None:
    assert source_of_both(state(problem=False, sick=False, held=BOTH), BOTH) is None
