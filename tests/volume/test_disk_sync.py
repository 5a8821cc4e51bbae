"""What the real disk makes durable, and what it does when that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, final

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
    SyncFiles,
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
    from collections.abc import Callable

    from mirrorha.volume.local_disk.disk import RealDisk

HELPER = "mirrorha-sync-helper"


class Watched:
    """Which files and directories of a volume were synced, by path."""

    def __init__(self, home: Home, sync: Callable[[int], None] = os.fsync) -> None:
        self._root = home.root
        self._sync = sync
        self._inodes: list[int] = []

    def sync(self, descriptor: int) -> None:
        self._sync(descriptor)
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


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def open_paths() -> set[str]:
    found = set()
    for descriptor in open_descriptors():
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def test_a_new_file_is_synced_with_every_directory_that_leads_to_it(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
    do(disk, mkdir(1, "a"), mkdir(2, "b", fid(1)), create(3, "f", fid(2)), create(4, "other"))
    do(disk, Write(fid(3), 0, b"x", T0))
    disk.perform(SyncFiles([fid(3)]))
    assert watched.taken() == {".", "a", "a/b", "a/b/f"}
    disk.perform(SyncFiles([fid(3)]))
    assert watched.taken() == set()
    do(disk, Write(fid(3), 0, b"y", T0))
    disk.perform(SyncFiles([fid(3)]))
    assert watched.taken() == {"a/b/f"}


def test_data_alone_leaves_the_rest_to_the_next_sync(home: Home) -> None:
    fsync, fdatasync = Watched(home), Watched(home, os.fdatasync)
    disk = home.open(fsync=fsync.sync, fdatasync=fdatasync.sync, idle_max=2)
    do(disk, *(create(number, f"f{number}") for number in range(1, 6)))
    do(disk, Write(fid(1), 0, bytes(8192), T0))
    disk.perform(SyncTree())
    for later, stamp in ((SyncTree(), T0 + 1), (SyncFiles([fid(1)]), T0 + 2)):
        fsync.taken()
        do(disk, Write(fid(1), 4096, b"x", stamp))
        disk.perform(SyncFiles([fid(1)], [fid(1)]))
        assert (fsync.taken(), fdatasync.taken()) == (set(), {"f1"})
        # Its descriptor would say of a failed write; it is not closed for others that are in use.
        for number in range(2, 6):
            disk.perform(ReadBytes(fid(number), 0, 1))
        assert str(home.root / "f1") in open_paths()
        disk.perform(later)
        assert (fsync.taken(), fdatasync.taken()) == ({"f1"}, set())
        disk.perform(SyncFiles([fid(1)], [fid(1)]))
        disk.perform(SyncTree())
        assert (fsync.taken(), fdatasync.taken()) == (set(), set())


def test_data_of_a_file_with_a_new_name_is_not_enough(home: Home) -> None:
    """The mode comes last to a new file: one without is removed when the disk is opened."""
    fsync, fdatasync = Watched(home), Watched(home, os.fdatasync)
    disk = home.open(fsync=fsync.sync, fdatasync=fdatasync.sync)
    data = SyncFiles([fid(2)], [fid(2)])
    do(disk, mkdir(1, "a"), create(2, "f", fid(1)), Write(fid(2), 0, b"x", T0))
    disk.perform(SyncFiles([fid(1)]))
    assert fsync.taken() == {".", "a"}
    disk.perform(data)
    assert (fsync.taken(), fdatasync.taken()) == ({"a/f"}, set())
    do(disk, Rename(0, fid(1), "f", ROOT_FID, "g", 0, T0), Write(fid(2), 0, b"y", T0))
    disk.perform(data)
    assert (fsync.taken(), fdatasync.taken()) == ({".", "a", "g"}, set())
    do(disk, Write(fid(2), 0, b"z", T0))
    disk.perform(data)
    assert (fsync.taken(), fdatasync.taken()) == (set(), {"g"})


def test_some_are_synced_whole_and_of_some_the_data(home: Home) -> None:
    fsync, fdatasync = Watched(home), Watched(home, os.fdatasync)
    disk = home.open(fsync=fsync.sync, fdatasync=fdatasync.sync)
    fifo = Mknod(fid(4), fid(3), "fifo", Kind.FIFO, 0o600, 0, -1, -1, T0)
    do(disk, create(1, "f"), create(2, "g"), mkdir(3, "a"), fifo, mkdir(5, "b"))
    disk.perform(SyncTree())
    fsync.taken()
    do(disk, Write(fid(1), 0, b"x", T0), Write(fid(2), 0, b"x", T0))
    do(disk, *(SetAttributes(fid(number), 0o700, None, None, None) for number in (4, 5)))
    everything = [fid(number) for number in range(1, 6)]
    disk.perform(SyncFiles(everything, [fid(number) for number in (1, 3, 4, 5)]))
    assert (fsync.taken(), fdatasync.taken()) == ({"g", "a", "b"}, {"f"})


def test_several_files_are_synced_with_what_leads_to_any_of_them(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
    do(disk, mkdir(1, "a"), mkdir(2, "b"), create(3, "f"))
    disk.perform(SyncTree())
    watched.taken()
    do(disk, create(4, "g", fid(1)), create(5, "h", fid(2)), Write(fid(3), 0, b"x", T0))
    disk.perform(SyncFiles([fid(3), fid(4), fid(9)]))
    assert watched.taken() == {"f", "a", "a/g"}
    disk.perform(SyncFiles([fid(3), fid(4), fid(5)]))
    assert watched.taken() == {"b", "b/h"}


def test_an_old_file_is_synced_alone_whatever_else_its_directory_holds(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
    do(disk, create(1, "journal"))
    disk.perform(SyncTree())
    watched.taken()
    do(disk, create(2, "new"), Write(fid(1), 0, b"x", T0))
    disk.perform(SyncFiles([fid(1)]))
    assert watched.taken() == {"journal"}


def test_a_moved_file_is_synced_with_both_directories(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
    do(disk, mkdir(1, "a"), mkdir(2, "b"), create(3, "f", fid(1)))
    disk.perform(SyncTree())
    watched.taken()
    do(disk, Rename(0, fid(1), "f", fid(2), "g", 0, T0))
    disk.perform(SyncFiles([fid(3)]))
    assert watched.taken() == {"a", "b"}
    do(disk, Rename(0, ROOT_FID, "b", fid(1), "c", 0, T0))
    disk.perform(SyncFiles([fid(3)]))
    assert watched.taken() == {".", "a"}


def test_exchanged_files_are_synced_with_both_directories(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
    do(disk, mkdir(1, "a"), mkdir(2, "b"), create(3, "f", fid(1)), create(4, "g", fid(2)))
    disk.perform(SyncTree())
    for _ in ("there", "and back again"):
        watched.taken()
        do(disk, Rename(0, fid(1), "f", fid(2), "g", 0, T0, RENAME_EXCHANGE))
        disk.perform(SyncFiles([fid(4)]))
        assert watched.taken() == {"a", "b"}


@pytest.mark.parametrize("kind", [Kind.SYMLINK, Kind.FIFO])
def test_what_is_not_opened_is_synced_with_its_directory(kind: Kind, home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
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
    disk.perform(SyncFiles([fid(2)]))
    assert watched.taken() == {"a"}


def test_a_directory_is_synced_with_what_it_holds(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
    do(disk, mkdir(1, "a"), create(2, "f", fid(1)))
    disk.perform(SyncTree())
    watched.taken()
    do(disk, Unlink(0, fid(1), "f", T0))
    disk.perform(SyncFiles([fid(1)]))
    assert watched.taken() == {"a"}
    do(disk, SetAttributes(ROOT_FID, 0o711, None, None, None))
    disk.perform(SyncFiles([ROOT_FID]))
    assert watched.taken() == {"."}


def test_the_tree_is_synced_as_a_whole(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
    do(disk, mkdir(1, "a"), create(2, "f", fid(1)), Link(fid(2), ROOT_FID, "g", T0))
    disk.perform(SyncTree())
    assert {".", "a"} < watched.taken()
    disk.perform(SyncTree())
    assert watched.taken() == set()


def test_what_a_resync_moved_is_synced(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
    do(disk, mkdir(1, "a"), create(2, "f", fid(1)))
    disk.perform(SyncTree())
    watched.taken()
    disk.perform(SetAside(fid(1), "f"))
    disk.perform(Place(ROOT_FID, "g", fid(2)))
    disk.perform(SyncFiles([fid(2)]))
    assert watched.taken() == {".", ".mirrorha-limbo"}
    disk.perform(ClearLimbo())
    disk.perform(SyncTree())
    assert watched.taken() == {".", "a"}


def test_many_files_are_synced_at_once(home: Home) -> None:
    watched = Watched(home)
    disk = home.open(fsync=watched.sync)
    do(disk, *(create(number, f"f{number}") for number in range(1, 100)))
    disk.perform(SyncTree())
    assert watched.taken() == set(), "one syncfs"
    disk.perform(SyncFiles([fid(1)]))
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
        watched.sync(descriptor)
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
    disk = home.open(fsync=watched.sync, dirty_max=10)
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
        disk.perform(SyncFiles([fid(1)]))
    requests = SyncFiles([fid(1)]), SyncTree(), ReadBytes(fid(1), 0, 1), ReadAttributes(fid(1))
    for request in (*requests, Apply(Write(fid(1), 0, b"y", T0)), ListDirectory(ROOT_FID)):
        with pytest.raises(DiskError, match="fsync failed"):
            disk.perform(request)
    assert (home.root / "a").read_bytes() == b"x"


def test_a_failed_fdatasync_is_final(home: Home) -> None:
    def fdatasync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = home.open(fdatasync=fdatasync)
    do(disk, create(1, "a"))
    disk.perform(SyncTree())
    do(disk, Write(fid(1), 0, b"x", T0))
    for request in (SyncFiles([fid(1)], [fid(1)]), SyncTree(), ListDirectory(ROOT_FID)):
        with pytest.raises(DiskError, match="fsync failed"):
            disk.perform(request)


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
    disk.perform(SyncFiles([fid(1)]))
    assert take_snapshot(disk) == watched


def eight_written_files(disk: RealDisk) -> SyncFiles:
    """A request that has eight files, and nothing else, to sync."""
    fids = [fid(number) for number in range(1, 9)]
    do(disk, *(create(number, f"f{number}") for number in range(1, 9)))
    disk.perform(SyncTree())
    do(disk, *(Write(one, 0, b"x", T0) for one in fids))
    return SyncFiles(fids)


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == HELPER]


def test_the_files_of_a_request_are_synced_at_the_same_time(home: Home) -> None:
    all_here = threading.Barrier(8)
    is_on = False

    def fsync(descriptor: int) -> None:
        if is_on:
            all_here.wait(30)

    disk = home.open(fsync=fsync)
    request = eight_written_files(disk)
    is_on = True
    disk.perform(request)
    home.close()
    assert not helpers(), "the disk is closed"


def test_a_single_file_is_synced_in_the_thread_that_asks(home: Home) -> None:
    seen: list[threading.Thread] = []
    disk = home.open(fsync=lambda _: seen.append(threading.current_thread()))
    do(disk, create(1, "a"))
    disk.perform(SyncTree())
    seen.clear()
    do(disk, Write(fid(1), 0, b"x", T0))
    disk.perform(SyncFiles([fid(1)]))
    assert seen == [threading.current_thread()]


@pytest.mark.parametrize("failing", [0, 7])
def test_one_of_eight_that_fails_is_final_and_nothing_goes_on(home: Home, failing: int) -> None:
    lock = threading.Lock()
    begun = ended = 0
    all_here = threading.Barrier(8)

    def fsync(descriptor: int) -> None:
        nonlocal begun, ended
        if not is_on:
            return
        with lock:
            number, begun = begun, begun + 1
        all_here.wait(30)
        if number == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        threading.Event().wait(0.05)  # a disk that takes its time
        with lock:
            ended += 1

    is_on = False
    disk = home.open(fsync=fsync)
    request = eight_written_files(disk)
    before = open_descriptors()
    is_on = True
    with pytest.raises(DiskError, match="fsync failed"):
        disk.perform(request)
    assert (begun, ended) == (8, 7)
    assert open_descriptors() == before
    for later in (SyncFiles([fid(1)]), SyncTree(), ListDirectory(ROOT_FID)):
        with pytest.raises(DiskError, match="fsync failed"):
            disk.perform(later)


@final
class Gate:
    """An fsync that says when it has begun, and ends when it is let, perhaps with an error."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let = threading.Event()
        self.error: OSError | None = None

    def fsync(self, descriptor: int) -> None:
        self.begun.set()
        assert self.let.wait(30)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("second", [SyncFiles([fid(1)]), SyncTree()], ids=["files", "tree"])
