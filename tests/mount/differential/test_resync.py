"""While many processes do random things on a mounted volume, its peer leaves and returns."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from mirrorha.core.words import Role
from tests.cluster.rig import TestNode, open_pair, start_pair, wait_mirrored, wait_until
from tests.cluster.test_mounted import worker_pid
from tests.mount.differential.comparison import differences, snapshot
from tests.mount.differential.driver import storm
from tests.mount.differential.operations import draw_operations
from tests.mount.differential.test_mount import REFUSED as LEFT
from tests.mount.differential.test_pair import COPIES, RUNS, compare_copies, place_of
from tests.mount.mount_support import ground
from tests.requirements import require_device, require_root

LIMIT_S = 120 + 60 * RUNS
WRITERS = 4


def storm_on(node: TestNode, name: str, seed: object, operations: int) -> Counter[str]:
    drawn = [
        draw_operations(
            random.Random(f"{name} {seed} {number}"), operations, actors=1, without=LEFT
        )
        for number in range(WRITERS)
    ]
    return storm(place_of(node), drawn, name)


async def leave(node: TestNode) -> None:
    await node.cluster.stop()


async def die(node: TestNode) -> None:
    """It starts a new worker by itself; there may be no time without one to speak of."""
    os.kill(worker_pid(node), signal.SIGKILL)
    await node.cluster.wait_role(Role.WAIT)
    await node.cluster.stop()


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("seed", range(max(1, RUNS // 4)))
@pytest.mark.parametrize("end", [leave, die])
async def test_what_is_done_without_the_peer_and_while_it_returns_is_on_both(
    end: Callable[[TestNode], Awaitable[None]], seed: int
) -> None:
    require_root()
    require_device("/dev/fuse")
    with ground() as here:
        async with open_pair(here.path, mount=True, limit_s=LIMIT_S) as pair:
            first, second = await start_pair(pair)
            do = partial(trio.to_thread.run_sync, storm_on, first)
            for number in range(4):
                await do(f"before{number}", seed, 100)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(do, "meanwhile", seed, 600)
                await end(second)
            # Little, on what is there already: nothing else brings that over.
            for number in range(4):
                await do(f"before{number}", f"{seed} alone", 12)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(do, "returning", seed, 2000)
                await second.cluster.start()
            await wait_mirrored([first, second])
            for name in ("meanwhile", "returning", *(f"before{number}" for number in range(4))):
                await trio.to_thread.run_sync(
                    compare_copies, place_of(first), place_of(second), name
                )
            for node in (first, second):
                await node.cluster.stop()
            await wait_until(lambda: not here.mounts())
            behind = [snapshot(place_of(node), COPIES) for node in (first, second)]
            assert differences(*behind) == []
