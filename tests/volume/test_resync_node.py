"""A resync and its node: what it is told, when changes are held, how fast it goes, how it ends."""

from __future__ import annotations

import itertools
import random

import pytest

from mirrorha.core.orders import NearlyEqual, Progress
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.ops import ROOT_FID, AnyOp, Create, Mkdir, Rename, Write
from mirrorha.volume.resync.messages import Done
from mirrorha.volume.resync.session import SILENCE_MAX_MS
from mirrorha.volume.stream.resync_interface import ResyncStatus
from mirrorha.volume.touched import INODE, NAMES, touches
from mirrorha.wire.limits import BLOCK_BYTES, SEGMENT_BYTES
from tests.volume.resync_pair import difference
from tests.volume.resync_scenarios import BLOCK, Quiet, assert_equal, big_tree, make_pair


def test_the_node_is_told_once_and_the_rest_is_left_to_its_order() -> None:
    quiet = Quiet()
    large = quiet.file(ROOT_FID, "large", BLOCK * 10)
    pair = quiet.split()
    pair.holds_when_nearly = False
    quiet.apply(Write(large, 0, b"new", 9))
    pair.begin()
    pair.run(until=lambda: pair.now_ms > 5_000)
    assert [type(one) for one in pair.source.reports].count(NearlyEqual) == 1
    assert pair.machine_s.is_nearly_equal
    assert pair.machine_s.status is ResyncStatus.RUNNING
    # What is touched meanwhile is brought over while the node makes up its mind.
    quiet.apply(Write(large, BLOCK_BYTES * 5, b"newer", 9))
    pair.machine_s.touched(touches(Write(large, BLOCK_BYTES * 5, b"newer", 9)))
    pair.run(until=lambda: pair.now_ms > 10_000)
    assert difference(pair.source.disk, pair.target.disk) == []
    sent = len(pair.sent)
    pair.wants_hold = True
    pair.run()
    assert_equal(pair)
    beside_pulse = [one for _, one, _ in pair.sent[sent:] if not isinstance(one, Done)]
    assert len(beside_pulse) <= 8


def test_the_last_pass_takes_few_trips_over_the_link() -> None:
    """Created, written, renamed, deleted: all of it goes together, however much it is."""
    quiet = Quiet()
    directory, large = big_tree(quiet)
    pair = quiet.split()
    pair.holds_when_nearly = False
    pair.begin()
    pair.run(until=lambda: pair.machine_s.is_nearly_equal)
    new = quiet.directory(ROOT_FID, "new")
    ops: list[AnyOp] = [
        Mkdir(quiet.fid(), new, "below", 0o755, 0, 0, 5),
        Rename(large, directory, "large", new, "large", 0, 5),
        *(Write(large, block * BLOCK_BYTES, b"x", 6) for block in range(0, 40, 7)),
    ]
    for number in range(50):
        fid = quiet.fid()
        ops += [Create(fid, new, str(number), 0o600, 0, 0, 7), Write(fid, 0, b"x" * 5000, 7)]
    for op in ops:
        quiet.apply(op)
        pair.machine_s.touched(touches(op))
    pair.machine_s.touched([(new, INODE), (new, NAMES), (ROOT_FID, NAMES)])
    pair.do(pair.source, pair.machine_s.final_pass(pair.now_ms))
    assert pair.trips() <= 6
    assert_equal(pair)


def test_the_last_pass_may_be_ordered_before_little_is_left() -> None:
    rng = random.Random(3)
    pair = make_pair(rng, "empty")
    pair.begin()
    pair.run(until=lambda: pair.steps > 20)
    pair.wants_hold = True
    pair.run()
    assert_equal(pair)


def test_progress_is_reported_now_and_then() -> None:
    quiet = Quiet(everything=True)
    for number in range(30):
        quiet.file(ROOT_FID, str(number), BLOCK * 3)
    pair = quiet.split(MemoryDisk())
    quiet.resync()
    reports = [one for one in pair.source.reports if isinstance(one, Progress)]
    assert reports[0].done_bytes == 0
    for earlier, later in itertools.pairwise(reports):
        assert earlier.done_bytes <= later.done_bytes
        assert earlier.sent_bytes <= later.sent_bytes
    # Every 200 ms, and at the end.
    assert len(reports) <= pair.now_ms // 200 + 2
    last = pair.machine_s.progress
    assert last == reports[-1]
    assert last.files_left == 0
    assert last.done_bytes == last.total_bytes == 90 * BLOCK_BYTES
    assert last.sent_bytes == 90 * BLOCK_BYTES


def test_a_rate_is_kept_until_it_is_changed_and_not_by_the_last_pass() -> None:
    quiet = Quiet(everything=True)
    quiet.file(ROOT_FID, "large", BLOCK * 16 * 12)
    pair = quiet.split(MemoryDisk())
    pair.begin()
    pair.machine_s.set_rate(1)  # the floor: 1 MiB/s
    pair.run(until=lambda: pair.now_ms >= 3_000)
    assert 2 * SEGMENT_BYTES <= pair.content_bytes <= 5 * SEGMENT_BYTES
    pair.machine_s.set_rate(4 * SEGMENT_BYTES)
    pair.run(until=lambda: pair.now_ms >= 4_000)
    assert 5 * SEGMENT_BYTES <= pair.content_bytes <= 11 * SEGMENT_BYTES
    pair.machine_s.set_rate(1)
    pair.wants_hold = True
    pair.run()
    assert pair.now_ms < 5_000
    assert_equal(pair)


@pytest.mark.parametrize("silent", ["source", "target"])
def test_a_peer_that_falls_silent_ends_the_session(silent: str) -> None:
    quiet = Quiet(everything=True)
    big_tree(quiet)
    pair = quiet.split(MemoryDisk())
    pair.begin()
    pair.run(until=lambda: pair.content_bytes > 0)
    node = pair.target if silent == "source" else pair.source
    machine = pair.machine_t if silent == "source" else pair.machine_s
    begun_ms = pair.now_ms
    for _ in range(400):
        node.inbox.clear()
        pair.one_step_of(node)
        if machine.status is ResyncStatus.FAILED:
            break
    assert "said nothing" in machine.failure
    assert SILENCE_MAX_MS <= pair.now_ms - begun_ms < SILENCE_MAX_MS + 2_000


def test_sides_that_wait_for_each_other_do_not_take_that_for_silence() -> None:
    quiet = Quiet()
    pair = quiet.split()
    pair.holds_when_nearly = False
    pair.begin()
    pair.run(until=lambda: pair.now_ms > 3 * SILENCE_MAX_MS)
    assert not pair.is_over()
    pair.wants_hold = True
    pair.run()
    assert_equal(pair)


def test_a_message_of_another_session_is_ignored() -> None:
    rng = random.Random(5)
    pair = make_pair(rng, "diverged")
    pair.begin()
    pair.run(until=lambda: pair.steps > 100)
    old = [message for _, message, _ in pair.sent]
    pair.lose_link()
    pair.begin()
    for message in old:
        pair.inject(message)
    pair.run()
    assert_equal(pair)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_disk_that_fails_ends_the_session(side: str) -> None:
    quiet = Quiet(everything=True)
    big_tree(quiet)
    pair = quiet.split(MemoryDisk())
    pair.begin()
    pair.fail_next(pair.source if side == "source" else pair.target, "it broke")
    pair.run()
    assert "it broke" in pair.machine_s.failure
    assert "it broke" in pair.machine_t.failure
