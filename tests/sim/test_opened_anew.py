"""What drives a volume ends, and is replaced: the node hands over, and comes back as a new one."""

from __future__ import annotations

import pytest

from mirrorha.core import events as v
from mirrorha.core.messages import Standing
from mirrorha.core.orders import StopReason, Trouble
from mirrorha.testing.sim.scenarios import Play


@pytest.mark.parametrize("failing", ["paris", "lyon"])
def test_a_worker_that_ended_costs_a_hand_over_and_no_more(failing: str) -> None:
    play = Play()
    play.until_mirrored()
    node = {"paris": play.paris, "lyon": play.lyon}[failing]
    other = play.lyon if node is play.paris else play.paris
    before = play.state(node).meta.incarnation
    (volume, *_) = node.volumes
    node.give(v.VolumeReported(volume, Trouble(StopReason.NOT_DRIVEN, "the worker was killed")))
    play.until(lambda: play.state(other).is_alone)
    assert play.state(node).standing is Standing.WAITING
    play.run(2_000)
    assert play.state(node).sick, "nobody looked at its volumes again"
    assert play.state(other).is_alone
    node.give(v.VolumesInspected(has_files=True, ours=True))
    play.run(2_000)
    assert play.state(node).sick, "a look alone heals no disk"
    node.give(v.VolumesInspected(has_files=True, ours=True, anew=True))
    play.until_mirrored()
    assert not play.state(node).sick
    assert not play.state(node).meta.unclean, "nothing of a disk was lost"
    # The one that gave up has said goodbye for ever.
    assert play.state(node).meta.incarnation > before
