"""Rounds that only a mounted volume has: its worker dies, alone or with its application."""

from __future__ import annotations

import os
import signal
import time

import trio

from tests.pair.pair import Pair
from tests.pair.record import Round


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
    await pair.wait("the nodes mirror again", pair.is_mirrored)
    played.mirrored_s = time.monotonic() - at_s
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
    await pair.wait("the killed node is back", pair.is_mirrored)
    played.mirrored_s = time.monotonic() - back_s
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
    await pair.wait("the nodes mirror again", pair.is_mirrored)
    played.mirrored_s = time.monotonic() - at_s
    return played
