"""The rate of a resync on a pair as it is: configured, changed meanwhile, and told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mirrorha.config import ResyncConfig
from mirrorha.core.words import Role
from mirrorha.errors import CommandRefusedError
from tests.cluster.rig import TestNode, open_pair, start_pair, wait_mirrored, wait_until

if TYPE_CHECKING:
    from pathlib import Path

FLOOR = 1 << 20


def resync(node: TestNode) -> dict[str, Any]:
    (volume,) = node.cluster.status()["volumes"]
    return volume["resync"] or {}


async def test_it_is_configured_shown_and_changed_while_it_goes_on(tmp_path: Path) -> None:
    async with open_pair(tmp_path, resync=ResyncConfig(rate_bytes_per_s=FLOOR)) as pair:
        first, second = await start_pair(pair)
        await second.end(says_goodbye=True)
        await first.cluster.wait_role(Role.ALONE)
        for number in range(8):
            await first.write(f"large {number}", bytes(range(256)) * 4096 * 4)
        await second.start()
        await wait_until(lambda: resync(first).get("rate_bytes_per_s"))
        shown = resync(first)
        assert shown["limit_bytes_per_s"] == FLOOR
        assert shown["total_bytes"] >= 4 << 20
        assert shown["files_left"] > 0
        assert "as fast as it can" in await first.cluster.set_resync_rate(0)
        await wait_mirrored(pair)
        assert "1MiB/s from now on" in await first.cluster.set_resync_rate(5)
        with pytest.raises(CommandRefusedError, match="is no rate"):
            await first.cluster.set_resync_rate(-1)
