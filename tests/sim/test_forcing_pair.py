"""What an operator forces where there is no arbiter."""

from __future__ import annotations

import pytest

from mirrorha.core import lineage
from mirrorha.core.events import Verb, VolumeReported
from mirrorha.core.health import why_of
from mirrorha.core.orders import StopReason, Trouble
from mirrorha.core.words import Allow
from mirrorha.errors import InvariantViolation
from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.scenarios import Play
from mirrorha.testing.sim.world import Violation
from tests.sim.forced_plays import PRIMARY, SECONDARY, accept, alone, is_done


def both_crashed(mode: str) -> Play:
    """Of a pair that was in sync one comes back, and cannot know whether the other went on."""
    play = Play(mode=mode)
    for node in (play.lyon, play.paris):
        node.crash(power=False)
    play.start(play.paris)
    play.run(10_000)
    assert play.role(play.paris) == "WAIT"
    return play


@pytest.mark.parametrize("mode", ["consistent", "available"])
def test_the_operators_word_stands_in_the_place_of_the_absent_peer(mode: str) -> None:
    play = both_crashed(mode)
    assert "to override: 'mirrorha force-primary'" in why_of(play.state(play.paris))
    play.force(play.paris, PRIMARY)
    play.until(lambda: alone(play, play.paris))
    assert is_done(play, play.paris)
    meta = play.state(play.paris).meta
    assert lineage.forced_in(meta.lineage) == (meta.generation,)
    assert not play.pair.forces.lost
    play.start(play.lyon)
    play.until_mirrored()
    assert play.role(play.paris) == "PRIM"


def frozen_and_forced() -> Play:
    """Cut in two, neither has proof: both freeze, and one is forced while the other one lives."""
    play = Play(mode="consistent")
    play.cut()
    play.run(5_000)
    play.force(play.paris, PRIMARY)
    play.until(lambda: alone(play, play.paris))
    play.run(1_000)
    return play


def test_a_frozen_peer_that_was_forced_out_comes_back_as_the_second() -> None:
    play = frozen_and_forced()
    play.write(play.paris)
    assert play.role(play.lyon) == "PRIM"
    assert play.state(play.lyon).frozen
    play.heal()
    play.until_mirrored()
    assert play.role(play.paris) == "PRIM"
    assert not play.world.counts["rule split"]


def forced_over_one_that_went_on() -> tuple[Play, int]:
    """lyon let paris go on, which wrote; paris is gone now, and lyon is forced."""
    play = Play(mode="consistent")
    play.command(play.lyon, Verb.STOP)
    play.until(lambda: alone(play, play.paris))
    play.run(1_000)
    value = play.write(play.paris)
    play.run(100)
    play.paris.crash(power=False)
    play.command(play.lyon, Verb.START)
    play.run(8_000)
    assert play.state(play.lyon).meta.outdated
    play.force(play.lyon, PRIMARY)
    play.until(lambda: alone(play, play.lyon))
    play.run(1_000)
    play.write(play.lyon)
    play.run(100)
    return play, value


def test_what_two_acknowledged_apart_because_of_a_force_is_a_split() -> None:
    play, value = forced_over_one_that_went_on()
    assert len(play.pair.forces.lost) == 1
    assert not play.state(play.lyon).meta.outdated
    play.start(play.paris)
    play.until(lambda: play.world.counts["rule split"] == 2)
    play.until_mirrored()
    assert play.role(play.lyon) == "PRIM"  # the former one
    assert value in play.paris.durable.platters["a"].rescued


def test_a_prim_gives_up_its_standing_without_an_arbiter() -> None:
    for mode in ("consistent", "available"):
        play = Play(mode=mode)
        play.force(play.lyon, SECONDARY)
        play.until(lambda: alone(play, play.paris))  # noqa: B023
        play.until_mirrored()
        assert play.role(play.paris) == "PRIM"


def promised_and_forced() -> Play:
    """paris promised a swap, and does not know whether it landed; then it is forced."""
    play = Play(mode="consistent")
    shared = play.pair.shared
    assert shared is not None
    landed = shared.branches["lyon"].landed
    count = len(landed)
    play.command(play.lyon, Verb.SWAP)
    play.until(lambda: len(landed) > count)
    play.cut()
    play.run(5_000)
    assert play.state(play.paris).meta.promised is not None
    play.force(play.paris, PRIMARY)
    play.until(lambda: alone(play, play.paris))
    return play