@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
def test_a_second_sync_waits_for_the_first_and_fails_with_it(
    home: Home, second: SyncFiles | SyncTree, fails: bool
) -> None:
    """The first has marked the file clean, and nobody knows yet whether it is."""
    gate = Gate()
    disk = home.open(fsync=gate.fsync)
    do(disk, create(1, "a"))
    results: list[str] = []

    def perform(request: SyncFiles | SyncTree) -> None:
        try:
            disk.perform(request)
            results.append("durable")
        except DiskError as error:
            results.append(str(error))

    threads = [
        threading.Thread(target=perform, args=(one,)) for one in (SyncFiles([fid(1)]), second)
    ]
    threads[0].start()
    assert gate.begun.wait(30)
    threads[1].start()
    threads[1].join(0.05)
    assert threads[1].is_alive()
    if fails:
        gate.error = OSError(errno.EIO, os.strerror(errno.EIO))
    gate.let.set()
    for thread in threads:
        thread.join(30)
    assert len(results) == 2
    assert [("fsync failed" in result) for result in results] == [fails] * 2


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


def test_syncs_run_beside_changes(home: Home) -> None:
    disk = home.open(idle_max=4, dirty_max=16)
    ended = threading.Event()
    failures: list[BaseException] = []

    def sync() -> None:
        try:
            while not ended.is_set():
                for number in range(1, 40, 3):
                    disk.perform(SyncFiles([fid(number + more) for more in range(3)]))
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
