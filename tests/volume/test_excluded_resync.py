"""A resync between two real disks of which something stays on each node."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirrorha.volume.disk import (
    Applied,
    ApplyAll,
    ClearLimbo,
    HashBlocks,
    Place,
    ReadBytes,
    SetAside,
)
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.names import KEPT_NAME
from mirrorha.volume.ops import ROOT_FID, Mkdir, Rmdir, Write
from tests.volume.disk_support import T0, Home, create, do, drawn, fid, mkdir
from tests.volume.offline_node import Node
from tests.volume.resync_pair import Pair
from tests.volume.test_excluded import EXCLUDE, born, here, names
from tests.volume.test_resync_real_disk import application


def tree(root: Path, wanted: Callable[[str], bool]) -> dict[str, object]:
    found: dict[str, object] = {}
    for at, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = Path(at) / name
            relative = str(path.relative_to(root))
            if wanted(relative):
                mode = path.lstat().st_mode
                found[relative] = path.read_bytes() if stat.S_ISREG(mode) else mode
    return found


def resync(source: RealDisk, target: RealDisk, *, seed: int = 1, everything: bool = True) -> None:
    pair = Pair(random.Random(seed), source, target, everything=everything)
    pair.begin()
    pair.run(mutations=0)
    assert (pair.machine_s.failure, pair.machine_t.failure) == ("", "")
    asked = [*pair.source.performed, *pair.target.performed]
    assert asked
    assert ReadBytes not in asked or HashBlocks in asked


def local_files(root: Path) -> dict[str, object]:
    return tree(root, lambda path: path.endswith(".lock") or path.startswith(("tmp/", KEPT_NAME)))


def mirrored_files(root: Path) -> dict[str, object]:
    local = {*local_files(root), KEPT_NAME}
    return tree(root, lambda path: path not in local)


@pytest.mark.parametrize("seed", range(5))
def test_a_resync_compares_and_deletes_nothing_that_is_excluded(
    homes: tuple[Home, Home], seed: int
) -> None:
    rng = random.Random(seed)
    disks = [home.open(exclude=("tmp/**", "*.lock")) for home in homes]
    for number, (home, disk) in enumerate(zip(homes, disks, strict=True)):
        application(rng, disk, epoch=2 + number).live(30)
        root_names = names(disk)
        # Not what a symlink points to, which may be longer than any path.
        modes = {name: (home.root / name).lstat().st_mode for name in root_names}
        directories = [n for n, mode in modes.items() if stat.S_ISDIR(mode) and n != "tmp"]
        if "tmp" not in root_names:
            do(disk, Mkdir(drawn(900 + number), ROOT_FID, "tmp", 0o755, -1, -1, T0))
        home.close()
        for name in (
            "tmp/own",
            "tmp/both",
            "both.lock",
            *(f"{each}/x.lock" for each in directories),
        ):
            (home.root / name).write_text(f"{home.root} {name}")
    before = [local_files(home.root) for home in homes]
    assert all(len(each) >= 3 for each in before)
    source, target = (home.open(exclude=("tmp/**", "*.lock")) for home in homes)
    resync(source, target, seed=seed)
    assert mirrored_files(homes[0].root) == mirrored_files(homes[1].root)
    after = [local_files(home.root) for home in homes]
    assert after[0] == before[0]
    # What was in directories that the source does not have is kept, and everything else is where
    # it was: by content, for a directory may have moved.
    assert contents(after[1]) == contents(before[1])
    for name in ("tmp/own", "tmp/both", "both.lock"):
        assert after[1][name] == before[1][name]


def contents(files: dict[str, object]) -> list[bytes]:
    return sorted(content for content in files.values() if isinstance(content, bytes))


def test_a_resync_keeps_what_is_excluded_in_directories_that_it_deletes(
    homes: tuple[Home, Home],
) -> None:
    source, target = (home.open(exclude=EXCLUDE) for home in homes)
    do(target, mkdir(1, "d"), mkdir(2, "e", fid(1)), create(3, "f", fid(2)), mkdir(4, "tmp"))
    here(target, born("x.lock", fid(2)))
    here(target, born("y.lock", fid(1)))
    inner = here(target, Mkdir(0, fid(4), "in", 0o755, -1, -1, T0))
    here(target, born("deep", inner))
    resync(source, target)
    root = homes[1].root
    assert os.listdir(root) == [KEPT_NAME]
    kept = sorted(path.name for path in (root / KEPT_NAME).rglob("*") if path.is_file())
    assert kept == ["deep", "x.lock", "y.lock"]


def test_what_is_deleted_at_once_is_kept_where_it_is_excluded(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "d"), mkdir(2, "e", fid(1)), create(3, "f", fid(2)), mkdir(4, "g", fid(2)))
    for number, parent in enumerate((1, 2, 4)):
        here(disk, born(f"{number}.lock", fid(parent)))
    inner = here(disk, Mkdir(0, fid(2), "in.lock", 0o755, -1, -1, T0))
    here(disk, born("deep", inner))
    disk.perform(SetAside(ROOT_FID, "d"))
    assert disk.perform(ClearLimbo()) == 4
    assert os.listdir(home.root) == [KEPT_NAME]
    kept = sorted(path.name for path in (home.root / KEPT_NAME).rglob("*") if path.is_file())
    assert kept == ["0.lock", "1.lock", "2.lock", "deep"]


def test_not_even_names_that_nobody_sees_stand_in_the_way_of_a_deletion(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "d"), mkdir(2, "e", fid(1)), create(3, "f"), mkdir(4, "g"))
    home.close()
    for name in ("d/e/f.lock", "g/f.lock"):
        os.link(home.root / "f", home.root / name)
    disk = home.open(exclude=EXCLUDE)
    assert sorted(disk.found.skipped) == ["d/e/f.lock", "g/f.lock"]
    assert disk.perform(ApplyAll([Rmdir(fid(4), ROOT_FID, "g", T0)])) == Applied(1)
    disk.perform(SetAside(ROOT_FID, "d"))
    assert disk.perform(ClearLimbo()) == 2
    assert sorted(os.listdir(home.root)) == [KEPT_NAME, "f"]
    assert (home.root / "f").stat().st_nlink == 3


def test_a_directory_that_is_placed_keeps_its_time(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE)
    do(disk, mkdir(1, "a"), mkdir(2, "cache", fid(1)))
    here(disk, born("x", fid(2)))
    here(disk, born("x.lock", fid(2)))
    assert disk.perform(Place(ROOT_FID, "b", fid(1)))
    assert names(disk, fid(2), with_local=True) == ["x.lock"]
    assert os.listdir(home.root / KEPT_NAME / "1") == ["x"]
    assert (home.root / "b/cache").stat().st_mtime_ns == T0


@contextlib.contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """So many more may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(more)]
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_directories_are_deleted_with_few_descriptors(home: Home) -> None:
    disk = home.open(exclude=EXCLUDE, idle_max=16, dirty_max=16)
    do(disk, mkdir(1, "d"), *(mkdir(number, f"{number}", fid(1)) for number in range(2, 150)))
    here(disk, born("x.lock", fid(149)))
    disk.perform(SetAside(ROOT_FID, "d"))
    with few_descriptors(60):
        assert disk.perform(ClearLimbo()) == 149
    assert os.listdir(home.root / KEPT_NAME / "1") == ["x.lock"]


