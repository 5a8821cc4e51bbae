"""Every stop that was asked is answered once, and none is left over for a later life."""

from __future__ import annotations

from mirrorha.core import events as v
from mirrorha.core.events import Verb
from mirrorha.core.messages import Standing
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.scenarios import Play


def stop(node: SimNode, operation: str) -> None:
    node.give(v.Command(operation=operation, verb=Verb.STOP))


def answers(play: Play, *operations: str) -> list[bool]:
    return [play.pair.commands[one].done for one in operations if one in play.pair.commands]


def starts_and_stays(play: Play, node: SimNode) -> bool:
    """A start afterwards is not undone by what was asked before it."""
    node.give(v.Command(operation="start", verb=Verb.START))
    play.run(15_000)
    return play.state(node).standing is not Standing.STOPPED


def test_a_second_stop_while_the_first_goes_alone_is_refused() -> None:
    """Without an arbiter, whose peer left first goes alone before it leaves itself."""
    play = Play(mode="consistent")
    stop(play.lyon, "first")
    stop(play.paris, "other")
    play.until(lambda: play.state(play.lyon).pair.leave_after is not None)
    stop(play.lyon, "second")
    play.until(lambda: play.state(play.lyon).standing is Standing.STOPPED)
    play.run(1_000)
    assert answers(play, "other", "first", "second") == [True, True, False]
    assert starts_and_stays(play, play.lyon)


def lost_while_it_thinks() -> Play:
    """lyon, the PRIM, has an attempt at the arbiter, and a stop waits for its answer."""
    play = Play()
    play.fate(play.lyon, "lost")
    play.paris.crash(power=False)
    play.until(lambda: bool(play.state(play.lyon).cas_asked))
    stop(play.lyon, "first")
    play.run(5)
    return play


def test_a_stop_that_waits_is_answered_though_the_node_stops_by_itself_first() -> None:
    play = lost_while_it_thinks()
    state = play.state(play.lyon)
    failed = v.ServiceFailed(token=state.service_token, text="it is over", action="stop")
    play.lyon.give(failed)
    state.frozen_since_ms = play.world.now_ms - state.settings.freeze_max_ms  # it gives up now
    play.until(lambda: play.state(play.lyon).standing is Standing.STOPPED)
    play.run(5_000)
    assert answers(play, "first") == [True]
    assert starts_and_stays(play, play.lyon)


def test_a_stop_that_waits_is_answered_though_the_disk_fails_under_the_nodes_own() -> None:
    play = lost_while_it_thinks()
    state = play.state(play.lyon)
    failed = v.ServiceFailed(token=state.service_token, text="it is over", action="stop")
    play.lyon.give(failed)
    state.frozen_since_ms = play.world.now_ms - state.settings.freeze_max_ms
    play.until(lambda: state.is_leaving)
    play.lyon.disk_fails()
    play.until(lambda: state.standing is Standing.STOPPED)
    play.run(5_000)
    assert answers(play, "first") == [True]
