"""What streams through a following disk: written out early, and out of memory behind that."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, final

import pytest

from mirrorha.volume.disk import Applied, ApplyAll, SyncTree
from mirrorha.volume.local_disk import streaming
from mirrorha.volume.local_disk.streaming import (
    BEHIND,
    LARGE_BYTES_MIN,
    WINDOW_BYTES,
    Streaming,
)
from mirrorha.volume.local_disk.syscalls import start_writing_out
from mirrorha.volume.ops import Write
from mirrorha.wire.limits import MIB
from tests.requirements import lacking_of_files
from tests.volume.disk_support import T0, Home, create, do, fid, open_descriptors

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorha.volume.local_disk.disk import RealDisk

WAIT_S = 10.0


@final
class Watched:
    """Notes what a Streaming does; `until` blocks for so many windows."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.gone: list[int] = []
        self.descriptors: list[int] = []
        self.streaming = Streaming(start=self._start, let_go=self._let_go)
        self._changed = threading.Condition()

    def _start(self, fd: int, offset: int, length: int) -> None:
        self._note(self.started, fd, offset, length)

    def _let_go(self, fd: int, offset: int, length: int) -> None:
        self._note(self.gone, fd, offset, length)

    def _note(self, where: list[int], fd: int, offset: int, length: int) -> None:
        os.fstat(fd)  # it is open
        assert (offset % WINDOW_BYTES, length) == (0, WINDOW_BYTES)
        with self._changed:
            self.descriptors.append(fd)
            where.append(offset // WINDOW_BYTES)
            self._changed.notify_all()

    def until(self, *, started: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.started) >= started, WAIT_S)


def apply_all(disk: RealDisk, *writes: Write) -> None:
    assert disk.perform(ApplyAll(list(writes))) == Applied(len(writes))


def stream(disk: RealDisk, size_bytes: int, piece_bytes: int, *, start: int = 0) -> None:
    piece = os.urandom(piece_bytes)
    for offset in range(start, start + size_bytes, piece_bytes):
        apply_all(disk, Write(fid(1), offset, piece, T0))


@pytest.mark.parametrize("piece_bytes", [MIB, LARGE_BYTES_MIN])
def test_what_a_follower_takes_in_is_written_out_and_let_go_of(
    home: Home, piece_bytes: int
) -> None:
    watched = Watched()
    disk = home.open(streaming=watched.streaming)
    do(disk, create(1, "f"))
    for window in range(5):
        stream(disk, WINDOW_BYTES, piece_bytes, start=window * WINDOW_BYTES)
        watched.until(started=window + 1)
    home.close()
    assert watched.started == [0, 1, 2, 3, 4]
    assert watched.gone == [0, 1, 2]
    assert BEHIND == 2
    assert (home.root / "f").stat().st_size == 5 * WINDOW_BYTES


