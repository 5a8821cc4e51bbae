"""A stop is always answered, whatever happens in the middle of it; what would ruin is refused."""

from __future__ import annotations

from mirrorha.core import events as v
from mirrorha.core.events import Verb
from mirrorha.core.messages import Standing
from mirrorha.core.state import Stage
from mirrorha.testing.sim.scenarios import Play


def is_answered(play: Play) -> bool:
    return Verb.STOP.value in play.pair.commands


def test_a_disk_that_fails_in_the_middle_of_a_stop_does_not_hold_it_up() -> None:
    play = Play()
    play.command(play.lyon, Verb.STOP)
    play.until(lambda: play.stands_at(play.lyon, Stage.STOP_SERVICE))
    play.lyon.disk_fails()
    play.until(lambda: is_answered(play))
    assert play.pair.commands[Verb.STOP.value].done
    state = play.state(play.lyon)
    assert state.standing is Standing.STOPPED
    assert state.meta.dirty, "it never synced: it must not say that it did"
    play.until(lambda: play.state(play.paris).is_alone)


def test_a_stop_that_outlasts_the_authority_is_answered_all_the_same() -> None:
    """Frozen for `freeze_max`, the node steps down; that was not what the operator asked."""
    play = Play()
    play.cut()
    for node in (play.lyon, play.paris):
        play.arbiter_open(node, is_open=False)
    play.until(lambda: play.state(play.lyon).frozen)
    play.command(play.lyon, Verb.STOP)
    state = play.state(play.lyon)
    state.frozen_since_ms = play.world.now_ms - state.settings.freeze_max_ms
    play.until(lambda: is_answered(play))
    assert play.state(play.lyon).standing is Standing.STOPPED


def test_a_stop_while_the_arbiter_thinks_waits_for_its_answer() -> None:
    play = Play()
    play.fate(play.paris, "late")
    play.lyon.crash(power=False)
    play.until(lambda: bool(play.state(play.paris).cas_asked))
    play.command(play.paris, Verb.STOP)
    play.run(1)
    assert not is_answered(play), "neither refused nor done yet"
    play.command(play.paris, Verb.STOP)
    play.run(1)
    assert not play.pair.commands[Verb.STOP.value].done, "the second is refused"
    play.pair.commands.clear()
    play.until(lambda: is_answered(play))
    assert play.pair.commands[Verb.STOP.value].done
    assert play.state(play.paris).standing is Standing.STOPPED


def test_a_stop_of_a_node_whose_disk_failed_before_is_answered() -> None:
    play = Play()
    play.paris.disk_fails()
    play.run(500)
    play.paris.give(v.Command(operation=Verb.STOP.value, verb=Verb.STOP))
    play.until(lambda: is_answered(play))
    assert play.state(play.paris).standing is Standing.STOPPED


def test_the_only_copy_that_is_up_to_date_is_not_given_up() -> None:
    """Else each would wait for the other to fill it, for ever."""
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: play.state(play.lyon).is_alone)
    play.run(500)
    play.lyon.crash(power=False)
    for node in (play.lyon, play.paris):
        play.arbiter_open(node, is_open=False)
        play.start(node)
    play.run(2_000)
    assert play.state(play.lyon).standing is Standing.WAITING
    play.command(play.lyon, Verb.ACCEPT)
    play.run(10)
    refused = play.pair.commands[Verb.ACCEPT.value]
    assert not refused.done
    assert "only lyon is up to date" in refused.text
    for node in (play.lyon, play.paris):
        play.arbiter_open(node, is_open=True)
    play.until_mirrored()
