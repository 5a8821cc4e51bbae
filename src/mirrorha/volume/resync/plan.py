"""What a pass of a resync has to do, and how it is cut into messages. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar, final

from mirrorha.volume.disk import Attributes
from mirrorha.volume.resync.messages import (
    BLOCK_MAX,
    CONTENT_BLOCKS_MAX,
    FILES_MAX,
    LISTING_BYTES,
    RANGES_MAX,
    SEGMENT_BLOCKS,
    Part,
    attribute_bytes,
)
from mirrorha.volume.touched import INODE, NAMES, TouchKey, tail_start
from mirrorha.wire.limits import BLOCK_BYTES

T = TypeVar("T")

_ZEROS: Final = bytes(BLOCK_BYTES)


@final
class Plan(NamedTuple):
    """Touched keys, sorted by what they mean."""

    names: list[int]  # directories, the oldest first: parents mostly come before children
    files: dict[int, list[tuple[int, int]]]  # everything else: ranges of blocks, and attributes
    inodes: list[int]  # those of the files that may be new


def plan_of(keys: Iterable[TouchKey]) -> Plan:
    """Sort touched keys by what they mean."""
    names: list[int] = []
    inodes: list[int] = []
    starts: dict[int, list[tuple[int, int]]] = {}
    for fid, part in keys:
        if part == NAMES:
            names.append(fid)
            continue
        ranges = starts.setdefault(fid, [])
        tail = tail_start(part)
        if part == INODE:
            inodes.append(fid)
        elif tail is None:
            ranges.append((part * SEGMENT_BLOCKS, SEGMENT_BLOCKS))
        else:
            first = tail * SEGMENT_BLOCKS
            ranges.append((first, BLOCK_MAX - first))
    names.sort()
    files = {fid: merged(ranges) for fid, ranges in sorted(starts.items())}
    return Plan(names, files, inodes)


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same blocks in as few ranges as possible, in order."""
    result: list[tuple[int, int]] = []
    for first, count in sorted(ranges):
        if result and first <= sum(result[-1]):
            before, length = result[-1]
            result[-1] = before, max(length, first + count - before)
        else:
            result.append((first, count))
    return result


def parts_of(attributes: Attributes, ranges: list[tuple[int, int]]) -> list[Part]:
    """A file to compare, in pieces that fit in messages."""
    *pieces, last = list(batches(ranges, RANGES_MAX)) or [[]]
    parts = [Part(attributes, list(piece), last=False) for piece in pieces]
    return [*parts, Part(attributes, list(last))]


def part_bytes(part: Part) -> int:
    """About how long a part is in a message, never less than it is."""
    return 12 + 20 * len(part.ranges) + attribute_bytes(part.attributes)


def chunks(
    things: Iterable[T], *, bytes_of: Callable[[T], int], count_max: int = FILES_MAX
) -> Iterator[list[T]]:
    """Cut what is to be told into messages. The last thing of a message may exceed its length."""
    chunk: list[T] = []
    chunk_bytes = 0
    for thing in things:
        chunk.append(thing)
        chunk_bytes += bytes_of(thing)
        if len(chunk) == count_max or chunk_bytes >= LISTING_BYTES:
            yield chunk
            chunk, chunk_bytes = [], 0
    if chunk:
        yield chunk


def batches(things: Sequence[T], count_max: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of at most `count_max`."""
    return (things[at : at + count_max] for at in range(0, len(things), count_max))


@final
class Run(NamedTuple):
    """Neighbouring blocks that differ."""

    first: int
    blocks: int
    are_zeros: bool  # on the source


def differences(first: int, mine: Sequence[bytes], theirs: Sequence[bytes]) -> Iterator[Run]:
    """The blocks from `first` on whose hashes differ, none longer than one message may carry.

    Where the target has nothing it reads as zeros, once its file is as long as the source's.
    """
    run: Run | None = None
    for at, digest in enumerate(mine):
        same = digest == (theirs[at] if at < len(theirs) else b"")
        if run is not None and (
            same or (not digest) != run.are_zeros or run.blocks == CONTENT_BLOCKS_MAX
        ):
            yield run
            run = None
        if not same:
            begin, count = (first + at, 0) if run is None else (run.first, run.blocks)
            run = Run(begin, count + 1, not digest)
    if run is not None:
        yield run


def pieces_without_zeros(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut out blocks that are all zeros. Yields what is left, with where it was."""
    begin = 0
    for at in range(0, len(data), BLOCK_BYTES):
        rest = len(data) - at
        if data.startswith(_ZEROS if rest >= BLOCK_BYTES else bytes(rest), at):
            if begin < at:
                yield begin, data[begin:at]
            begin = at + BLOCK_BYTES
    if begin < len(data):
        yield begin, data[begin:] if begin else data


def left_bytes(ranges: list[tuple[int, int]], size_bytes: int) -> int:
    """How much of a file of this size lies in these ranges of blocks."""
    return sum(
        max(0, min(size_bytes, (first + count) * BLOCK_BYTES) - first * BLOCK_BYTES)
        for first, count in ranges
    )
