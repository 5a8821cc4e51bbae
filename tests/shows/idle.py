"""What a node costs that has nothing to do."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import trio

from tests.shows.show_pair import open_show, usage

SETTLE_S: Final = 3.0
# Two networks, and so four paths: every pair of addresses has one.
TWO_NETWORKS: Final = {
    "paris": ["127.0.0.1", "127.0.1.1"],
    "lyon": ["127.0.0.2", "127.0.1.2"],
}
# The second network reaches one of them only: two paths.
TWO_PATHS: Final = {"paris": ["127.0.0.1", "127.0.1.1"], "lyon": ["127.0.0.2"]}
ONE_PATH: Final = {"paris": ["127.0.0.1"], "lyon": ["127.0.0.2"]}


async def measure_idle(
    base: Path, *, seconds: float, spans: int = 1, addresses: dict[str, list[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """What each role takes over so many seconds, with the default pulse and timeout.

    Wake-ups are those of the quietest of the `spans` that the time is cut into.
    """
    async with open_show(
        base,
        limit_s=seconds + 60,
        addresses=addresses or TWO_NETWORKS,
        pulse_s=0.25,
        timeout_s=3.0,
    ) as pair:
        await pair.start()
        roles = await pair.wait_mirrored()
        await trio.sleep(SETTLE_S)
        pids = [pair.nodes[name].pid for name in roles]
        marks = [[usage(pid) for pid in pids]]
        for _ in range(spans):
            await trio.sleep(seconds / spans)
            marks.append([usage(pid) for pid in pids])
        status = await pair.nodes[roles[0]].ask("status")
    found = {}
    for role, *usages in zip(("PRIM", "SECOND"), *marks, strict=True):
        one, two = usages[0], usages[-1]
        span_s = two.at_s - one.at_s
        found[role] = {
            "cpu_percent": 100 * (two.cpu_s - one.cpu_s) / span_s,
            "wakes_per_s": min(
                (b.wakes - a.wakes) / (b.at_s - a.at_s) for a, b in pairwise(usages)
            ),
            "rss_mb": two.rss_mb,
            "pss_mb": two.pss_mb,
            "grown_mb": two.rss_mb - one.rss_mb,
            "paths": len(status["heartbeats"]),
        }
    return found
