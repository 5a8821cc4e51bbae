"""A comparison reads the device, not what a page cache remembers of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrorha.volume.disk import HashBlocks, ReadAnew, SyncTree
from mirrorha.volume.ops import Write
from mirrorha.volume.verify.messages import Blocks
from mirrorha.volume.verify.seeing import reads_of
from mirrorha.wire.limits import BLOCK_BYTES
from tests.shows.small_disks import loop_disk
from tests.volume.disk_support import Home, create, do, fid

if TYPE_CHECKING:
    from pathlib import Path

SEED = 5


def test_a_byte_that_changed_on_the_medium_is_seen_once_it_is_read_anew(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk") as medium:
        home = Home(medium.path)
        disk = home.open()
        do(disk, create(1, "a"), Write(fid(1), 0, b"data" * BLOCK_BYTES, 5))
        disk.perform(SyncTree())
        whole = HashBlocks(fid(1), 0, 4, SEED)
        before = disk.perform(whole)
        medium.flip(home.root / "a", 2 * BLOCK_BYTES + 100)
        assert disk.perform(whole) == before, "the page cache remembers what was written"
        disk.perform(ReadAnew(fid(1), 3, 1))
        assert disk.perform(whole) == before, "of other blocks as well"
        disk.perform(reads_of([Blocks(fid(1), 0, 4)]))
        after = disk.perform(whole)
        assert isinstance(before, list)
        assert isinstance(after, list)
        assert [one == other for one, other in zip(before, after, strict=True)] == [
            True,
            True,
            False,
            True,
        ]
        home.close()


def test_what_is_not_on_the_medium_yet_is_not_read_from_it(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk") as medium:
        home = Home(medium.path)
        disk = home.open()
        do(disk, create(1, "a"), Write(fid(1), 0, b"data" * BLOCK_BYTES, 5))
        before = disk.perform(HashBlocks(fid(1), 0, 4, SEED))
        disk.perform(ReadAnew(fid(1), 0, 4))
        assert disk.perform(HashBlocks(fid(1), 0, 4, SEED)) == before
        home.close()
