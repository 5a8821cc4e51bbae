"""What an operator forces (5.5): the outcomes, what they cost, and that each rule is missed."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorha.core import lineage
from mirrorha.core.health import why_of
from mirrorha.core.messages import Standing
from mirrorha.core.words import Allow
from mirrorha.errors import InvariantViolation
from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.scenarios import Play
from mirrorha.testing.sim.world import Violation
from tests.sim.forced_plays import PRIMARY, SECONDARY, accept, alone, is_done, outdated_lyon

# ---- with the arbiter's answer ----


def outdated_and_forced() -> Play:
    play = outdated_lyon()
    assert "to override: 'mirrorha force-primary'" in why_of(play.state(play.lyon))
    play.force(play.lyon, PRIMARY)
    play.until(lambda: alone(play, play.lyon))
    play.run(50)
    return play


def test_an_outdated_node_serves_because_an_operator_says_so() -> None:
    play = outdated_and_forced()
    assert is_done(play, play.lyon)
    state = play.state(play.lyon)
    assert play.register.is_alone("lyon")
    assert lineage.forced_in(state.meta.lineage) == (state.meta.generation,)
    assert state.meta.forced == (play.register.epoch,)
    assert state.meta.base == state.meta.generation  # everything is compared
    assert len(play.pair.forces.lost) == 1
    with broken("force-unmarked"), pytest.raises(Violation, match="I1"):
        outdated_and_forced()


def test_what_the_other_one_holds_is_a_split_and_not_overwritten() -> None:
    play = outdated_lyon()
    play.force(play.lyon, PRIMARY)
    play.until(lambda: alone(play, play.lyon))
    kept = {name: list(each.cache) for name, each in play.paris.durable.platters.items()}
    play.start(play.paris)
    play.until(lambda: bool(play.world.counts["rule split"]))
    play.run(10_000)
    assert play.role(play.paris) == "WAIT"
    held = {name: list(each.cache) for name, each in play.paris.durable.platters.items()}
    assert held == kept
    accept(play, play.paris)
    play.until_mirrored()
    # It goes wherever the data goes.
    assert lineage.forced_in(play.state(play.paris).meta.lineage)


def test_a_peer_that_still_serves_is_fenced_by_the_register() -> None:
    play = Play()
    play.pair.net.streams = False
    for name in ("a", "b"):
        play.pair.break_stream(name)
    play.until(lambda: alone(play, play.lyon))
    play.until(lambda: play.role(play.paris) == "WAIT")
    play.write(play.lyon)
    play.run(50)
    play.force(play.paris, PRIMARY)
    play.until(lambda: alone(play, play.paris))
    play.until(lambda: play.role(play.lyon) == "WAIT", at_most_ms=2_000)
    assert not play.lyon.running or play.run(1_000) is None
    assert not play.lyon.running
    assert len(play.pair.forces.lost) == 1


def test_without_an_answer_and_without_leave_nothing_is_forced() -> None:
    play = outdated_lyon()
    play.arbiter_open(play.lyon, is_open=False)
    play.force(play.lyon, PRIMARY)
    play.until(lambda: play.answer(play.lyon, PRIMARY) is not None)
    assert not is_done(play, play.lyon)
    assert play.role(play.lyon) == "WAIT"
    play.arbiter_open(play.lyon, is_open=True)
    play.start(play.paris)
    play.until_mirrored()


# ---- without it ----


def forced_without(play: Play) -> None:
    """lyon is forced while the arbiter is silent."""
    play.arbiter_open(play.lyon, is_open=False)
    play.force(play.lyon, PRIMARY, Allow.WITHOUT_ARBITER)
    play.until(lambda: alone(play, play.lyon))
    play.until(lambda: play.lyon.running)


def test_a_forced_epoch_is_above_all_that_was_seen_and_is_no_cas() -> None:
    play = outdated_lyon()
    top = play.state(play.lyon).meta.top_epoch
    forced_without(play)
    state = play.state(play.lyon)
    assert state.epoch > top
    assert state.epoch % 2 == 0
    assert play.register.epoch % 2 == 1
    value = play.write(play.lyon)
    play.run(100)
    assert not play.is_acked(value)  # by nobody whom the register names
    line = play.pair.forces.line_of("lyon")
    assert line is not None
    assert value in {one.value for one in line.oracle.acked}


def unconfirmed_and_its_peer_returns() -> Play:
    """The register names the peer, by a record that the operator could know."""
    play = outdated_lyon()
    assert play.register.is_alone("paris")
    forced_without(play)
    play.arbiter_open(play.paris, is_open=False)
    play.start(play.paris)
    play.run(3_000)
    play.arbiter_open(play.paris, is_open=True)  # it finds its name there, and sees who serves
    play.run(3_000)
    return play


def test_it_wins_a_cas_before_anything_else_once_the_arbiter_answers() -> None:
    play = unconfirmed_and_its_peer_returns()
    value = play.write(play.lyon)
    play.run(100)
    assert [play.role(node) for node in (play.lyon, play.paris)] == ["ALONE", "WAIT"]
    assert play.register.is_alone("paris")
    with broken("peer-does-not-wait"):
        assert unconfirmed_and_its_peer_returns().register.epoch > play.register.epoch
    play.arbiter_open(play.lyon, is_open=True)
    play.run(3_000)
    assert play.role(play.lyon) == "ALONE"
    assert play.register.is_alone("lyon")
    assert play.is_acked(value)
    assert play.lyon.running
    accept(play, play.paris)
    play.until_mirrored()


def cut_off_and_forced() -> Play:
    """The SECOND is cut off from everything, and forced; the PRIM serves on by the arbiter."""
    play = Play()
    play.arbiter_open(play.paris, is_open=False)
    play.cut()
    play.until(lambda: alone(play, play.lyon))
    play.force(play.paris, PRIMARY, Allow.WITHOUT_ARBITER)
    play.until(lambda: alone(play, play.paris))
    play.run(1_000)
    for node in (play.lyon, play.paris):
        play.write(node)
    play.run(100)
    return play


def test_no_cas_makes_an_epoch_that_was_forced() -> None:
    with broken("forced-epoch-of-a-cas"), pytest.raises(Violation, match="is that of another"):
        cut_off_and_forced()


def unconfirmed_meets_one_that_serves() -> Play:
    play = cut_off_and_forced()
    play.heal()
    play.until(lambda: play.role(play.paris) == "WAIT", at_most_ms=3_000)
    return play


def test_it_gives_way_to_a_peer_that_serves_by_the_arbiters_word() -> None:
    with broken("forced-stays"), pytest.raises(InvariantViolation):
        unconfirmed_meets_one_that_serves()
    play = unconfirmed_meets_one_that_serves()
    assert play.role(play.lyon) == "ALONE"
    assert play.register.is_alone("lyon")
    play.until(lambda: bool(play.world.counts["rule split"]))
    play.arbiter_open(play.paris, is_open=True)
    play.run(1_000)
    accept(play, play.paris)
    play.until_mirrored()
    assert len(play.pair.forces.lost) == 1


def both_serve_apart() -> Play:
    """Both reach the arbiter, and not each other."""
    play = cut_off_and_forced()
    play.arbiter_open(play.paris, is_open=True)
    play.run(20_000)
    return play


def test_over_what_the_peer_won_since_nothing_is_decided_before_they_meet() -> None:
    with broken("confirms-over-the-peer"):
        assert both_serve_apart().register.is_alone("paris")
    play = both_serve_apart()
    assert {play.role(node) for node in (play.lyon, play.paris)} == {"ALONE"}
    assert play.register.is_alone("lyon")
    assert play.world.counts["rule forced-apart"] == 1
    # The peer comes back from the dead, and does not serve: it gives way.
    play.lyon.crash(power=False)
    play.arbiter_open(play.lyon, is_open=False)
    play.start(play.lyon)
    play.run(1_000)
    play.heal()
    play.run(3_000)
    assert play.register.is_alone("paris")
    assert play.role(play.paris) == "ALONE"


def test_who_has_not_seen_the_register_may_be_an_old_image() -> None:
    play = Play()
    for node in (play.lyon, play.paris):
        play.arbiter_open(node, is_open=False)
        node.crash(power=False)
    play.start(play.lyon)
    play.run(8_000)
    play.force(play.lyon, PRIMARY, Allow.WITHOUT_ARBITER)
    play.until(lambda: alone(play, play.lyon))
    meta = play.state(play.lyon).meta
    assert meta.base == meta.generation  # everything is compared


def test_its_process_may_end_before_that_is_made_good() -> None:
    play = outdated_lyon()
    forced_without(play)
    value = play.write(play.lyon)
    play.run(100)
    play.lyon.crash(power=False)
    play.start(play.lyon)
    play.run(8_000)
    assert play.role(play.lyon) == "WAIT"
    assert "--without-arbiter" in why_of(play.state(play.lyon))
    play.arbiter_open(play.lyon, is_open=True)
    play.until(lambda: alone(play, play.lyon))
    assert play.is_acked(value)


def both_forced() -> Play:
    play = Play()
    for node in (play.lyon, play.paris):
        play.arbiter_open(node, is_open=False)
    play.cut()
    play.run(4_000)
    for node in (play.lyon, play.paris):
        play.force(node, PRIMARY, Allow.WITHOUT_ARBITER)
    play.until(lambda: alone(play, play.lyon) and alone(play, play.paris))
    return play


def test_both_forced_go_on_apart_and_the_arbiter_decides() -> None:
    play = both_forced()
    play.run(1_000)
    for node in (play.lyon, play.paris):
        play.write(node)
    play.run(100)
    play.heal()
    play.run(3_000)
    assert play.world.counts["rule forced-apart"] == 2
    for node in (play.lyon, play.paris):
        play.arbiter_open(node, is_open=True)
    play.until(lambda: [play.role(play.lyon), play.role(play.paris)].count("ALONE") == 1)
    winner, loser = (play.lyon, play.paris) if alone(play, play.lyon) else (play.paris, play.lyon)
    assert play.register.is_alone(winner.name)
    play.until(lambda: bool(play.world.counts["rule split"]))
    accept(play, loser)
    play.until_mirrored()
    assert len(play.pair.forces.lost) == 1


def unconfirmed_beside_a_peer_that_waits() -> Play:
    """lyon, in sync, lost its peer and is forced; the peer comes back, and could be filled."""
    play = Play()
    for node in (play.lyon, play.paris):
        play.arbiter_open(node, is_open=False)
    play.paris.crash(power=False)
    play.until(lambda: play.state(play.lyon).frozen)
    play.run(3_000)
    play.force(play.lyon, PRIMARY, Allow.WITHOUT_ARBITER)
    play.until(lambda: alone(play, play.lyon))
    play.start(play.paris)
    play.run(8_000)
    return play


def test_it_brings_nobody_up_to_date_before_it_has_won_a_cas() -> None:
    with broken("fills-unconfirmed"):
        play = unconfirmed_beside_a_peer_that_waits()
        assert play.state(play.paris).meta.inconsistent or play.role(play.paris) != "WAIT"
    play = unconfirmed_beside_a_peer_that_waits()
    meta = play.state(play.lyon).meta
    assert meta.base == meta.lineage[-2]  # it was the latest: the touched logs can be relied on
    assert not play.state(play.paris).meta.inconsistent
    assert play.role(play.paris) == "WAIT"
    for node in (play.lyon, play.paris):
        play.arbiter_open(node, is_open=True)
    play.until_mirrored()
    assert play.role(play.lyon) == "PRIM"
    assert not play.pair.forces.lost


def forced_and_killed() -> Play:
    """The CAS lands, and nobody is there to hear of it."""
    play = outdated_lyon()
    play.fate(play.lyon, "lost-reply")
    play.force(play.lyon, PRIMARY)
    play.until_fated(play.lyon)
    assert play.register.is_alone("lyon")
    play.lyon.crash(power=False)
    play.start(play.lyon)
    play.until(lambda: alone(play, play.lyon))
    return play


def test_what_landed_by_force_is_told_apart_though_nobody_heard_of_it() -> None:
    play = forced_and_killed()
    assert lineage.forced_in(play.state(play.lyon).meta.lineage)


# ---- inconsistent data ----


def half_filled(**settings: Any) -> Play:
    """The resync into lyon broke off with paris, which is gone."""
    play = outdated_lyon(**settings)
    play.start(play.paris)
    play.until(lambda: play.state(play.lyon).standing is Standing.TARGET)
    play.paris.crash(power=False)
    play.until(lambda: play.role(play.lyon) == "WAIT" and not play.state(play.lyon).link)
    play.run(8_000)
    assert play.state(play.lyon).meta.inconsistent
    return play


def half_forced(play: Play) -> None:
    play.force(play.lyon, PRIMARY)
    play.run(3_000)


def half_filled_and_forced() -> None:
    half_forced(half_filled())


def test_inconsistent_data_serves_only_by_a_flag_of_its_own() -> None:
    play = half_filled()
    assert "'mirrorha force-primary --inconsistent-data'" in why_of(play.state(play.lyon))
    half_forced(play)
    assert not is_done(play, play.lyon)
    assert play.role(play.lyon) == "WAIT"
    with broken("inconsistent-unasked"), pytest.raises(Violation, match="I6"):
        half_filled_and_forced()
    play.force(play.lyon, PRIMARY, Allow.INCONSISTENT)
    play.until(lambda: alone(play, play.lyon))
    meta = play.state(play.lyon).meta
    assert lineage.is_inconsistent(meta.lineage)
    assert meta.base == meta.generation


@pytest.mark.parametrize("production", [False, True])
def test_a_peer_is_compared_whole_with_what_was_forced_half_filled(production: bool) -> None:
    play = half_filled(production=production)
    play.force(play.lyon, PRIMARY, Allow.INCONSISTENT)
    play.until(lambda: play.lyon.running)
    play.run(1_000)
    value = play.write(play.lyon)
    play.run(100)
    assert play.is_acked(value)
    play.start(play.paris)
    play.until(lambda: bool(play.world.counts["rule split"]))
    accept(play, play.paris)
    play.until_mirrored()
    assert lineage.is_inconsistent(play.state(play.paris).meta.lineage)


# ---- force-secondary ----


def test_a_prim_that_gives_up_its_standing_is_followed_by_the_second() -> None:
    play = Play()
    value = play.write(play.lyon)
    play.run(100)
    play.force(play.lyon, SECONDARY)
    play.until(lambda: alone(play, play.paris))
    assert is_done(play, play.lyon, SECONDARY)
    assert not play.lyon.running
    play.until_mirrored()
    assert play.role(play.paris) == "PRIM"
    assert play.is_acked(value)
    assert not play.pair.forces.lost
    assert not play.state(play.lyon).meta.outdated


def given_up_and_restarted() -> Play:
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: alone(play, play.lyon))
    play.force(play.lyon, SECONDARY)
    play.run(1_000)
    assert play.role(play.lyon) == "WAIT"
    play.lyon.crash(power=False)
    play.start(play.lyon)
    play.run(8_000)
    return play


def test_it_lasts_over_a_restart_until_the_peer_has_filled_it() -> None:
    with broken("given-up-in-memory"), pytest.raises(AssertionError):
        given_up_and_restarted()
    play = given_up_and_restarted()
    assert play.role(play.lyon) == "WAIT"
    assert "operator" in why_of(play.state(play.lyon))
    play.start(play.paris)
    play.run(8_000)
    assert play.role(play.paris) == "WAIT"
    play.force(play.paris, PRIMARY)
    play.until(lambda: alone(play, play.paris))


def test_not_both_give_up_while_they_see_each_other() -> None:
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: alone(play, play.lyon))
    play.force(play.lyon, SECONDARY)
    play.start(play.paris)
    play.run(3_000)
    play.force(play.paris, SECONDARY)
    play.run(1_000)
    assert not is_done(play, play.paris, SECONDARY)


# ---- refusals ----


@pytest.mark.parametrize("name", ["lyon", "paris"])
def test_a_healthy_pair_is_not_forced(name: str) -> None:
    play = Play()
    play.force(play.pair.nodes[name], PRIMARY)
    play.run(1_000)
    assert not is_done(play, play.pair.nodes[name])
    assert play.pair.mirrored()
