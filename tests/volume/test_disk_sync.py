"""What the real disk makes durable."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from mirrorha.volume.disk import ClearLimbo, Place, ReadBytes, SetAside, SyncFiles, SyncTree
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
from tests.volume.disk_support import T0, Home, create, do, fid, mkdir, open_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable


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
