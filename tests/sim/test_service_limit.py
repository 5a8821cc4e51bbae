"""A service that fails again and again: restarted in place, handed over, then given up (8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from mirrorha.core import events as v
from mirrorha.core.events import Verb
from mirrorha.core.messages import Standing
from mirrorha.core.words import Role
from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.scenarios import Play

LIMIT: Final = 3  # the default


def fails(play: Play, node: SimNode, *, action: str = "restart") -> None:
    """The service that runs on `node` fails once."""
    token = play.state(node).service_token
    node.give(v.ServiceFailed(token=token, text="no licence", action=action))


def failed_starts(play: Play) -> int:
    return play.world.counts["service start failed"]


def start_fails_on_both() -> None:
    """It ends in STOP on both, with the reason, after a bounded number of attempts."""
    play = Play()
    play.lyon.fail_service = play.paris.fail_service = 1.0
    fails(play, play.lyon)
    play.run(120_000)
    for node in (play.lyon, play.paris):
        assert play.state(node).standing is Standing.STOPPED
        assert play.state(node).role is Role.STOP
        assert "the restart limit is used up: start failed" in play.state(node).why
    # Each restarts it in place as often as it may, and the first that stops lets the other try
    # once more. Then nobody does.
    ended = failed_starts(play)
    assert ended <= 2 * (1 + LIMIT)
    play.run(60_000)
    assert failed_starts(play) == ended


def test_a_start_that_fails_on_both_ends_in_stop_on_both_with_the_reason() -> None:
    start_fails_on_both()


HELD = [(start_fails_on_both, "to-and-fro")]


@pytest.mark.parametrize(("scenario", "breakage"), HELD, ids=[name for _, name in HELD])
def test_red_without_the_rule(scenario: Callable[[], None], breakage: str) -> None:
    with broken(breakage), pytest.raises(AssertionError):
        scenario()


@pytest.mark.parametrize("mode", ["consistent", "available"])
def test_that_holds_without_an_arbiter(mode: str) -> None:
    play = Play(mode=mode)
    play.lyon.fail_service = play.paris.fail_service = 1.0
    source = play.pair.source()
    assert source is not None
    fails(play, source)
    play.run(120_000)
    assert all(play.state(node).gave_up for node in (play.lyon, play.paris))
    assert failed_starts(play) <= 2 * (1 + LIMIT)


@pytest.mark.parametrize("limit", [0, 1])
def test_a_limit_of_none_hands_over_at_once_and_once(limit: int) -> None:
    play = Play(restart_limit=limit)
    play.lyon.fail_service = play.paris.fail_service = 1.0
    fails(play, play.lyon)
    play.run(120_000)
    assert all(play.state(node).gave_up for node in (play.lyon, play.paris))
    assert failed_starts(play) == 2 * (1 + limit)


def test_a_check_that_hands_over_fails_on_both_and_moves_it_no_more_than_the_limit() -> None:
    play = Play(restart_limit=1)
    served = []
    while (source := play.pair.source()) is not None and len(served) < 20:
        served.append(source.name)
        fails(play, source, action="hand_over")
        play.run(5_000)
    assert served == ["lyon", "paris", "lyon", "paris", "lyon"]
    assert all(play.state(node).gave_up for node in (play.lyon, play.paris))


def test_failures_that_are_long_ago_do_not_count() -> None:
    play = Play(restart_window_ms=60_000)
    for _ in range(3 * LIMIT):
        fails(play, play.lyon)
        play.run(30_000)
    assert play.role(play.lyon) == "PRIM"


@pytest.mark.parametrize("verb", [Verb.RESTART, Verb.START])
def test_an_operator_resets_the_limit(verb: Verb) -> None:
    """On a node that handed over: it is told `restart`; on one that stopped: `start`."""
    play = Play(restart_limit=0)
    fails(play, play.lyon)
    play.until(lambda: play.role(play.paris) == "PRIM")
    if verb is Verb.START:
        play.command(play.lyon, Verb.STOP)
        play.until(lambda: play.role(play.lyon) == "STOP")
    play.command(play.lyon, verb)
    play.until_mirrored()
    fails(play, play.paris)
    play.until(lambda: play.role(play.lyon) == "PRIM")
    play.command(play.lyon, Verb.RESTART)
    play.until_mirrored()
    assert play.role(play.lyon) == "PRIM"


def test_what_fails_during_maintenance_is_restarted_after_it() -> None:
    play = Play()
    play.command(play.lyon, Verb.PAUSE)
    token = play.state(play.lyon).service_token
    fails(play, play.lyon)
    play.run(5_000)
    assert play.state(play.lyon).service_token == token, "nothing is done meanwhile"
    play.command(play.lyon, Verb.RESUME)
    play.until(lambda: play.state(play.lyon).service_token > token)
    play.until_mirrored()
    assert play.role(play.lyon) == "PRIM"
