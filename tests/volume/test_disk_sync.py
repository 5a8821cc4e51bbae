"""What the real disk makes durable, and what it does when that fails."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from mirrorha.testing.check_disk_steps import take_snapshot
from mirrorha.volume.disk import (
    Apply,
    ClearLimbo,
    DiskError,
    ListDirectory,
    Outcome,
    Place,
    ReadAttributes,
    ReadBytes,
    SetAside,
    SyncFile,
    SyncTree,
)
from mirrorha.volume.ops import (
    RENAME_EXCHANGE,
    ROOT_FID,
    Kind,
    Link,
    Mknod,
    Rename,
    SetAttributes,
    Symlink,
    Unlink,
    Write,
)
from tests.volume.disk_support import T0, Home, create, do, fid, mkdir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


class Watched:
    """Which files and directories of a volume were synced, by path."""

    def __init__(self, home: Home) -> None:
        self._root = home.root
        self._inodes: list[int] = []

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        self._inodes.append(os.fstat(descriptor).st_ino)

    def taken(self) -> set[str]:
        """What was synced since the last call."""
        names = {self._root.stat().st_ino: "."}
        for directory, directories, files in os.walk(self._root):
            for name in directories + files:
                path = os.path.join(directory, name)
                names[os.lstat(path).st_ino] = os.path.relpath(path, self._root)
        synced = {names[inode] for inode in self._inodes}
        self._inodes.clear()
        return synced


def test_a_new_file_is_synced_with_every_directory_that_leads_to_it(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync)
    do(disk, mkdir(1, "a"), mkdir(2, "b", fid(1)), create(3, "f", fid(2)), create(4, "other"))
    do(disk, Write(fid(3), 0, b"x", T0))
    disk.perform(SyncFile(fid(3)))
    assert watched.taken() == {".", "a", "a/b", "a/b/f"}
    disk.perform(SyncFile(fid(3)))
    assert watched.taken() == set()
    do(disk, Write(fid(3), 0, b"y", T0))
    disk.perform(SyncFile(fid(3)))
    assert watched.taken() == {"a/b/f"}


def test_an_old_file_is_synced_alone_whatever_else_its_directory_holds(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync)
    do(disk, create(1, "journal"))
    disk.perform(SyncTree())
    watched.taken()
    do(disk, create(2, "new"), Write(fid(1), 0, b"x", T0))
    disk.perform(SyncFile(fid(1)))
    assert watched.taken() == {"journal"}


def test_a_moved_file_is_synced_with_both_directories(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync)
    do(disk, mkdir(1, "a"), mkdir(2, "b"), create(3, "f", fid(1)))
    disk.perform(SyncTree())
    watched.taken()
    do(disk, Rename(0, fid(1), "f", fid(2), "g", 0, T0))
    disk.perform(SyncFile(fid(3)))
    assert watched.taken() == {"a", "b"}
    do(disk, Rename(0, ROOT_FID, "b", fid(1), "c", 0, T0))
    disk.perform(SyncFile(fid(3)))
    assert watched.taken() == {".", "a"}


def test_exchanged_files_are_synced_with_both_directories(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync)
    do(disk, mkdir(1, "a"), mkdir(2, "b"), create(3, "f", fid(1)), create(4, "g", fid(2)))
    disk.perform(SyncTree())
    for _ in ("there", "and back again"):
        watched.taken()
        do(disk, Rename(0, fid(1), "f", fid(2), "g", 0, T0, RENAME_EXCHANGE))
        disk.perform(SyncFile(fid(4)))
        assert watched.taken() == {"a", "b"}


@pytest.mark.parametrize("kind", [Kind.SYMLINK, Kind.FIFO])
def test_what_is_not_opened_is_synced_with_its_directory(kind: Kind, home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync)
    births = {
        Kind.SYMLINK: Symlink(fid(2), fid(1), "s", "x", -1, -1, T0),
        Kind.FIFO: Mknod(fid(2), fid(1), "s", Kind.FIFO, 0o600, 0, -1, -1, T0),
    }
    do(disk, mkdir(1, "a"), births[kind])
    disk.perform(SyncTree())
    watched.taken()
    before_ns = os.stat(home.root / "a").st_ctime_ns
    do(disk, SetAttributes(fid(2), None, None, None, T0 + 1))
    # The directory has changed after it, and so goes to the journal with it or later.
    assert os.stat(home.root / "a").st_ctime_ns > before_ns
    disk.perform(SyncFile(fid(2)))
    assert watched.taken() == {"a"}


def test_a_directory_is_synced_with_what_it_holds(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync)
    do(disk, mkdir(1, "a"), create(2, "f", fid(1)))
    disk.perform(SyncTree())
    watched.taken()
    do(disk, Unlink(0, fid(1), "f", T0))
    disk.perform(SyncFile(fid(1)))
    assert watched.taken() == {"a"}
    do(disk, SetAttributes(ROOT_FID, 0o711, None, None, None))
    disk.perform(SyncFile(ROOT_FID))
    assert watched.taken() == {"."}


def test_the_tree_is_synced_as_a_whole(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync)
    do(disk, mkdir(1, "a"), create(2, "f", fid(1)), Link(fid(2), ROOT_FID, "g", T0))
    disk.perform(SyncTree())
    assert {".", "a"} < watched.taken()
    disk.perform(SyncTree())
    assert watched.taken() == set()


def test_what_a_resync_moved_is_synced(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync)
    do(disk, mkdir(1, "a"), create(2, "f", fid(1)))
    disk.perform(SyncTree())
    watched.taken()
    disk.perform(SetAside(fid(1), "f"))
    disk.perform(Place(ROOT_FID, "g", fid(2)))
    disk.perform(SyncFile(fid(2)))
    assert watched.taken() == {".", ".mirrorha-limbo"}
    disk.perform(ClearLimbo())
    disk.perform(SyncTree())
    assert watched.taken() == {".", "a"}


def test_many_files_are_synced_at_once(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync)
    do(disk, *(create(number, f"f{number}") for number in range(1, 100)))
    disk.perform(SyncTree())
    assert watched.taken() == set(), "one syncfs"
    disk.perform(SyncFile(fid(1)))
    disk.perform(SyncTree())
    assert watched.taken() == set(), "and nothing is left to sync"


def test_a_failed_syncfs_is_final(home: Home) -> None:
    def syncfs(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = home.open(syncfs=syncfs)
    do(disk, *(create(number, f"f{number}") for number in range(1, 100)))
    for request in (SyncTree(), ListDirectory(ROOT_FID)):
        with pytest.raises(DiskError, match="syncfs failed"):
            disk.perform(request)


def test_many_files_are_synced_one_by_one_where_that_is_all_there_is(home: Home) -> None:
    removed = False

    def fsync(descriptor: int) -> None:
        nonlocal removed
        watched.fsync(descriptor)
        if not removed:
            # Files go while the sync is under way, and their descriptors with them.
            removed = True
            do(disk, *(Unlink(0, ROOT_FID, f"f{number}", T0) for number in range(150, 200)))

    watched = Watched(home)
    disk = home.open(fsync=fsync, syncfs=None)
    do(disk, *(create(number, f"f{number}") for number in range(1, 200)))
    disk.perform(SyncTree())
    assert watched.taken() == {".", *(f"f{number}" for number in range(1, 150))}


def test_too_much_that_is_not_durable_is_made_so(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.fsync, dirty_max=10)
    do(disk, *(create(number, f"f{number}") for number in range(1, 10)))
    assert watched.taken() == set()
    do(disk, create(10, "f10"), create(11, "f11"))
    assert {".", "f1", "f9"} < watched.taken()


def test_a_failed_fsync_is_final(home: Home) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = home.open(fsync=fsync)
    do(disk, create(1, "a"), Write(fid(1), 0, b"x", T0))
    with pytest.raises(DiskError, match="fsync failed"):
        disk.perform(SyncFile(fid(1)))
    requests = SyncFile(fid(1)), SyncTree(), ReadBytes(fid(1), 0, 1), ReadAttributes(fid(1))
    for request in (*requests, Apply(Write(fid(1), 0, b"y", T0)), ListDirectory(ROOT_FID)):
        with pytest.raises(DiskError, match="fsync failed"):
            disk.perform(request)
    assert (home.root / "a").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EINTR])
def test_an_fsync_may_fail_for_no_reason(home: Home, number: int) -> None:
    """Whatever it says, the dirty pages may be gone: it is not tried again."""

    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    disk = home.open(fsync=fsync)
    do(disk, create(1, "a"))
    with pytest.raises(DiskError):
        disk.perform(SyncTree())
    with pytest.raises(DiskError):
        disk.perform(ListDirectory(ROOT_FID))


def test_a_sync_that_was_forced_and_fails_is_final(home: Home) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk = home.open(fsync=fsync, dirty_max=2)
    do(disk, create(1, "a"))
    with pytest.raises(DiskError, match="fsync failed"):
        do(disk, create(2, "b"), create(3, "c"))
    with pytest.raises(DiskError):
        disk.perform(ListDirectory(ROOT_FID))


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EUCLEAN])
def test_a_write_that_meets_a_failing_device_is_final(home: Home, number: int) -> None:
    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(number, os.strerror(number))

    disk = home.open(pwrite=pwrite)
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
    disk.perform(SyncFile(fid(1)))
    assert take_snapshot(disk) == watched


def test_syncs_run_beside_changes(home: Home) -> None:
    disk = home.open(idle_max=4, dirty_max=16)
    ended = threading.Event()
    failures: list[BaseException] = []

    def sync() -> None:
        try:
            while not ended.is_set():
                for number in range(1, 40):
                    disk.perform(SyncFile(fid(number)))
                disk.perform(SyncTree())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=sync, name="syncs")
    thread.start()
    try:
        for round_ in range(8):
            first = round_ * 40 + 1
            do(disk, mkdir(first, f"d{round_}"))
            for number in range(first + 1, first + 40):
                do(disk, create(number, f"f{number}", fid(first)))
                do(disk, Write(fid(number), 0, b"x" * number, T0))
                do(disk, Rename(0, fid(first), f"f{number}", ROOT_FID, f"g{number}", 0, T0))
                if number % 3 == 0:
                    do(disk, Unlink(0, ROOT_FID, f"g{number}", T0))
    finally:
        ended.set()
        thread.join(30)
    assert not thread.is_alive()
    assert not failures
    found = take_snapshot(disk)
    expected = {
        f"g{number}": b"x" * number for number in range(1, 321) if (number - 1) % 40 and number % 3
    }
    assert {path: seen.content for path, seen in found.items() if path[:1] == "g"} == expected
