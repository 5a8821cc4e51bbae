"""A read that waits for the disk: nobody else waits with it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorha.volume.fuse import kernel
from mirrorha.volume.fuse.cold_reads import THREADS_MAX
from mirrorha.volume.fuse.kernel import Opcode
from mirrorha.volume.ops import ROOT_FID, Unlink, Write
from tests.requirements import lacking_of_files
from tests.volume.disk_support import T0, Home, create, do
from tests.volume.fuse.test_server import FILE, Answer, Rig

WAIT_S = 10.0
CONTENT = bytes(range(256)) * 64


class SlowDisk:
    """Stands before a view: what is said to be cold is read when the test lets it."""

    def __init__(self, view: Any) -> None:
        self._view = view
        self.goes_on = threading.Event()
        self.error: BaseException | None = None
        self.readers = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def read_at_hand(self, *_: object) -> int:
        return -1

    def read_pinned(self, fd: int, offset: int, length: int) -> bytes:
        self.readers += 1
        assert self.goes_on.wait(WAIT_S)
        data: bytes = self._view.read_pinned(fd, offset, length)
        if self.error is not None:
            raise self.error
        return data


class ColdRig(Rig):
    def make_view(self) -> Any:
        return SlowDisk(super().make_view())

    def read(self, offset: int = 0, size: int = 100) -> int:
        return self.ask(Opcode.READ, FILE, kernel.READ_IN.pack(FILE, offset, size, 0, 0, 0))

    def wait_answer(self) -> Answer:
        assert select.select([self.kernel], [], [], WAIT_S)[0], "no answer comes"
        answer = self.answer()
        assert answer is not None
        return answer

    def wait_readers(self, count: int) -> None:
        until(lambda: self.view.readers >= count)


def until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.001)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ColdRig]:
    home = Home(tmp_path)
    rig = ColdRig(home)
    do(rig.disk, create(1, "file"), Write(FILE, 0, CONTENT, T0))
    yield rig
    rig.view.goes_on.set()
    rig.close()
    home.close()


def test_others_are_answered_meanwhile(rig: ColdRig) -> None:
    unique = rig.read(offset=3)
    other = rig.ask(Opcode.STATFS)
    assert rig.wait_answer().unique == other
    rig.write(b"x")
    assert len(rig.changes.asked) == 1
    rig.view.goes_on.set()
    assert rig.wait_answer() == Answer(0, unique, CONTENT[3:103])


def test_what_is_cold_is_copied_by_the_kernel(rig: ColdRig) -> None:
    """It reads, and nobody waits for that, and writes."""
    unique = rig.copy(100)
    assert rig.wait_answer() == Answer(errno.EOPNOTSUPP, unique, b"")
    assert not rig.changes.asked


def test_what_was_written_meanwhile_is_read(rig: ColdRig) -> None:
    rig.read()
    do(rig.disk, Write(FILE, 0, b"newer", T0))
    rig.view.goes_on.set()
    assert rig.wait_answer().body.startswith(b"newer")


def test_a_file_that_goes_meanwhile_is_read_to_its_end(rig: ColdRig) -> None:
    open_ = kernel.OPEN_IN.pack(os.O_RDONLY, 0)
    rig.ask(Opcode.OPEN, FILE, open_)
    rig.wait_answer()
    unique = rig.read()
    do(rig.disk, Unlink(FILE, ROOT_FID, "file", T0))
    rig.ask(Opcode.RELEASE, FILE, bytes(24))
    rig.wait_answer()
    before = len(os.listdir("/proc/self/fd"))
    rig.view.goes_on.set()
    assert rig.wait_answer() == Answer(0, unique, CONTENT[:100])
    assert len(os.listdir("/proc/self/fd")) == before - 1


@pytest.mark.parametrize(
    ("error", "number"),
    [(OSError(errno.EIO, "bad"), errno.EIO), (ZeroDivisionError("a bug"), errno.EIO)],
)
def test_what_cannot_be_read_is_an_error(
    rig: ColdRig, error: Exception, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    rig.view.error = error
    rig.view.goes_on.set()
    for _ in range(2):
        assert rig.read() == (answer := rig.wait_answer()).unique
        assert answer.error == number
    assert rig.server.failures == (0 if isinstance(error, OSError) else 2)


def test_a_few_at_a_time(rig: ColdRig) -> None:
    asked = {rig.read() for _ in range(3 * THREADS_MAX)}
    rig.wait_readers(THREADS_MAX)
    time.sleep(0.05)
    assert rig.view.readers == THREADS_MAX
    rig.view.goes_on.set()
    assert {rig.wait_answer().unique for _ in asked} == asked


def test_how_long_the_oldest_takes(rig: ColdRig) -> None:
    assert not rig.server.longest_read_ms
    rig.read()
    time.sleep(0.03)
    rig.read()
    assert rig.server.longest_read_ms >= 30
    rig.view.goes_on.set()
    rig.wait_answer()
    rig.wait_answer()
    assert not rig.server.longest_read_ms


def test_nothing_is_answered_once_the_device_is_to_be_closed(rig: ColdRig) -> None:
    """Its number may be that of a log by then."""
    rig.read()
    rig.wait_readers(1)
    rig.server.close()
    until(lambda: rig.server.longest_read_ms > 0)
    rig.view.goes_on.set()
    until(lambda: not rig.server.longest_read_ms)
    assert rig.answer() is None


class TestWhatIsAtHand:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Iterator[Home]:
        home = Home(tmp_path)
        yield home
        home.close()

    def filled(self, home: Home) -> Any:
        disk = home.open()
        do(disk, create(1, "file"))
        for number in range(64):
            do(disk, Write(FILE, number * len(CONTENT), CONTENT, T0))
        return disk.view()

    def test_what_was_just_written_is(self, home: Home) -> None:
        view, into = self.filled(home), memoryview(bytearray(64 * len(CONTENT)))
        assert view.read_at_hand(FILE, 0, into) == len(into)
        assert into == CONTENT * 64
        assert view.read_at_hand(FILE, len(into) - 10, into) == 10
        assert view.read_at_hand(FILE, len(into), into) == 0
        assert view.read_at_hand(FILE, 0, into[:0]) == 0

    def test_what_is_on_the_disk_only_is_not(self, home: Home) -> None:
        """And neither is what is there in part."""
        view, into = self.filled(home), memoryview(bytearray(64 * len(CONTENT)))
        fd = view.pin(FILE)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(fd, 4096, 0)
        with contextlib.suppress(BlockingIOError):
            try:
                os.preadv(fd, (bytearray(1),), len(into) - 1, os.RWF_NOWAIT)
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    lacking_of_files("tells what is in its cache")
                raise
        os.posix_fadvise(fd, 4096, 0, os.POSIX_FADV_DONTNEED)
        assert view.read_at_hand(FILE, 0, into) < 0
        assert view.read_pinned(fd, 0, len(into)) == CONTENT * 64
        assert view.read_at_hand(FILE, 0, into) == len(into)

    def test_a_file_system_that_cannot_tell_is_waited_for(self, home: Home) -> None:
        view, into = self.filled(home), memoryview(bytearray(len(CONTENT)))
        view._at_hand = 1 << 30  # a flag that no kernel knows
        assert view.read_at_hand(FILE, 0, into) == len(into)
        assert into == CONTENT
        assert not view._at_hand
