"""Rounds in which the application blocks a node's event loop, as a bad call would."""

from __future__ import annotations

import os
import signal
import time
from typing import Final

import trio

from tests.pair.pair import Pair
from tests.pair.place import PEER_SLOW_MAX_S, TIMEOUT_S
from tests.pair.record import Round

PROBE_S: Final = 0.5


async def block(pair: Pair, nursery: trio.Nursery) -> Round:
    """The primary's loop is blocked for longer than the timeout; its heartbeats go on."""
    del nursery
    name = pair.primary()
    other = pair.other(name)
    block_s = pair.place.setup.block_s
    epoch = pair.status(name)["epoch"]
    before = await _probe(pair, name)
    at_s = time.monotonic()
    os.kill(pair.nodes[name].pid, signal.SIGUSR1)
    await trio.sleep(block_s - 1)
    told = pair.status(other)["peer"]
    probed = await _probe(pair, name)
    await pair.wait("the client is served again", lambda: bool(pair.record.since(at_s + block_s)))
    await trio.sleep(TIMEOUT_S)  # time enough to decide something late
    await pair.wait("the nodes mirror", pair.is_mirrored)
    played = Round(kind="block", primary=name, served_by=pair.primary())
    pair.judge(played, at_s)
    played.mirrored_s = played.resumed_s
    played.notes["decisions"] = pair.status(played.served_by)["epoch"] - epoch
    played.notes["shown_as_stalled"] = told["stalled"]
    played.notes["stalled_after_s"] = pair.heard(other, "peer-stalled", at_s)
    played.notes["probe_before"], played.notes["probe_while_blocked"] = before, probed
    return played


async def block_second(pair: Pair, nursery: trio.Nursery) -> Round:
    """The SECOND's loop is blocked; the PRIM waits for it, but not longer than it may."""
    del nursery
    name = pair.primary()
    other = pair.other(name)
    at_s = time.monotonic()
    os.kill(pair.nodes[other].pid, signal.SIGUSR1)
    await pair.wait("the PRIM goes on alone", lambda: pair.with_role("ALONE") == [name])
    await pair.wait("it says so", lambda: "won-alone" in pair.rules(name, at_s))
    told = pair.status(name)["peer"]
    played = Round(kind="block_second", primary=name)
    played.notes["peer_slow_max_s"] = PEER_SLOW_MAX_S
    played.notes["alone_after_s"] = pair.heard(name, "won-alone", at_s)
    played.notes["shown_as_stalled"] = told["stalled"]
    block_s = pair.place.setup.block_s
    await trio.sleep_until(trio.current_time() + max(0, at_s + block_s - time.monotonic()))
    played.notes["acknowledged_while_blocked"] = len(pair.record.since(at_s + PEER_SLOW_MAX_S))
    await pair.wait("the blocked node is back", pair.is_mirrored)
    played.mirrored_s = time.monotonic() - at_s - block_s
    played.served_by = pair.primary()
    pair.judge(played, at_s)
    return played


async def _probe(pair: Pair, name: str) -> int:
    """What the node's health probe answers: a status of HTTP, or 0 for no answer."""
    with trio.move_on_after(PROBE_S):
        stream = await trio.open_tcp_stream("127.0.0.1", pair.place.probe_ports[name])
        async with stream:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            received = b""
            while part := await stream.receive_some(4096):
                received += part
        return int(received.split(b" ")[1])
    return 0
