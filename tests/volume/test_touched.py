"""The touched log: which entries an op needs, which may go."""

from __future__ import annotations

import typing

import pytest

from mirrorha.volume import touched as module
from mirrorha.volume.ops import FALLOCATE_KEEP_SIZE as KEEP
from mirrorha.volume.ops import FALLOCATE_PUNCH_HOLE as PUNCH
from mirrorha.volume.ops import FALLOCATE_ZERO_RANGE as ZERO
from mirrorha.volume.ops import (
    RENAME_EXCHANGE,
    AnyOp,
    Create,
    Fallocate,
    Kind,
    Link,
    Mkdir,
    Mknod,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.volume.touched import (
    INODE,
    NAMES,
    TouchedLog,
    TouchedState,
    TouchKey,
    tail,
    tail_start,
    touches,
)
from mirrorha.wire.limits import SEGMENT_BYTES

CASES: list[tuple[AnyOp, list[TouchKey]]] = [
    (Write(7, 0, b"x", 0), [(7, 0)]),
    (Write(7, 0, b"", 0), [(7, 0)]),
    (Write(7, SEGMENT_BYTES - 1, b"x", 0), [(7, 0)]),
    (Write(7, SEGMENT_BYTES - 1, b"xy", 0), [(7, 0), (7, 1)]),
    (Write(7, SEGMENT_BYTES, bytes(SEGMENT_BYTES + 1), 0), [(7, 1), (7, 2)]),
    (Truncate(7, 0, 0), [(7, tail(0))]),
    (Truncate(7, 3 * SEGMENT_BYTES + 5, 0), [(7, tail(3))]),
    (Create(7, 1, "a", 0o600, 0, 0, 0), [(1, NAMES), (7, INODE)]),
    (Mkdir(7, 1, "a", 0o700, 0, 0, 0), [(1, NAMES), (7, INODE)]),
    (Symlink(7, 1, "a", "b", 0, 0, 0), [(1, NAMES), (7, INODE)]),
    (Link(7, 1, "b", 0), [(1, NAMES)]),
    (Unlink(7, 1, "a", 0), [(1, NAMES)]),
    (Rmdir(7, 1, "a", 0), [(1, NAMES)]),
    (Rename(7, 1, "a", 2, "b", 9, 0), [(1, NAMES), (2, NAMES)]),
    (SetAttributes(7, 0o600, None, None, None), [(7, INODE)]),
    (SetXattr(7, "user.a", b"1"), [(7, INODE)]),
    (Rename(7, 1, "a", 2, "b", 9, 0, RENAME_EXCHANGE), [(1, NAMES), (2, NAMES)]),
    (Mknod(7, 1, "a", Kind.FIFO, 0o600, 0, 0, 0, 0), [(1, NAMES), (7, INODE)]),
    # It may only grow, and sizes are compared with every entry.
    (Fallocate(7, 0, 0, 99 * SEGMENT_BYTES, 0), [(7, INODE)]),
    (Fallocate(7, KEEP, 0, 99 * SEGMENT_BYTES, 0), [(7, INODE)]),
    (Fallocate(7, PUNCH | KEEP, 5, SEGMENT_BYTES, 0), [(7, 0), (7, 1)]),
    (Fallocate(7, PUNCH | KEEP, SEGMENT_BYTES, SEGMENT_BYTES, 0), [(7, 1)]),
    (Fallocate(7, ZERO, 3 * SEGMENT_BYTES, 1, 0), [(7, 3)]),
    (Fallocate(7, ZERO, 3 * SEGMENT_BYTES, 65 * SEGMENT_BYTES, 0), [(7, tail(3))]),
    (Fallocate(7, PUNCH | KEEP, 0, (1 << 63) - 1, 0), [(7, tail(0))]),
]


def test_cases_name_every_op() -> None:
    assert {type(op) for op, _ in CASES} == set(typing.get_args(AnyOp))


@pytest.mark.parametrize(("op", "keys"), CASES, ids=[type(op).__name__ for op, _ in CASES])
def test_an_op_touches(op: AnyOp, keys: list[TouchKey]) -> None:
    assert touches(op) == keys


@pytest.mark.parametrize("segment", [0, 1, 1 << 40])
def test_a_tail_is_no_other_part(segment: int) -> None:
    assert tail_start(tail(segment)) == segment
    assert tail(segment) not in (INODE, NAMES)
    assert tail_start(INODE) is tail_start(NAMES) is tail_start(segment) is None


def test_an_entry_is_cold_once() -> None:
    log = TouchedLog()
    write = Write(7, 5 * SEGMENT_BYTES, b"x", 0)
    assert log.touch(write, 1) == [(7, 5)]
    assert log.touch(write, 2) is None
    assert log.touch(Write(7, 6 * SEGMENT_BYTES - 1, b"xy", 0), 3) is not None
    assert len(log) >= 2


def test_loaded_entries_are_hot() -> None:
    log = TouchedLog(TouchedState(keys=[(7, 0)], confirmed=(3, 9), retired=(3, 8), damaged=True))
    assert log.touch(Write(7, 0, b"x", 0), 1) is None
    assert (log.confirmed, log.retired, log.damaged) == ((3, 9), (3, 8), True)


def test_an_entry_stays_until_its_last_op_is_covered() -> None:
    log = TouchedLog()
    for stamp in (1, 2, 3):
        log.touch(Write(7, 0, b"x", 0), stamp)
    assert log.covered(2) == []
    assert log.covered(3) == [(7, 0)]
    log.forget(log.covered(3))
    assert log.touch(Write(7, 0, b"x", 0), 4) == [(7, 0)]


def test_a_sequential_writer_finds_most_segments_hot() -> None:
    log = TouchedLog()
    commits = sum(
        log.touch(Write(7, n * SEGMENT_BYTES // 4, bytes(SEGMENT_BYTES // 4), 0), n) is not None
        for n in range(400)
    )
    assert commits <= 100 / module.RESERVED_SEGMENTS + 2


def test_the_longer_a_writer_goes_on_the_more_is_reserved() -> None:
    log = TouchedLog()
    new = [log.touch(Write(7, n * SEGMENT_BYTES, b"x", 0), n) for n in range(1000)]
    reserved = [len(keys) - 1 for keys in new if keys is not None]
    assert reserved[:4] == [0, 8, 10, 21]
    assert reserved == sorted(reserved)
    assert set(reserved[7:]) == {module.RESERVED_SEGMENTS_MAX}
    assert len(reserved) <= 1000 / module.RESERVED_SEGMENTS_MAX + 7


def test_only_what_was_written_in_a_row_counts() -> None:
    log = TouchedLog()
    for n in (*range(100, 120), 130, 131):
        log.touch(Write(7, n * SEGMENT_BYTES, b"x", 0), n)
    log.forget([(7, 130), *((7, n) for n in range(132, 200))])
    assert log.touch(Write(7, 132 * SEGMENT_BYTES, b"x", 0), 200) == [
        (7, n) for n in range(132, 132 + 1 + module.RESERVED_SEGMENTS)
    ]


def test_a_writer_who_jumps_about_reserves_nothing() -> None:
    log = TouchedLog()
    for n in range(0, 20, 2):
        assert log.touch(Write(7, n * SEGMENT_BYTES, b"x", 0), n) == [(7, n)]


def test_who_creates_file_after_file_pays_for_few() -> None:
    log = TouchedLog()
    commits = 0
    for n in range(100, 180):
        commits += log.touch(Create(n, 1, str(n), 0o600, 0, 0, 0), n) is not None
        commits += log.touch(Write(n, 0, b"x", 0), n) is not None
    assert commits == 80 / module.RESERVED_FIDS


def test_a_reservation_outlives_the_checkpoint_that_runs() -> None:
    log = TouchedLog()
    log.touch(Write(7, 0, b"x", 0), 1)
    log.touch(Write(7, SEGMENT_BYTES, b"x", 0), 2)
    assert log.covered(1) == [(7, 0)]


def test_what_was_touched_is_always_there_until_forgotten() -> None:
    """Every key of an op is in the log after `touch`, whichever way it got there."""
    log = TouchedLog(TouchedState(keys=[(7, 1)]))
    for stamp, (op, keys) in enumerate(CASES):
        log.touch(op, stamp)
        assert set(keys) <= set(log.state().keys)
        assert not set(keys) & set(log.covered(stamp - 1))


def test_capped_entries_wait_for_the_new_numbering() -> None:
    log = TouchedLog()
    log.touch(Write(7, 0, b"x", 0), 2)
    log.add([(8, INODE)], 901)
    log.cap(5)
    assert log.covered(4) == [(7, 0)]
    assert sorted(log.covered(5)) == [(7, 0), (8, INODE)]
