"""What the scenarios of an operator's force begin with, and ask."""

from __future__ import annotations

from typing import Any

from mirrorha.core.events import Verb
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.scenarios import Play

PRIMARY, SECONDARY = Verb.FORCE_PRIMARY, Verb.FORCE_SECONDARY


def accept(play: Play, node: SimNode) -> None:
    """A person gives up what the node holds."""
    if play.pair.shared is not None:
        play.pair.shared.accepted(node)
    play.command(node, Verb.ACCEPT)


def alone(play: Play, node: SimNode) -> bool:
    return node.up and play.role(node) == "ALONE"


def outdated_lyon(**settings: Any) -> Play:
    """paris went on without lyon and acknowledged; then it lost power, and lyon is back."""
    play = Play(**settings)
    play.lyon.crash(power=False)
    play.until(lambda: alone(play, play.paris))
    play.run(1_000)
    play.write(play.paris)
    play.run(100)
    play.paris.crash(power=False)
    play.start(play.lyon)
    play.run(8_000)
    assert play.role(play.lyon) == "WAIT"
    return play


def is_done(play: Play, node: SimNode, verb: Verb = PRIMARY) -> bool:
    play.run(50)
    answer = play.answer(node, verb)
    assert answer is not None
    return answer.done
