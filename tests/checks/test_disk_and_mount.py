"""Checks of file systems: small ones of the test's own, which fill up, break and hang."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from mirrorha.checks import Disk, Mount
from mirrorha.errors import CheckFailedError, LocalUsageError
from tests.checks.trial import trial
from tests.shows.small_disks import loop_disk, memory_disk, run


async def test_a_disk_that_fills_up_fails_and_recovers(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", size_mib=16) as disk:
        async with trial(Disk(str(disk.path))) as made:
            await made.is_well()
            ballast = disk.path / "ballast"
            room = os.statvfs(disk.path)
            keep_bytes = room.f_blocks * room.f_frsize // 50
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - keep_bytes)
            text = await made.fails()
            assert text.startswith(f"{disk.path}: ")
            assert text.endswith("% of its space is free, less than 5%")
            ballast.unlink()
            await made.is_well()
            assert os.listdir(disk.path) == ["lost+found"], "no probe is left"


async def test_a_disk_without_inodes_fails_and_recovers(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", size_mib=16, inodes=400) as disk:
        async with trial(Disk(str(disk.path))) as made:
            await made.is_well()
            disk.use_up_inodes()
            assert "of its inodes is free" in await made.fails()
            disk.make_room()
            await made.is_well()


async def test_a_disk_that_becomes_read_only_fails_and_recovers(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", size_mib=16) as disk:
        async with trial(Disk(str(disk.path), write=False)) as made:
            await made.is_well()
            disk.turn_read_only()
            assert await made.fails() == f"{disk.path} is on a file system that is read-only"
            disk.make_well()
            await made.is_well()


async def test_a_disk_that_is_mounted_read_only_fails_and_recovers(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", size_mib=1) as disk:
        (disk.path / "below").mkdir()
        async with trial(Disk(str(disk.path / "below"))) as made:
            await made.is_well()
            run("mount", "-o", "remount,ro", str(disk.path))
            text = f"{disk.path}/below is on a file system that is read-only"
            assert await made.fails() == text
            run("mount", "-o", "remount,rw", str(disk.path))
            await made.is_well()


async def test_a_disk_that_takes_nothing_is_found_by_writing(tmp_path: Path) -> None:
    """It has room, as it says, and is mounted to be written to."""
    with loop_disk(tmp_path / "disk", size_mib=16) as disk:
        disk.fail_writes()
        await Disk(str(disk.path), write=False).check()
        with pytest.raises(CheckFailedError, match=f"{disk.path}: "):
            await Disk(str(disk.path)).check()


async def test_a_disk_that_hangs_has_failed_and_is_not_asked_twice(tmp_path: Path) -> None:
    """A frozen file system answers writes once it is thawed."""
    with loop_disk(tmp_path / "disk", size_mib=16) as disk:
        async with trial(Disk(str(disk.path)), timeout_s=0.5) as made:
            await made.is_well()
            run("fsfreeze", "--freeze", str(disk.path))
            try:
                assert await made.fails() == "no answer within 0.5 s"
                threads, before = threading.active_count(), len(made.reports)
                while len(made.reports) < before + 3:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                assert threading.active_count() == threads
            finally:
                run("fsfreeze", "--unfreeze", str(disk.path))
            await made.is_well()


async def test_where_no_file_is_without_a_name_the_probe_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def open_named(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        names.append(path)
        return real_open(path, flags, mode)

    real_open = os.open
    monkeypatch.setattr("mirrorha.checks.disk.os.open", open_named)
    await Disk(str(tmp_path), free_percent_min=0).check()
    (name,) = [name for name in names if "probe" in name]
    assert os.path.dirname(name) == str(tmp_path)
    assert os.listdir(tmp_path) == []


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="No such file"):
        await Disk(str(tmp_path / "none")).check()


def test_a_percentage_is_one() -> None:
    for wrong in (-1, 100):
        with pytest.raises(LocalUsageError, match="0 to 99 percent"):
            Disk("/a", free_percent_min=wrong)
    assert str(Disk("/a")) == "disk /a"


async def test_a_mount_fails_and_recovers(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    async with trial(Mount(str(place))) as made:
        assert await made.fails() == f"nothing is mounted at {place}"
        with memory_disk(place, size_mib=1):
            await made.is_well()
        assert await made.fails() == f"nothing is mounted at {place}"


async def test_a_mount_is_of_a_type(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with memory_disk(place, size_mib=1):
        await Mount(str(place), filesystem="tmpfs").check()
        with pytest.raises(CheckFailedError, match="is a mount of the type tmpfs, not ext4"):
            await Mount(str(place), filesystem="ext4").check()
        (place / "below").mkdir()
        with pytest.raises(CheckFailedError, match="nothing is mounted at"):
            await Mount(str(place / "below")).check()


async def test_a_mount_beneath_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="No such file"):
        await Mount(str(tmp_path / "none" / "disk")).check()
    assert str(Mount("/a")) == "mount /a"
