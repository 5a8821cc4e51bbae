"""Scenarios of disks that fail or lose power; run by `test_scenarios`."""

from __future__ import annotations

import attrs

from mirrorha.core.events import Verb, VolumesInspected
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.scenarios import Play


def power_lost_on_the_prim() -> None:
    """5.1.7: both were in sync, lyon lost power and returns first: it may lack something."""
    play = Play()
    value = play.write(play.lyon)
    play.run(200)
    assert play.is_acked(value)
    play.paris.crash(power=False)
    play.lyon.crash(power=True)
    play.start(play.lyon)
    play.run(20_000)
    assert play.role(play.lyon) == "WAIT"
    play.start(play.paris)
    play.until_mirrored()


def acknowledge_many(play: Play) -> None:
    """So many that some are only in the page caches."""
    values = [play.write(play.lyon) for _ in range(50)]
    play.until(lambda: all(play.is_acked(value) for value in values))


def fail_unseen(play: Play, failing: SimNode, *, peer: SimNode) -> None:
    """A disk fails, and the peer ends before it has told anybody what it made of that."""
    acknowledge_many(play)
    play.arbiter_open(peer, is_open=False)
    failing.disk_fails()
    play.run(100)
    peer.crash(power=False)


def wait_anew(play: Play, node: SimNode) -> None:
    """Its process starts anew on the same disk, and does not serve."""
    node.crash(power=False)
    play.start(node)
    play.run(20_000)
    assert play.role(node) == "WAIT"


def bring_back(play: Play, node: SimNode) -> None:
    """What it holds makes the pair whole again."""
    play.arbiter_open(node, is_open=True)
    play.start(node)
    play.until_mirrored()


def failed_disk_on_the_prim() -> None:
    """5.1.7: lyon's disk failed, and paris is gone: lyon's process starts anew on that disk."""
    play = Play()
    fail_unseen(play, play.lyon, peer=play.paris)
    wait_anew(play, play.lyon)
    assert "its disk failed" in play.state(play.lyon).why
    bring_back(play, play.paris)


def failed_disk_on_the_second() -> None:
    """5.1.7: paris' disk failed; before lyon excludes it both processes end, and paris is back."""
    play = Play()
    fail_unseen(play, play.paris, peer=play.lyon)
    wait_anew(play, play.paris)
    bring_back(play, play.lyon)


def failed_disk_and_both_start_anew() -> None:
    """5.2: both processes start anew: who goes on is the one whose disk did not fail."""
    play = Play()
    fail_unseen(play, play.lyon, peer=play.paris)
    play.lyon.crash(power=False)
    play.arbiter_open(play.paris, is_open=True)
    play.start()
    play.until_mirrored()


def failed_disk_and_a_clean_stop() -> None:
    """5.1.7: a node whose disk failed and that is stopped in good order has lost the same."""
    play = Play()
    fail_unseen(play, play.lyon, peer=play.paris)
    play.command(play.lyon, Verb.STOP)
    play.until(lambda: play.role(play.lyon) == "STOP")
    wait_anew(play, play.lyon)
    bring_back(play, play.paris)


def writes_lost_between_two_processes() -> None:
    """5.1.7: lyon's process was killed before it saw that its disk failed; the next sees it."""
    play = Play()
    acknowledge_many(play)
    for node in (play.lyon, play.paris):
        node.crash(power=False)
    for platter in play.lyon.durable.platters.values():
        platter.lose_power(play.world)
    play.pair.os_crashed("lyon")
    play.lyon.problem = "what was written before could not be written back"
    play.start(play.lyon)
    play.lyon.give(
        VolumesInspected(has_files=False, ours=False, problem=play.lyon.problem, lost=True)
    )
    play.run(1_000)
    play.lyon.problem = ""
    play.lyon.inspect()
    play.run(20_000)
    assert play.role(play.lyon) == "WAIT"
    play.start(play.paris)
    play.until_mirrored()


def only_copy_on_a_failed_disk() -> None:
    """5.2: lyon was alone when its disk failed: there is no better copy, so it serves again."""
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: play.role(play.lyon) == "ALONE")
    play.lyon.disk_fails()
    play.run(500)
    play.lyon.crash(power=False)
    play.start(play.lyon)
    play.until(lambda: play.role(play.lyon) == "ALONE", at_most_ms=20_000)
    play.start(play.paris)
    play.until_mirrored()


def power_lost_on_a_durable_prim() -> None:
    """5.1.7: every acknowledgement was durable, so lyon lacks nothing and may go on alone."""
    play = Play(ack_durable=True)
    for volume in ("a", "b") * 20:
        value = play.write(play.lyon, volume)
        play.until(lambda value=value: play.is_acked(value))
    play.paris.crash(power=False)
    play.lyon.crash(power=True)
    play.start(play.lyon)
    play.until(lambda: play.role(play.lyon) == "ALONE", at_most_ms=20_000)
    play.start(play.paris)
    play.until_mirrored()


def level(play: Play, *, durable: bool) -> None:
    """The operator changes `ack`, which must agree: both are restarted."""
    for node in (play.lyon, play.paris):
        node.crash(power=False)
        node.settings = attrs.evolve(node.settings, ack_durable=durable)


def power_lost_after_the_level_was_lowered() -> None:
    """5.1.7: admitted again, lyon does not know it yet; what both acknowledged is on no disk."""
    play = Play(ack_durable=True)
    level(play, durable=False)
    play.start()
    play.until(lambda: play.role(play.lyon) == "ALONE")
    play.fate(play.lyon, "late", "lost", "lost")
    play.until(lambda: bool(play.state(play.lyon).unresolved))
    play.run(300)
    value = play.write(play.lyon)
    play.run(300)
    assert play.is_acked(value)
    play.land()
    play.paris.crash(power=False)
    play.lyon.crash(power=True)
    play.start(play.lyon)
    play.run(20_000)
    assert play.role(play.lyon) == "WAIT"
    play.start(play.paris)
    play.until_mirrored()
