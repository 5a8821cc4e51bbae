"""A rescue that is interrupted, and not gone on with: what it had moved aside is still owed."""

from __future__ import annotations

from mirrorha.core.words import Allow
from mirrorha.testing.crash_points import Moment
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.scenarios import Play
from mirrorha.testing.sim.trap import Trap
from tests.sim.forced_plays import PRIMARY, accept, alone, outdated_lyon


def forced(play: Play, node: SimNode, *allowed: Allow) -> int:
    """An operator forces the node, and it acknowledges something, in a file of its own."""
    play.force(node, PRIMARY, *allowed)
    play.until(lambda: alone(play, node) and node.running)
    play.run(1_000)
    return written_elsewhere(play, node)


def written_elsewhere(play: Play, node: SimNode) -> int:
    play._value += 1_000
    value = play.write(node)
    play.run(100)
    return value


def gives_way_to_paris(play: Play) -> None:
    """lyon ends; paris is forced; then lyon is back, and a person gives its side up."""
    play.lyon.crash(power=False)
    play.start(play.paris)
    play.run(3_000)
    forced(play, play.paris)
    splits = play.world.counts["rule split"]
    play.start(play.lyon)
    play.until(lambda: play.world.counts["rule split"] > splits)
    accept(play, play.lyon)


def rescue_cut_short() -> tuple[Play, int]:
    """A file that only lyon has is moved aside in its rescue; then both nodes are gone."""
    play = outdated_lyon(production=True)
    play.pair.trap = Trap(play.world)
    value = forced(play, play.lyon)
    play.pair.trap.set("name set aside", Moment.AFTER)
    gives_way_to_paris(play)
    play.until(lambda: not play.lyon.up)
    play.paris.crash(power=False)
    play.start(play.lyon)
    play.run(8_000)
    assert value in play.lyon.durable.platters["a"].in_limbo
    return play, value


def test_a_rescue_keeps_what_the_one_before_had_moved_aside() -> None:
    play, value = rescue_cut_short()
    first = play.state(play.lyon).meta.rescue
    later = forced(play, play.lyon, Allow.INCONSISTENT)
    gives_way_to_paris(play)
    play.until_mirrored()
    play.pair.owed.check()
    kept = play.lyon.durable.platters["a"].rescued
    assert {value, later} <= kept
    # Nobody ends the first one, and so no volume tells of it.
    notes = play.state(play.lyon).meta.rescued
    assert {note.volume for note in notes if note.directory.endswith(first)} == {"a", "b"}
    assert any("did not end" in line for line in play.world.trace)


def test_a_rescue_goes_on_though_its_node_had_served_meanwhile() -> None:
    """The node that was being filled serves what it has, and the peer is brought up to that."""
    play, value = rescue_cut_short()
    forced(play, play.lyon, Allow.INCONSISTENT)
    play.start(play.paris)
    play.until(lambda: bool(play.world.counts["rule split"]))
    play.run(2_000)
    accept(play, play.paris)
    play.until_mirrored()
    play.lyon.crash(power=False)
    play.until(lambda: alone(play, play.paris))
    play.start(play.lyon)
    play.until_mirrored()
    play.pair.owed.check()
    assert value in play.lyon.durable.platters["a"].rescued