def test_a_directory_that_is_moved_is_settled_with_few_descriptors(home: Home) -> None:
    disk = home.open(exclude=("a/*/own",), idle_max=16, dirty_max=16)
    do(disk, mkdir(1, "a"), *(mkdir(number, f"{number}", fid(1)) for number in range(2, 150)))
    for number in range(2, 150):
        here(disk, born("own", fid(number)))
    disk.perform(SetAside(ROOT_FID, "a"))
    with few_descriptors(60):
        assert disk.perform(Place(ROOT_FID, "b", fid(1)))
    assert len(os.listdir(home.root / KEPT_NAME)) == 148


def test_what_a_crash_left_in_limbo_is_still_told_apart(homes: tuple[Home, Home]) -> None:
    """There no path says what is excluded: what has no id is."""
    source, target = (home.open(exclude=EXCLUDE) for home in homes)
    do(target, mkdir(4, "tmp"), mkdir(1, "d"), create(2, "f", fid(1)))
    here(target, born("in tmp", fid(4)))
    here(target, born("x.lock", fid(1)))
    for name in ("tmp", "d"):
        target.perform(SetAside(ROOT_FID, name))
    target = homes[1].open(exclude=EXCLUDE)
    assert target.found.unknown == ()
    # One of them is to be there after all.
    do(source, mkdir(1, "d"))
    resync(source, target)
    root = homes[1].root
    assert sorted(os.listdir(root)) == [KEPT_NAME, "d"]
    assert os.listdir(root / "d") == ["x.lock"]
    assert os.listdir(root / KEPT_NAME / "1") == ["in tmp"]
    # In its place again, its path says it.
    assert names(homes[1].open(exclude=EXCLUDE)) == ["d"]


