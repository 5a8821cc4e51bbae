"""What a node was filled with stands in no log of its own: whoever lacks it is compared whole."""

from __future__ import annotations

import pytest

from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.scenarios import Play
from mirrorha.testing.sim.world import Violation


def the_source_of_a_fill_comes_back_as_an_image_of_before() -> None:
    """lyon's image is of when it served alone; paris was filled since, and serves alone at once."""
    play = Play(production=True)
    first = play.write(play.lyon)  # the file exists on both
    play.until(lambda: play.is_acked(first))
    play.run(60_000)  # every checkpoint is past
    play.paris.crash(power=False)
    play.until(lambda: play.role(play.lyon) == "ALONE")
    play.run(2_000)
    play.lyon.take_image()
    lost = play.write(play.lyon)
    play.until(lambda: play.is_acked(lost))
    play.start(play.paris)
    play.until(play.pair.mirrored)
    play.lyon.crash(power=False)
    play.until(lambda: play.role(play.paris) == "ALONE")
    play.lyon.restore_image()
    play.start(play.lyon)
    play.until_mirrored()


def test_the_source_of_a_fill_comes_back_as_an_image_of_before() -> None:
    the_source_of_a_fill_comes_back_as_an_image_of_before()
    with broken("fill-unnoted"), pytest.raises(Violation, match="the copies of a differ"):
        the_source_of_a_fill_comes_back_as_an_image_of_before()
