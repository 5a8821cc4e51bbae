"""What the file API of a mounted volume does besides what every one does."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from mirrorha.errors import NotPrimaryError
from mirrorha.volume.disk import Kind
from mirrorha.volume.files.mounted import KernelHandle, MountedFiles, open_in_thread
from tests.requirements import require_root


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def wait_closed(fd: int) -> None:
    with trio.fail_after(10):
        while is_open(fd):  # noqa: ASYNC110 - a descriptor tells nobody that it is closed
            await trio.sleep(0.001)


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CREAT)


async def test_a_descriptor_is_closed_when_nobody_uses_it_any_more(tmp_path: Path) -> None:
    limiter = trio.CapacityLimiter(1)
    fd = opened(tmp_path / "a")
    handle = KernelHandle(fd, "a", limiter)
    begun, goes_on = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        begun.set()
        goes_on.wait(10)

    with trio.move_on_after(10) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.run, wait)
            await trio.to_thread.run_sync(begun.wait, 10)
            # Waits for a thread, and is cancelled before it gets one.
            nursery.start_soon(handle.run, os.fstat)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught, "a cancelled call is not waited for"
    assert is_open(fd)
    limiter.total_tokens = 2
    await handle.close()
    assert is_open(fd), "the abandoned call still uses it"
    goes_on.set()
    await wait_closed(fd)


async def test_what_is_opened_after_a_cancellation_is_closed(tmp_path: Path) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    fds: list[int] = []

    def late() -> int:
        begun.set()
        goes_on.wait(10)
        fds.append(opened(tmp_path / "a"))
        return fds[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_in_thread, late, "a", trio.CapacityLimiter(1))
        await trio.to_thread.run_sync(begun.wait, 10)
        nursery.cancel_scope.cancel()
    assert not fds
    goes_on.set()
    with trio.fail_after(10):
        while not fds:  # noqa: ASYNC110 - the thread is nobody's any more
            await trio.sleep(0.001)
    await wait_closed(fds[0])


async def test_appending_is_one_step_for_the_kernel(tmp_path: Path) -> None:
    files = MountedFiles(tmp_path)

    async def append(letter: int) -> None:
        async with files.open("log", "ab") as file:
            for _ in range(300):
                await file.write(bytes([letter]) * 8)

    async with trio.open_nursery() as nursery:
        for letter in range(6):
            nursery.start_soon(append, letter)
    assert len(await files.read_bytes("log")) == 6 * 300 * 8


async def test_files_leave_no_descriptor_open(tmp_path: Path) -> None:
    files = MountedFiles(tmp_path)
    before = os.listdir("/proc/self/fd")
    async with files.open("a", "x+b") as file:
        await file.write(b"x")
    await files.replace_atomically("a", b"y")
    with pytest.raises(FileExistsError):
        await files.open("a", "xb")
    assert os.listdir("/proc/self/fd") == before


async def test_permissions_are_those_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    files = MountedFiles(tmp_path)
    umask = os.umask(0o077)
    try:
        await files.mkdir("d", permissions=0o775)
        async with files.open("d/a", "wb", permissions=0o664):
            pass
    finally:
        os.umask(umask)
    assert (await files.stat("d")).mode == 0o775
    assert (await files.stat("d/a")).mode == 0o664


async def test_an_error_names_the_path_of_the_application(tmp_path: Path) -> None:
    files = MountedFiles(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        await files.open("d/a")
    assert caught.value.filename == "d/a"
    assert caught.value.errno == errno.ENOENT


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    require_root()
    (tmp_path / "a").write_bytes(b"x")
    return tmp_path


def test_a_volume_that_is_read_only_here_is_another_nodes(read_only: Path) -> None:
    async def use() -> None:
        files = MountedFiles(read_only)
        assert await files.read_bytes("a") == b"x"
        for call in (
            lambda: files.write_bytes("a", b"y"),
            lambda: files.mkdir("d"),
            lambda: files.unlink("a"),
            lambda: files.replace_atomically("a", b"y"),
        ):
            with pytest.raises(NotPrimaryError):
                await call()

    subprocess.run(["mount", "--bind", read_only, read_only], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", read_only], check=True)
        trio.run(use)
    finally:
        subprocess.run(["umount", "--lazy", read_only], check=True)


async def test_what_is_no_file_is_told_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o640)
    files = MountedFiles(tmp_path)
    for mode in ("rb", "r+b", "wb", "ab"):
        # A reader of a fifo would wait for a writer, for ever.
        with trio.fail_after(10), pytest.raises(OSError, match="Invalid argument"):
            await files.open("fifo", mode)
    attributes = await files.stat("fifo")
    assert (attributes.kind, attributes.mode & 0o600, attributes.rdev) == (Kind.FIFO, 0o600, 0)