def test_small_writes_stay_in_memory(home: Home) -> None:
    watched = Watched()
    disk = home.open(streaming=watched.streaming)
    do(disk, create(1, "f"))
    stream(disk, 2 * WINDOW_BYTES, LARGE_BYTES_MIN // 2)
    home.close()
    assert watched.started == []


@pytest.mark.parametrize("exclude", [(), ("*.tmp",)])
@pytest.mark.parametrize("piece_bytes", [MIB, LARGE_BYTES_MIN // 2])
@pytest.mark.parametrize("mounted", [False, True])
def test_what_a_source_writes_stays_in_memory_once(
    home: Home, *, mounted: bool, piece_bytes: int, exclude: tuple[str, ...]
) -> None:
    """Its callers read it here, or what is mounted over it keeps it for them."""
    watched = Watched()
    raw = os.open(home.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk = home.open(streaming=watched.streaming, raw=raw if mounted else None, exclude=exclude)
    finally:
        os.close(raw)
    do(disk, create(1, "f"))
    for offset in range(0, 2 * WINDOW_BYTES, piece_bytes):
        do(disk, Write(fid(1), offset, bytes(piece_bytes), T0))
    if mounted and piece_bytes >= LARGE_BYTES_MIN:
        watched.until(started=2)
    home.close()
    assert watched.started == ([0, 1] if mounted and piece_bytes >= LARGE_BYTES_MIN else [])


def test_large_writes_here_and_there_fill_no_window(home: Home) -> None:
    watched = Watched()
    disk = home.open(streaming=watched.streaming)
    do(disk, create(1, "f"))
    for window in (9, 3, 6, 0):
        apply_all(disk, Write(fid(1), window * WINDOW_BYTES + MIB, bytes(MIB), T0))
    home.close()
    assert watched.started == []


def test_a_disk_that_refuses_does_no_harm(home: Home) -> None:
    seen = threading.Event()

    def refuse(_fd: int, _offset: int, _length: int) -> None:
        seen.set()
        raise OSError(5, "input/output error")

    disk = home.open(streaming=Streaming(start=refuse, let_go=refuse))
    do(disk, create(1, "f"))
    for _ in range(2):
        stream(disk, WINDOW_BYTES, MIB)
        assert seen.wait(WAIT_S)
        seen.clear()
    disk.perform(SyncTree())


def test_a_disk_that_hangs_holds_up_nobody(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_END_S", 0.01)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_fd: int, _offset: int, _length: int) -> None:
        hangs.set()
        goes_on.wait(WAIT_S)

    disk = home.open(streaming=Streaming(start=hang))
    do(disk, create(1, "f"))
    before = len(open_descriptors())
    try:
        for end in range(WINDOW_BYTES, 40 * WINDOW_BYTES, WINDOW_BYTES):
            apply_all(disk, Write(fid(1), end - LARGE_BYTES_MIN, bytes(LARGE_BYTES_MIN), T0))
        assert hangs.wait(WAIT_S)
        assert len(open_descriptors()) - before <= 17  # it and 16 that wait
        home.close()
    finally:
        goes_on.set()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    watched = Watched()
    with (tmp_path / "f").open("w+b") as file:
        for end in range(WINDOW_BYTES, 9 * WINDOW_BYTES, WINDOW_BYTES):
            watched.streaming.wrote(file.fileno(), end - MIB, end)
        watched.until(started=8)
        watched.streaming.close()
        watched.streaming.close()
        watched.streaming.wrote(file.fileno(), 0, WINDOW_BYTES)  # too late
        assert len(watched.started) == 8
        inode = os.fstat(file.fileno()).st_ino
        left = [fd for fd in set(watched.descriptors) if is_open(fd, inode)]
        assert left == []


def is_open(fd: int, inode: int) -> bool:
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False


def test_the_kernel_does_let_go(tmp_path: Path) -> None:
    started = threading.Semaphore(0)

    def start(fd: int, offset: int, length: int) -> None:
        started.release()
        start_writing_out(fd, offset, length)

    windows = Streaming(start=start)
    with (tmp_path / "f").open("w+b") as file:
        fd = file.fileno()
        os.pwrite(fd, os.urandom(4 * WINDOW_BYTES), 0)
        try:
            assert is_in_memory(fd, 0)
        except OSError as error:
            lacking_of_files(f"tells what is in memory ({error.strerror})")
        os.fsync(fd)  # what is not on the disk is not let go of
        for end in range(WINDOW_BYTES, 5 * WINDOW_BYTES, WINDOW_BYTES):
            windows.wrote(fd, end - MIB, end)
            assert started.acquire(timeout=WAIT_S)
        # The last has begun: the one before has let go of the first.
        windows.close()
        assert not is_in_memory(fd, 0)
        assert not is_in_memory(fd, WINDOW_BYTES - MIB)
        assert is_in_memory(fd, 2 * WINDOW_BYTES)
        assert is_in_memory(fd, 4 * WINDOW_BYTES - MIB)


def is_in_memory(fd: int, offset: int) -> bool:
    """Raises OSError where the file system cannot tell."""
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