def test_what_is_excluded_no_more_becomes_equal(tmp_path: Path) -> None:
    nodes = [Node(tmp_path / name) for name in ("paris", "lyon")]
    try:
        for node in nodes:
            disk = node.open(*EXCLUDE).disk
            do(disk, mkdir(1, "tmp"), create(2, "f"))
            for name in ("both", node.root.parent.name):
                one = here(disk, born(name, fid(1)))
                here(disk, Write(one, 0, str(node.root).encode(), T0))
        paris, lyon = (node.open() for node in nodes)
        pair = Pair(random.Random(1), paris.disk, lyon.disk, everything=False)
        pair.source.log.update(paris.touched.keys)
        pair.target.log.update(lyon.touched.keys)
        pair.begin()
        pair.run(mutations=0)
        assert (pair.machine_s.failure, pair.machine_t.failure) == ("", "")
        trees = [tree(node.root, lambda path: True) for node in nodes]
        assert trees[0] == trees[1]
        assert trees[1]["tmp/both"] == str(nodes[0].root).encode()
        assert "tmp/lyon" not in trees[1]
    finally:
        for node in nodes:
            node.stop()


def test_a_directory_that_somebody_moved_takes_nothing_across_the_border(tmp_path: Path) -> None:
    """On a stopped node nothing stands in the way of that."""
    nodes = [Node(tmp_path / name) for name in ("paris", "lyon")]
    try:
        for node in nodes:
            disk = node.open(*EXCLUDE).disk
            do(disk, mkdir(1, "a"), mkdir(2, "cache", fid(1)))
            here(disk, born("both", fid(2)))
            here(disk, born(node.root.parent.name, fid(2)))
            here(disk, born("x.lock", fid(2)))
        paris, lyon = nodes
        paris.stop()
        (paris.root / "a").rename(paris.root / "b")
        opened = paris.open(*EXCLUDE), lyon.open(*EXCLUDE)
        pair = Pair(random.Random(1), opened[0].disk, opened[1].disk, everything=False)
        pair.source.log.update(opened[0].touched.keys)
        pair.target.log.update(opened[1].touched.keys)
        pair.begin()
        pair.run(mutations=0)
        assert (pair.machine_s.failure, pair.machine_t.failure) == ("", "")
        assert sorted(os.listdir(paris.root / "b/cache")) == ["both", "paris", "x.lock"]
        assert sorted(os.listdir(lyon.root / "b/cache")) == ["both", "paris", "x.lock"]
        assert sorted(os.listdir(lyon.root / KEPT_NAME / "1")) == ["both", "lyon"]
        assert (lyon.root / "b/cache").stat().st_mtime_ns == (
            paris.root / "b/cache"
        ).stat().st_mtime_ns
        # And none of it was told to the ids: they are as they were.
        assert lyon.open(*EXCLUDE).disk.found.unknown == ()
    finally:
        for node in nodes:
            node.stop()
