"""A service that falls silent again and again: restarted in place, and then handed over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import attrs

from tests.shows.show_pair import open_show

CHECK_EVERY_S: Final = 0.2
RESTARTS: Final = 3  # the default restart limit


@attrs.frozen(kw_only=True)
class HandedOver:
    """What became of a service whose port refuses connections, and how long that took.

    Attributes:
        restarted_s: from each time it fell silent until it listened again, on the same node.
        moved_s: from the last time until it listened on the other node.
        history: what the first node's history says of it: rule and text, oldest first.
        has_moved: the other node serves in the end, and this one stands by.
        restarts_shown: by the status document, after the last restart in place.
    """

    restarted_s: list[float]
    moved_s: float
    history: list[tuple[str, str]]
    has_moved: bool
    restarts_shown: int


async def measure_failing_check(base: Path) -> HandedOver:
    """The port of the service is closed four times; a TCP check looks at it five times a second."""
    async with open_show(base, limit_s=90, check_every_s=CHECK_EVERY_S) as pair:
        await pair.start()
        primary, second = await pair.wait_mirrored()
        first, other = pair.nodes[primary], pair.nodes[second]
        restarted = []
        for _ in range(RESTARTS):
            silent_s = time.monotonic()
            await first.ask("fall_silent")
            restarted.append(await first.wait_event("service-listens", since_s=silent_s) - silent_s)
        shown: dict[str, Any] = await first.ask("status")
        silent_s = time.monotonic()
        await first.ask("fall_silent")
        moved_s = await other.wait_event("service-listens", since_s=silent_s) - silent_s
        # Where it is now the check is well, and stays so.
        served_by, _ = await pair.wait_mirrored()
        history = await first.ask("history")
    return HandedOver(
        restarted_s=restarted,
        moved_s=moved_s,
        history=[(rule, text) for rule, text in history],
        has_moved=served_by == second,
        restarts_shown=shown["service"]["restarts"],
    )
