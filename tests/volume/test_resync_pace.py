"""How fast a resync goes: what its limit counts, when that gives way, and what a piece of it is."""

from __future__ import annotations

import random

from mirrorha.core.orders import NearlyEqual, Progress
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import AnyRequest, HashBlocks, Many, ReadAttributes, ReadBytes
from mirrorha.volume.events import DiskCall
from mirrorha.volume.ops import ROOT_FID, Truncate, Write
from mirrorha.volume.resync.messages import HASHED_BLOCKS_MAX, Content, Settle
from mirrorha.volume.resync.pace import GENTLE_BLOCKS, GENTLE_FILES
from mirrorha.wire.limits import BLOCK_BYTES, SEGMENT_BYTES
from tests.volume.resync_pair import Pair
from tests.volume.resync_scenarios import BLOCK, Quiet, assert_equal

FLOOR = 1  # bytes a second, which counts as 1 MiB


def limited(quiet: Quiet, target: MemoryDisk | None = None) -> Pair[MemoryDisk]:
    """A resync at the lowest rate there is, begun and not stepped."""
    pair = quiet.split(target) if target is not None else quiet.split()
    pair.begin()
    pair.machine_s.set_rate(FLOOR)
    return pair


def test_what_is_only_compared_counts_too() -> None:
    quiet = Quiet(everything=True)
    quiet.file(ROOT_FID, "large", BLOCK * 16 * 8)
    pair = limited(quiet)
    pair.run()
    assert pair.content_bytes == 0
    assert 6_000 <= pair.now_ms <= 12_000
    assert_equal(pair)


def test_what_is_compared_and_differs_counts_once() -> None:
    quiet = Quiet(everything=True)
    large = quiet.file(ROOT_FID, "large", BLOCK * 16 * 8)
    pair = quiet.split()
    quiet.apply(Write(large, 0, BLOCK[::-1] * 16 * 8, 9))
    pair.begin()
    pair.machine_s.set_rate(FLOOR)
    pair.run()
    assert pair.content_bytes == 8 * SEGMENT_BYTES
    assert 6_000 <= pair.now_ms <= 12_000
    assert_equal(pair)


def test_small_files_count_as_much_as_they_hold() -> None:
    quiet = Quiet(everything=True)
    for number in range(400):
        quiet.file(ROOT_FID, str(number), b"little")
    pair = limited(quiet)
    pair.run()
    assert pair.now_ms < 2_000  # in blocks they would be 25 MiB
    assert_equal(pair)


def test_holes_count_nothing() -> None:
    quiet = Quiet(everything=True)
    for name in ("one", "two"):
        fid = quiet.file(ROOT_FID, name, BLOCK)
        quiet.apply(Truncate(fid, 64 * SEGMENT_BYTES, 9))
    pair = limited(quiet)
    pair.run()
    assert pair.now_ms < 3_000
    assert_equal(pair)


def test_progress_says_how_fast_it_is_and_may_be() -> None:
    quiet = Quiet(everything=True)
    quiet.file(ROOT_FID, "large", BLOCK * 16 * 8)
    pair = limited(quiet)
    pair.run(until=lambda: pair.now_ms >= 4_000)
    told = [each for each in pair.source.reports if isinstance(each, Progress)][-1]
    assert told.limit_bytes_per_s == SEGMENT_BYTES
    assert 0.5 * SEGMENT_BYTES <= told.rate_bytes_per_s <= 2 * SEGMENT_BYTES


def test_a_limit_gives_way_to_an_application_that_is_faster() -> None:
    quiet = Quiet(everything=False)
    large = quiet.file(ROOT_FID, "large", BLOCK * 16 * 8)
    pair = limited(quiet)
    keys = [(large, segment) for segment in range(8)]
    pair.source.log.update(keys)
    told, passes = False, 0
    while not told:
        begun = sum(isinstance(message, Settle) for _, message, _ in pair.sent)
        if begun > passes:  # all of it is touched anew while each pass goes on
            passes = begun
            pair.machine_s.touched(keys)
        pair.one_step()
        told = any(isinstance(each, NearlyEqual) for each in pair.source.reports)
        is_limited = bool(pair.machine_s.rate_bytes_per_s)
        assert not (told and is_limited), "it gave up though it could have been faster"
    pair.run()
    assert_equal(pair)


def reads(pair: Pair[MemoryDisk]) -> list[AnyRequest]:
    """What the source's disk is asked for, single requests, until the end."""
    asked: list[AnyRequest] = []
    take = pair.source.take

    def note(call: DiskCall) -> None:
        request = call.request
        asked.extend(request.requests if isinstance(request, Many) else [request])
        if isinstance(request, Many) and isinstance(request.requests[0], ReadAttributes):
            asked.append(request)
        take(call)

    pair.source.take = note  # type: ignore[method-assign]
    return asked


def test_pieces_are_small_only_while_somebody_changes_something() -> None:
    for is_busy in (True, False):
        quiet = Quiet(everything=True)
        large = quiet.file(ROOT_FID, "large", BLOCK * 16 * 16)
        other = quiet.file(ROOT_FID, "other", BLOCK)
        for number in range(100):
            quiet.file(ROOT_FID, f"small {number}", b"")
        pair = quiet.split()
        new = quiet.file(ROOT_FID, "new", BLOCK * 32)
        asked = reads(pair)
        pair.begin()
        while not pair.is_over():
            if is_busy:
                pair.machine_s.touched([] if pair.wants_hold else [(other, 0)])
            pair.one_step()
        hashed = max(each.count for each in asked if isinstance(each, HashBlocks))
        assert hashed == (GENTLE_BLOCKS if is_busy else HASHED_BLOCKS_MAX)
        read = max(each.length for each in asked if isinstance(each, ReadBytes))
        assert read == (GENTLE_BLOCKS if is_busy else 16) * BLOCK_BYTES
        looked = max(len(each.requests) for each in asked if isinstance(each, Many))
        assert (looked <= GENTLE_FILES) is is_busy
        sent = {m.offset for _, m, _ in pair.sent if isinstance(m, Content)}
        assert sent, f"{new:#x} was sent, {large:#x} was not"
        assert_equal(pair)


def test_pieces_of_every_size_come_to_the_same() -> None:
    """Whatever the pace is, and when it changes, the two are equal in the end."""
    for seed in range(12):
        rng = random.Random(seed)
        quiet = Quiet(everything=bool(seed % 2))
        fids = [quiet.file(ROOT_FID, str(number), BLOCK * 40) for number in range(3)]
        pair = quiet.split()
        for fid in fids:
            for _ in range(9):
                quiet.apply(Write(fid, rng.randrange(45) * BLOCK_BYTES + 7, b"new", 9))
            zeros = bytes(5 * BLOCK_BYTES)
            quiet.apply(Write(fid, rng.randrange(35) * BLOCK_BYTES, zeros, 9))
        pair.begin()
        while not pair.is_over():
            if rng.random() < 0.1:
                pair.machine_s.set_rate(rng.choice((0, 40 << 20)))
            if rng.random() < 0.1 and not pair.wants_hold:
                pair.machine_s.touched([(fids[0], 0)])
            pair.one_step()
        assert_equal(pair)
