"""Touched keys become work, and work is cut into messages."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from mirrorha.volume.disk import Attributes, Kind
from mirrorha.volume.ops import make_fid
from mirrorha.volume.resync.messages import (
    CONTENT_BLOCKS_MAX,
    LISTING_BYTES,
    RANGES_MAX,
    SEGMENT_BLOCKS,
    Named,
    Part,
    attribute_bytes,
    named_bytes,
)
from mirrorha.volume.resync.namespace import Job
from mirrorha.volume.resync.plan import (
    Run,
    chunks,
    differences,
    left_bytes,
    merged,
    part_bytes,
    parts_of,
    pieces_without_zeros,
    plan_of,
)
from mirrorha.volume.resync.target import _pieces
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.touched import INODE, NAMES, tail
from mirrorha.wire.limits import BLOCK_BYTES

FILE = Attributes(7, Kind.FILE, 0o644, 0, 0, 0, 0)


def test_keys_are_sorted_by_what_they_mean() -> None:
    plan = plan_of([(9, NAMES), (3, NAMES), (7, INODE), (7, 2), (7, 3), (7, 9), (8, tail(1))])
    assert plan.names == [3, 9]
    assert plan.inodes == [7]
    assert plan.files[7] == [(32, 32), (144, 16)]
    ((first, count),) = plan.files[8]
    assert first == SEGMENT_BLOCKS
    assert count > 1 << 40
    assert plan_of([(7, INODE)]).files == {7: []}


@pytest.mark.parametrize("seed", range(30))
def test_merged_ranges_hold_the_same_blocks(seed: int) -> None:
    rng = random.Random(seed)
    ranges = [(rng.randrange(40), rng.randrange(1, 9)) for _ in range(rng.randrange(12))]
    result = merged(ranges)

    def blocks(some: list[tuple[int, int]]) -> list[int]:
        return [block for first, count in some for block in range(first, first + count)]

    assert blocks(result) == sorted(set(blocks(ranges)))
    assert all(one[0] + one[1] < two[0] for one, two in itertools.pairwise(result))


@pytest.mark.parametrize("seed", range(30))
def test_pieces_cover_ranges_and_what_is_lacking(seed: int) -> None:
    rng = random.Random(seed)
    size_bytes, own_bytes = rng.randrange(200 * BLOCK_BYTES), rng.randrange(200 * BLOCK_BYTES)
    own_bytes = min(own_bytes, size_bytes)
    ranges = [(rng.randrange(300), rng.randrange(1, 99)) for _ in range(rng.randrange(4))]
    is_last = rng.random() < 0.5
    file = msgspec.structs.replace(FILE, size_bytes=size_bytes)
    pieces = list(_pieces(Job(file, ranges, last=is_last), own_bytes))
    got = [block for first, count in pieces for block in range(first, first + count)]
    end = -(-size_bytes // BLOCK_BYTES)
    wanted = {at for first, count in ranges for at in range(first, min(first + count, end))}
    if own_bytes < size_bytes and is_last:
        wanted |= set(range(own_bytes // BLOCK_BYTES, end))
    assert got == sorted(wanted)
    assert all(0 < count <= 64 for _, count in pieces)


def test_all_of_a_file_is_all_its_blocks() -> None:
    file = msgspec.structs.replace(FILE, size_bytes=BLOCK_BYTES * 65)
    assert list(_pieces(Job(file, None), 0)) == [(0, 64), (64, 1)]
    assert list(_pieces(Job(FILE, None), 0)) == []


def test_a_file_touched_in_many_places_is_cut_into_parts() -> None:
    ranges = [(at * 32, 16) for at in range(RANGES_MAX * 2 + 1)]
    parts = parts_of(FILE, ranges)
    assert [len(part.ranges) for part in parts] == [RANGES_MAX, RANGES_MAX, 1]
    assert [part.last for part in parts] == [False, False, True]
    assert parts_of(FILE, []) == [Part(FILE, [])]


def test_chunks_are_bounded_in_number_and_length() -> None:
    assert list(chunks([], bytes_of=int)) == []
    assert [len(one) for one in chunks([1] * 600, bytes_of=int)] == [256, 256, 88]
    long = [LISTING_BYTES // 2] * 5
    assert [len(one) for one in chunks(long, bytes_of=int)] == [2, 2, 1]


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_longer_than_it_is_taken_for(seed: int) -> None:
    rng = random.Random(seed)

    def text(length: int) -> str:
        return "".join(chr(rng.choice((0x41, 0xE9, 0x20AC, 0x10FF80))) for _ in range(length))

    xattrs = {text(rng.randrange(9)): bytes(rng.randrange(99)) for _ in range(rng.randrange(4))}
    number = (1 << 63) - 1
    attributes = Attributes(
        number, Kind.SYMLINK, 0o777, 1 << 31, 1 << 31, number, -number, text(99), xattrs, 1 << 20
    )
    encode = msgspec.msgpack.encode
    assert len(encode(attributes)) <= attribute_bytes(attributes)
    named = Named(text(50), number, Kind.FILE, attributes, bytes(rng.randrange(99_999)))
    assert len(encode(named)) <= named_bytes(named)
    bare = Named(text(50), number, Kind.FILE)
    assert len(encode(bare)) <= named_bytes(bare)
    part = Part(attributes, [(1 << 60, 1 << 60)] * rng.randrange(99))
    assert len(encode(part)) <= part_bytes(part)


A, B = b"a" * 16, b"b" * 16


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ([], [], []),
        ([A, B], [A, B], []),
        ([A, B], [A], [Run(6, 1, False)]),
        ([A, B], [], [Run(5, 2, False)]),
        ([b"", b""], [], []),
        ([b"", A], [A, A], [Run(5, 1, True)]),
        ([b"", b"", A], [A, A, B], [Run(5, 2, True), Run(7, 1, False)]),
        ([A, A, A], [B, A, B], [Run(5, 1, False), Run(7, 1, False)]),
        ([A], [A, A], []),
        ([A] * 17, [], [Run(5, CONTENT_BLOCKS_MAX, False), Run(21, 1, False)]),
    ],
)
def test_differences(mine: list[bytes], theirs: list[bytes], expected: list[Run]) -> None:
    assert list(differences(5, mine, theirs)) == expected


@pytest.mark.parametrize("seed", range(30))
def test_zeros_are_cut_out_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    data = b"".join(
        bytes(BLOCK_BYTES) if rng.random() < 0.5 else bytes(BLOCK_BYTES - 1) + b"x"
        for _ in range(rng.randrange(6))
    ) + bytes([rng.randrange(2)]) * rng.randrange(99)
    rebuilt = bytearray(len(data))
    for at, piece in pieces_without_zeros(data):
        assert at % BLOCK_BYTES == 0
        rebuilt[at : at + len(piece)] = piece
        starts = range(0, len(piece), BLOCK_BYTES)
        assert all(any(piece[start : start + BLOCK_BYTES]) for start in starts)
    assert rebuilt == data


def test_what_is_left_ends_with_the_file() -> None:
    assert left_bytes([(0, 16), (16, 1 << 40)], BLOCK_BYTES * 17 + 5) == BLOCK_BYTES * 17 + 5
    assert left_bytes([(20, 4)], BLOCK_BYTES) == 0


def test_a_fid_set_is_a_set() -> None:
    rng = random.Random(1)
    mine = FidSet()
    real: set[int] = set()
    for _ in range(3000):
        fid = make_fid(epoch=rng.randrange(1, 4), counter=rng.randrange(1, 3000))
        change = rng.choice(("add", "add", "discard"))
        getattr(mine, change)(fid)
        getattr(real, change)(fid)
    fids = [make_fid(epoch=epoch, counter=at) for epoch in range(1, 5) for at in range(1, 3001)]
    assert [fid for fid in fids if fid in mine] == [fid for fid in fids if fid in real]
    mine.clear()
    assert not any(fid in mine for fid in fids)
