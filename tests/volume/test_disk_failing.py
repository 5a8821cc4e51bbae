"""A device that fails, or is full, below the real disk."""

from __future__ import annotations

import errno
import os

import pytest

from mirrorha.testing.check_disk_steps import take_snapshot
from mirrorha.volume.disk import (
    Apply,
    DiskError,
    ListDirectory,
    Outcome,
    ReadAttributes,
    ReadBytes,
    SyncFiles,
    SyncTree,
)
from mirrorha.volume.ops import ROOT_FID, Write
from tests.volume.disk_support import T0, Home, create, do, failing, fid, open_descriptors


def test_a_failed_syncfs_is_final(home: Home) -> None:
    disk = home.open(syncfs=failing(errno.EIO))
    do(disk, *(create(number, f"f{number}") for number in range(1, 100)))
    for request in (SyncTree(), ListDirectory(ROOT_FID)):
        with pytest.raises(DiskError, match="syncfs failed"):
            disk.perform(request)


def test_a_failed_fsync_is_final(home: Home) -> None:
    disk = home.open(fsync=failing(errno.EIO))
    do(disk, create(1, "a"), Write(fid(1), 0, b"x", T0))
    with pytest.raises(DiskError, match="fsync failed"):
        disk.perform(SyncFiles([fid(1)]))
    requests = SyncFiles([fid(1)]), SyncTree(), ReadBytes(fid(1), 0, 1), ReadAttributes(fid(1))
    for request in (*requests, Apply(Write(fid(1), 0, b"y", T0)), ListDirectory(ROOT_FID)):
        with pytest.raises(DiskError, match="fsync failed"):
            disk.perform(request)
    assert (home.root / "a").read_bytes() == b"x"


def test_a_failed_fdatasync_is_final(home: Home) -> None:
    disk = home.open(fdatasync=failing(errno.EIO))
    do(disk, create(1, "a"))
    disk.perform(SyncTree())
    do(disk, Write(fid(1), 0, b"x", T0))
    for request in (SyncFiles([fid(1)], [fid(1)]), SyncTree(), ListDirectory(ROOT_FID)):
        with pytest.raises(DiskError, match="fsync failed"):
            disk.perform(request)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EINTR])
def test_an_fsync_may_fail_for_no_reason(home: Home, number: int) -> None:
    """Whatever it says, the dirty pages may be gone: it is not tried again."""

    disk = home.open(fsync=failing(number))
    do(disk, create(1, "a"))
    with pytest.raises(DiskError):
        disk.perform(SyncTree())
    with pytest.raises(DiskError):
        disk.perform(ListDirectory(ROOT_FID))


def test_a_sync_that_was_forced_and_fails_is_final(home: Home) -> None:
    disk = home.open(fsync=failing(errno.ENOSPC), dirty_max=2)
    do(disk, create(1, "a"))
    with pytest.raises(DiskError, match="fsync failed"):
        do(disk, create(2, "b"), create(3, "c"))
    with pytest.raises(DiskError):
        disk.perform(ListDirectory(ROOT_FID))


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EUCLEAN])
def test_a_write_that_meets_a_failing_device_is_final(home: Home, number: int) -> None:
    disk = home.open(pwrite=failing(number))
    do(disk, create(1, "a"))
    with pytest.raises(DiskError, match=os.strerror(number)):
        disk.perform(Apply(Write(fid(1), 0, b"x", T0)))
    with pytest.raises(DiskError, match=os.strerror(number)):
        disk.perform(ListDirectory(ROOT_FID))


class Room:
    """A device that takes `bytes_left` more bytes."""

    def __init__(self, bytes_left: int) -> None:
        self.bytes_left = bytes_left

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        if not self.bytes_left:
            # As the kernel does before it looks for room.
            os.utime(descriptor, ns=(os.fstat(descriptor).st_atime_ns, T0 + 99))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.pwrite(descriptor, data[: self.bytes_left], offset)
        self.bytes_left -= written
        return written


def test_a_write_that_finds_no_room_changes_nothing(home: Home) -> None:
    disk = home.open(pwrite=Room(0).pwrite)
    do(disk, create(1, "a"))
    before = take_snapshot(disk)
    outcome = disk.perform(Apply(Write(fid(1), 0, b"x", T0 + 5)))
    assert outcome == Outcome(None, errno.ENOSPC)
    assert take_snapshot(disk) == before


def test_a_write_that_finds_some_room_says_how_much(home: Home) -> None:
    disk = home.open(pwrite=Room(6).pwrite)
    do(disk, create(1, "a"), Write(fid(1), 0, b"ab", T0))
    outcome = disk.perform(Apply(Write(fid(1), 2, b"cdefghij", T0 + 5)))
    assert outcome == Outcome(Write(fid(1), 2, b"cdef", T0 + 5), errno.ENOSPC)
    seen = take_snapshot(disk)["a"]
    assert (seen.content, seen.attributes.mtime_ns) == (b"abcdef", T0 + 5)


def test_a_write_that_comes_in_pieces_is_one(home: Home) -> None:
    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        return os.pwrite(descriptor, data[:3], offset)

    disk = home.open(pwrite=pwrite)
    do(disk, create(1, "a"))
    write = Write(fid(1), 2, b"cdefghij", T0 + 5)
    assert disk.perform(Apply(write)) == Outcome(write)
    seen = take_snapshot(disk)["a"]
    assert (seen.content, seen.attributes.mtime_ns) == (b"\0\0cdefghij", T0 + 5)
    watched = take_snapshot(disk)
    disk.perform(SyncFiles([fid(1)]))
    assert take_snapshot(disk) == watched


def test_a_sync_that_finds_no_descriptor_free_is_final(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if who asked only wanted to look: some files are marked clean already."""
    disk = home.open(dirty_max=8)
    do(disk, *(create(number, f"f{number}") for number in range(1, 8)))
    before = open_descriptors()
    left = 3
    dup = os.dup

    def few(descriptor: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        left -= 1
        return dup(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", few)
        with pytest.raises(DiskError):
            disk.perform(ListDirectory(ROOT_FID))
    assert open_descriptors() == before
    with pytest.raises(DiskError):
        disk.perform(SyncTree())
