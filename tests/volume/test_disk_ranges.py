"""Ranges of files on a real disk: what is left when one cannot be had, and what room one takes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from mirrorha.testing.check_disk_steps import take_snapshot
from mirrorha.volume.disk import Apply, DiskError, Outcome, ReadAttributes
from mirrorha.volume.local_disk import syscalls
from mirrorha.volume.ops import (
    FALLOCATE_KEEP_SIZE,
    FALLOCATE_PUNCH_HOLE,
    FALLOCATE_ZERO_RANGE,
    Fallocate,
    Write,
)
from mirrorha.wire.limits import BLOCK_BYTES
from tests.requirements import lacking, lacking_of_files, require_program, require_root
from tests.volume.disk_support import T0, Home, create, do, fid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PUNCH = FALLOCATE_PUNCH_HOLE | FALLOCATE_KEEP_SIZE
ZERO = FALLOCATE_ZERO_RANGE
MIB = 1 << 20


class Failing:
    """A fallocate that fails with `number` after it has done some of its work, as ext4 may.

    Args:
        holes: Whether holes can still be made.
    """

    def __init__(self, number: int, *, holes: bool = True) -> None:
        self.number = number
        self.holes = holes

    def __call__(self, descriptor: int, mode: int, offset: int, length: int) -> None:
        if mode == PUNCH and self.holes:
            syscalls.fallocate(descriptor, mode, offset, length)
            return
        half = max(length // 2, 1)
        if self.number not in syscalls.NO_HOLES and mode != PUNCH:
            if mode & ZERO:
                os.pwrite(descriptor, bytes(min(half, 3)), offset)
            if not mode & FALLOCATE_KEEP_SIZE:
                size_bytes = max(os.fstat(descriptor).st_size, offset + half)
                os.ftruncate(descriptor, size_bytes)
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EINTR])
def test_a_reservation_that_fails_changes_nothing(number: int, home: Home) -> None:
    disk = home.open(fallocate=Failing(number))
    do(disk, create(1, "a"), Write(fid(1), 0, b"content", T0))
    before = take_snapshot(disk)
    for offset in (0, 3, 100):
        outcome = disk.perform(Apply(Fallocate(fid(1), 0, offset, 1000, T0 + 5)))
        assert outcome == Outcome(None, number)
        assert take_snapshot(disk) == before


@pytest.mark.parametrize("holes", [True, False])
@pytest.mark.parametrize("keep", [0, FALLOCATE_KEEP_SIZE])
def test_zeros_that_fail_halfway_are_zeros(keep: int, holes: bool, home: Home) -> None:
    """What was there before cannot be told any more. So it is zeros, and that is what is sent."""
    disk = home.open(fallocate=Failing(errno.ENOSPC, holes=holes))
    do(disk, create(1, "a"), Write(fid(1), 0, b"x" * 100, T0))
    outcome = disk.perform(Apply(Fallocate(fid(1), ZERO | keep, 90, 1000, T0 + 5)))
    done = Fallocate(fid(1), PUNCH, 90, 10, T0 + 5)
    assert outcome == Outcome(done, errno.ENOSPC)
    seen = take_snapshot(disk)["a"]
    assert (seen.content, seen.attributes.mtime_ns) == (b"x" * 90 + bytes(10), T0 + 5)
    # And a follower that has room gets there by that.
    home.close()
    disk = home.open()
    do(disk, create(2, "b"), Write(fid(2), 0, b"x" * 100, T0))
    do(disk, Fallocate(fid(2), done.mode, done.offset, done.length, done.mtime_ns))
    assert take_snapshot(disk)["b"].content == seen.content
    # Where there was nothing to become zeros, nothing happened.
    disk = home.open(fallocate=Failing(errno.ENOSPC, holes=holes))
    before = take_snapshot(disk)
    outcome = disk.perform(Apply(Fallocate(fid(1), ZERO | keep, 500, 1000, T0 + 9)))
    assert outcome == Outcome(None, errno.ENOSPC)
    assert take_snapshot(disk) == before


def test_what_a_file_system_cannot_do_is_done_by_hand(home: Home) -> None:
    disk = home.open(fallocate=Failing(errno.EOPNOTSUPP, holes=False))
    do(disk, create(1, "a"), Write(fid(1), 0, b"x" * (2 * BLOCK_BYTES), T0))
    do(disk, Fallocate(fid(1), PUNCH, 10, BLOCK_BYTES, T0 + 1))
    do(disk, Fallocate(fid(1), ZERO, 2 * BLOCK_BYTES - 5, 20, T0 + 2))
    do(disk, Fallocate(fid(1), 0, 0, 2 * BLOCK_BYTES + 100, T0 + 3))
    do(disk, Fallocate(fid(1), FALLOCATE_KEEP_SIZE, 0, 3 * BLOCK_BYTES, T0 + 4))
    expected = bytearray(b"x" * (2 * BLOCK_BYTES))
    expected[10 : 10 + BLOCK_BYTES] = bytes(BLOCK_BYTES)
    expected[-5:] = bytes(5)
    assert take_snapshot(disk)["a"].content == bytes(expected) + bytes(100)
    outcome = disk.perform(Apply(Fallocate(fid(1), 0, 0, 1 << 50, T0)))
    assert outcome == Outcome(None, errno.ENOSPC)


def test_zeros_that_cannot_be_written_are_a_failing_disk(home: Home) -> None:
    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if not any(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(descriptor, data, offset)

    disk = home.open(fallocate=Failing(errno.ENOSPC, holes=False), pwrite=pwrite)
    do(disk, create(1, "a"), Write(fid(1), 0, b"x" * 100, T0))
    with pytest.raises(DiskError, match="zeros cannot be written"):
        disk.perform(Apply(Fallocate(fid(1), ZERO, 0, 50, T0)))
    with pytest.raises(DiskError):
        disk.perform(ReadAttributes(fid(1)))


def test_a_hole_gives_room_back_and_a_reservation_takes_it(home: Home) -> None:
    disk = home.open()
    do(disk, create(1, "a"), Write(fid(1), 0, b"x" * MIB, T0))

    def room() -> int:
        return os.stat(home.root / "a").st_blocks * 512

    if room() < MIB:
        lacking_of_files("tells what a file takes")
    do(disk, Fallocate(fid(1), PUNCH, 0, MIB, T0))
    assert room() < MIB // 2
    do(disk, Fallocate(fid(1), FALLOCATE_KEEP_SIZE, 0, MIB, T0))
    assert room() >= MIB


@pytest.fixture
def small_ext4(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 16 MiB, mounted."""
    require_root()
    mkfs = require_program("mkfs.ext4")
    image, place = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run([mkfs, "-q", image], check=True)
    place.mkdir()
    mounted = subprocess.run(["mount", "-o", "loop", image, place], check=False)
    if mounted.returncode:
        lacking("a loop device", "give the container /dev/loop-control and its devices")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_ext4_without_room(small_ext4: Path) -> None:
    """It leaves a file that has grown: here it has not."""
    shutil.rmtree(small_ext4 / "lost+found")
    home = Home(small_ext4)
    try:
        disk = home.open()
        do(disk, create(1, "a"), Write(fid(1), 0, b"content", T0))
        before = take_snapshot(disk)
        path = home.root / "a"
        with path.open("r+b") as file:
            # So it is: this very call of a program changes the size and fails.
            with pytest.raises(OSError, match="No space"):
                syscalls.fallocate(file.fileno(), 0, 0, 64 * MIB)
            grew = os.fstat(file.fileno()).st_size
            os.ftruncate(file.fileno(), len(b"content"))
            os.utime(file.fileno(), ns=(T0, T0))
        assert grew > len(b"content")
        outcome = disk.perform(Apply(Fallocate(fid(1), 0, 0, 64 * MIB, T0 + 5)))
        assert outcome == Outcome(None, errno.ENOSPC)
        assert take_snapshot(disk) == before
        assert os.stat(path).st_blocks * 512 < MIB
    finally:
        home.close()
