"""A directory that is edited while its node is stopped, or after it was killed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from mirrorha.errors import VolumeError
from mirrorha.volume.disk import Attributes, LoadTouched, ReadAttributes, RecordTouched, SyncTree
from mirrorha.volume.local_disk.missing import LOOK_AGAIN_S, MissingNote
from mirrorha.volume.local_disk.stamp import FileSystemClock, StampFile
from mirrorha.volume.offline import AHEAD_NS
from mirrorha.volume.ops import ROOT_FID, Unlink, Write
from mirrorha.volume.touched import INODE, NAMES, TouchedState, tail
from tests.volume.disk_support import T0, create, do, fid, mkdir
from tests.volume.offline_node import Node, hide_the_write, keys, let_pass, overwrite
from tests.volume.offline_writer import FID as WRITER_FID
from tests.volume.resync_trees import snapshot


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.stop()


def filled(node: Node) -> None:
    """Two directories, and files in them."""
    disk = node.open().disk
    do(disk, mkdir(1, "d"), mkdir(2, "e"), create(3, "f", fid(1)), create(4, "g", fid(1)))
    do(disk, create(5, "h"), Write(fid(5), 0, b"content", T0), Write(fid(3), 0, b"content", T0))


WHOLE_3: Final = {(fid(3), INODE), (fid(3), tail(0))}


def test_a_directory_that_nobody_touched_adds_nothing(node: Node) -> None:
    filled(node)
    for _ in range(3):
        node.stop()
        opened = node.open()
        assert opened.disk.found.changed == 0
        assert opened.touched == TouchedState()


def replace_by_an_older_one(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"CONTENT")
    os.utime(other, ns=(1, 1))
    other.rename(path)


def mode(path: Path) -> None:
    path.chmod(0o600)


@pytest.mark.parametrize("edit", [overwrite, hide_the_write, mode])
def test_a_file_that_was_edited_is_compared_whole(node: Node, edit: Callable[[Path], None]) -> None:
    filled(node)
    node.stop()
    edit(node.root / "d/f")
    opened = node.open()
    assert (keys(opened), opened.disk.found.changed) == (WHOLE_3, 1)
    # And only once: it is in the log now, and stays there until both have it.
    node.stop()
    opened = node.open()
    assert (keys(opened), opened.disk.found.changed) == (WHOLE_3, 0)


def test_a_name_that_stands_for_another_file_is_noticed(node: Node) -> None:
    filled(node)
    node.stop()
    replace_by_an_older_one(node.root / "d/f")
    opened = node.open()
    (new,) = opened.disk.found.unknown
    names = {(fid(1), NAMES), (fid(1), INODE)}
    assert keys(opened) == WHOLE_3 | names | {(new, INODE), (new, tail(0))}


def test_what_is_gone_was_made_or_moved_is_noticed_with_its_directories(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    filled(node)
    node.stop()
    (node.root / "d/f").unlink()
    (node.root / "e/new").mkdir()
    (node.root / "d/g").rename(node.root / "moved")
    opened = node.open()
    (new,) = opened.disk.found.unknown
    directories = {(one, part) for one in (fid(1), fid(2), ROOT_FID) for part in (INODE, NAMES)}
    moved = {(fid(4), INODE), (fid(4), tail(0))}
    assert keys(opened) == WHOLE_3 | moved | directories | {(new, INODE), (new, NAMES)}
    told = "while this node did not run, 5 files were changed or removed, and 1 made"
    assert told in caplog.text


def test_a_file_that_only_the_table_has_lost_is_noticed_with_its_directory(node: Node) -> None:
    """As when power was lost: the directory itself looks as it did."""
    filled(node)
    node.stop()
    with sqlite3.connect(node.state / "ids.sqlite") as connection:
        connection.execute(f"DELETE FROM ids WHERE fid = {fid(3)}")
    connection.close()
    opened = node.open()
    (new,) = opened.disk.found.unknown
    assert keys(opened) == {(fid(1), NAMES), (new, INODE), (new, tail(0))}


def test_all_below_a_directory_that_is_gone_is_in_the_log(node: Node) -> None:
    """Whoever makes it again must know all that was in it."""
    filled(node)
    do(node.open().disk, *(create(number, f"x{number}") for number in range(10, 20)))
    node.stop()
    shutil.rmtree(node.root / "d")
    found = keys(node.open())
    assert found >= WHOLE_3 | {(fid(1), NAMES), (fid(4), tail(0)), (ROOT_FID, NAMES)}


def test_what_a_killed_node_wrote_last_costs_no_more_than_its_segments(node: Node) -> None:
    filled(node)
    disk = node.open().disk
    disk.perform(RecordTouched([(fid(5), 0)]))
    do(disk, Write(fid(5), 0, b"own", T0))
    node.kill()
    assert keys(node.open()) & {(fid(5), tail(0)), (fid(5), INODE)} == set()
    # What another wrote to it is another matter, however soon.
    node.kill()
    overwrite(node.root / "h")
    assert (fid(5), tail(0)) in keys(node.open())


def test_a_kill_is_not_told_as_an_edit(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """The directories that the node itself changed last are compared, that is all."""
    caplog.set_level("INFO")
    filled(node)
    time.sleep(0.03)  # a few ticks of the file system's clock
    disk = node.open().disk
    disk.perform(RecordTouched([(fid(1), NAMES), (fid(6), INODE)]))
    do(disk, create(6, "i", fid(1)))
    node.kill()
    opened = node.open()
    assert (fid(1), INODE) in keys(opened)
    assert opened.disk.found.changed == 0
    assert "were changed or removed" not in caplog.text
    node.kill()
    overwrite(node.root / "h")
    assert node.open().disk.found.changed == 1
    assert "right before this node was cut off, or since, 1 files were changed" in caplog.text


def test_a_write_that_hides_is_caught_once_the_last_moments_are_over(node: Node) -> None:
    filled(node)
    disk = node.open().disk
    disk.perform(RecordTouched([(fid(3), 0)]))
    do(disk, Write(fid(3), 0, b"own", T0))
    node.kill()
    let_pass(node, AHEAD_NS)
    hide_the_write(node.root / "d/f")
    assert keys(node.open()) >= WHOLE_3


def test_after_power_was_lost_an_old_stamp_makes_more_suspect_never_fewer(node: Node) -> None:
    filled(node)
    node.stop()
    node.remember()
    disk = node.open().disk
    disk.perform(RecordTouched([(fid(3), 0)]))
    do(disk, Write(fid(3), 0, b"own", T0))
    disk.perform(SyncTree())
    node.lose_power()
    overwrite(node.root / "h")
    assert keys(node.open()) >= WHOLE_3 | {(fid(5), tail(0))}


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"mhstamp1" + bytes(24)])
def test_without_a_stamp_everything_is_compared(node: Node, content: bytes | None) -> None:
    filled(node)
    node.stop()
    if content is None:
        (node.state / "stamp").unlink()
    else:
        (node.state / "stamp").write_bytes(content)
    assert node.open().touched.damaged
    node.stop()
    assert node.open().touched.damaged, "until a checkpoint says that both are the same"


def test_a_clock_that_is_behind_the_stamp_tells_nothing(node: Node) -> None:
    filled(node)
    node.stop()
    let_pass(node, -3_600_000_000_000)
    assert node.open().touched.damaged


def test_the_stamp_is_renewed_by_changes_alone(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(node)
    node.stop()
    now = [0]
    monkeypatch.setattr("time.monotonic_ns", lambda: now[0])
    disk = node.open().disk
    first = (node.state / "stamp").read_bytes()
    disk.perform(ReadAttributes(fid(3)))
    now[0] += AHEAD_NS
    disk.perform(ReadAttributes(fid(3)))
    assert (node.state / "stamp").read_bytes() == first
    do(disk, Write(fid(3), 0, b"x", T0))
    second = (node.state / "stamp").read_bytes()
    assert second != first
    do(disk, Write(fid(3), 0, b"y", T0))
    assert (node.state / "stamp").read_bytes() == second


def test_the_clock_is_the_file_systems_and_leaves_no_trace(tmp_path: Path) -> None:
    before = tmp_path.stat()
    root_fd = os.open(tmp_path, os.O_RDONLY)
    clock = FileSystemClock(root_fd)
    try:
        first = clock.now_ns()
        (tmp_path / "between").touch()
        changed = (tmp_path / "between").stat().st_ctime_ns
        assert first <= changed <= clock.now_ns()
    finally:
        clock.close()
        os.close(root_fd)
    (tmp_path / "between").unlink()
    assert list(tmp_path.iterdir()) == []
    assert before.st_ino == tmp_path.stat().st_ino


def test_an_end_in_good_order_lies_before_every_later_change(tmp_path: Path) -> None:
    root_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(20):
            stamp = StampFile(tmp_path / "stamp", root_fd)
            stamp.begin()
            (tmp_path / "own").touch()
            own_ns = (tmp_path / "own").stat().st_ctime_ns
            stamp.finish()
            (tmp_path / "theirs").touch()
            left = stamp.load()
            stamp.close()
            assert left is not None
            assert left.is_final
            assert own_ns < left.first_late_ns <= (tmp_path / "theirs").stat().st_ctime_ns
    finally:
        os.close(root_fd)


def test_what_is_edited_while_a_node_still_closes_is_noticed(node: Node) -> None:
    """It is seen to have stopped a little before it has closed everything."""
    filled(node)
    time.sleep(0.03)  # a few ticks of the file system's clock: nobody can mock it
    overwrite(node.root / "d/f")
    time.sleep(0.03)
    node.stop()
    assert keys(node.open()) == WHOLE_3


def test_what_a_checkpoint_covers_is_not_compared_because_the_node_was_killed(node: Node) -> None:
    """Nor is it if it was among the last things that the node changed."""
    filled(node)
    disk = node.open().disk
    do(disk, Write(fid(5), 0, b"own", T0), create(6, "i"))
    time.sleep(0.03)  # a few ticks of the file system's clock
    disk.perform(SyncTree())  # after it both nodes' logs forget what it covers
    node.kill()
    assert keys(node.open()) == set()


def killed(base: Path) -> Node:
    """A node that was really killed, in the midst of writing to one file."""
    node = Node(base)
    paths = os.pathsep.join(filter(None, (*sys.path, os.environ.get("PYTHONPATH"))))
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.volume.offline_writer", base],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        while (node.root / "file").stat().st_size == 0:
            time.sleep(0.01)
        time.sleep(0.05)
    finally:
        writer.kill()
        writer.communicate()
    return node


def test_a_process_that_is_killed_has_its_segments_compared_and_no_more(tmp_path: Path) -> None:
    for attempt in range(5):
        node = killed(tmp_path / str(attempt))
        found = keys(node.open())
        node.stop()
        assert found >= {(WRITER_FID, 0)}
        if (WRITER_FID, tail(0)) not in found:
            return
        # It was hit between a write and the setting of its time, which nobody can tell from an
        # edit. Not every time.
    pytest.fail("after each kill the whole file is compared")


def test_an_edit_after_a_process_was_killed_is_noticed_however_soon(tmp_path: Path) -> None:
    node = killed(tmp_path / "node")
    overwrite(node.root / "file")
    assert keys(node.open()) >= {(WRITER_FID, 0), (WRITER_FID, tail(0))}
    node.stop()


# ---- so much is gone that a person is asked ----


def test_a_person_is_asked_and_nothing_is_changed_meanwhile(node: Node) -> None:
    filled(node)
    node.stop()
    kept = (node.root / "h").read_bytes()
    shutil.rmtree(node.root / "d")
    (node.root / "h").unlink()
    with pytest.raises(VolumeError, match=r"4 of 5 files .*mirrorha accept-missing"):
        node.open()
    with pytest.raises(VolumeError, match="4 of 5 files"):
        node.open()  # though it need not look again so soon
    # Put back under another inode it is a new file; but not everything is gone any more.
    (node.root / "h").write_bytes(kept)
    (node.root / "d").mkdir()
    asked_long_ago = (node.state / "missing.json").stat().st_mtime - LOOK_AGAIN_S
    os.utime(node.state / "missing.json", (asked_long_ago, asked_long_ago))
    with pytest.raises(VolumeError, match="4 of 5 files"):
        node.open()
    note = MissingNote(node.state)
    asked = note.read()
    assert asked is not None
    note.accept(asked)
    opened = node.open()
    assert keys(opened) >= WHOLE_3 | {(ROOT_FID, NAMES), (fid(1), NAMES), (fid(5), tail(0))}
    assert note.read() is None
    node.stop()
    node.open()


def test_what_is_gone_after_the_answer_is_asked_anew(node: Node) -> None:
    filled(node)
    node.stop()
    shutil.rmtree(node.root / "d")
    with pytest.raises(VolumeError, match="3 of 5 files"):
        node.open()
    note = MissingNote(node.state)
    asked = note.read()
    assert asked is not None
    note.accept(asked)
    (node.root / "h").unlink()
    with pytest.raises(VolumeError, match="4 of 5 files"):
        node.open()


def test_files_that_are_put_back_by_moving_them_back_need_no_answer(node: Node) -> None:
    filled(node)
    node.stop()
    (node.root / "d").rename(node.root.with_name("away"))
    with pytest.raises(VolumeError, match="3 of 5 files"):
        node.open()
    node.root.with_name("away").rename(node.root / "d")
    asked_long_ago = (node.state / "missing.json").stat().st_mtime - LOOK_AGAIN_S
    os.utime(node.state / "missing.json", (asked_long_ago, asked_long_ago))
    assert not node.open().disk.found.unknown


def test_what_the_node_itself_has_removed_is_not_missing(node: Node) -> None:
    filled(node)
    disk = node.open().disk
    do(disk, Unlink(0, fid(1), "f", T0), Unlink(0, fid(1), "g", T0), Unlink(0, ROOT_FID, "h", T0))
    node.kill()
    node.open()


def test_the_times_of_a_volume_are_not_changed_by_looking(node: Node) -> None:
    filled(node)
    disk = node.open().disk
    before = snapshot(disk)
    node.stop()
    opened = node.open()
    assert snapshot(opened.disk) == before
    assert isinstance(opened.disk.perform(ReadAttributes(ROOT_FID)), Attributes)
    assert isinstance(opened.disk.perform(LoadTouched()), TouchedState)
