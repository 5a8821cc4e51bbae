"""A follower that reads nothing for a long while, under many writers: what the source keeps."""

from __future__ import annotations

import os
import signal
import struct
import time
from pathlib import Path
from typing import Final

import attrs
import trio

from tests.shows.show_pair import NodeProcess, ShowError, ShowPair, open_show, rss_mb

GROWTH_MB_MAX: Final = 32.0
LOOK_S: Final = 0.05
WARM_S: Final = 1.0
IN_FLIGHT_S: Final = 0.5  # acknowledgements that were on their way when the follower fell silent


@attrs.frozen(kw_only=True)
class DeafPeer:
    """What the source did while its follower read nothing.

    Attributes:
        before_mb, highest_mb: memory of the source under load, and while nothing was read.
        acks_before, acks_while, acks_after: writes that were acknowledged; the second counts from
            half a second after the follower fell silent.
        resumed_s: from when it reads again until the first acknowledgement.
        lost: writers whose last acknowledged round one of the two copies lacks.
        decisions: how often the register was changed.
    """

    silent_s: float
    before_mb: float
    highest_mb: float
    acks_before: int
    acks_while: int
    acks_after: int
    resumed_s: float
    errors: int
    lost: int
    decisions: int
    mirrored: bool

    @property
    def is_well(self) -> bool:
        """Bounded, nothing acknowledged alone, nothing failed or lost, and it went on."""
        is_bounded = self.highest_mb - self.before_mb <= GROWTH_MB_MAX
        is_silent = self.acks_while == self.errors == self.lost == self.decisions == 0
        return is_bounded and is_silent and self.acks_after > 0 and self.mirrored


async def measure_deaf_peer(
    base: Path, *, seconds: float, writers: int, size: int, blocks_loop: bool = True
) -> DeafPeer:
    """So many writers write blocks of `size` while the follower reads nothing for a while.

    Args:
        blocks_loop: its event loop is blocked, and its heartbeats go on; else the whole process
            is stopped, and nothing is heard of it.
    """
    patience_s = seconds + 30
    async with open_show(
        base,
        limit_s=seconds + 90,
        peer_slow_max_s=patience_s,
        timeout_s=1.0 if blocks_loop else patience_s,
    ) as pair:
        await pair.start()
        primary, second = await pair.wait_mirrored()
        source, follower = pair.nodes[primary], pair.nodes[second]
        epoch = (await source.ask("status"))["epoch"]
        await source.ask("write", count=writers, size=size)
        before_mb = await _highest(source, WARM_S)
        before = await source.ask("writers")
        deaf_s = time.monotonic()
        if blocks_loop:
            await follower.tell("block", seconds=seconds)
        else:
            os.kill(follower.pid, signal.SIGSTOP)
        await trio.sleep(IN_FLIGHT_S)
        early = await source.ask("writers")
        highest_mb = await _highest(source, deaf_s + seconds - LOOK_S - time.monotonic())
        late = await source.ask("writers")
        if not blocks_loop:
            os.kill(follower.pid, signal.SIGCONT)
        silent_s = time.monotonic() - deaf_s
        resumed_s = await _wait_more(source, late["acks"]) - (deaf_s + seconds)
        highest_mb = max(highest_mb, await _highest(source, WARM_S))
        after = await source.ask("end_writers")
        roles = await pair.wait_mirrored()
        status = await source.ask("status")
    return DeafPeer(
        silent_s=silent_s,
        before_mb=before_mb,
        highest_mb=highest_mb,
        acks_before=before["acks"],
        acks_while=late["acks"] - early["acks"],
        acks_after=after["acks"] - late["acks"],
        resumed_s=resumed_s,
        errors=after["errors"],
        lost=_lost(pair, after["acked"]),
        decisions=status["epoch"] - epoch,
        mirrored=roles == (primary, second),
    )


async def _highest(node: NodeProcess, seconds: float) -> float:
    """The most memory that it has in the next so many seconds."""
    highest, until_s = 0.0, time.monotonic() + seconds
    while time.monotonic() < until_s:
        highest = max(highest, rss_mb(node.pid))
        await trio.sleep(LOOK_S)
    return highest


async def _wait_more(node: NodeProcess, acks: int) -> float:
    with trio.move_on_after(30):
        while (await node.ask("writers"))["acks"] == acks:  # noqa: ASYNC110 - another process
            await trio.sleep(0.01)
        return time.monotonic()
    raise ShowError("the writers do not go on")


def _lost(pair: ShowPair, acked: dict[str, int]) -> int:
    """Writers whose file holds, on either node, an older round than the one acknowledged last."""
    lost = 0
    for writer, number in acked.items():
        rounds = []
        for name in pair.nodes:
            with (pair.data(name) / f"writer-{writer}").open("rb") as file:
                rounds.append(struct.unpack(">Q", file.read(8))[0])
        lost += min(rounds) < number
    return lost
