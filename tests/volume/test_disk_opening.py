"""What the real disk finds when it is opened: ids that are known, new, stale or lost."""

from __future__ import annotations

import errno
import os
import resource
import socket
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

from mirrorha.errors import VolumeError
from mirrorha.testing.check_disk_steps import take_snapshot
from mirrorha.volume.disk import (
    Apply,
    DiskError,
    Kind,
    ListDirectory,
    LoadTouched,
    Outcome,
    Place,
    ReadAttributes,
    ReadBytes,
    RecordTouched,
    Relabel,
    SetAside,
    SyncFiles,
    SyncTree,
)
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.ops import ROOT_FID, Link, Rename, Symlink, Unlink, Write
from mirrorha.volume.touched import TouchedState
from tests.requirements import require_root
from tests.volume.disk_support import T0, Home, create, do, drawn, fid, mkdir, open_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def fids(disk: RealDisk) -> dict[str, int]:
    return {path: seen.fid for path, seen in take_snapshot(disk).items() if path}


def rows(home: Home, statement: str) -> list[tuple[int, ...]]:
    """Read or change the table of ids behind the disk's back."""
    with sqlite3.connect(home.state / "ids.db") as connection:
        found = connection.execute(statement).fetchall()
    connection.close()
    return found


def without_descriptors(body: Callable[[], None]) -> None:
    """Run `body` with not one descriptor free."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in open_descriptors())
    held = [os.dup(0)]
    try:
        while held[-1] < used:
            held.append(os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, limits[1]))
        body()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)


def test_files_that_were_there_get_ids_and_keep_them(home: Home) -> None:
    (home.root / "d").mkdir()
    (home.root / "d/f").write_bytes(b"x")
    os.link(home.root / "d/f", home.root / "g")
    (home.root / "s").symlink_to("d")
    disk = home.open()
    assert disk.found.rebuilt
    first = fids(disk)
    assert sorted(first) == ["d", "d/f", "g", "s"]
    assert first["d/f"] == first["g"]
    assert set(disk.found.unknown) == set(first.values()) == {drawn(1), drawn(2), drawn(3)}
    disk = home.open()
    assert (disk.found.rebuilt, disk.found.unknown) == (False, ())
    assert fids(disk) == first


def test_what_an_empty_volume_gets_later_is_known(home: Home) -> None:
    disk = home.open()
    assert not disk.found.rebuilt
    do(disk, mkdir(1, "d"), create(2, "f", fid(1)), Link(fid(2), ROOT_FID, "g", T0))
    do(
        disk,
        Symlink(fid(3), fid(1), "s", "f", -1, -1, T0),
        Rename(0, ROOT_FID, "d", ROOT_FID, "e", 0, T0),
    )
    disk.perform(Relabel(fid(2), fid(9)))
    first = fids(disk)
    # Nothing was synced: the end of a process loses nothing.
    disk = home.open()
    assert not disk.found.unknown
    assert fids(disk) == first == {"e": fid(1), "e/f": fid(9), "g": fid(9), "e/s": fid(3)}


def test_what_the_table_does_not_know_gets_a_new_id_and_is_named(home: Home) -> None:
    disk = home.open()
    do(disk, create(1, "a"), create(2, "b"))
    home.close()
    rows(home, f"DELETE FROM ids WHERE fid = {fid(2)}")
    (home.root / "c").touch()
    disk = home.open()
    assert not disk.found.rebuilt
    assert set(disk.found.unknown) == {drawn(1), drawn(2)}
    assert fids(disk)["a"] == fid(1)
    assert {fids(disk)["b"], fids(disk)["c"]} == {drawn(1), drawn(2)}


def test_an_inode_that_was_given_to_another_file_has_another_id(home: Home) -> None:
    disk = home.open()
    do(disk, create(1, "a"), create(2, "b"))
    home.close()
    rows(home, f"UPDATE ids SET birth = birth - 1 WHERE fid = {fid(1)}")
    rows(home, f"UPDATE ids SET kind = 2 WHERE fid = {fid(2)}")
    disk = home.open()
    assert set(fids(disk).values()) == set(disk.found.unknown) == {drawn(1), drawn(2)}
    # And what the table had for them is forgotten.
    home.close()
    assert rows(home, "SELECT fid FROM ids ORDER BY fid") == [(drawn(1),), (drawn(2),)]


def test_a_copy_of_the_directory_has_ids_of_its_own(home: Home) -> None:
    do(home.open(), create(1, "a"))
    home.close()
    home.root.rename(home.root.with_name("old"))
    subprocess.run(["cp", "-a", home.root.with_name("old"), home.root], check=True)
    disk = home.open()
    assert disk.found.rebuilt
    assert fids(disk) == {"a": drawn(1)}


@pytest.mark.parametrize("damage", ["lost", "garbage", "torn", "another version", "empty"])
def test_a_table_that_is_gone_is_made_anew(home: Home, damage: str) -> None:
    disk = home.open()
    do(disk, *(create(number, f"f{number}") for number in range(1, 2000)))
    home.close()
    table = home.state / "ids.db"
    content = table.read_bytes()
    if damage == "lost":
        table.unlink()
    elif damage == "garbage":
        table.write_bytes(b"garbage" * 1000)
    elif damage == "torn":
        half = len(content) // 2
        table.write_bytes(content[:half] + os.urandom(8192) + content[half + 8192 :])
    elif damage == "empty":
        table.write_bytes(b"")
    else:
        rows(home, "PRAGMA user_version = 9")
    disk = home.open()
    assert disk.found.rebuilt
    assert len(disk.found.unknown) == 1999
    assert set(fids(disk).values()) == set(disk.found.unknown)
    assert damage in {"lost", "empty"} or list(home.state.glob("ids.db.damaged"))
    assert not home.open().found.unknown


def test_the_touched_log_outlives_the_process_and_says_when_it_was_lost(home: Home) -> None:
    disk = home.open()
    do(disk, create(1, "a"))
    disk.perform(RecordTouched([(fid(1), 7)]))
    assert home.open().perform(LoadTouched()) == TouchedState([(fid(1), 7)])
    home.close()
    for one in home.state.glob("touched.db*"):
        one.unlink()
    for _ in range(2):
        assert home.open().perform(LoadTouched()) == TouchedState(damaged=True)
    home.close()
    (home.state / "touched.db").write_bytes(b"garbage" * 1000)
    for _ in range(2):
        assert home.open().perform(LoadTouched()) == TouchedState(damaged=True)


def test_a_lost_touched_log_is_noticed_though_all_files_are_gone_too(home: Home) -> None:
    disk = home.open()
    do(disk, create(1, "a"), Unlink(0, ROOT_FID, "a", T0))
    home.close()
    for one in home.state.glob("touched.db*"):
        one.unlink()
    assert home.open().perform(LoadTouched()) == TouchedState(damaged=True)


def test_a_damaged_touched_log_beside_an_empty_directory_is_damaged(home: Home) -> None:
    """Nothing else is left to show that the volume is not new."""
    (home.state / "touched.db").write_bytes(b"garbage" * 1000)
    for _ in range(2):
        assert home.open().perform(LoadTouched()) == TouchedState(damaged=True)


def test_limbo_is_found_again(home: Home) -> None:
    disk = home.open()
    do(disk, mkdir(1, "d"), create(2, "f", fid(1)), create(3, "g"), Write(fid(2), 0, b"x", T0))
    disk.perform(SetAside(ROOT_FID, "d"))
    disk.perform(SetAside(ROOT_FID, "g"))
    disk = home.open()
    assert (disk.found.limbo, disk.found.unknown) == (2, ())
    assert fids(disk) == {}
    do(disk, create(4, "h"))
    disk.perform(SetAside(ROOT_FID, "h"))
    assert disk.perform(Place(ROOT_FID, "e", fid(1))) is True
    assert disk.perform(ReadBytes(fid(2), 0, 9)) == b"x"
    assert fids(disk) == {"e": fid(1), "e/f": fid(2)}
    assert home.open().found.limbo == 2


def test_what_is_not_mirrored_is_skipped_and_named(home: Home) -> None:
    os.mkfifo(home.root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        directory_fd = os.open(home.root, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{directory_fd}/socket")
        os.close(directory_fd)
    (home.root / "d").mkdir()
    (home.root / "d/.mirrorha-volume").touch()
    (home.root / ".mirrorha-volume").touch()
    (home.root / "d/f").touch()
    disk = home.open()
    assert disk.found.skipped == ("d/.mirrorha-volume",)
    # And nobody opens a fifo, or he would wait for its other end.
    kinds = {path: seen.kind for path, seen in take_snapshot(disk).items() if path}
    there = {"d": Kind.DIRECTORY, "d/f": Kind.FILE, "fifo": Kind.FIFO, "socket": Kind.SOCKET}
    assert kinds == there


def test_another_file_system_inside_is_not_entered(home: Home) -> None:
    require_root()
    inner = home.root / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inner], check=True)
    try:
        (inner / "f").touch()
        disk = home.open()
        assert disk.found.skipped == ("inner",)
        assert fids(disk) == {}
    finally:
        home.close()
        subprocess.run(["umount", "--lazy", inner], check=True)


def test_it_goes_on_below_what_is_mounted_over_it(home: Home) -> None:
    require_root()
    disk = home.open()
    do(disk, mkdir(1, "d"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", home.root], check=True)
    try:
        do(disk, create(2, "f", fid(1)), Write(fid(2), 0, b"below", T0))
        disk.perform(SyncFiles([fid(2)]))
        assert list(home.root.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", home.root], check=True)
    assert (home.root / "d/f").read_bytes() == b"below"


def test_names_that_are_no_text_are_kept(home: Home) -> None:
    raw = b"\xff\xfe.\xc3"
    directory_fd = os.open(home.root, os.O_RDONLY)
    os.close(os.open(raw, os.O_CREAT | os.O_WRONLY, dir_fd=directory_fd))
    os.symlink(raw, b"link", dir_fd=directory_fd)
    disk = home.open()
    seen = take_snapshot(disk)
    text = "\U0010ffff\U0010fffe.\U0010ffc3"
    assert sorted(path for path in seen if path) == ["link", text]
    assert seen["link"].attributes.target == text
    text.encode()  # it can travel
    do(disk, Write(seen[text].fid, 0, b"x", T0), Unlink(0, ROOT_FID, "link", T0))
    do(disk, Link(seen[text].fid, ROOT_FID, "\U0010ff80", T0))
    assert sorted(os.listdir(os.fsencode(home.root))) == [b"\x80", raw]
    os.close(directory_fd)


def test_a_root_that_is_none_is_refused(home: Home) -> None:
    home.root.rmdir()
    with pytest.raises(VolumeError, match="No such file"):
        home.open()
    home.root.write_bytes(b"")
    with pytest.raises(VolumeError, match="Not a directory"):
        home.open()
    home.root.unlink()
    home.root.symlink_to("/tmp")
    with pytest.raises(VolumeError):
        home.open()


def test_no_op_follows_a_symlink_out_of_the_root(home: Home, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "d").mkdir(parents=True)
    (outside / "f").write_bytes(b"precious")
    disk = home.open()
    do(disk, mkdir(1, "d"), mkdir(2, "e", fid(1)), create(3, "f"), create(4, "g", fid(2)))
    do(disk, *(mkdir(number, f"x{number}") for number in range(11, 19)))
    disk = home.open(idle_max=4)
    for number in range(11, 19):
        disk.perform(ReadAttributes(fid(number)))  # no other descriptor is open any more
    (home.root / "d").rename(tmp_path / "away")
    (home.root / "d").symlink_to(outside)
    (home.root / "f").unlink()
    (home.root / "f").symlink_to(outside / "f")
    for op in (
        create(9, "new", fid(1)),
        create(9, "new", fid(2)),
        Write(fid(3), 0, b"gotcha", T0),
        Write(fid(4), 0, b"gotcha", T0),
        Unlink(0, fid(2), "g", T0),
    ):
        outcome = disk.perform(Apply(op))
        assert isinstance(outcome, Outcome)
        assert outcome.done is None
        assert outcome.errno
    assert sorted(os.listdir(outside)) == ["d", "f"]
    assert (outside / "f").read_bytes() == b"precious"


def test_a_file_that_was_replaced_behind_its_back_is_stale(home: Home) -> None:
    disk = home.open()
    do(disk, create(1, "a"))
    disk = home.open()
    (home.root / "b").write_bytes(b"another")
    (home.root / "b").rename(home.root / "a")
    outcome = disk.perform(Apply(Write(fid(1), 0, b"x", T0)))
    assert outcome == Outcome(None, errno.ESTALE)
    assert (home.root / "a").read_bytes() == b"another"


def test_a_creation_that_fails_half_way_leaves_nothing(home: Home) -> None:
    disk = home.open()
    do(disk, mkdir(1, "d"))
    before = take_snapshot(disk)
    outcomes: list[object] = []

    def make() -> None:
        # The file can be made, but not opened.
        outcomes.extend(disk.perform(Apply(op)) for op in (create(2, "f", fid(1)), mkdir(3, "e")))

    without_descriptors(make)
    assert outcomes == [Outcome(None, errno.EMFILE)] * 2
    assert take_snapshot(disk) == before
    assert take_snapshot(home.open()) == before


def test_what_fails_for_want_of_descriptors_is_not_final(home: Home) -> None:
    (home.root / "d").mkdir()
    (home.root / "d/f").write_bytes(b"x")
    seen = take_snapshot(home.open())["d/f"]
    disk = home.open()

    def look() -> None:
        with pytest.raises(DiskError, match="Too many open files"):
            disk.perform(ReadBytes(seen.fid, 0, 1))

    without_descriptors(look)
    assert disk.perform(ReadBytes(seen.fid, 0, 1)) == b"x"
    directory = fids(disk)["d"]
    disk = home.open(idle_max=0)
    disk.perform(ReadAttributes(ROOT_FID))

    def set_aside() -> None:
        assert disk.perform(SetAside(directory, "f")) == Outcome(None, errno.EMFILE)

    without_descriptors(set_aside)
    assert disk.perform(ReadBytes(seen.fid, 0, 1)) == b"x"


def test_no_descriptor_is_left_open(home: Home) -> None:
    before = open_descriptors()
    disk = home.open(idle_max=4)
    numbers = range(1, 60)
    do(disk, *(mkdir(number, f"d{number}") for number in numbers))
    do(disk, *(create(100 + number, "f", fid(number)) for number in numbers))
    do(disk, *(Unlink(0, fid(number), "f", T0) for number in numbers if number % 2))
    take_snapshot(disk)
    disk.perform(SetAside(ROOT_FID, "d1"))
    home.close()
    assert open_descriptors() == before
    with pytest.raises(DiskError, match="closed"):
        disk.perform(ListDirectory(ROOT_FID))


def test_few_descriptors_are_open_at_a_time(home: Home) -> None:
    before = len(open_descriptors())
    disk = home.open(idle_max=8, dirty_max=8)
    do(disk, mkdir(1, "d"))
    for depth in range(2, 40):
        do(disk, mkdir(depth, "d", fid(depth - 1)), create(100 + depth, "f", fid(depth)))
    take_snapshot(disk)
    # Root, ids and touched log: some more.
    assert len(open_descriptors()) < before + 16 + 10
    disk = home.open(idle_max=8, dirty_max=8)
    do(disk, Write(fid(139), 0, b"x", T0))
    assert len(open_descriptors()) < before + 16 + 10


@pytest.mark.parametrize("request_", [SyncFiles([fid(1)]), SyncTree()], ids=["file", "tree"])
def test_a_full_state_directory_stops_the_node_at_the_next_sync(
    home: Home, request_: SyncFiles | SyncTree
) -> None:
    require_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", home.state], check=True)
    try:
        disk = home.open()
        (home.state / "ballast").write_bytes(bytes(90_000))
        do(disk, *(create(number, f"f{number}") for number in range(1, 300)))
        with pytest.raises(DiskError, match="table of ids"):
            disk.perform(request_)
    finally:
        home.close()
        subprocess.run(["umount", "--lazy", home.state], check=True)
