"""Rounds that only a mounted volume has: its worker dies, alone or with its application; or the
application is stopped, and the worker is left without orders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

import trio

from tests.pair.pair import READ_S, Pair
from tests.pair.record import Round

#: Beyond what changes may wait for, as somebody who waits would count it.
SLACK_S: Final = 5.0
LINES_MIN: Final = 20


async def kill_worker(pair: Pair, nursery: trio.Nursery) -> Round:
    """kill -9 of the primary's worker: the node hands over, and comes back by itself."""
    del nursery
    name = pair.primary()
    survivor = pair.other(name)
    killed = pair.worker(name)
    at_s = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    await pair.wait("the survivor serves", lambda: pair.has_acknowledged(survivor, at_s))
    await trio.sleep(0.5)
    played = Round(kind="kill_worker", primary=name, served_by=survivor)
    pair.judge(played, at_s)
    await pair.wait("the node has another worker", lambda: pair.worker(name) not in (0, killed))
    await pair.mirror_again(played, at_s)
    return played


async def kill_all(pair: Pair, nursery: trio.Nursery) -> Round:
    """kill -9 of the primary's application and of its worker, at once; then it is started again."""
    name = pair.primary()
    survivor = pair.other(name)
    worker = pair.worker(name)
    at_s = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    pair.nodes[name].kill()
    await pair.wait("the survivor serves", lambda: pair.has_acknowledged(survivor, at_s))
    await trio.sleep(0.5)
    played = Round(kind="kill_all", primary=name, served_by=survivor)
    pair.judge(played, at_s)
    back_s = time.monotonic()
    await pair.start_node(nursery, name)
    await pair.mirror_again(played, back_s)
    return played


async def kill_second_worker(pair: Pair, nursery: trio.Nursery) -> Round:
    """kill -9 of the SECOND's worker: the service goes on, and the SECOND comes back by itself."""
    del nursery
    name = pair.primary()
    second = pair.other(name)
    killed = pair.worker(second)
    at_s = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    await pair.wait("the primary goes on alone", lambda: name in pair.with_role("ALONE"))
    await pair.wait("it serves", lambda: pair.has_acknowledged(name, time.monotonic() - 0.2))
    played = Round(kind="kill_second_worker", primary=name, served_by=name)
    pair.judge(played, at_s)
    await pair.wait("it has another worker", lambda: pair.worker(second) not in (0, killed))
    await pair.mirror_again(played, at_s)
    return played


async def stop_app(pair: Pair, nursery: trio.Nursery) -> Round:
    """The primary's application is stopped for longer than changes may wait, and woken.

    A program on its mount goes on: its worker has no orders, and then nobody to mirror to.
    """
    name = pair.primary()
    survivor = pair.other(name)
    freeze_max_s = pair.place.setup.freeze_max_s
    file = f"appended-{pair.rounds}"
    record = pair.place.root / f"{file}.record"
    command = [sys.executable, "-m", "tests.pair.interrupted_appender"]
    command += [str(pair.place.data(name) / file), str(record)]
    run = partial(trio.run_process, command, check=False)
    writer: trio.Process = await nursery.start(run)
    try:
        await pair.wait("the writer writes", lambda: len(_written(record)) >= LINES_MIN)
        at_s = time.monotonic()
        os.kill(pair.nodes[name].pid, signal.SIGSTOP)
        limit_s = freeze_max_s + SLACK_S
        await pair.wait("the writer ends", lambda: writer.poll() is not None, at_most_s=limit_s)
        await pair.wait("the survivor serves", lambda: pair.has_acknowledged(survivor, at_s))
        await trio.sleep(max(0.0, at_s + freeze_max_s + 1 - time.monotonic()))
        played = Round(kind="stop_app", primary=name, served_by=survivor)
        woken_s = time.monotonic()
        os.kill(pair.nodes[name].pid, signal.SIGCONT)
        pair.judge(played, at_s)
        await pair.mirror_again(played, woken_s)
    finally:
        writer.kill()
    *lines, (ended_by, ended_s) = _written(record)
    held = [Counter(_lines(pair.place.data(node) / file)) for node in (name, survivor)]
    played.lost = max(sum(not lines_[number] for number, _ in lines) for lines_ in held)
    played.notes["lines"] = len(lines)
    played.notes["twice"] = max(max(lines_.values()) for lines_ in held) - 1
    played.notes["writer_ended_by"] = ended_by
    played.notes["writer_waited_s"] = round(ended_s - lines[-1][1], 3)
    return played


def _written(record: Path) -> list[tuple[str, float]]:
    """What the writer was told, and when: numbers of lines, and an error at last."""
    try:
        rows = record.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(what, float(at_s)) for what, _, at_s in (row.partition(" ") for row in rows)]


def _lines(path: Path) -> list[str]:
    done = subprocess.run(["cat", path], capture_output=True, timeout=READ_S, check=True)
    return done.stdout.decode().splitlines()
