"""Room that is given up when the disk is full."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from typing import TYPE_CHECKING

import pytest

from mirrorha.state.atomic import ReplacementUnknownError, write_atomically
from mirrorha.state.reserve import Reserve
from tests.requirements import require_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import RawIOBase
    from pathlib import Path

SIZE = 100_000


def test_a_reserve_takes_room_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    reserve = Reserve(path, size_bytes=SIZE)
    assert not reserve.is_kept
    assert not reserve.give_up()
    assert reserve.keep()
    assert reserve.is_kept
    status = path.stat()
    assert (status.st_size, status.st_blocks * 512 >= SIZE) == (SIZE, True)
    inode = status.st_ino
    assert reserve.keep()
    assert path.stat().st_ino == inode, "not made again"
    path.write_bytes(b"too small")
    assert not reserve.is_kept
    assert reserve.keep()
    assert path.stat().st_size == SIZE
    assert reserve.give_up()
    assert not reserve.give_up()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    require_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        write_for_ever(file)


def write_for_ever(file: RawIOBase) -> None:
    while True:
        file.write(bytes(4096))


def test_a_full_disk_still_takes_what_must_be_written(small_disk: Path) -> None:
    reserve = Reserve(small_disk / "reserve", size_bytes=SIZE)
    assert reserve.keep()
    fill(small_disk / "ballast")
    state = small_disk / "node.json"
    with pytest.raises(OSError, match="No space"):
        write_atomically(state, b"x" * 5000)
    reserve.run(lambda: write_atomically(state, b"x" * 5000))
    assert state.read_bytes() == b"x" * 5000
    assert not reserve.is_kept
    # It does not take back what it has just made free, nor soon after.
    assert not reserve.keep()
    os.truncate(small_disk / "ballast", (small_disk / "ballast").stat().st_size - SIZE // 2)
    assert not reserve.keep()
    fill(small_disk / "more ballast")
    with pytest.raises(OSError, match="No space"):
        reserve.run(lambda: write_atomically(state, b"y" * 5000))
    assert state.read_bytes() == b"x" * 5000
    (small_disk / "ballast").unlink()
    assert reserve.keep()


def test_a_disk_that_is_full_at_first_has_no_reserve(small_disk: Path) -> None:
    fill(small_disk / "ballast")
    reserve = Reserve(small_disk / "reserve", size_bytes=SIZE)
    assert not reserve.keep()
    assert os.listdir(small_disk) == ["ballast"]
    reserve = Reserve(small_disk / "nowhere/reserve", size_bytes=SIZE)
    with pytest.raises(FileNotFoundError):
        reserve.keep()


def test_a_reserve_that_cannot_be_made_whole_is_not_made(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", size_bytes=SIZE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            reserve.keep()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_only_a_full_disk_is_worth_a_second_try(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", size_bytes=SIZE)
    failures = [
        OSError(errno.EIO, "failing"),
        ReplacementUnknownError(errno.ENOSPC, "full, but too late"),
    ]
    for failure in failures:
        assert reserve.keep()
        calls = 0

        def write(failure: OSError = failure) -> None:
            nonlocal calls
            calls += 1
            raise failure

        with pytest.raises(OSError, match=r"failing|too late"):
            reserve.run(write)
        assert (calls, reserve.is_kept) == (1, True)
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert reserve.keep()
        outcomes = iter([OSError(number, "full"), None])

        def write_again(outcomes: Iterator[OSError | None] = outcomes) -> str:
            outcome = next(outcomes)
            if outcome is not None:
                raise outcome
            return "written"

        assert reserve.run(write_again) == "written"
        assert not reserve.is_kept
