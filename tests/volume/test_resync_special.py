"""Special files in a resync: they are never opened, and what they stand for never changes."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import msgspec
import pytest

from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.access_lists import ACL_ACCESS, ACL_DEFAULT
from mirrorha.volume.disk import Apply, Kind, SyncTree
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.ops import (
    FALLOCATE_KEEP_SIZE,
    FALLOCATE_PUNCH_HOLE,
    ROOT_FID,
    Birth,
    Create,
    Fallocate,
    Mkdir,
    Mknod,
    SetAttributes,
    SetXattr,
    Symlink,
    Write,
    make_fid,
)
from mirrorha.volume.stream.resync_interface import ResyncStatus
from mirrorha.wire.limits import BLOCK_BYTES
from tests.requirements import require_root
from tests.volume.disk_support import Home, create, do, fid
from tests.volume.resync_pair import Pair, difference
from tests.volume.resync_trees import LIST, OTHER_LIST


def assert_equal(pair: Pair[MemoryDisk] | Pair[RealDisk]) -> None:
    assert (pair.machine_s.failure, pair.machine_t.failure) == ("", "")
    assert pair.machine_t.status is ResyncStatus.EQUAL
    assert difference(pair.source.disk, pair.target.disk) == []


def test_a_target_that_may_make_no_devices_says_so() -> None:
    source = MemoryDisk()
    device = Mknod(
        make_fid(epoch=1, counter=1), ROOT_FID, "n", Kind.BLOCK_DEVICE, 0o600, 5, 0, 0, 1
    )
    source.perform(Apply(device))
    pair = Pair(random.Random(1), source, MemoryDisk(keeps_owners=False), everything=True)
    pair.begin()
    pair.run()
    assert pair.machine_t.status is ResyncStatus.FAILED
    assert "refused a Mknod" in pair.machine_t.failure
    assert "EPERM" in pair.machine_t.failure


@pytest.mark.parametrize(
    "there",
    [
        Mknod(0, ROOT_FID, "n", Kind.BLOCK_DEVICE, 0o600, 6, 0, 0, 1),
        Mknod(0, ROOT_FID, "n", Kind.CHARACTER_DEVICE, 0o600, 5, 0, 0, 1),
        Mknod(0, ROOT_FID, "n", Kind.FIFO, 0o600, 0, 0, 0, 1),
        Symlink(0, ROOT_FID, "n", "x", 0, 0, 1),
        Mkdir(0, ROOT_FID, "n", 0o700, 0, 0, 1),
        Create(0, ROOT_FID, "n", 0o600, 0, 0, 1),
    ],
    ids=lambda op: f"{type(op).__name__} {getattr(op, 'kind', '')}",
)
@pytest.mark.parametrize("same_fid", [True, False])
def test_a_device_is_made_anew_where_something_else_is(there: Birth, same_fid: bool) -> None:
    """With the same id as well: both nodes went their own way in one epoch."""
    fids = [make_fid(epoch=1, counter=counter) for counter in (1, 1 if same_fid else 2)]
    device = Mknod(fids[0], ROOT_FID, "n", Kind.BLOCK_DEVICE, 0o640, 5, 7, 8, 1)
    source, target = MemoryDisk(), MemoryDisk()
    source.perform(Apply(device))
    target.perform(Apply(msgspec.structs.replace(there, fid=fids[1])))
    pair = Pair(random.Random(1), source, target, everything=True)
    pair.begin()
    pair.run()
    assert_equal(pair)
    seen = target.snapshot()["n"].attributes
    assert (seen.kind, seen.rdev, seen.mode, seen.uid) == (Kind.BLOCK_DEVICE, 5, 0o640, 7)


def test_a_real_tree_of_everything_is_made_again(tmp_path: Path) -> None:
    require_root()
    homes = []
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        homes.append(Home(tmp_path / name))
    root = homes[0].root
    os.mkfifo(root / "fifo", 0o604)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "loop", stat.S_IFBLK | 0o640, os.makedev(7, 4000))
    os.link(root / "fifo", root / "fifo2")
    os.setxattr(root / "null", "trusted.a", b"1")
    source, target = (home.open() for home in homes)
    do(
        source,
        create(1, "f"),
        Mkdir(fid(2), ROOT_FID, "d", 0o2775, 7, 8, 5),
        SetXattr(fid(2), ACL_DEFAULT, LIST),
        SetXattr(fid(2), ACL_ACCESS, OTHER_LIST),
        Create(fid(3), fid(2), "g", 0o666, 9, 9, 5, 0o77),
        Write(fid(1), 0, b"x" * 10 * BLOCK_BYTES, 6),
        Fallocate(fid(1), FALLOCATE_PUNCH_HOLE | FALLOCATE_KEEP_SIZE, 0, 8 * BLOCK_BYTES, 7),
        Fallocate(fid(1), 0, 0, 200 * BLOCK_BYTES, 8),
        SetAttributes(fid(1), None, None, None, None, 1_234_567_891),
    )
    pair = Pair(random.Random(1), source, target, everything=True)
    pair.begin()
    pair.run()
    assert_equal(pair)
    target.perform(SyncTree())
    other = homes[1].root
    for name in ("fifo", "socket", "null", "loop", "d", "d/g"):
        mine, theirs = (root / name).lstat(), (other / name).lstat()
        for field in ("st_mode", "st_rdev", "st_uid", "st_gid", "st_nlink", "st_mtime_ns"):
            assert getattr(mine, field) == getattr(theirs, field), (name, field)
    assert os.stat(other / "f").st_atime_ns == 1_234_567_891
    # What was a hole is one; what was only reserved takes no room on the other node.
    assert os.stat(other / "f").st_blocks * 512 <= 3 * BLOCK_BYTES
    for home in homes:
        home.close()
