"""Names that a disk will not move at first: it is full, or what is there is read-only.

A file system that refuses is no disk that failed: nothing is lost, and the same disk goes on.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorha.volume.disk import (
    LIMBO_FID,
    Applied,
    ApplyAll,
    ClearLimbo,
    ListDirectory,
    Outcome,
    Place,
    SetAside,
)
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.names import KEPT_NAME
from mirrorha.volume.ops import ROOT_FID, AnyOp, Mkdir, Rmdir, SetAttributes, Symlink
from mirrorha.volume.stream.resync_interface import ResyncStatus
from tests.shows.small_disks import SmallDisk, memory_disk
from tests.volume.disk_support import T0, Home, create, do, fid, mkdir
from tests.volume.resync_pair import Pair
from tests.volume.test_disk_ordinary_user import as_nobody
from tests.volume.test_excluded import born, here
from tests.volume.test_excluded_resync import resync

EXCLUDE = ("*.lock", "cache/*")
FULL = Outcome(None, errno.ENOSPC)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[SmallDisk, RealDisk]]:
    """A volume on a file system of its own, with a directory that has an excluded file."""
    with memory_disk(tmp_path / "small", size_mib=4, inodes=64) as place:
        (tmp_path / "state").mkdir()
        (place.path / "state").symlink_to(tmp_path / "state")
        home = Home(place.path)
        disk = home.open(exclude=EXCLUDE)
        do(disk, mkdir(1, "d"), create(2, "f", fid(1)))
        here(disk, born("x.lock", fid(1)))
        (home.root / "d/x.lock").write_text("mine")
        yield place, disk
        home.close()


def files(root: Path) -> dict[str, str]:
    found = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_text() for path in found}


def test_a_full_disk_deletes_what_it_has_room_to_keep(small: tuple[SmallDisk, RealDisk]) -> None:
    place, disk = small
    root = place.path / "root"
    place.use_up_inodes()
    assert disk.perform(SetAside(ROOT_FID, "d")) == FULL
    assert files(root) == {"d/f": "", "d/x.lock": "mine"}
    place.make_room()
    assert disk.perform(SetAside(ROOT_FID, "d")) is None
    place.use_up_inodes()
    assert disk.perform(ClearLimbo()) == FULL
    assert sorted(files(root).values()) == ["", "mine"]
    assert disk.perform(ListDirectory(LIMBO_FID)), "the disk goes on"
    place.make_room()
    assert disk.perform(ClearLimbo()) == 2
    assert files(root) == {f"{KEPT_NAME}/1/x.lock": "mine"}


def test_a_full_follower_says_that_it_is_full(small: tuple[SmallDisk, RealDisk]) -> None:
    place, disk = small
    do(disk, mkdir(3, "e"))
    here(disk, born("y.lock", fid(3)))
    place.use_up_inodes()
    gone = [Rmdir(fid(3), ROOT_FID, "e", T0)]
    assert disk.perform(ApplyAll(list(gone))) == Applied(0, errno.ENOSPC)
    place.make_room()
    assert disk.perform(ApplyAll(list(gone))) == Applied(1)
    assert os.listdir(place.path / "root" / KEPT_NAME / "1") == ["y.lock"]


def test_a_directory_is_in_its_place_once_what_is_excluded_elsewhere_has_left_it(
    small: tuple[SmallDisk, RealDisk],
) -> None:
    place, disk = small
    root = place.path / "root"
    do(disk, mkdir(3, "cache"))
    here(disk, born("own", fid(3)))
    disk.perform(SetAside(ROOT_FID, "cache"))
    place.use_up_inodes()
    assert disk.perform(Place(ROOT_FID, "moved", fid(3))) == FULL
    assert not (root / "moved").exists()
    place.make_room()
    assert disk.perform(Place(ROOT_FID, "moved", fid(3))) is True
    assert os.listdir(root / "moved") == []
    assert os.listdir(root / KEPT_NAME / "1") == ["own"]


def test_a_resync_that_is_refused_says_why_and_can_be_had_again(
    small: tuple[SmallDisk, RealDisk], home: Home
) -> None:
    place, target = small
    source = home.open(exclude=EXCLUDE)
    do(target, mkdir(5, "aside"))
    target.perform(SetAside(ROOT_FID, "aside"))  # there is limbo already
    place.use_up_inodes()
    pair = Pair(random.Random(1), source, target, everything=True)
    pair.begin()
    pair.run(mutations=0)
    assert pair.machine_t.status is ResyncStatus.FAILED
    assert pair.machine_t.failed_here
    assert pair.machine_t.failure.startswith("the target's disk refused a ")
    assert pair.machine_t.failure.endswith(": ENOSPC")
    place.make_room()
    resync(source, target)
    assert files(place.path / "root") == {f"{KEPT_NAME}/1/x.lock": "mine"}


# ---- an ordinary user ------------------------------------------------------------------------


def disks(path: Path) -> tuple[RealDisk, RealDisk, Path]:
    """A source, a target, and the target's directory."""
    homes = []
    for name in ("source", "target"):
        (path / name).mkdir()
        homes.append(Home(path / name))
    source, target = (home.open(exclude=EXCLUDE) for home in homes)
    return source, target, homes[1].root


