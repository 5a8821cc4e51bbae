"""What a node does when the disk under its volume, or under its state, fails while it runs.

An error makes the file system read-only, or what was written cannot be written back.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.requirements import require_device
from tests.shows.on_stage import Stage, open_stage
from tests.shows.show_pair import NODES, NodeProcess
from tests.shows.small_disks import LoopDisk, loop_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

# By a write, or by the fsync before it.
REFUSALS = ("Read-only file system", "Input/output error")
AT_ONCE_S = 5  # the timeout is a second; a busy machine


@contextlib.asynccontextmanager
async def open_failing(
    base: Path, kind: str, **settings: Any
) -> AsyncGenerator[tuple[Stage, dict[str, LoopDisk]]]:
    with contextlib.ExitStack() as stack:
        disks = {name: stack.enter_context(loop_disk(base / name / kind)) for name in NODES}
        async with open_stage(base, **settings) as stage:
            yield stage, disks


async def survive(stage: Stage, failing: LoopDisk, survivor: NodeProcess) -> None:
    """Make the other node's disk read-only; the survivor goes on at once, with new writes."""
    failing.turn_read_only()
    failed_s = trio.current_time()
    await stage.serves(survivor)
    assert trio.current_time() - failed_s < AT_ONCE_S
    if survivor is not stage.nodes[0]:
        await survivor.ask("append", first=80_000)
    await stage.more_acks(survivor)


async def test_a_volume_of_the_prim_that_turns_read_only_is_handed_over(tmp_path: Path) -> None:
    async with open_failing(tmp_path, "data") as (stage, disks):
        prim, second = stage.nodes
        await stage.write_for_good(prim)
        await survive(stage, disks[prim.name], second)
        status = await stage.status(prim, role="WAIT", colour="red")
        assert "this node's disk failed" in status["why"]
        assert any(text in status["why"] for text in REFUSALS)
        assert "'mirrorha stop' and 'mirrorha start'" in status["why"]
        assert "(own_disk)" in prim.log
        await stage.end_client(prim)
        # What the text says is what helps.
        await prim.ask("stop")
        disks[prim.name].make_well()
        await prim.ask("start")
        assert await stage.pair.wait_mirrored() == (second.name, prim.name)
        await stage.end_client(second)


async def test_a_volume_of_the_second_that_turns_read_only_is_left_behind(tmp_path: Path) -> None:
    async with open_failing(tmp_path, "data") as (stage, disks):
        prim, second = stage.nodes
        await stage.write_for_good(prim)
        await survive(stage, disks[second.name], prim)
        status = await stage.status(second, role="WAIT", colour="red")
        assert any(text in status["why"] for text in REFUSALS)
        assert (await prim.ask("status"))["peer"]["colour"] == "red"
        await second.ask("stop")
        disks[second.name].make_well()
        await second.ask("start")
        assert await stage.pair.wait_mirrored() == stage.names
        assert (await stage.end_client(prim))["refused"] == {}


async def test_a_state_of_the_prim_that_turns_read_only_is_handed_over(tmp_path: Path) -> None:
    async with open_failing(tmp_path, "state") as (stage, disks):
        prim, second = stage.nodes
        await stage.write_for_good(prim)
        await survive(stage, disks[prim.name], second)
        await prim.process.wait()
        assert "cannot be written" in prim.log
        disks[prim.name].make_well()
        await stage.pair.start(prim.name)
        assert await stage.pair.wait_mirrored() == (second.name, prim.name)
        await stage.end_client(second)


async def test_a_state_of_the_second_that_turns_read_only_is_left_behind(tmp_path: Path) -> None:
    async with open_failing(tmp_path, "state") as (stage, disks):
        prim, second = stage.nodes
        await stage.write_for_good(prim)
        await survive(stage, disks[second.name], prim)
        await second.process.wait()
        assert "cannot be written" in second.log
        disks[second.name].make_well()
        await stage.pair.start(second.name)
        assert await stage.pair.wait_mirrored() == stage.names
        assert (await stage.end_client(prim))["refused"] == {}


async def test_a_prim_that_could_not_write_back_does_not_go_alone_as_another_process(
    tmp_path: Path,
) -> None:
    """Its page cache held what both had acknowledged; its next process would not miss it."""
    async with open_failing(tmp_path, "data", wait_peer_s=3) as (stage, disks):
        prim, second = stage.nodes
        await stage.write_for_good(prim)
        # The SECOND is there and can do nothing.
        os.kill(second.pid, signal.SIGSTOP)
        disks[prim.name].fail_writes()
        await stage.status(prim, role="WAIT", colour="red")
        await stage.end_client(prim)
        await second.kill()
        await prim.kill()
        disks[prim.name].make_well()
        await stage.pair.start(prim.name)
        status = await stage.why(prim, "or its disk failed, while both were in sync")
        assert (status["role"], status["colour"]) == ("WAIT", "red")
        await stage.pair.start(second.name)
        assert await stage.pair.wait_mirrored() == (second.name, prim.name)


@pytest.mark.parametrize("mount", [False, True])
async def test_what_was_lost_between_two_processes_is_found_by_the_second(
    tmp_path: Path, *, mount: bool
) -> None:
    """The operating system tells it once: whoever opens the directory next, a worker as well."""
    if mount:
        require_device("/dev/fuse")
    async with open_failing(tmp_path, "data", wait_peer_s=3, mount=mount) as (stage, disks):
        prim, second = stage.nodes
        await stage.write_for_good(prim)
        os.kill(second.pid, signal.SIGSTOP)
        os.kill(prim.pid, signal.SIGSTOP)
        disks[prim.name].fail_writes()
        await second.kill()
        await prim.kill()
        await stage.pair.start(prim.name)
        await stage.why(prim, "could not be written back")
        await prim.end()
        disks[prim.name].make_well()
        await stage.pair.start(prim.name)
        await stage.why(prim, "while both were in sync: acknowledged writes may be missing")
        await stage.pair.start(second.name)
        assert await stage.pair.wait_mirrored() == (second.name, prim.name)
