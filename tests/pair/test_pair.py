"""Two processes that are killed, cut off, stopped and swapped, and a client that keeps count.

What a client was told is in its own record; what is lost is read from the nodes' journals.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pair.harness import KINDS, TIMEOUT_S, Round, play
from tests.pair.place import PEER_SLOW_MAX_S
from tests.requirements import require_device, require_netns, require_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

# The start phase of another node, a decision at the witness, and a busy machine.
SLACK_S = 1.5
# The SECOND takes over after the timeout, PRIM's head start, and the wait for a fencer.
TAKEOVER_S = TIMEOUT_S + 0.5 + 0.5
# How long the client waits for an answer before it tries the other node.
ANSWER_S = 2.0
BLOCK_S = 4.0
FREEZE_MAX_S = KINDS["stop_app"].setup.freeze_max_s


def play_one(kind: str, root: Path, *, block_s: float | None = None, mount: bool = False) -> Round:
    require_netns()
    require_program("nft")
    if mount:
        require_device("/dev/fuse")
    (played,) = play(kind, root=root, at_most_s=40, block_s=block_s, mount=mount)
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
    assert played.notes["answered"] == 0
    assert played.notes["service_started_s"] < TAKEOVER_S + SLACK_S
    assert played.notes["stepped_down_s"] < 2


def test_a_swap_loses_nothing(tmp_path: Path) -> None:
    played = play_one("swap", tmp_path)
    assert played.served_by != played.primary
    assert played.resumed_s < 1


@pytest.mark.parametrize("kind", ["isolate", "isolate_peer"])
def test_cut_off_from_the_witness_too_nobody_acknowledges_until_one_returns(
    kind: str, tmp_path: Path
) -> None:
    played = play_one(kind, tmp_path)
    assert played.notes["acknowledged_while_isolated"] == 0
    assert played.notes["resumed_after_healing_s"] < TIMEOUT_S + 2 * SLACK_S


def test_a_primary_that_leaves_hands_over_at_once(tmp_path: Path) -> None:
    played = play_one("leave", tmp_path)
    assert played.served_by != played.primary
    assert played.resumed_s < 1


def test_a_blocked_event_loop_is_no_death(tmp_path: Path) -> None:
    played = play_one("block", tmp_path, block_s=BLOCK_S)
    assert played.silence_s > TIMEOUT_S  # it was blocked
    assert played.served_by == played.primary
    assert played.notes["decisions"] == 0
    assert played.notes["shown_as_stalled"]
    assert played.notes["probe_before"] == 200
    assert played.notes["probe_while_blocked"] != 200


def test_a_blocked_second_is_left_behind_and_comes_back(tmp_path: Path) -> None:
    played = play_one("block_second", tmp_path, block_s=BLOCK_S + 1)
    assert played.served_by == played.primary
    assert played.silence_s < played.notes["peer_slow_max_s"] + SLACK_S
    assert played.notes["acknowledged_while_blocked"] > 0
    assert played.notes["shown_as_stalled"]


# ---- some ways are cut ----


def test_one_of_two_networks_is_enough(tmp_path: Path) -> None:
    played = play_one("networks", tmp_path)
    assert played.served_by == played.primary
    assert played.notes["decisions"] == 0
    assert played.silence_s < TIMEOUT_S + SLACK_S
    for number, third in ((1, 0), (2, 1)):
        paris, lyon = f"127.0.{third}.1", f"127.0.{third}.2"
        shown = played.notes["shown"][f"network {number}"]
        assert shown["paris"] == {f"{paris} → {lyon}": "silent"}
        assert shown["lyon"] == {f"{lyon} → {paris}": "silent"}
    assert played.notes["told"] == {"paris": ["path-lost"] * 2, "lyon": ["path-lost"] * 2}


def test_one_way_of_a_network_is_shown_as_one_way(tmp_path: Path) -> None:
    played = play_one("one_way_path", tmp_path)
    assert played.served_by == played.primary
    assert played.notes["decisions"] == 0
    assert played.silence_s < TIMEOUT_S + SLACK_S
    paris_1, lyon_1 = "127.0.0.1 → 127.0.0.2", "127.0.0.2 → 127.0.0.1"
    paris_2, lyon_2 = "127.0.1.1 → 127.0.1.2", "127.0.1.2 → 127.0.1.1"
    assert played.notes["shown"] == {
        paris_1: {"paris": {paris_1: "one_way_out"}, "lyon": {lyon_1: "silent"}},
        lyon_2: {"paris": {paris_2: "silent"}, "lyon": {lyon_2: "one_way_out"}},
    }
    assert played.notes["told"] == {
        "paris": ["path-one-way", "path-lost"],
        "lyon": ["path-lost", "path-one-way"],
    }


def test_connections_that_died_in_silence_are_made_anew_where_they_work(tmp_path: Path) -> None:
    played = play_one("only_tcp", tmp_path)
    assert played.served_by == played.primary
    assert played.silence_s < PEER_SLOW_MAX_S + SLACK_S


def test_of_two_that_hear_each_other_one_way_one_acknowledges(tmp_path: Path) -> None:
    require_netns()
    require_program("nft")
    for played in play("one_way", root=tmp_path, rounds=2, at_most_s=55):
        assert (played.lost, played.late) == (0, 0)
        assert played.served_by in ("paris", "lyon")
        assert played.resumed_s < TAKEOVER_S + ANSWER_S + SLACK_S


# ---- without an arbiter ----


def test_consistent_nobody_goes_on_alone_and_both_say_why(tmp_path: Path) -> None:
    played = play_one("consistent", tmp_path)
    assert played.notes["acknowledged_while_cut"] == 0
    for peer, node in (("paris", "lyon"), ("lyon", "paris")):
        why = played.notes["why"][node]
        assert f"{peer} is lost" in why
        assert "must come back" in why
    assert played.served_by == played.primary
    assert played.notes["resumed_after_healing_s"] < TIMEOUT_S + 2 * SLACK_S


def test_consistent_after_a_goodbye_the_other_goes_on_at_once(tmp_path: Path) -> None:
    played = play_one("goodbye", tmp_path)
    assert played.served_by != played.primary
    assert played.resumed_s < 1
    assert played.notes["pause_when_second_left_s"] < 1


def test_available_who_reaches_the_isolation_check_goes_on(tmp_path: Path) -> None:
    played = play_one("available_one", tmp_path)
    assert played.served_by == played.notes["reaches"]
    assert played.notes["acknowledged_by_the_other"] == 0
    assert "may be the one that is cut off" in played.notes["why"]


@pytest.mark.parametrize("mount", [False, True])
def test_available_after_a_split_what_either_side_acknowledged_is_somewhere(
    mount: bool, tmp_path: Path
) -> None:
    played = play_one("available_both", tmp_path, mount=mount)
    winner, loser = played.primary, {"paris": "lyon", "lyon": "paris"}[played.primary]
    assert played.served_by == winner
    assert played.notes["only_in_the_rescue"] > 0
    assert sorted(played.notes["split"]) == ["lyon", "paris"]
    assert played.notes["colours"] == {loser: "red", winner: "orange"}
    (rescue,) = played.notes["rescued"]
    assert (rescue["node"], rescue["files"]) == (loser, 1)


def test_a_ledger_that_answers_too_early_is_seen_to_lose(tmp_path: Path) -> None:
    """Else a round without losses would say nothing."""
    require_netns()
    require_program("nft")
    (played,) = play("kill", root=tmp_path, at_most_s=40, broken=True)
    assert played.lost > 0


# Mounted: an ordinary program writes, which knows nothing of us.


@pytest.mark.parametrize("kind", ["kill", "kill_worker", "kill_all"])
def test_whatever_of_a_mounted_primary_is_killed_the_other_takes_over(
    kind: str, tmp_path: Path
) -> None:
    played = play_one(kind, tmp_path, mount=True)
    assert played.served_by != played.primary
    assert played.resumed_s < 5


def test_a_mounted_second_whose_worker_is_killed_costs_a_moment(tmp_path: Path) -> None:
    played = play_one("kill_second_worker", tmp_path, mount=True)
    assert played.served_by == played.primary
    assert played.resumed_s < 2


@pytest.mark.parametrize("kind", ["swap", "stop", "leave"])
def test_a_mounted_service_moves(kind: str, tmp_path: Path) -> None:
    played = play_one(kind, tmp_path, mount=True)
    assert played.served_by != played.primary
    assert played.notes.get("answered_and_lost", 0) == 0


def test_no_writer_waits_for_an_application_that_is_stopped(tmp_path: Path) -> None:
    """Longer than changes may wait: the worker answers them by its own clock."""
    played = play_one("stop_app", tmp_path, mount=True)
    assert played.served_by != played.primary
    assert played.notes["writer_ended_by"] in ("EIO", "EROFS")
    assert played.notes["writer_waited_s"] < FREEZE_MAX_S + 5
    assert played.notes["lines"] > 20
    assert played.notes["twice"] == 0


def test_a_mounted_pair_that_is_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    played = play_one("cut", tmp_path, mount=True)
    assert played.served_by == played.primary
