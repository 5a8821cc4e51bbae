"""The register in a file: conformance, processes that contend, a disk that hangs or lies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import mirrorha.arbiters
from mirrorha.arbiters import LocalArbiter
from mirrorha.core.register import RECORD_BYTES_MAX
from mirrorha.errors import (
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    LocalUsageError,
)
from mirrorha.state.atomic import ReplacementUnknownError, write_atomically
from mirrorha.testing.check_arbiter import check_arbiter

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "register.json"


def contents(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@contextlib.contextmanager
def lock_held(path: Path) -> Iterator[None]:
    """Hold the arbiter's lock, as another process would that hangs in its disk."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def test_conforms(path: Path) -> None:
    await check_arbiter(lambda: LocalArbiter(path, deadline_s=20), races=10)


async def test_keeps_the_bytes_as_they_are_for_cat(path: Path) -> None:
    arbiter = LocalArbiter(str(path))
    assert await arbiter.compare_and_swap(None, b'{"epoch":1}')
    assert contents(path) == b'{"epoch":1}'
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert sorted(os.listdir(path.parent)) == ["register.json", "register.json.lock"]


async def test_removes_what_a_crashed_process_left(path: Path) -> None:
    leftover = path.with_name(".register.json.0123456789abcdef.tmp")
    leftover.touch()
    assert await LocalArbiter(path).compare_and_swap(None, b"1")
    assert not leftover.exists()


async def test_a_record_too_large_is_the_callers_fault(path: Path) -> None:
    arbiter = LocalArbiter(path)
    with pytest.raises(LocalUsageError, match="at most 4096"):
        await arbiter.compare_and_swap(None, b"x" * (RECORD_BYTES_MAX + 1))
    assert contents(path) is None


async def test_a_file_that_cannot_be_a_record_is_not_read(path: Path) -> None:
    write_atomically(path, b"x" * (RECORD_BYTES_MAX + 1))
    arbiter = LocalArbiter(path)
    with pytest.raises(ArbiterUnavailableError, match="more than 4096 bytes"):
        await arbiter.read()
    with pytest.raises(ArbiterUnavailableError, match="more than 4096 bytes"):
        await arbiter.compare_and_swap(None, b"1")
    assert contents(path) == b"x" * (RECORD_BYTES_MAX + 1)


async def test_a_missing_directory_is_not_an_absent_record(tmp_path: Path) -> None:
    arbiter = LocalArbiter(tmp_path / "not-mounted" / "register.json")
    with pytest.raises(ArbiterUnavailableError, match="No such file or directory"):
        await arbiter.read()
    with pytest.raises(ArbiterUnavailableError, match="No such file or directory"):
        await arbiter.compare_and_swap(None, b"1")


async def test_a_lock_that_is_held_is_unavailable_in_time(path: Path) -> None:
    arbiter = LocalArbiter(path, deadline_s=2.0)
    with lock_held(path):
        for _ in range(3):  # more often than there are threads: none is lost
            began_s = time.monotonic()
            with pytest.raises(ArbiterUnavailableError, match="another process holds the lock"):
                await arbiter.compare_and_swap(None, b"1")
            assert time.monotonic() - began_s < 4
        with pytest.raises(ArbiterUnavailableError):
            await arbiter.read()
    assert contents(path) is None
    assert await arbiter.compare_and_swap(None, b"1")


async def threads_ended(arbiter: LocalArbiter) -> None:
    """Wait until all threads of the arbiter, the abandoned ones too, have ended."""
    with trio.fail_after(10):
        for _ in range(int(arbiter._limiter.total_tokens)):
            await arbiter._limiter.acquire_on_behalf_of(object())
    arbiter._limiter = trio.CapacityLimiter(2)


async def test_a_cancelled_swap_that_waits_for_the_lock_never_lands(path: Path) -> None:
    arbiter = LocalArbiter(path, deadline_s=600)
    with lock_held(path):
        with trio.move_on_after(0.05) as scope:
            await arbiter.compare_and_swap(None, b"1")
        assert scope.cancelled_caught
        # Its thread does not go on waiting for nobody.
        await threads_ended(arbiter)
    assert await arbiter.read() is None


@pytest.fixture
def fifo(path: Path) -> Path:
    """A register that is a named pipe: reading it hangs, as in a dead disk, until it is fed."""
    os.mkfifo(path)
    return path


