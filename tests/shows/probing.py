"""Both probes asked all the time, through swaps and kills: never 200 from both.

Each probe is polled by a process of its own (this file, as a program), which says of each request
when it began, when it was answered, and with what. `judge` then looks for what cannot be.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from tests.shows.show_pair import NODES, ShowPair, environment, open_show

PATHS: Final = ("/readyz", "/", "/primary")
EVERY_S: Final = 0.01
ANSWER_S: Final = 1.0
SETTLE_S: Final = 0.3


@attrs.frozen
class Poll:
    """One request. `status` 0: no answer."""

    node: str
    path: str
    began_s: float
    ended_s: float
    status: int


@attrs.frozen(kw_only=True)
class Probed:
    """What a campaign showed.

    Attributes:
        both: pairs of 200 answers, one of each node, whose requests overlap.
        moves: how often a 200 of one node followed on one of the other; once for each fault.
        dark_s: for each fault the longest time after it without any 200.
    """

    polls: int
    ok: dict[str, int]
    both: list[tuple[Poll, Poll]]
    moves: int
    faults: list[str]
    dark_s: list[float]


def judge(polls: Sequence[Poll], faults: Sequence[tuple[str, float]]) -> Probed:
    """Look for two that served at once, and for the time in which none did.

    Args:
        faults: what was done, and when, in order; each moves the service to the other node once.
    """
    good = sorted((one for one in polls if one.status == 200), key=lambda one: one.began_s)
    both = list(_overlaps(good))
    # Without an overlap the answers are in one order, in which each fault moves the service once.
    # One more move, A B A, means that B was the one to be asked while A was.
    moves = sum(one.node != two.node for one, two in itertools.pairwise(good))
    starts = [at_s for _, at_s in faults]
    dark = []
    for at_s, until_s in itertools.pairwise([*starts, math.inf]):
        spans = [
            two.began_s - one.ended_s
            for one, two in itertools.pairwise(good)
            if at_s < two.began_s <= until_s  # later ones are the next fault's
        ]
        dark.append(max(spans, default=math.inf))
    return Probed(
        polls=len(polls),
        ok={node: sum(one.node == node for one in good) for node in NODES},
        both=both,
        moves=moves,
        faults=[kind for kind, _ in faults],
        dark_s=dark,
    )


def _overlaps(good: Sequence[Poll]) -> list[tuple[Poll, Poll]]:
    """Of answers sorted by their beginning: those that overlap with one of the other node's."""
    found = []
    latest: dict[str, Poll] = {}  # by node: the answer that ended last
    for one in good:
        for node, other in latest.items():
            if node != one.node and other.ended_s >= one.began_s:
                found.append((other, one))
        before = latest.get(one.node)
        if before is None or one.ended_s > before.ended_s:
            latest[one.node] = one
    return found


async def measure_probes(base: Path, *, swaps: int, kills: int, seed: int = 1) -> Probed:
    """Poll both probes every 10 ms through so many swaps and kill -9s, in random order."""
    kinds = ["swap"] * swaps + ["kill"] * kills
    random.Random(seed).shuffle(kinds)
    async with open_show(base, limit_s=60 + 12 * len(kinds)) as pair:
        await pair.start()
        await pair.wait_mirrored()
        outputs = {name: base / f"{name}.polls" for name in NODES}
        pollers = [await _start_poller(pair, name, output) for name, output in outputs.items()]
        faults: list[tuple[str, float]] = []
        try:
            await pair.wait(
                "both probes are polled", lambda: all(map(os.path.getsize, outputs.values()))
            )
            for kind in kinds:
                await trio.sleep(SETTLE_S)
                faults.append((kind, await _do(pair, kind)))
            await trio.sleep(SETTLE_S)
        finally:
            with trio.CancelScope(shield=True):
                for poller in pollers:
                    await _end_poller(poller)
    polls = [
        Poll(*json.loads(line))
        for output in outputs.values()
        for line in output.read_text().splitlines()
    ]
    return judge(polls, faults)


async def _do(pair: ShowPair, kind: str) -> float:
    """Have the service move to the other node, and wait until both mirror again."""
    primary, second = await pair.wait_mirrored()
    at_s = time.monotonic()
    if kind == "swap":
        await pair.nodes[primary].ask("swap")
    else:
        await pair.nodes[primary].kill()
        await pair.nodes[second].wait_event("service-started", since_s=at_s)
        await trio.sleep(SETTLE_S)
        await pair.start(primary)
    await pair.wait_mirrored()
    return at_s


# ---- the pollers ----


async def _start_poller(pair: ShowPair, node: str, output: Path) -> trio.Process:
    port = pair.settings["probe_ports"][node]
    command = [sys.executable, __file__, "--node", node, "--port", str(port)]
    with output.open("wb") as polls:
        return await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=polls, env=environment()
        )


async def _end_poller(process: trio.Process) -> None:
    if process.stdin is not None:
        await process.stdin.aclose()
    with trio.move_on_after(10):
        await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()


def poll_on(node: str, port: int) -> None:
    """Ask every 10 ms, on one connection while it lasts, until standard input ends."""
    paths = itertools.cycle(PATHS)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    next_s = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, next_s - time.monotonic()))[0]:
        path, began_s = next(paths), time.monotonic()
        status = 0
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            connection.close()
        print(json.dumps([node, path, began_s, time.monotonic(), status]), flush=True)
        next_s = max(next_s + EVERY_S, time.monotonic())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    poll_on(options.node, options.port)
