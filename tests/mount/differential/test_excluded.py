"""What stays on the serving node of a pair: it is done as on a plain directory, and there alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from tests.cluster.rig import open_pair, start_pair
from tests.mount.differential.driver import Differential
from tests.mount.differential.test_mount import ALLOWANCES, USERS
from tests.mount.differential.test_pair import LIMIT_S, RUNS, place_of, run_seed
from tests.mount.mount_support import ground
from tests.requirements import require_device, require_root


@pytest.mark.timeout(LIMIT_S)
async def test_what_is_excluded_does_what_a_plain_directory_does(tmp_path: Path) -> None:
    require_root()
    require_device("/dev/fuse")
    with ground() as here:
        reference = here.make("reference")
        place = here.path / "pair"
        place.mkdir()
        async with open_pair(place, mount=True, exclude=("run*",), limit_s=LIMIT_S) as pair:
            first, second = await start_pair(pair)
            serving, standing_by = place_of(first), place_of(second)
            with Differential(
                serving, reference, users=USERS, allowances=ALLOWANCES
            ) as differential:
                for seed in range(RUNS):
                    await trio.to_thread.run_sync(run_seed, differential, seed)
                assert differential.runs >= RUNS
            assert await trio.to_thread.run_sync(os.listdir, standing_by) == []
