"""A node whose volumes cannot be opened: it is stopped, and started once they can."""

from __future__ import annotations

from typing import Any, final

from mirrorha.core import events as v
from mirrorha.core.events import Verb
from mirrorha.core.messages import Standing
from mirrorha.core.orders import Close, StopReason, Trouble
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.scenarios import Play


@final
class NotOpen:
    """In the place of a volume whose directory cannot be used: as `cluster.volumes` answers."""

    dead = False

    def __init__(self, node: SimNode, name: str) -> None:
        self._node, self._name = node, name

    def order(self, order: object) -> None:
        if not isinstance(order, Close):
            trouble = Trouble(StopReason.OWN_DISK, "the volume is not open")
            self._node.give(v.VolumeReported(self._name, trouble))


def close(play: Play, node: SimNode, *, problem: str) -> dict[str, Any]:
    """Its volumes are not open, for this reason or for none yet; what they were."""
    volumes: dict[str, Any] = node.volumes
    real = dict(volumes)
    for name in real:
        volumes[name] = NotOpen(node, name)
    if problem:
        node.give(v.VolumesInspected(has_files=False, ours=False, problem=problem))
    else:
        play.state(node).inspected = False
    return real


def stopped_and_started_again(problem: str) -> Play:
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: play.state(play.lyon).is_alone)
    play.cut()
    play.start(play.paris)
    real = close(play, play.paris, problem=problem)
    play.run(2_000)
    play.command(play.paris, Verb.STOP)
    play.until(lambda: Verb.STOP.value in play.pair.commands)
    assert play.pair.commands[Verb.STOP.value].done
    assert play.state(play.paris).standing is Standing.STOPPED

    volumes: dict[str, Any] = play.paris.volumes
    volumes.update(real)
    play.heal()
    play.command(play.paris, Verb.START)
    play.paris.give(v.VolumesInspected(has_files=True, ours=True))
    return play


def test_a_disk_that_was_not_mounted_is_none_that_failed() -> None:
    play = stopped_and_started_again("/srv/data is not this volume: is its disk mounted?")
    play.until_mirrored()


def test_a_stop_while_volumes_are_being_opened_leaves_no_failed_disk_behind() -> None:
    play = stopped_and_started_again("")
    play.until_mirrored()
