"""Syncs of the real disk that run at the same time: of one request, of two, and beside changes."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, final

import pytest

from mirrorha.testing.check_disk_steps import take_snapshot
from mirrorha.volume.disk import DiskError, ListDirectory, SyncFiles, SyncTree
from mirrorha.volume.ops import ROOT_FID, Rename, Unlink, Write
from tests.volume.disk_support import T0, Home, create, do, fid, mkdir, open_descriptors

if TYPE_CHECKING:
    from mirrorha.volume.local_disk.disk import RealDisk

HELPER = "mirrorha-sync-helper"


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
