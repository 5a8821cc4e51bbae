"""What was forced without the arbiter, and is not to be made good again: by whom, over what."""

from __future__ import annotations

import pytest

from mirrorha.core.health import why_of
from mirrorha.core.words import Allow
from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.scenarios import Play
from mirrorha.testing.sim.world import Violation
from tests.sim.forced_plays import PRIMARY, SECONDARY, accept, alone, is_done, outdated_lyon


def forced_once() -> Play:
    """lyon was forced without the arbiter, and is gone; an image of its disk was taken."""
    play = outdated_lyon()
    play.arbiter_open(play.lyon, is_open=False)
    play.force(play.lyon, PRIMARY, Allow.WITHOUT_ARBITER)
    play.until(lambda: alone(play, play.lyon))
    play.until(lambda: play.lyon.running)
    play.lyon.take_image()
    play.lyon.crash(power=False)
    return play


def restored_after_the_peer_went_on() -> tuple[Play, int]:
    """The peer served since, by the arbiter's word; both start anew, and lyon is answered first."""
    play = forced_once()
    play.start(play.paris)
    play.until(lambda: alone(play, play.paris))
    play.run(1_000)
    value = play.write(play.paris)
    play.run(100)
    assert play.is_acked(value)
    play.paris.crash(power=False)
    play.arbiter_open(play.paris, is_open=False)
    play.lyon.restore_image()
    play.start()
    play.run(3_000)
    play.arbiter_open(play.lyon, is_open=True)
    play.run(3_000)
    return play, value


def test_an_old_image_does_not_make_good_what_was_forced_long_ago() -> None:
    with broken("old-force-counts"), pytest.raises(Violation, match="has won since"):
        restored_after_the_peer_went_on()
    play, value = restored_after_the_peer_went_on()
    assert play.register.is_alone("paris")
    assert [play.role(node) for node in (play.lyon, play.paris)] == ["WAIT", "WAIT"]
    assert play.world.counts["rule forced-yields"] == 1
    assert "epoch" in why_of(play.state(play.lyon))
    play.arbiter_open(play.paris, is_open=True)
    play.until(lambda: alone(play, play.paris))
    play.until(lambda: bool(play.world.counts["rule split"]))
    accept(play, play.lyon)
    play.until_mirrored()
    assert play.role(play.paris) == "PRIM"
    assert value in play.lyon.durable.platters["a"].cache


def test_an_operator_may_say_it_again() -> None:
    play, _ = restored_after_the_peer_went_on()
    play.force(play.lyon, PRIMARY)
    play.until(lambda: alone(play, play.lyon))
    assert is_done(play, play.lyon)
    assert play.register.is_alone("lyon")


def peer_serves_and_was_not_heard() -> Play:
    """lyon serves by force; paris has won a record, and what it says of that is on its way."""
    play = outdated_lyon()
    play.arbiter_open(play.lyon, is_open=False)
    play.force(play.lyon, PRIMARY, Allow.WITHOUT_ARBITER)
    play.until(lambda: alone(play, play.lyon))
    play.arbiter_open(play.paris, is_open=False)
    play.stall(play.lyon)  # what it says, that it serves, is on its way as well
    play.start(play.paris)
    play.until(lambda: play.state(play.lyon).peer is not None)
    play.run(100)
    play.stall(play.paris)
    play.arbiter_open(play.paris, is_open=True)
    play.until(lambda: alone(play, play.paris))
    play.arbiter_open(play.lyon, is_open=True)
    play.run(2_500)
    return play


def test_what_the_peer_won_is_not_taken_before_it_was_heard_of() -> None:
    with broken("silence-is-giving-way"):
        assert peer_serves_and_was_not_heard().register.is_alone("lyon")
    play = peer_serves_and_was_not_heard()
    assert play.register.is_alone("paris")
    assert [play.role(node) for node in (play.lyon, play.paris)] == ["ALONE", "ALONE"]
    play.unstall(play.paris)
    play.until(lambda: play.role(play.lyon) == "WAIT", at_most_ms=1_000)
    assert alone(play, play.paris)


def given_up_while_the_peer_is_filled() -> Play:
    """The only copy that is whole is that of the node that serves."""
    play = outdated_lyon()
    play.start(play.paris)
    play.until(lambda: play.state(play.lyon).meta.inconsistent)
    play.run(20)
    play.force(play.paris, SECONDARY)
    play.run(100)
    return play


