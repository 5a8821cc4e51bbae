"""A volume's disk is put back to an older day, and what the node knows of itself is not."""

from __future__ import annotations

import pytest

from mirrorha.core.health import colour_of, data_of, why_of
from mirrorha.core.words import Colour, Data
from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.scenarios import Play
from mirrorha.testing.sim.world import Violation
from tests.sim.forced_plays import PRIMARY, alone


def both_lose_power_and_the_primarys_disk_is_put_back() -> Play:
    """What was written since is on paris's disk; after a crash alone neither is the better copy."""
    play = Play(ack_durable=True)
    play.lyon.take_image()
    value = play.write(play.lyon)
    play.until(lambda: play.is_acked(value))
    assert play.paris.durable.platters["a"].surely_holds({value})
    for node in (play.lyon, play.paris):
        node.crash(power=True)
    play.lyon.put_volumes_back()
    play.start()
    play.until_mirrored()
    assert value in play.lyon.durable.platters["a"].cache
    return play


def test_the_peers_copy_goes_on() -> None:
    play = both_lose_power_and_the_primarys_disk_is_put_back()
    assert play.role(play.paris) == "PRIM"
    assert play.world.counts["rule disk-put-back"] == 1
    with broken("put-back-is-a-crash"), pytest.raises(Violation, match="I1"):
        both_lose_power_and_the_primarys_disk_is_put_back()


def the_only_copy_is_put_back(mode: str = "arbiter") -> Play:
    play = Play(mode=mode)
    play.lyon.take_image()
    play.paris.crash(power=False)
    play.force(play.lyon, PRIMARY)
    play.until(lambda: alone(play, play.lyon))
    play.run(1_000)
    play.write(play.lyon)
    play.run(100)
    play.lyon.crash(power=False)
    play.lyon.put_volumes_back()
    play.start(play.lyon)
    play.run(20_000)
    return play


@pytest.mark.parametrize("mode", ["arbiter", "consistent"])
def test_a_copy_of_an_older_day_does_not_serve_unasked(mode: str) -> None:
    play = the_only_copy_is_put_back(mode)
    state = play.state(play.lyon)
    assert play.role(play.lyon) == "WAIT"
    assert (data_of(state), colour_of(state)) == (Data.OUTDATED, Colour.RED)
    assert "to override: 'mirrorha force-primary'" in why_of(state)
    play.force(play.lyon, PRIMARY)
    play.until(lambda: alone(play, play.lyon))
    assert play.state(play.lyon).meta.generation.startswith("forced-stale-")
    play.start(play.paris)
    play.until_mirrored()
    assert play.role(play.lyon) == "PRIM"


def test_it_would_serve_after_a_crash() -> None:
    with broken("put-back-is-a-crash"):
        play = the_only_copy_is_put_back()
        assert play.role(play.lyon) == "ALONE"


def test_it_stays_outdated_though_nobody_says_it_again() -> None:
    play = the_only_copy_is_put_back()
    play.lyon.crash(power=False)
    play.start(play.lyon)
    play.run(20_000)
    assert play.role(play.lyon) == "WAIT"
