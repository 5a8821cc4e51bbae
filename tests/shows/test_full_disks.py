"""What a node does when the disk under its state, or under its volume, is full.

The nodes are real processes, the disks small file systems of the test. Nothing that was
acknowledged is lost, and what is wrong is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, Final, final

import pytest
import trio

from tests.shows.appending import records_in
from tests.shows.show_pair import NODES, NodeProcess, ShowPair, open_show
from tests.shows.small_disks import SmallDisk, memory_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

RESERVE_BYTES: Final = 4 << 20
SOME_ACKS: Final = 100


@final
class Stage:
    """A pair that mirrors, and a client of its PRIM."""

    def __init__(self, pair: ShowPair, disks: dict[str, SmallDisk], primary: str) -> None:
        self.pair, self.disks = pair, disks
        self.names: Final = (primary, pair.other(primary))
        self.acked: set[int] = set()

    @property
    def nodes(self) -> tuple[NodeProcess, NodeProcess]:
        first, second = self.names
        return self.pair.nodes[first], self.pair.nodes[second]

    async def more_acks(self, node: NodeProcess, more: int = SOME_ACKS) -> None:
        before = (await node.ask("appended"))["acks"]
        with trio.fail_after(30):
            while (await node.ask("appended"))["acks"] < before + more:  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def refused(self, node: NodeProcess, what: str, times: int = 10) -> None:
        """Until its client was refused so often with this."""
        with trio.fail_after(30):
            while (await node.ask("appended"))["refused"].get(what, 0) < times:  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def end_client(self, node: NodeProcess) -> dict[str, Any]:
        seen: dict[str, Any] = await node.ask("end_append")
        self.acked.update(seen["acked"])
        return seen

    async def status(self, node: NodeProcess, **wanted: str) -> dict[str, Any]:
        """The status, once it says what is wanted."""
        status: dict[str, Any] = {}
        with trio.move_on_after(30):
            while True:
                status = await node.ask("status")
                if all(status[key] == value for key, value in wanted.items()):
                    return status
                await trio.sleep(0.02)
        raise AssertionError(f"{node.name} never is {wanted}: {status}")

    async def warned(self, node: NodeProcess, *, of: str) -> str:
        """What the status warns of, once it does."""
        with trio.fail_after(30):
            while True:
                for warning in (await node.ask("status"))["warnings"]:
                    if of in warning:
                        return str(warning)
                await trio.sleep(0.05)

    async def well(self, node: NodeProcess) -> None:
        """Until it warns of nothing, and has its reserve again."""
        reserve = self.pair.base / node.name / "state" / "reserve"
        with trio.fail_after(30):
            while (await node.ask("status"))["warnings"]:  # noqa: ASYNC110 - another process
                await trio.sleep(0.05)
        assert reserve.stat().st_size == RESERVE_BYTES

    def lost(self) -> set[int]:
        """Acknowledged records that one of the copies lacks."""
        held = [records_in(self.pair.data(name)) for name in NODES]
        return self.acked - set.intersection(*held)

    def differing(self) -> set[str]:
        """Files of the client that are not the same on both nodes."""
        first, second = (contents(self.pair.data(name)) for name in NODES)
        return {name for name in first | second if first.get(name) != second.get(name)}


def contents(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.glob("records-*")}


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
async def open_stage(
    base: Path, kind: str, *, size_mib: int = 24, inodes: int = 512, **settings: Any
) -> AsyncGenerator[Stage]:
    with small(base, kind, size_mib, inodes) as disks:
        async with open_show(base, limit_s=80, **settings) as pair:
            await pair.start()
            primary, _ = await pair.wait_mirrored()
            stage = Stage(pair, disks, primary)
            yield stage
        assert stage.lost() == set()
        assert stage.differing() == set()


def use_up(disk: SmallDisk, what: str) -> None:
    if what == "bytes":
        disk.fill()
    else:
        disk.use_up_inodes()


@pytest.mark.parametrize("what", ["bytes", "inodes"])
async def test_a_prim_without_room_for_its_state_goes_on_and_can_go_on_alone(
    tmp_path: Path, what: str
) -> None:
    async with open_stage(tmp_path, "state") as stage:
        prim, second = stage.nodes
        await prim.ask("append")
        await stage.more_acks(prim)
        use_up(stage.disks[prim.name], what)
        await stage.more_acks(prim)
        await second.kill()
        await stage.status(prim, role="ALONE")
        await stage.more_acks(prim)
        warning = await stage.warned(prim, of="state_dir")
        assert str(stage.disks[prim.name].path) in warning
        assert warning in prim.log
        stage.disks[prim.name].make_room()
        await stage.well(prim)
        await stage.pair.start(second.name)
        await stage.pair.wait_mirrored()
        seen = await stage.end_client(prim)
        assert seen["refused"] == {}


@pytest.mark.parametrize("what", ["bytes", "inodes"])
async def test_a_second_without_room_for_its_state_takes_over(tmp_path: Path, what: str) -> None:
    async with open_stage(tmp_path, "state") as stage:
        prim, second = stage.nodes
        await prim.ask("append")
        await stage.more_acks(prim)
        use_up(stage.disks[second.name], what)
        await stage.more_acks(prim)
        warning = await stage.warned(second, of="state_dir")
        assert warning in second.log
        assert (await prim.ask("status"))["role"] == "PRIM"
        await stage.end_client(prim)
        await prim.kill()
        await stage.status(second, role="ALONE")
        await second.ask("append", first=80_000)
        await stage.more_acks(second)
        stage.disks[second.name].make_room()
        await stage.well(second)
        await stage.pair.start(prim.name)
        await stage.pair.wait_mirrored()
        assert (await stage.end_client(second))["refused"] == {}


async def test_a_prim_that_can_write_down_nothing_hands_over(tmp_path: Path) -> None:
    """Whatever becomes free is taken by somebody else at once."""
    async with open_stage(tmp_path, "state") as stage:
        prim, second = stage.nodes
        disk = stage.disks[prim.name]
        await prim.ask("append")
        await stage.more_acks(prim)
        for reserve in disk.path.glob("reserve*"):
            reserve.unlink()
        disk.fill()
        await stage.status(second, role="ALONE")
        await second.ask("append", first=80_000)
        await stage.more_acks(second)
        if prim.is_running:
            await stage.end_client(prim)
        assert "cannot be written" in prim.log
        await prim.end()
        disk.make_room()
        await stage.pair.start(prim.name)
        await stage.pair.wait_mirrored()
        await stage.well(prim)
        await stage.end_client(second)


@pytest.mark.parametrize("what", ["bytes", "inodes"])
async def test_a_node_starts_on_its_reserve(tmp_path: Path, what: str) -> None:
    async with open_stage(tmp_path, "state") as stage:
        prim, second = stage.nodes
        await prim.ask("append")
        await stage.more_acks(prim)
        await second.kill()
        use_up(stage.disks[second.name], what)
        await stage.more_acks(prim)
        await stage.pair.start(second.name)
        await stage.pair.wait_mirrored()
        await stage.warned(second, of="state_dir")
        stage.disks[second.name].make_room()
        await stage.well(second)
        await stage.end_client(prim)


async def test_a_full_volume_of_the_prim_is_the_applications_business(tmp_path: Path) -> None:
    async with open_stage(tmp_path, "data") as stage:
        prim, second = stage.nodes
        epoch = (await prim.ask("status"))["epoch"]
        await prim.ask("append")
        await stage.more_acks(prim)
        stage.disks[prim.name].fill()
        await stage.refused(prim, "ENOSPC")
        status = await stage.status(prim, role="PRIM", colour="green")
        assert status["epoch"] == epoch
        stage.disks[prim.name].make_room()
        await stage.more_acks(prim)
        assert set((await stage.end_client(prim))["refused"]) <= {"ENOSPC", "ENOENT"}
        assert (await second.ask("status"))["epoch"] == epoch
        assert await stage.pair.wait_mirrored() == stage.names


async def test_a_full_volume_of_the_second_is_left_behind_until_it_has_room(
    tmp_path: Path,
) -> None:
    async with open_stage(tmp_path, "data", peer_slow_max_s=3) as stage:
        prim, second = stage.nodes
        await prim.ask("append")
        await stage.more_acks(prim)
        stage.disks[second.name].fill()
        filled_s = trio.current_time()
        await stage.status(prim, role="ALONE")
        assert trio.current_time() - filled_s < 3 + 3
        await stage.more_acks(prim)
        await stage.status(second, role="WAIT")
        assert "peer_disk" in [each["event"]["rule"] for each in prim.events]
        await stage.more_acks(prim)
        stage.disks[second.name].make_room()
        assert await stage.pair.wait_mirrored() == stage.names
        assert (await stage.end_client(prim))["refused"] == {}