def test_the_only_whole_copy_is_not_given_up_while_its_peer_is_filled() -> None:
    with broken("half-filled-is-left"):
        play = given_up_while_the_peer_is_filled()
        assert is_done(play, play.paris, SECONDARY)
    play = given_up_while_the_peer_is_filled()
    assert not is_done(play, play.paris, SECONDARY)
    play.until_mirrored()
    assert play.role(play.paris) == "PRIM"


def given_up_and_forced() -> Play:
    """What lyon holds is given up, and then it is forced all the same, and acknowledges more."""
    play = outdated_lyon()
    accept(play, play.lyon)
    play.run(100)
    play.force(play.lyon, PRIMARY, Allow.INCONSISTENT)
    play.until(lambda: alone(play, play.lyon) and play.lyon.running)
    play.run(1_000)
    play.write(play.lyon)
    play.run(100)
    play.start(play.paris)
    play.run(3_000)
    play.force(play.paris, PRIMARY)
    play.until(lambda: alone(play, play.paris))
    play.run(10_000)
    return play


def test_what_is_acknowledged_later_was_not_given_up() -> None:
    with broken("acceptance-lasts"):
        assert given_up_and_forced().pair.mirrored()  # and nobody was asked
    play = given_up_and_forced()
    assert play.role(play.lyon) == "WAIT"
    assert not play.state(play.lyon).meta.inconsistent
    assert play.world.counts["rule split"]
    accept(play, play.lyon)
    play.until_mirrored()


def disputed_and_forced() -> Play:
    """Of a split that a person has to end one side is forced, and its process ends."""
    play = Play(mode="available", split_policy="refuse")
    play.cut()
    play.until(lambda: alone(play, play.lyon) and alone(play, play.paris))
    play.run(1_000)
    for node in (play.lyon, play.paris):
        play.write(node)
    play.heal()
    play.until(lambda: {play.role(play.lyon), play.role(play.paris)} == {"WAIT"})
    play.run(1_000)
    play.paris.crash(power=False)
    play.run(1_000)
    play.force(play.lyon, PRIMARY)
    play.until(lambda: alone(play, play.lyon))
    play.run(1_000)
    play.lyon.crash(power=False)
    play.start(play.lyon)
    return play


def test_a_force_settles_a_dispute_until_the_two_meet() -> None:
    play = disputed_and_forced()
    play.until(lambda: alone(play, play.lyon))
    play.start(play.paris)
    play.until(lambda: {play.role(play.lyon), play.role(play.paris)} == {"WAIT"})
    assert "split" in why_of(play.state(play.lyon))
    accept(play, play.paris)
    play.until_mirrored()
    assert play.role(play.lyon) == "PRIM"


def restored_after_it_gave_way() -> tuple[Play, int]:
    """lyon was forced over a record that it knew, and gave way to the peer, which serves by it."""
    play = Play()
    play.lyon.crash(power=False)
    play.until(lambda: alone(play, play.paris))
    play.cut()
    play.start(play.lyon)
    play.run(2_000)
    play.arbiter_open(play.lyon, is_open=False)
    play.force(play.lyon, PRIMARY, Allow.WITHOUT_ARBITER)
    play.until(lambda: alone(play, play.lyon) and play.lyon.running)
    play.lyon.take_image()
    play.heal()
    play.until(lambda: play.role(play.lyon) == "WAIT")
    play.run(1_000)
    value = play.write(play.paris)
    play.run(100)
    assert play.is_acked(value)
    play.lyon.crash(power=False)
    play.cut()
    play.lyon.restore_image()
    play.arbiter_open(play.lyon, is_open=True)
    play.start(play.lyon)
    play.run(4_000)
    return play, value


def test_what_gave_way_once_is_void_for_every_image() -> None:
    with broken("stays-below-a-force"), pytest.raises(Violation, match="I1"):
        restored_after_it_gave_way()
    play, value = restored_after_it_gave_way()
    assert play.register.is_alone("paris")
    assert [play.role(node) for node in (play.lyon, play.paris)] == ["WAIT", "ALONE"]
    play.heal()
    play.until(lambda: bool(play.world.counts["rule split"]))
    accept(play, play.lyon)
    play.until_mirrored()
    assert value in play.lyon.durable.platters["a"].cache
