"""A resync compares what the two touched logs name; and all, where these cannot be relied on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mirrorha.core.orders import Widened
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import Apply
from mirrorha.volume.ops import ROOT_FID, Write
from mirrorha.volume.stream.resync_interface import ResyncStatus
from mirrorha.volume.touched import touches
from mirrorha.wire.limits import BLOCK_BYTES
from tests.volume.resync_pair import Pair
from tests.volume.resync_scenarios import BLOCK, Quiet, assert_equal

BOTH = (4, 10)
OLDER = (4, 9)


def apart() -> tuple[Quiet, Pair[MemoryDisk], Write]:
    """Two copies that differ in one block, of which no log says anything."""
    quiet = Quiet()
    file = quiet.file(ROOT_FID, "file", BLOCK * 4)
    pair = quiet.split()
    for node in (pair.source, pair.target):
        node.confirmed = node.retired = BOTH
    unlogged = Write(file, BLOCK_BYTES, b"differs", 2)
    pair.target.request(Apply(unlogged))
    return quiet, pair, unlogged


def widened(pair: Pair[MemoryDisk]) -> list[str]:
    return [one.why for one in pair.source.reports if isinstance(one, Widened)]


@pytest.mark.parametrize("side", ["source", "target"])
def test_what_either_log_names_is_all_that_is_compared(side: str) -> None:
    quiet, pair, unlogged = apart()
    log = pair.source.log if side == "source" else pair.target.log
    log.update(touches(unlogged))
    quiet.resync()
    assert (pair.content_bytes, widened(pair)) == (BLOCK_BYTES, [])
    # And what differs besides stays so: the logs are believed.
    pair.target.log.clear()
    pair.source.log.clear()
    pair.target.request(Apply(unlogged))
    pair.begin()
    pair.run()
    assert pair.content_bytes == 0
    with pytest.raises(AssertionError):
        assert_equal(pair)


def damage_the_source(pair: Pair[MemoryDisk]) -> None:
    pair.source.damaged = True


def damage_the_target(pair: Pair[MemoryDisk]) -> None:
    pair.target.damaged = True


def roll_the_target_back(pair: Pair[MemoryDisk]) -> None:
    """What both held when the source forgot it is not on this disk."""
    pair.target.confirmed = pair.target.retired = OLDER


def fill_the_source_since(pair: Pair[MemoryDisk]) -> None:
    """By this target, which was put back to a day before; of what it brought no log is left."""
    pair.source.confirmed = pair.source.filled = BOTH
    pair.source.retired = pair.target.confirmed = pair.target.retired = OLDER


HARMS = [damage_the_source, damage_the_target, roll_the_target_back, fill_the_source_since]


@pytest.mark.parametrize("harm", HARMS)
def test_logs_that_lack_something_are_not_believed(
    harm: Callable[[Pair[MemoryDisk]], None],
) -> None:
    quiet, pair, _ = apart()
    harm(pair)
    quiet.resync()
    assert pair.content_bytes == BLOCK_BYTES
    assert len(widened(pair)) == 1


def test_a_target_that_confirmed_what_the_source_has_not_retired_yet_is_not_behind() -> None:
    """The source died before it noted that the target had it."""
    quiet, pair, unlogged = apart()
    pair.source.confirmed = pair.source.retired = OLDER
    pair.target.retired = OLDER
    pair.source.log.update(touches(unlogged))
    quiet.resync()
    assert widened(pair) == []


def test_a_target_that_was_filled_last_is_filled_again_by_a_source_that_has_not_noted_it() -> None:
    """The source died before that; what came since the fill stands in its log."""
    quiet, pair, unlogged = apart()
    pair.target.filled = BOTH
    pair.source.confirmed = pair.source.retired = pair.target.retired = OLDER
    pair.source.log.update(touches(unlogged))
    quiet.resync()
    assert widened(pair) == []


def test_a_source_whose_disk_was_put_back_overwrites_nothing() -> None:
    _, pair, _ = apart()
    before = pair.target.disk.snapshot()
    pair.source.confirmed = pair.source.retired = OLDER
    pair.begin()
    pair.run()
    assert pair.machine_t.status is ResyncStatus.FAILED
    assert "a disk of an older day" in pair.machine_t.failure
    assert pair.target.disk.snapshot() == before


def test_a_target_that_was_given_up_is_filled_whatever_it_held() -> None:
    """What it retired, it retired with somebody else."""
    _, pair, _ = apart()
    pair.everything = True
    pair.source.confirmed = pair.source.retired = OLDER
    pair.begin()
    pair.run()
    assert_equal(pair)
