"""What a node does when the disk under its state, or under its volume, is full.

The nodes are real processes, the disks small file systems of the test. Nothing that was
acknowledged is lost, and what is wrong is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.shows.on_stage import Stage, open_stage
from tests.shows.show_pair import NODES
from tests.shows.small_disks import SmallDisk, memory_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


@contextlib.contextmanager
def small(base: Path, kind: str, size_mib: int, inodes: int) -> Iterator[dict[str, SmallDisk]]:
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                memory_disk(base / name / kind, size_mib=size_mib, inodes=inodes)
            )
            for name in NODES
        }


@contextlib.asynccontextmanager
async def open_small(
    base: Path, kind: str, *, size_mib: int = 24, inodes: int = 512, **settings: Any
) -> AsyncGenerator[tuple[Stage, dict[str, SmallDisk]]]:
    with small(base, kind, size_mib, inodes) as disks:
        async with open_stage(base, **settings) as stage:
            yield stage, disks


def use_up(disk: SmallDisk, what: str) -> None:
    if what == "bytes":
        disk.fill()
    else:
        disk.use_up_inodes()


@pytest.mark.parametrize("what", ["bytes", "inodes"])
async def test_a_prim_without_room_for_its_state_goes_on_and_can_go_on_alone(
    tmp_path: Path, what: str
) -> None:
    async with open_small(tmp_path, "state") as (stage, disks):
        prim, second = stage.nodes
        await prim.ask("append")
        await stage.more_acks(prim)
        use_up(disks[prim.name], what)
        await stage.more_acks(prim)
        await second.kill()
        await stage.status(prim, role="ALONE")
        await stage.more_acks(prim)
        warning = await stage.warned(prim, of="state_dir")
        assert str(disks[prim.name].path) in warning
        assert warning in prim.log
        disks[prim.name].make_room()
        await stage.well(prim)
        await stage.pair.start(second.name)
        await stage.pair.wait_mirrored()
        seen = await stage.end_client(prim)
        assert seen["refused"] == {}


@pytest.mark.parametrize("what", ["bytes", "inodes"])
async def test_a_second_without_room_for_its_state_takes_over(tmp_path: Path, what: str) -> None:
    async with open_small(tmp_path, "state") as (stage, disks):
        prim, second = stage.nodes
        await prim.ask("append")
        await stage.more_acks(prim)
        use_up(disks[second.name], what)
        await stage.more_acks(prim)
        warning = await stage.warned(second, of="state_dir")
        assert warning in second.log
        assert (await prim.ask("status"))["role"] == "PRIM"
        await stage.end_client(prim)
        await prim.kill()
        await stage.serves(second)
        await second.ask("append", first=80_000)
        await stage.more_acks(second)
        disks[second.name].make_room()
        await stage.well(second)
        await stage.pair.start(prim.name)
        await stage.pair.wait_mirrored()
        assert (await stage.end_client(second))["refused"] == {}


async def test_a_prim_that_can_write_down_nothing_hands_over(tmp_path: Path) -> None:
    """Whatever becomes free is taken by somebody else at once."""
    async with open_small(tmp_path, "state") as (stage, disks):
        prim, second = stage.nodes
        disk = disks[prim.name]
        await prim.ask("append")
        await stage.more_acks(prim)
        for reserve in disk.path.glob("reserve*"):
            reserve.unlink()
        disk.fill()
        await stage.serves(second)
        await second.ask("append", first=80_000)
        await stage.more_acks(second)
        await prim.process.wait()
        assert "node.json cannot be written: No space left on device; make its disk" in prim.log
        disk.make_room()
        await stage.pair.start(prim.name)
        await stage.pair.wait_mirrored()
        await stage.well(prim)
        await stage.end_client(second)


@pytest.mark.parametrize("what", ["bytes", "inodes"])
async def test_a_node_starts_on_its_reserve(tmp_path: Path, what: str) -> None:
    async with open_small(tmp_path, "state") as (stage, disks):
        prim, second = stage.nodes
        await prim.ask("append")
        await stage.more_acks(prim)
        await second.kill()
        use_up(disks[second.name], what)
        await stage.more_acks(prim)
        await stage.pair.start(second.name)
        await stage.pair.wait_mirrored()
        await stage.warned(second, of="state_dir")
        disks[second.name].make_room()
        await stage.well(second)
        await stage.end_client(prim)


async def test_a_full_volume_of_the_prim_is_the_applications_business(tmp_path: Path) -> None:
    async with open_small(tmp_path, "data", size_mib=64) as (stage, disks):
        prim, second = stage.nodes
        epoch = (await prim.ask("status"))["epoch"]
        await prim.ask("append")
        await stage.more_acks(prim)
        disks[prim.name].fill()
        await stage.refused(prim, "ENOSPC")
        status = await stage.status(prim, role="PRIM", colour="green")
        assert status["epoch"] == epoch
        disks[prim.name].make_room()
        await stage.more_acks(prim)
        assert set((await stage.end_client(prim))["refused"]) <= {"ENOSPC", "ENOENT"}
        assert (await second.ask("status"))["epoch"] == epoch
        assert await stage.pair.wait_mirrored() == stage.names


async def test_a_full_volume_of_the_second_is_left_behind_until_it_has_room(
    tmp_path: Path,
) -> None:
    async with open_small(tmp_path, "data", size_mib=64, peer_slow_max_s=3) as (stage, disks):
        prim, second = stage.nodes
        await prim.ask("append")
        await stage.more_acks(prim)
        disks[second.name].fill()
        filled_s = trio.current_time()
        await stage.status(prim, role="ALONE")
        assert trio.current_time() - filled_s < 3 + 3
        await stage.more_acks(prim)
        status = await stage.why(second, "is it full?")
        assert (status["role"], status["colour"]) == ("WAIT", "red")
        assert "ENOSPC" in status["why"]
        assert (await prim.ask("status"))["peer"]["colour"] == "red"
        assert "peer_disk" in [each["event"]["rule"] for each in prim.events]
        await stage.more_acks(prim)
        disks[second.name].make_room()
        assert await stage.pair.wait_mirrored() == stage.names
        assert (await stage.end_client(prim))["refused"] == {}