def left_out_and_forced() -> None:
    """lyon promised to be left out, and does not know whether it is; then it is forced."""
    play = Play(mode="consistent")
    shared = play.pair.shared
    assert shared is not None
    play.command(play.lyon, Verb.SWAP)
    play.until(lambda: play.role(play.paris) == "PRIM")
    play.until_mirrored()
    landed = shared.branches["lyon"].landed
    count = len(landed)
    stuck = Trouble(reason=StopReason.PEER_STUCK, text="simulated")
    play.paris.give(VolumeReported("a", stuck))
    play.until(lambda: len(landed) > count)
    play.cut()
    play.run(5_000)
    assert play.state(play.lyon).meta.promised == landed[-1]
    play.force(play.lyon, PRIMARY)
    play.until(lambda: alone(play, play.lyon))


def test_epochs_do_not_fall_by_a_force() -> None:
    left_out_and_forced()
    with broken("forced-below-a-promise"), pytest.raises(Violation, match="falls"):
        left_out_and_forced()


def both_sides_given_up() -> Play:
    """Of a split one side is given up and forced all the same; then the other is given up."""
    play = Play(mode="available", split_policy="refuse")
    play.cut()
    play.until(lambda: alone(play, play.lyon) and alone(play, play.paris))
    play.run(1_000)
    for node in (play.lyon, play.paris):
        play.write(node)
    play.heal()
    play.until(lambda: {play.role(play.lyon), play.role(play.paris)} == {"WAIT"})
    play.run(1_000)
    accept(play, play.lyon)
    play.force(play.lyon, PRIMARY, Allow.INCONSISTENT)
    play.until(lambda: alone(play, play.lyon))
    play.run(2_000)
    assert play.role(play.paris) == "WAIT"
    accept(play, play.paris)
    play.until_mirrored(at_most_ms=20_000)
    return play


def test_who_gives_its_side_up_follows_though_the_peer_says_nothing_more() -> None:
    """The side that stands serves already, and has nothing to tell."""
    play = both_sides_given_up()
    assert play.role(play.lyon) == "PRIM"
    with broken("gave-up-unheard"), pytest.raises(InvariantViolation):
        both_sides_given_up()


def test_a_force_settles_what_is_in_doubt_from_above() -> None:
    play = promised_and_forced()
    copies = {node.name: node.durable.meta.copy for node in (play.lyon, play.paris)}
    assert copies["lyon"] is not None
    assert copies["paris"] is not None
    assert copies["paris"].epoch > copies["lyon"].epoch
    play.heal()
    play.until_mirrored()


def restored_and_forced_while_it_filled_the_peer() -> tuple[Play, int]:
    """lyon makes an epoch that a former life of it has made, of which only paris knows."""
    play = Play(mode="consistent", production=True)
    play.write(play.lyon)
    play.run(30_000)
    play.lyon.take_image()
    play.command(play.paris, Verb.STOP)
    play.until(lambda: alone(play, play.lyon))
    play.run(2_000)
    value = play.write(play.lyon)
    play.run(1_000)
    play.command(play.paris, Verb.START)
    play.until(lambda: value in play.paris.durable.platters["a"].cache)
    for node in (play.lyon, play.paris):
        node.crash(power=False)
    assert play.paris.durable.meta.inconsistent
    play.lyon.restore_image()
    play.start(play.lyon)
    play.run(3_000)
    play.force(play.lyon, PRIMARY)
    play.until(lambda: alone(play, play.lyon))
    copies = [node.durable.meta.copy for node in (play.lyon, play.paris)]
    assert copies[0] is not None
    assert copies[1] is not None
    assert copies[0].epoch == copies[1].epoch
    assert copies[0] != copies[1]
    play.start(play.paris)
    play.until_mirrored(at_most_ms=30_000)
    return play, value


def test_an_epoch_that_two_lives_of_a_node_made_does_not_stop_the_two() -> None:
    play, value = restored_and_forced_while_it_filled_the_peer()
    assert play.role(play.lyon) == "PRIM"
    assert value not in play.lyon.durable.platters["a"].cache
    assert value in play.paris.durable.platters["a"].rescued
    with broken("an-epoch-is-made-once"), pytest.raises(InvariantViolation):
        restored_and_forced_while_it_filled_the_peer()
