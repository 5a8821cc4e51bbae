"""The rescue directory of a real disk: what is in it, in which order, and what refuses it."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import xxhash

from mirrorha.core.orders import Rescued
from mirrorha.volume.disk import (
    LIMBO_FID,
    BeginRescue,
    DiskError,
    KeepFiles,
    KeepNames,
    ListDirectory,
    RescueSum,
    SetAside,
    SumRescue,
)
from mirrorha.volume.local_disk import rescue as module
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.names import HIDDEN_NAMES, RESCUE_NAME
from mirrorha.volume.ops import (
    ROOT_FID,
    Link,
    Rename,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.volume.stream.resync_interface import ResyncStatus
from tests.shows.small_disks import memory_disk
from tests.volume.disk_support import T0, Home, create, do, fid, mkdir
from tests.volume.resync_pair import Pair, difference


def fill(source: RealDisk, target: RealDisk, *, mutations: int = 0) -> Pair[RealDisk]:
    pair = Pair(random.Random(1), source, target, everything=True, rescue="mine")
    pair.begin()
    pair.run(mutations=mutations)
    return pair


def room_of(home: Home) -> Path:
    (directory,) = (home.root / RESCUE_NAME).iterdir()
    return directory


def lines_of(home: Home) -> list[dict[str, Any]]:
    raw = (room_of(home) / "manifest.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line) for line in raw]


def files_of(home: Home) -> dict[str, bytes]:
    files = room_of(home) / "files"
    found = [path for path in files.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(files)): path.read_bytes() for path in found}


def hash_of(content: bytes) -> str:
    return f"xxh3-128:{xxhash.xxh3_128_hexdigest(content)}"


def write(number: int, content: bytes, offset: int = 0) -> Write:
    return Write(fid(number), offset, content, T0 + 7)


def parted(homes: tuple[Home, Home]) -> tuple[RealDisk, RealDisk]:
    """A common past, and what either side made of it."""
    disks = (homes[0].open(), homes[1].open())
    for disk in disks:
        do(disk, mkdir(1, "d"), create(2, "f", fid(1)), create(3, "same"), mkdir(4, "gone"))
        do(disk, create(5, "f", fid(4)), create(6, "cut"), create(7, "renamed"), mkdir(8, "mode"))
        for number in (2, 3, 5, 6, 7):
            do(disk, write(number, b"common past"))
    source, target = disks
    do(source, write(2, b"theirs!"), Truncate(fid(6), 3, T0 + 9))
    do(source, Unlink(fid(5), fid(4), "f", T0))
    do(source, Rename(fid(7), ROOT_FID, "renamed", fid(1), "new", 0, T0 + 3))
    do(target, write(2, b"mine!!!"), SetXattr(fid(2), "user.a", b"value"))
    do(target, SetAttributes(fid(2), 0o4750, None, None, T0 + 5))
    do(target, create(20, "only", fid(4)), write(20, b"only here"))
    do(target, Link(fid(20), ROOT_FID, "linked", T0), mkdir(21, "empty"))
    do(target, Symlink(fid(22), ROOT_FID, "symlink", "target", -1, -1, T0))
    do(target, SetAttributes(fid(8), 0o700, None, None, None))
    return source, target


def test_what_differs_is_there_with_a_manifest(homes: tuple[Home, Home]) -> None:
    source, target = parted(homes)
    pair = fill(source, target)
    assert pair.machine_t.status is ResyncStatus.EQUAL
    assert difference(source, target) == []
    assert files_of(homes[1]) == {
        "d/f": b"mine!!!past",
        "gone/f": b"common past",
        "linked": b"only here",
        "cut": b"common past",
    }
    kept = room_of(homes[1]) / "files"
    status = (kept / "d/f").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o4750, T0 + 5)
    assert os.getxattr(kept / "d/f", "user.a") == b"value"
    assert os.readlink(kept / "symlink") == "target"
    assert (kept / "empty").is_dir()
    (report,) = pair.target.reports
    directory = f"{RESCUE_NAME}/{room_of(homes[1]).name}"
    assert report == Rescued(1, "mine", directory, 5, 11 + 11 + 11 + 9)


def test_the_manifest_tells_both_sides(homes: tuple[Home, Home]) -> None:
    source, target = parted(homes)
    fill(source, target)
    header, *lines = lines_of(homes[1])
    assert (header["format"], header["generation"], header["peer_generation"]) == (
        1,
        "mine",
        "source",
    )
    by = {(line["operation"], line["path"]): line for line in lines}
    changed = by["changed", "d/f"]
    assert changed["kept"] == "files/d/f"
    assert changed["hash"] == hash_of(b"mine!!!past")
    assert changed["was"]["size_bytes"] == 11
    replaced = by["replaced", "d/f"]
    assert (replaced["peer_size_bytes"], replaced["peer_hash"]) == (11, hash_of(b"theirs!past"))
    deleted = next(line for line in lines if line.get("hash") == hash_of(b"only here"))
    assert deleted["operation"] == "deleted"
    assert sorted(deleted["was"]["names"]) == ["gone/only", "linked"]
    assert by["renamed", "renamed"]["names"] == ["d/new"]
    assert by["attributes", "mode"]["was"]["mode"] == 0o700
    assert ("deleted", "empty") in by
    assert not [line for line in lines if line["path"] == "same"]
    before = (room_of(homes[1]) / "before.jsonl").read_text().splitlines()
    assert len(before) == 11


def test_it_is_hidden_and_stays(homes: tuple[Home, Home]) -> None:
    source, target = parted(homes)
    fill(source, target)
    names = {entry.name for entry in target.perform(ListDirectory(ROOT_FID))}  # type: ignore[attr-defined]
    assert not names & HIDDEN_NAMES
    before = files_of(homes[1])
    again = homes[1].open()
    assert not again.found.skipped
    assert difference(source, again) == []
    pair = Pair(random.Random(2), source, again, everything=True)
    pair.begin()
    pair.run()
    assert files_of(homes[1]) == before
    # And nothing of it is ever the source's to send.
    back = Pair(random.Random(3), again, source, everything=True)
    back.begin()
    back.run()
    assert not (homes[0].root / RESCUE_NAME).exists()


def begin(disk: RealDisk) -> None:
    again = False
    while disk.perform(BeginRescue("mine", "theirs", again)):
        again = True


class Order:
    """Notes what becomes durable, and when a file is written."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.calls: list[str] = []

    def fsync(self, fd: int) -> None:
        self.calls.append(self._name(fd))
        os.fsync(fd)

    def _name(self, fd: int) -> str:
        path = os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(self.home.root))
        parts = path.strip("/").split("/")
        return "/".join(["rescue", *parts[2:]]) if parts[0] == RESCUE_NAME else path


