"""A node as the demonstration has it, and more to do to it.

SIGUSR1 blocks its event loop for a while, as a bad call would; `acknowledge` on its input says that
what it kept of a split was seen; it has a probe; and it runs as a group of its own, so that a cut
can concern this node alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import trio

import mirrorha
from mirrorha.cli.demo import node as demo
from mirrorha.cli.demo.ledger import Ledger
from mirrorha.config import load_toml
from mirrorha.errors import MirrorHAError
from tests.pair.plain_ledger import PlainLedger


async def obey(cluster: mirrorha.Cluster) -> None:
    """One command a line, until the input ends or `stop` was carried out."""
    commands = {"swap": cluster.swap, "stop": cluster.stop, "acknowledge": cluster.acknowledge}
    while True:
        # Abandoned if the node ends: a thread that waits for input cannot be woken.
        line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        command = line.strip()
        if not command:
            return
        try:
            text = await commands[command]()
            demo.say(command=command, done=True, text=text)
        except MirrorHAError as error:
            demo.say(command=command, done=False, text=str(error))
        if command == "stop":
            return


async def run(options: argparse.Namespace) -> None:
    cluster = mirrorha.Cluster(load_toml(options.config, node=options.node))
    (data,) = cluster.volumes.values()
    ledger: Ledger | PlainLedger
    if cluster.config.volumes[0].mount:
        ledger = PlainLedger(Path(data.path), port=options.port, broken=options.broken)
    else:
        ledger = Ledger(data, port=options.port, broken=options.broken)
    cluster.serve(ledger.serve)
    cluster.probe(mirrorha.HealthProbe(port=options.probe_port, host="127.0.0.1"))

    async with trio.open_nursery() as nursery:
        await nursery.start(cluster.run)
        demo.say(started=options.node)
        nursery.start_soon(demo.tell_status, cluster, ledger)
        nursery.start_soon(demo.tell_events, cluster)
        await obey(cluster)
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--probe-port", type=int, required=True)
    parser.add_argument("--group", type=int, required=True)
    parser.add_argument("--block-s", type=float, required=True)
    parser.add_argument("--broken", action="store_true")
    options = parser.parse_args()
    os.setegid(options.group)
    # In the main thread, where trio's loop is; the other threads go on.
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(options.block_s))
    trio.run(run, options)


if __name__ == "__main__":
    main()
