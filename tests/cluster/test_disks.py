"""A disk that was mounted anew has lost what was in the page cache, whatever the boot id says."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from mirrorha.cluster.disks import read_disks
from mirrorha.core.meta import Meta, begin_incarnation
from mirrorha.core.words import Boot
from tests.cluster.rig import NAMES, open_pair, start_pair
from tests.shows.small_disks import loop_disk, run

RAN = Meta(node="lyon", incarnation=1, boot_id="b", dirty=True, disks=(("/a", "1"), ("/b", "2")))


@pytest.mark.parametrize(
    ("disks", "boot"),
    [
        ((("/a", "1"), ("/b", "2")), Boot.PROCESS_CRASH),
        ((("/a", "1"), ("/b", "3")), Boot.OS_CRASH),
        ((("/a", "1"),), Boot.PROCESS_CRASH),  # a volume less, or nothing is known of it now
        ((("/a", "1"), ("/c", "9")), Boot.PROCESS_CRASH),  # a volume more
    ],
)
def test_a_disk_that_was_mounted_anew_counts_as_a_crash_of_the_system(
    disks: tuple[tuple[str, str], ...], boot: Boot
) -> None:
    meta, found = begin_incarnation(RAN, boot_id="b", disks=disks)
    assert found is boot
    assert meta.unclean is (boot is Boot.OS_CRASH)
    assert meta.disks == disks
    assert begin_incarnation(meta, boot_id="b", disks=disks)[1] is Boot.PROCESS_CRASH


def test_a_state_of_before_there_were_disks_in_it_says_nothing() -> None:
    old = Meta(node="lyon", incarnation=1, boot_id="b", dirty=True)
    assert begin_incarnation(old, boot_id="b", disks=(("/a", "1"),))[1] is Boot.PROCESS_CRASH


def test_each_mount_of_a_disk_is_another_one(tmp_path: Path) -> None:
    root = tmp_path / "disk" / "data"
    with loop_disk(tmp_path / "disk") as disk:
        root.mkdir()
        before = read_disks([root])
        assert before == read_disks([root])
        assert [path for path, _ in before] == [str(root)]
        run("umount", str(disk.path))
        disk.mount()
        after = read_disks([root])
        assert len(after) == 1
        assert after != before


def test_what_cannot_be_known_is_left_out(tmp_path: Path) -> None:
    assert read_disks([tmp_path / "no" / "such"]) == ()
    assert read_disks([tmp_path], sys=tmp_path) == ()


@pytest.mark.timeout(60)
async def test_a_node_whose_disk_was_mounted_anew_knows_that_it_may_lack_writes(
    tmp_path: Path,
) -> None:
    name = NAMES[1]
    with loop_disk(tmp_path / name) as disk:
        async with open_pair(tmp_path, limit_s=50) as nodes:
            await start_pair(nodes)
            node = nodes[1]
            await node.end()
            await trio.to_thread.run_sync(lambda: run("umount", str(disk.path)))
            disk.mount()
            await node.start()
            runtime = node.cluster._runtime
            assert runtime is not None
            assert runtime.parts is not None
            assert runtime.parts.loop.state.boot is Boot.OS_CRASH