def test_it_is_durable_when_it_is_answered(homes: tuple[Home, Home]) -> None:
    order = Order(homes[1])
    target = homes[1].open(fsync=order.fsync)
    do(target, mkdir(1, "d"), create(2, "f", fid(1)), write(2, b"mine"))
    begin(target)
    assert set(order.calls[:2]) == {"rescue/before.jsonl.part", "rescue/manifest.jsonl"}
    assert len(order.calls) == 5, "and the directories above"
    order.calls.clear()
    assert target.perform(KeepFiles([fid(2)])) == []
    *before, manifest = order.calls
    assert set(before) == {"rescue/files/d/f", "rescue/files/d", "rescue/files"}
    assert manifest == "rescue/manifest.jsonl"
    order.calls.clear()
    assert target.perform(KeepFiles([fid(2)])) == []
    assert order.calls == []


def test_what_is_large_takes_several_requests(
    homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLICE_BYTES", 1 << 20)
    source, target = homes[0].open(), homes[1].open()
    content = random.Random(1).randbytes(3 << 20)
    for disk in (source, target):
        do(disk, *(create(number, str(number)) for number in range(1, 4)))
        for number in range(1, 4):
            do(disk, Write(fid(number), 5 << 20, content, T0))
    do(source, Unlink(fid(2), ROOT_FID, "2", T0), write(1, b"theirs"))
    do(target, write(1, b"mine"), write(2, b"mine"))
    pair = fill(source, target)
    assert pair.machine_t.status is ResyncStatus.EQUAL
    assert difference(source, target) == []
    assert pair.target.performed.count(KeepFiles) > 3
    expected = b"mine" + bytes((5 << 20) - 4) + content
    assert files_of(homes[1]) == {"1": expected, "2": expected}
    rooms = [(room_of(homes[1]) / "files" / name).stat().st_blocks * 512 for name in "12"]
    assert max(rooms) < 5 << 20, "holes stay holes"


def test_a_slow_disk_takes_more_requests_and_ends(
    homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLICE_S", -1.0)
    source, target = parted(homes)
    pair = fill(source, target)
    assert difference(source, target) == []
    assert pair.target.performed.count(BeginRescue) > 20
    assert set(files_of(homes[1])) == {"d/f", "gone/f", "linked", "cut"}
    assert [line for line in lines_of(homes[1]) if line.get("operation") == "renamed"]


def test_small_files_share_what_makes_them_durable(homes: tuple[Home, Home]) -> None:
    source, target = homes[0].open(), homes[1].open()
    for disk, content in ((source, b"theirs"), (target, b"mine!!")):
        for number in range(1, 101):
            do(disk, create(number, str(number)), write(number, content))
    pair = fill(source, target)
    assert difference(source, target) == []
    assert files_of(homes[1]) == {str(number): b"mine!!" for number in range(1, 101)}
    assert pair.target.performed.count(KeepFiles) < 50


def test_a_crash_between_the_manifest_and_the_move(homes: tuple[Home, Home]) -> None:
    target = homes[1].open()
    do(target, create(1, "a"), write(1, b"mine"))
    begin(target)
    target.perform(SetAside(ROOT_FID, "a"))
    assert target.perform(KeepNames(["0"])) == []
    kept = room_of(homes[1]) / "files/a"
    os.rename(kept, homes[1].root / ".mirrorha-limbo/0")  # as if it had not become durable
    again = homes[1].open()
    begin(again)
    assert again.perform(KeepNames(["0"])) == []
    assert kept.read_bytes() == b"mine"
    assert again.perform(ListDirectory(LIMBO_FID)) == []
    assert again.perform(SumRescue()) == RescueSum(f"{RESCUE_NAME}/{room_of(homes[1]).name}", 1, 4)


def test_half_a_line_is_cut_off(homes: tuple[Home, Home]) -> None:
    target = homes[1].open()
    do(target, create(1, "a"), write(1, b"mine"), create(2, "b"), write(2, b"too"))
    begin(target)
    target.perform(KeepFiles([fid(1)]))
    manifest = room_of(homes[1]) / "manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + b'{"operation":"changed","path":"b"')
    (room_of(homes[1]) / "files/b").write_bytes(b"half")
    again = homes[1].open()
    begin(again)
    assert manifest.read_bytes() == whole
    do(again, write(1, b"theirs"))
    again.perform(KeepFiles([fid(1), fid(2)]))
    assert files_of(homes[1]) == {"a": b"mine", "b": b"too"}


def test_no_room_and_nothing_is_overwritten(tmp_path: Path, home: Home) -> None:
    with memory_disk(tmp_path / "small", size_mib=4, inodes=64) as place:
        (tmp_path / "target").mkdir()
        (place.path / "state").symlink_to(tmp_path / "target")
        small = Home(place.path)
        source, target = home.open(), small.open()
        content = random.Random(1).randbytes(1 << 20)
        for disk in (source, target):
            do(disk, create(1, "a"), write(1, content), create(2, "b"), write(2, content))
        do(source, write(1, b"theirs"), Unlink(fid(2), ROOT_FID, "b", T0))
        do(target, write(1, b"mine"), write(2, b"mine"))
        place.fill()
        pair = fill(source, target)
        assert pair.machine_t.status is ResyncStatus.FAILED
        assert pair.machine_t.failed_here
        assert "ENOSPC" in pair.machine_t.failure
        assert "rescue directory" in pair.machine_t.failure
        mine = b"mine" + content[4:]
        assert sorted(each.read_bytes() for each in small.root.iterdir() if each.is_file()) == [
            mine,
            mine,
        ]
        place.make_room()
        fill(source, target)
        assert difference(source, target) == []
        assert files_of(small) == {"a": mine, "b": mine}
        small.close()


def test_what_cannot_be_made_durable_is_a_disk_that_failed(homes: tuple[Home, Home]) -> None:
    def fsync(fd: int) -> None:
        if "/files" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, "no space")
        os.fsync(fd)

    target = homes[1].open(fsync=fsync)
    do(target, create(1, "a"), write(1, b"mine"))
    begin(target)
    for _ in range(2):
        with pytest.raises(DiskError, match="fsync failed"):
            target.perform(KeepFiles([fid(1)]))
    assert len(lines_of(homes[1])) == 1


def test_nothing_changes_before_the_rescue_has_begun(homes: tuple[Home, Home]) -> None:
    target = homes[1].open()
    do(target, create(1, "a"))
    with pytest.raises(Exception, match="begun before anything changes"):
        target.perform(KeepFiles([fid(1)]))


def test_a_new_file_with_an_old_inode_is_not_taken_for_the_old_one(
    homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = homes[1].open()
    do(target, create(1, "a"), write(1, b"mine"))
    begin(target)
    real = module.identify
    monkeypatch.setattr(module, "identify", lambda fd: attrs.evolve(real(fd), birth_ns=1))
    assert target.perform(KeepFiles([fid(1)])) == []
    assert files_of(homes[1]) == {}


def test_a_generation_is_no_path(homes: tuple[Home, Home]) -> None:
    target = homes[1].open()
    do(target, create(1, "a"), write(1, b"mine"))
    for generation in ("../../x", "a/b", ".", ""):
        assert isinstance(target.perform(BeginRescue(generation, "theirs")), int)
        assert target.perform(BeginRescue(generation, "theirs")) == 0
    assert len(list((homes[1].root / RESCUE_NAME).iterdir())) == 4
    assert sorted(path.name for path in homes[1].root.iterdir()) == [RESCUE_NAME, "a"]