def mode(number: int, bits: int = 0o555) -> AnyOp:
    return SetAttributes(fid(number), bits, None, None, None)


def an_excluded_directory_goes(path: Path) -> None:
    source, target, root = disks(path)
    do(target, mkdir(1, "d"), mkdir(2, "e"))
    for parent, bits in ((1, 0o555), (2, 0)):
        inner = here(target, Mkdir(0, fid(parent), f"{bits}.lock", 0o755, -1, -1, T0))
        here(target, born("deep", inner))
        here(target, SetAttributes(inner, bits, None, None, None))
    assert target.perform(ApplyAll([Rmdir(fid(1), ROOT_FID, "d", T0)])) == Applied(1)
    resync(source, target)
    kept = root / KEPT_NAME
    assert sorted(os.listdir(kept)) == ["1", "2"]
    assert os.listdir(kept / "1" / f"{0o555}.lock") == ["deep"]
    for number, bits in ("1", 0o555), ("2", 0):
        (name,) = os.listdir(kept / number)
        assert stat.S_IMODE((kept / number / name).stat().st_mode) == bits
        (kept / number / name).chmod(0o755)


def a_read_only_directory_goes(path: Path) -> None:
    source, target, root = disks(path)
    do(target, mkdir(1, "d"), create(2, "f", fid(1)), mkdir(3, "e", fid(1)), mode(3))
    here(target, born("x.lock", fid(1)))
    do(target, mode(1))
    resync(source, target)
    assert os.listdir(root) == [KEPT_NAME]


def a_read_only_directory_changes(path: Path) -> None:
    source, target, root = disks(path)
    for disk in (source, target):
        do(disk, mkdir(1, "d"), mkdir(3, "x"), mkdir(4, "y"))
    do(target, create(2, "f", fid(1)), create(5, "g", fid(3)), mkdir(6, "in", fid(3)))
    do(source, create(7, "new", fid(1)), Symlink(fid(8), fid(1), "s", "new", -1, -1, T0))
    do(source, create(5, "g", fid(4)), mkdir(6, "in", fid(4)))
    for disk in (source, target):
        do(disk, *(mode(number) for number in (1, 3, 4, 6)))
    resync(source, target)
    found = {name: sorted(os.listdir(root / name)) for name in ("d", "x", "y")}
    assert found == {"d": ["new", "s"], "x": [], "y": ["g", "in"]}
    assert {stat.S_IMODE((root / name).stat().st_mode) for name in ("d", "x", "y", "y/in")} == {
        0o555
    }


@pytest.mark.parametrize(
    "body",
    [an_excluded_directory_goes, a_read_only_directory_goes, a_read_only_directory_changes],
    ids=lambda body: body.__name__,
)
def test_an_ordinary_user_may_have_read_only_directories(body: object, open_path: Path) -> None:
    as_nobody(body, open_path)  # type: ignore[arg-type]
