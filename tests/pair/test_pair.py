"""Two processes that are killed, cut off, stopped and swapped, and a client that keeps count.

What a client was told is in its own record; what is lost is read from the nodes' journals.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pair.harness import TIMEOUT_S, Round, play
from tests.requirements import require_netns, require_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

# The start phase of another node, a decision at the witness, and a busy machine.
SLACK_S = 1.5
# The SECOND takes over after the timeout, PRIM's head start, and the wait for a fencer.
TAKEOVER_S = TIMEOUT_S + 0.5 + 0.5


def play_one(kind: str, root: Path) -> Round:
    require_netns()
    require_program("nft")
    (played,) = play(kind, root=root, at_most_s=40)
    assert played.acknowledged > 0
    assert played.lost == 0
    assert played.late == 0
    return played


def test_a_killed_primary_is_replaced_at_once(tmp_path: Path) -> None:
    played = play_one("kill", tmp_path)
    assert played.served_by != played.primary
    assert played.resumed_s < 1


def test_a_cut_leaves_exactly_one_that_serves(tmp_path: Path) -> None:
    played = play_one("cut", tmp_path)
    assert played.served_by == played.primary  # its head start: the service stays where it is
    assert TIMEOUT_S / 2 < played.resumed_s < TIMEOUT_S + SLACK_S


def test_a_primary_that_was_stopped_acknowledges_nothing_more(tmp_path: Path) -> None:
    played = play_one("stop", tmp_path)
    assert played.served_by != played.primary
    assert played.notes["answers_after_waking"] == []
    assert played.notes["service_started_s"] < TAKEOVER_S + SLACK_S
    assert played.notes["stepped_down_s"] < 2


def test_a_swap_loses_nothing(tmp_path: Path) -> None:
    played = play_one("swap", tmp_path)
    assert played.served_by != played.primary
    assert played.resumed_s < 1


def test_cut_off_from_the_witness_too_nobody_acknowledges(tmp_path: Path) -> None:
    played = play_one("isolate", tmp_path)
    assert played.notes["acknowledged_while_isolated"] == 0
    assert played.notes["resumed_after_healing_s"] < TIMEOUT_S + 2 * SLACK_S


def test_a_primary_that_leaves_hands_over_at_once(tmp_path: Path) -> None:
    played = play_one("leave", tmp_path)
    assert played.served_by != played.primary
    assert played.resumed_s < 1


def test_a_blocked_event_loop_is_no_death(tmp_path: Path) -> None:
    played = play_one("block", tmp_path)
    assert played.silence_s > TIMEOUT_S  # it was blocked
    assert played.served_by == played.primary
    assert played.notes["decisions"] == 0


def test_a_ledger_that_answers_too_early_is_seen_to_lose(tmp_path: Path) -> None:
    """Else a round without losses would say nothing."""
    require_netns()
    require_program("nft")
    (played,) = play("kill", root=tmp_path, at_most_s=40, broken=True)
    assert played.lost > 0
