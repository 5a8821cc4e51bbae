"""What of a real disk stays on its node: the border, the walk, the stream and a resync."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from mirrorha.errors import VolumeError
from mirrorha.volume.disk import (
    Applied,
    ApplyAll,
    ApplyHere,
    Entry,
    ListDirectory,
    Outcome,
    ReadAttributes,
    ReadBytes,
    SyncFiles,
)
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.names import HALF_MADE_PREFIX, KEPT_NAME
from mirrorha.volume.op_rules import SOUND, flaw, travel_flaw
from mirrorha.volume.ops import (
    LOCAL_FID_MIN,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    ROOT_FID,
    AnyOp,
    Create,
    Kind,
    Link,
    Mkdir,
    Mknod,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
    is_local,
)
from mirrorha.volume.touched import NAMES
from tests.volume.disk_support import T0, Home, create, do, fid, mkdir
from tests.volume.offline_node import Node

EXCLUDE: Final = ("tmp/**", "*.lock", "a/cache/**")
EXDEV: Final = Outcome(None, errno.EXDEV)


def here(disk: RealDisk, op: AnyOp) -> Any:
    """Carry out an op on what stays here; its fid."""
    outcome = disk.perform(ApplyHere(op))
    assert isinstance(outcome, Outcome), op
    assert not outcome.errno, (op, os.strerror(outcome.errno))
    assert outcome.done is not None
    return outcome.done.fid


def born(name: str, parent: int = ROOT_FID) -> Create:
    return Create(0, parent, name, 0o644, -1, -1, T0 + 5, 0)


def names(disk: RealDisk, of: int = ROOT_FID, *, with_local: bool = False) -> list[str]:
    entries = disk.perform(ListDirectory(of, with_local))
    assert isinstance(entries, list)
    return sorted(entry.name for entry in entries if isinstance(entry, Entry))


def follow(disk: RealDisk, *ops: AnyOp) -> None:
    assert disk.perform(ApplyAll(list(ops))) == Applied(len(ops))


def test_what_is_made_at_an_excluded_name_is_on_this_node_alone(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "tmp"), mkdir(2, "d"))
    lock = here(disk, born("x.lock", fid(2)))
    inner = here(disk, Mkdir(0, fid(1), "in", 0o755, -1, -1, T0))
    deep = here(disk, born("deep", inner))
    assert len({lock, inner, deep}) == 3
    assert all(map(is_local, (lock, inner, deep)))
    assert here(disk, Write(lock, 0, b"mine", T0 + 7)) == lock
    assert (home.root / "d/x.lock").read_bytes() == b"mine"
    assert (home.root / "d/x.lock").stat().st_mtime_ns == T0 + 7
    # Who compares the nodes does not see it, whoever looks at this one does.
    assert names(disk, fid(2)) == names(disk, fid(1)) == []
    assert names(disk, fid(2), with_local=True) == ["x.lock"]
    assert names(disk, inner, with_local=True) == ["deep"]
    assert disk.perform(ReadBytes(lock, 0, 9)) == b"mine"
    disk.perform(SyncFiles([deep]))
    # And what holds it looks as if nothing had come.
    assert (home.root / "d").stat().st_mtime_ns == T0
    assert (home.root / "tmp").stat().st_mtime_ns == T0
    assert (home.root / "tmp/in").stat().st_mtime_ns == T0 + 5


def test_what_is_mirrored_is_not_for_this_node_alone(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "tmp"), create(2, "f"))
    mirrored = [
        born("g"),
        Write(fid(2), 0, b"x", T0),
        SetAttributes(fid(2), 0o600, None, None, None),
        SetXattr(fid(2), "user.a", b"b"),
        Truncate(fid(2), 0, T0),
        Link(fid(2), ROOT_FID, "g", T0),
        Unlink(0, ROOT_FID, "f", T0),
        Rmdir(0, ROOT_FID, "tmp", T0),
        Rename(0, ROOT_FID, "f", ROOT_FID, "g", 0, T0),
    ]
    for op in mirrored:
        assert disk.perform(ApplyHere(op)) is None, op
    assert names(disk, with_local=True) == ["f", "tmp"]


def test_without_patterns_everything_is_mirrored(home: Home) -> None:
    disk = home.open()
    assert disk.perform(ApplyHere(born("x.lock"))) is None
    do(disk, create(1, "x.lock"))
    assert names(disk) == ["x.lock"]


def test_every_change_of_an_excluded_file_is_made_here(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "tmp"), mkdir(2, "d"))
    one = here(disk, born("one.lock"))
    here(disk, Link(one, fid(1), "two", T0))
    here(disk, Link(one, fid(2), "three.lock", T0))
    here(disk, SetXattr(one, "user.a", b"b"))
    here(disk, SetAttributes(one, 0o600, None, None, T0 + 3))
    here(disk, Write(one, 0, b"123456", T0))
    here(disk, Truncate(one, 3, T0))
    assert (home.root / "tmp/two").read_bytes() == b"123"
    assert (home.root / "one.lock").stat().st_nlink == 3
    here(disk, Rename(0, fid(1), "two", ROOT_FID, "two.lock", 0, T0))
    here(disk, Unlink(0, ROOT_FID, "one.lock", T0))
    link = here(disk, Symlink(0, fid(1), "s", "target", -1, -1, T0))
    here(disk, Rename(0, fid(1), "s", ROOT_FID, "two.lock", 0, T0))
    assert os.readlink(home.root / "two.lock") == "target"
    assert is_local(link)
    made = here(disk, Mkdir(0, fid(1), "in", 0o755, -1, -1, T0))
    assert here(disk, Rmdir(0, fid(1), "in", T0)) == made
    here(disk, Unlink(0, fid(2), "three.lock", T0))
    assert disk.perform(ReadAttributes(one)) is None


CROSSING = {
    "out of it": Rename(0, ROOT_FID, "x.lock", ROOT_FID, "x", 0, T0),
    "into it": Rename(0, ROOT_FID, "f", ROOT_FID, "f.lock", 0, T0),
    "into it, replacing": Rename(0, ROOT_FID, "f", ROOT_FID, "x.lock", 0, T0),
    "exchanged": Rename(0, ROOT_FID, "f", ROOT_FID, "x.lock", 0, T0, RENAME_EXCHANGE),
    "a directory into it": Rename(0, ROOT_FID, "a", fid(1), "a", 0, T0),
    "a mirrored file's further name": Link(fid(3), fid(1), "g", T0),
    # Nothing is below it now; on the other node something may be.
    "a directory that a pattern is about": Rename(0, ROOT_FID, "a", ROOT_FID, "b", 0, T0),
    "a directory to where one is about it": Rename(0, ROOT_FID, "d", ROOT_FID, "a", 0, T0),
    "directories exchanged": Rename(0, ROOT_FID, "d", ROOT_FID, "a", 0, T0, RENAME_EXCHANGE),
}


@pytest.mark.parametrize("crossing", CROSSING)
def test_nothing_crosses_the_border(home: Home, crossing: str) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "tmp"), mkdir(2, "a"), create(3, "f"), mkdir(4, "d"))
    here(disk, born("x.lock"))
    before = sorted(os.listdir(home.root))
    op = CROSSING[crossing]
    assert disk.perform(ApplyHere(op)) == EXDEV
    # Nor does it if the stream brought it.
    assert disk.perform(ApplyAll([op])) == Applied(0, errno.EXDEV)
    assert sorted(os.listdir(home.root)) == before


def test_the_name_of_a_local_file_that_is_mirrored_is_refused(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    local = here(disk, born("x.lock"))
    assert disk.perform(ApplyHere(Link(local, ROOT_FID, "x", T0))) == EXDEV


ALLOWED = {
    "a directory that no pattern is about": Rename(0, ROOT_FID, "d", ROOT_FID, "e", 0, T0),
    "deeper": Rename(0, ROOT_FID, "d", fid(2), "d", 0, T0),
    "a file to a name that would matter of a directory": Rename(
        0, ROOT_FID, "f", fid(2), "cache", 0, T0
    ),
}


@pytest.mark.parametrize("allowed", ALLOWED)
def test_what_crosses_no_border_is_mirrored(home: Home, allowed: str) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(2, "a"), create(3, "f"), mkdir(4, "d"))
    here(disk, born("x.lock", fid(4)))
    assert disk.perform(ApplyHere(ALLOWED[allowed])) is None
    do(disk, ALLOWED[allowed])


def test_what_is_excluded_moves_along_with_its_directory(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(4, "d"))
    lock = here(disk, born("x.lock", fid(4)))
    do(disk, Rename(0, ROOT_FID, "d", ROOT_FID, "e", 0, T0))
    here(disk, Write(lock, 0, b"x", T0))
    assert (home.root / "e/x.lock").read_bytes() == b"x"


def test_our_own_names_are_ours_whatever_the_patterns(home: Home) -> None:
    disk = home.open(exclude=(".*",))
    assert disk.perform(ApplyHere(born(KEPT_NAME))) == Outcome(None, errno.EPERM)


def test_no_local_id_may_enter_the_stream() -> None:
    for number in (LOCAL_FID_MIN, LOCAL_FID_MIN + 7):
        for op in (Write(number, 0, b"x", T0), Truncate(number, 0, T0), create(1, "a", number)):
            assert flaw(op) == travel_flaw(op) == errno.EINVAL
    assert flaw(Write(LOCAL_FID_MIN - 1, 0, b"x", T0)) == SOUND


# ---- directories that the other node removes -----------------------------------------------------


def test_a_directory_with_excluded_files_is_not_empty_to_who_serves(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "d"))
    here(disk, born("x.lock", fid(1)))
    assert disk.perform(ApplyHere(Rmdir(0, ROOT_FID, "d", T0))) is None
    with pytest.raises(AssertionError, match="not empty"):
        do(disk, Rmdir(0, ROOT_FID, "d", T0))


def test_who_follows_keeps_what_is_excluded_in_a_removed_directory(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "d"), mkdir(2, "e", fid(1)), mkdir(3, "tmp"))
    lock = here(disk, born("x.lock", fid(2)))
    here(disk, Write(lock, 0, b"mine", T0))
    inner = here(disk, Mkdir(0, fid(3), "in", 0o755, -1, -1, T0))
    here(disk, born("deep", inner))
    before = (home.root).stat().st_mtime_ns
    follow(disk, Rmdir(fid(2), fid(1), "e", T0 + 1), Rmdir(fid(3), ROOT_FID, "tmp", before))
    assert names(disk, fid(1), with_local=True) == []
    assert (home.root / KEPT_NAME / "1/x.lock").read_bytes() == b"mine"
    assert (home.root / KEPT_NAME / "2/in/deep").exists()
    assert disk.perform(ReadAttributes(lock)) is None
    assert names(disk, with_local=True) == ["d"]
    assert (home.root).stat().st_mtime_ns == before
    # They are never looked at again, and never in the way.
    again = home.open(exclude=EXCLUDE)
    assert again.found.skipped == ()
    assert names(again, with_local=True) == ["d"]
    assert again.view().status(ROOT_FID)[1] == 3
    do(again, mkdir(4, "e", fid(1)))


def test_who_follows_keeps_what_is_excluded_in_a_replaced_directory(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "d"), mkdir(2, "e"))
    here(disk, born("x.lock", fid(2)))
    follow(disk, Rename(fid(1), ROOT_FID, "d", ROOT_FID, "e", fid(2), T0))
    assert sorted(os.listdir(home.root)) == [KEPT_NAME, "e"]
    assert os.listdir(home.root / KEPT_NAME / "1") == ["x.lock"]


def test_what_fails_for_another_reason_empties_no_directory(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "d"), mkdir(2, "e"), create(3, "f"))
    here(disk, born("x.lock", fid(2)))
    onto = Rename(fid(1), ROOT_FID, "d", ROOT_FID, "e", 0, T0, RENAME_NOREPLACE)
    for op in (onto, mkdir(4, "e"), create(4, "e"), Link(fid(3), ROOT_FID, "e", T0)):
        assert disk.perform(ApplyAll([op])) == Applied(0, errno.EEXIST)
    assert os.listdir(home.root / "e") == ["x.lock"]


def test_a_directory_that_is_mirrored_in_part_is_not_emptied(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "d"), create(2, "f", fid(1)))
    here(disk, born("x.lock", fid(1)))
    refused = disk.perform(ApplyAll([Rmdir(fid(1), ROOT_FID, "d", T0)]))
    assert refused == Applied(0, errno.ENOTEMPTY)
    assert sorted(os.listdir(home.root / "d")) == ["f", "x.lock"]


# ---- the walk ------------------------------------------------------------------------------------


def fill(root: Path) -> None:
    for path in ("tmp/x", "tmp/in/deep", "d/x.lock", "d/f", "a/cache/c", "a/f"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def test_the_walk_gives_no_ids_to_what_is_excluded(home: Home) -> None:
    fill(home.root)
    disk = home.open(exclude=EXCLUDE)
    assert sorted(names(disk)) == ["a", "d", "tmp"]
    assert len(disk.found.unknown) == 6  # tmp, d, d/f, a, a/cache, a/f
    assert not any(map(is_local, disk.found.unknown))
    entries = disk.perform(ListDirectory(ROOT_FID))
    assert isinstance(entries, list)
    (tmp,) = (entry.fid for entry in entries if entry.name == "tmp")
    assert names(disk, tmp) == []
    assert names(disk, tmp, with_local=True) == ["in", "x"]
    # And forgets those that it gave, at once.
    again = home.open(exclude=EXCLUDE)
    assert again.found.unknown == ()


def test_a_name_that_is_mirrored_too_is_not_shown_as_excluded(home: Home) -> None:
    (home.root / "f").write_text("shared")
    (home.root / "d").mkdir()
    os.link(home.root / "f", home.root / "d/f.lock")
    os.link(home.root / "f", home.root / "g")
    disk = home.open(exclude=EXCLUDE)
    assert names(disk, with_local=True) == ["d", "f", "g"]
    assert disk.found.skipped == ("d/f.lock",)
    entries = disk.perform(ListDirectory(ROOT_FID))
    assert isinstance(entries, list)
    (one,) = {entry.fid for entry in entries if entry.kind is Kind.FILE}
    do(disk, Unlink(one, ROOT_FID, "f", T0))
    assert (home.root / "d/f.lock").read_text() == "shared"


# ---- offline -------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.stop()


def test_what_is_excluded_may_change_while_the_node_is_stopped(node: Node) -> None:
    disk = node.open(*EXCLUDE).disk
    do(disk, mkdir(1, "tmp"), create(2, "f"))
    for number in range(9):
        here(disk, born(f"{number}", fid(1)))
    node.stop()
    for number in range(9):
        (node.root / f"tmp/{number}").unlink()
    (node.root / "tmp/new").write_text("x")
    opened = node.open(*EXCLUDE)
    assert opened.disk.found.unknown == ()
    # The directory's own times have changed: to compare those costs nothing.
    assert {number for number, _ in opened.touched.keys} <= {fid(1)}


def test_what_becomes_excluded_is_not_gone(node: Node) -> None:
    disk = node.open().disk
    do(disk, mkdir(1, "tmp"))
    do(disk, *(create(number, f"{number}", fid(1)) for number in range(2, 20)))
    opened = node.open(*EXCLUDE)  # more than half of it: nobody is asked
    assert (opened.disk.found.changed, opened.disk.found.unknown) == (0, ())
    # The other node may have them where they are mirrored.
    assert {number for number, _ in opened.touched.keys} == {fid(each) for each in range(1, 20)}
    assert names(opened.disk, fid(1)) == []
    assert len(names(opened.disk, fid(1), with_local=True)) == 18
    assert len(os.listdir(node.root / "tmp")) == 18


def test_what_is_excluded_no_more_is_as_new(node: Node) -> None:
    disk = node.open(*EXCLUDE).disk
    do(disk, mkdir(1, "tmp"))
    here(disk, born("x", fid(1)))
    opened = node.open()
    (new,) = opened.disk.found.unknown
    assert not is_local(new)
    assert names(opened.disk, fid(1)) == ["x"]
    assert {(fid(1), NAMES)} < set(opened.touched.keys)
    assert any(number == new for number, _ in opened.touched.keys)


def test_files_that_are_gone_are_told_from_files_that_are_excluded_now(node: Node) -> None:
    disk = node.open().disk
    do(disk, mkdir(1, "tmp"))
    do(disk, *(create(number, f"{number}", fid(1)) for number in range(2, 20)))
    do(disk, *(create(number, f"{number}") for number in range(20, 30)))
    node.stop()
    for number in range(20, 27):
        (node.root / f"{number}").unlink()
    with pytest.raises(VolumeError, match="7 of 11 files"):
        node.open(*EXCLUDE)


def test_nothing_is_half_made_where_nobody_of_ours_was_before(node: Node) -> None:
    (node.root / "odd.lock").touch()
    (node.root / "odd.lock").chmod(0o1600)
    assert node.open(*EXCLUDE).disk.found.half_made == ()
    assert (node.root / "odd.lock").exists()


@pytest.mark.parametrize("is_killed", [True, False])
def test_what_a_crash_left_half_made_is_removed_from_what_is_excluded(
    node: Node, is_killed: bool
) -> None:
    disk = node.open(*EXCLUDE).disk
    do(disk, mkdir(1, "tmp"))
    here(disk, born("whole", fid(1)))
    (node.kill if is_killed else node.stop)()
    file, symlink, directory = (
        f"{HALF_MADE_PREFIX}{LOCAL_FID_MIN + number:x}" for number in range(3)
    )
    (node.root / file).touch()
    (node.root / symlink).symlink_to("x")
    (node.root / "tmp" / directory).mkdir()
    found = node.open(*EXCLUDE).disk.found
    if is_killed:
        assert sorted(found.half_made) == [file, symlink, f"tmp/{directory}"]
        assert sorted(os.listdir(node.root)) == ["tmp"]
        assert os.listdir(node.root / "tmp") == ["whole"]
    else:  # somebody else's then, however odd
        assert found.half_made == ()


def test_what_is_excluded_may_look_as_it_likes(node: Node) -> None:
    """Sticky and empty, as what is mirrored looks while it is made; there an id says more."""
    disk = node.open(*EXCLUDE).disk
    do(disk, mkdir(1, "tmp"))
    for mode in (0o1000, 0o1600, 0o1700, 0o3700):
        here(disk, Create(0, ROOT_FID, f"{mode:o}.lock", mode, -1, -1, T0, 0))
        here(disk, Mkdir(0, fid(1), f"{mode:o}", mode, -1, -1, T0, 0))
        here(disk, Mknod(0, fid(1), f"{mode:o}.fifo", Kind.FIFO, mode, 0, -1, -1, T0, 0))
    before = sorted(path.relative_to(node.root) for path in node.root.rglob("*"))
    node.kill()
    assert node.open(*EXCLUDE).disk.found.half_made == ()
    assert sorted(path.relative_to(node.root) for path in node.root.rglob("*")) == before
    assert len(before) == 13


def test_what_is_made_replaces_nothing_that_somebody_put_there(node: Node) -> None:
    disk = node.open(*EXCLUDE).disk
    (node.root / "behind.lock").write_text("somebody's")
    (node.root / "full.lock").mkdir()
    (node.root / "full.lock/file").touch()
    for op in (
        born("behind.lock"),
        Symlink(0, ROOT_FID, "behind.lock", "x", -1, -1, T0),
        Mkdir(0, ROOT_FID, "behind.lock", 0o755, -1, -1, T0, 0),
        Mkdir(0, ROOT_FID, "full.lock", 0o755, -1, -1, T0, 0),
    ):
        outcome = disk.perform(ApplyHere(op))
        assert isinstance(outcome, Outcome)
        assert outcome.errno in {errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY}
    assert sorted(os.listdir(node.root)) == ["behind.lock", "full.lock"]
    assert (node.root / "behind.lock").read_text() == "somebody's"
    assert os.listdir(node.root / "full.lock") == ["file"]
