"""A node in a process of its own, for tests that kill it: `node_process.py BASE NAME PORT...`.

Prints a line for each change of role and of the service, with the time of a clock that all
processes of a machine share. With `write` as last argument it writes numbered files while it
serves and prints each one's number once it is acknowledged.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import trio

from mirrorha.cluster.feed import NodeEvent
from mirrorha.config import HeartbeatConfig, TimingConfig
from mirrorha.core.words import Role
from tests.cluster.rig import PULSE_S, Site, TestNode

# So long that only the proof of death can explain a quick takeover.
CHANGES: dict[str, Any] = {
    "heartbeat": HeartbeatConfig(pulse_s=PULSE_S, timeout_s=20),
    "timing": TimingConfig(wait_peer_s=30, takeover_delay_s=0.2, fence_delay_s=0.1),
}


def say(*words: object) -> None:
    print(*words, time.monotonic_ns() // 1_000_000, flush=True)


async def watch(node: TestNode) -> None:
    async for event in node.cluster.events():
        if isinstance(event, NodeEvent) and event.kind == "role":
            say("role", event.role.value)


async def write_on(node: TestNode) -> None:
    await node.cluster.wait_role(Role.PRIM)
    number = 0
    while True:
        await node.write(f"f{number}", b"%d" % number)
        say("acked", number)
        number += 1


async def main(base: str, name: str, *rest: str) -> None:
    ports = tuple(int(port) for port in rest if port.isdigit())
    with trio.move_on_after(240):
        async with trio.open_nursery() as nursery:
            site = Site(Path(base), ports=ports, changes=CHANGES)
            node = TestNode(site, name, nursery)
            node.on_told = lambda what: say("service", what)
            nursery.start_soon(watch, node)
            await node.start()
            if "write" in rest:
                nursery.start_soon(write_on, node)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