async def test_a_hanging_disk_is_unavailable_in_time_and_never_lands(fifo: Path) -> None:
    arbiter = LocalArbiter(fifo, deadline_s=0.1, settle=lambda _: None)  # a pipe has no fsync
    with pytest.raises(ArbiterUnavailableError, match="no answer from the disk"):
        await arbiter.compare_and_swap(b"1", b"2")
    # The disk comes back, and the thread goes on: its caller was told "surely not".
    feed = await trio.to_thread.run_sync(lambda: os.open(fifo, os.O_WRONLY))
    os.write(feed, b"1")
    os.close(feed)
    await threads_ended(arbiter)
    assert stat.S_ISFIFO(os.stat(fifo).st_mode), "the file was not replaced"


async def test_a_disk_that_fails_before_the_rename_has_surely_done_nothing(path: Path) -> None:
    def full(_path: Path, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ArbiterUnavailableError, match="No space left"):
        await LocalArbiter(path, write=full).compare_and_swap(None, b"1")
    assert await LocalArbiter(path).read() is None


async def test_a_disk_that_fails_in_the_rename_leaves_it_unknown(path: Path) -> None:
    def failing(path: Path, data: bytes) -> None:
        write_atomically(path, data)
        raise ReplacementUnknownError(errno.EIO, "Input/output error")

    with pytest.raises(ArbiterOutcomeUnknownError, match="Input/output error"):
        await LocalArbiter(path, write=failing).compare_and_swap(None, b"1")
    assert await LocalArbiter(path).read() == b"1"


async def test_a_write_that_hangs_is_unknown_and_may_land(path: Path) -> None:
    wakes = threading.Event()

    def hanging(path: Path, data: bytes) -> None:
        wakes.wait(timeout=60)
        write_atomically(path, data)

    arbiter = LocalArbiter(path, deadline_s=0.1, write=hanging)
    with pytest.raises(ArbiterOutcomeUnknownError, match="no answer from the disk"):
        await arbiter.compare_and_swap(None, b"1")
    assert contents(path) is None
    wakes.set()
    assert await LocalArbiter(path).read() == b"1", "the thread held the lock until it landed"


async def test_reads_and_swaps_of_one_instance_may_overlap(path: Path) -> None:
    arbiter = LocalArbiter(path)
    won: list[bool] = []

    async def swap(number: int) -> None:
        won.append(await arbiter.compare_and_swap(None, b"%d" % number))

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(swap, number)
            nursery.start_soon(arbiter.read)
    assert sorted(won) == [False] * 5 + [True]


INCREMENT = """
import sys, trio
from mirrorha.arbiters import LocalArbiter

async def main(path, times):
    arbiter = LocalArbiter(path, deadline_s=30)
    while times:
        now = await arbiter.read()
        times -= await arbiter.compare_and_swap(now, b"%d" % (int(now or b"0") + 1))

trio.run(main, sys.argv[1], 20)
"""


async def test_nothing_is_told_that_a_power_loss_could_take_back(path: Path) -> None:
    """What another process wrote, which may have been killed in the midst, is settled first."""
    settled: list[bytes] = []

    def settle(path: Path) -> None:
        settled.append(path.read_bytes())

    arbiter = LocalArbiter(path, settle=settle)
    assert await arbiter.read() is None
    assert await arbiter.compare_and_swap(None, b"mine")
    assert await arbiter.read() == b"mine"
    assert settled == []
    path.write_bytes(b"theirs")  # noqa: ASYNC240
    assert not await arbiter.compare_and_swap(b"mine", b"more")
    assert settled == [b"theirs"]
    assert await arbiter.read() == b"theirs"
    assert settled == [b"theirs"]

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(ArbiterUnavailableError):
        await LocalArbiter(path, settle=fail).read()


def test_processes_contend(path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", INCREMENT, path]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert path.read_bytes() == b"60"


def test_naming_one_arbiter_imports_no_other() -> None:
    program = (
        "import sys, mirrorha.arbiters as a; a.LocalArbiter;"
        "print([m for m in sys.modules if m.startswith('mirrorha.arbiters.witness')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_unknown_arbiter_is_an_attribute_error() -> None:
    assert "WitnessArbiter" in dir(mirrorha.arbiters)
    with pytest.raises(AttributeError, match="PaperArbiter"):
        mirrorha.arbiters.PaperArbiter  # type: ignore[attr-defined]  # noqa: B018
