"""What happened on a node is still known after it was killed, and while it does not run."""

from __future__ import annotations

from pathlib import Path

import trio

from mirrorha.core.words import Role
from mirrorha.state.history import HISTORY_NAME, read_newest
from tests.cluster.rig import open_pair, start_pair


async def test_it_outlives_the_process(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        before = await first.cluster.history()
        await first.end()
        await second.cluster.wait_role(Role.ALONE)
        kept = read_newest(first.site.state(first.name) / HISTORY_NAME, limit=1000)
        assert kept[: len(before)] == before  # the end of the run is told after it

        await first.start()
        await first.cluster.wait_role(Role.SECOND)
        after = await first.cluster.history(limit=1000)
        while after[-1].role is not Role.SECOND:  # it is written a moment after it happens
            await trio.sleep(0.01)
            after = await first.cluster.history(limit=1000)
        assert after[: len(before)] == before
        assert [each.seq for each in after] == sorted({each.seq for each in after})
