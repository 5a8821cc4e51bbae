"""What a resync sends after few blocks have changed, and how long the application waits for it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from tests.cluster.rig import read_tree
from tests.shows.show_pair import ShowError, ShowPair, open_show

KIB: Final = 1024
BLOCK_BYTES: Final = 64 * KIB
BLOCKS_PER_MIB: Final = 16
COMPARED_BYTES_MAX: Final = 48  # for each block that is compared
_TOLD: Final = re.compile(r"^(\d+) bytes were sent, of (\d+) that were compared")


@attrs.frozen(kw_only=True)
class Resync:
    """What one resync did.

    Attributes:
        changed_blocks: how many were changed while the follower was away.
        compared_blocks: as the node itself says.
        sent_bytes: of content, as the node itself says.
        wire_bytes: all that its kernel sent to and received from the follower, from its return.
        pauses_ms: of an application that writes all the time, the longest first.
    """

    changed_blocks: int
    compared_blocks: int
    sent_bytes: int
    wire_bytes: int
    took_s: float
    pauses_ms: list[float]
    acks: int

    @property
    def allowed_bytes(self) -> float:
        changed_bytes = self.changed_blocks * BLOCK_BYTES
        return 1.2 * changed_bytes + COMPARED_BYTES_MAX * self.compared_blocks


async def measure_resync(
    base: Path, *, files: int, file_mib: int, share: float, limit_s: float = 120
) -> list[Resync]:
    """Two resyncs: without an application, for the bytes, and with one that writes 4 KiB."""
    async with open_show(base, limit_s=limit_s) as pair:
        await pair.start()
        primary, _ = await pair.wait_mirrored()
        await pair.nodes[primary].ask("fill", files=files, file_mib=file_mib, seed=1)
        found = []
        for number, writers in enumerate((0, 1)):
            blocks = file_mib * BLOCKS_PER_MIB
            count = max(1, round(files * blocks * share))
            options = {"files": files, "blocks": blocks, "count": count, "seed": number}
            found.append(await _resync(pair, writers=writers, **options))
            await _wait_still(pair)
            trees = [read_tree(pair.data(name)) for name in pair.nodes]
            if trees[0] != trees[1]:
                differ = [name for name, held in trees[0].items() if trees[1].get(name) != held]
                raise ShowError(f"the copies differ after the resync: {differ}")
        return found


async def _resync(pair: ShowPair, *, writers: int, **change: int) -> Resync:
    primary, second = await pair.wait_mirrored()
    source = pair.nodes[primary]
    if writers:
        await source.ask("write", count=writers, size=4 * KIB)
        await trio.sleep(0.5)
    killed_s = time.monotonic()
    await pair.nodes[second].kill()
    await source.wait_event("won-alone", since_s=killed_s)
    await source.ask("change_blocks", **change)
    before = await source.ask("traffic")
    await source.ask("forget_pauses")
    back_s = time.monotonic()
    await pair.start(second)
    at_s = await source.wait_event("resynchronised", since_s=back_s)
    await pair.wait_mirrored()
    if writers:
        await trio.sleep(0.5)
    seen = await source.ask("end_writers") if writers else {"longest_pauses": [], "acks": 0}
    told = [line["event"]["text"] for line in source.events if line["at_s"] == at_s]
    matched = _TOLD.match(told[0])
    if matched is None:
        raise ShowError(f"the node says nothing of what it compared: {told}")
    return Resync(
        changed_blocks=change["count"],
        compared_blocks=-(-int(matched[2]) // BLOCK_BYTES),
        sent_bytes=int(matched[1]),
        wire_bytes=_moved(before, await source.ask("traffic")),
        took_s=at_s - back_s,
        pauses_ms=[1000 * pause_s for pause_s, _ in seen["longest_pauses"]],
        acks=seen["acks"],
    )


async def _wait_still(pair: ShowPair) -> None:
    """Until both have applied the same."""
    with trio.fail_after(10):
        while True:
            volumes = [(await node.ask("status"))["volumes"][0] for node in pair.nodes.values()]
            if volumes[0]["seq"] == volumes[1]["seq"] and not any(v["waiting"] for v in volumes):
                return
            await trio.sleep(0.02)


def _moved(before: dict[str, Any], after: dict[str, Any]) -> int:
    return sum(sum(after[ends]) - sum(before.get(ends, [0])) for ends in after)
