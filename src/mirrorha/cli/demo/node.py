"""One node of the demonstration: a process that embeds `mirrorha.Cluster` and the ledger.

It says what happens on standard output, a JSON object a line with the time of the system's
monotonic clock, and takes commands (`swap`, `stop`) on standard input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import trio

import mirrorha
from mirrorha.cli.demo.ledger import Ledger
from mirrorha.config import load_toml
from mirrorha.errors import MirrorHAError

STATUS_S = 0.1


def say(**fields: Any) -> None:
    print(json.dumps({"at_s": time.monotonic(), **fields}), flush=True)


async def tell_status(cluster: mirrorha.Cluster, ledger: Ledger) -> None:
    while True:
        say(status=cluster.status(), acknowledged=ledger.acknowledged)
        await trio.sleep(STATUS_S)


async def tell_events(cluster: mirrorha.Cluster) -> None:
    async for event in cluster.events():
        if isinstance(event, mirrorha.NodeEvent):
            say(event={"rule": event.rule, "role": event.role.value, "text": event.text})


async def obey(cluster: mirrorha.Cluster) -> None:
    """One command a line, until the input ends or `stop` was carried out."""
    while True:
        # Abandoned if the node ends: a thread that waits for input cannot be woken.
        line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        command = line.strip()
        if not command:
            return
        try:
            await {"swap": cluster.swap, "stop": cluster.stop}[command]()
            say(command=command, done=True)
        except MirrorHAError as error:
            say(command=command, done=False, text=str(error))
        if command == "stop":
            return


async def run(config: Path, node: str, port: int, *, broken: bool) -> None:
    cluster = mirrorha.Cluster(load_toml(config, node=node))
    (data,) = cluster.volumes.values()
    ledger = Ledger(data, port=port, broken=broken)
    cluster.serve(ledger.serve)

    async with trio.open_nursery() as nursery:
        await nursery.start(cluster.run)
        say(started=node)
        nursery.start_soon(tell_status, cluster, ledger)
        nursery.start_soon(tell_events, cluster)
        await obey(cluster)
        nursery.cancel_scope.cancel()


def main() -> None:
    """`python -m mirrorha.cli.demo.node --config FILE --node NAME --port PORT [--broken]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--broken", action="store_true")
    options = parser.parse_args()
    trio.run(lambda: run(options.config, options.node, options.port, broken=options.broken))


if __name__ == "__main__":
    main()
