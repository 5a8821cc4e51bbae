"""A ledger behind TCP: clients send `ID AMOUNT` lines, and get `ok ID` once both nodes have it.

`python ledger.py` in one terminal and `python ledger.py --node lyon` in another make a pair;
`python run_pair.py` starts both, and a witness. `mirrorha status|swap|stop` manage each node.
"""

from __future__ import annotations

import argparse
import logging
import signal
from typing import final

import one_machine
import trio

import mirrorha
from mirrorha.api import ManagementApi, socket_path

JOURNAL = "journal"
LINE_BYTES_MAX = 256


@final
class Ledger:
    """The application. It knows nothing of roles: it runs where its cluster runs it."""

    def __init__(self, data: mirrorha.Replicator, *, host: str, port: int) -> None:
        self._data, self._host, self._port = data, host, port

    async def serve(self, why: mirrorha.RoleChange, *, task_status: trio.TaskStatus[None]) -> None:
        """Run while this node serves: `started()` ends the start, cancellation is the stop."""
        if not await self._data.exists(JOURNAL):
            await self._data.write_bytes(JOURNAL, b"")
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(self._port, host=self._host)
            nursery.start_soon(trio.serve_listeners, self._serve_client, listeners)
            task_status.started()
            print(f"serving on {self._host}:{self._port}: {why.why}", flush=True)

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        pending = b""
        try:
            async with stream, self._data.open(JOURNAL, "ab") as journal:
                while len(pending) <= LINE_BYTES_MAX:
                    received = await stream.receive_some(4096)
                    if not received:
                        return
                    *lines, pending = (pending + received).split(b"\n")
                    for line in lines:
                        await journal.write(line + b"\n")  # on both nodes when it returns
                        await stream.send_all(b"ok " + line.split(b" ")[0] + b"\n")
        except (trio.BrokenResourceError, mirrorha.MirrorHAError):
            return  # the client left, or this node may write no more: the client tries the other


async def end_on_signal(
    cluster: mirrorha.Cluster,
    scope: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Stop in good order, so that the other node takes over without waiting."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        await anext(signals)
    with trio.move_on_after(10):
        try:
            print(await cluster.stop(), flush=True)
        except mirrorha.MirrorHAError as error:
            print(error, flush=True)
    scope.cancel()


async def run(config: mirrorha.ClusterConfig, port: int) -> None:
    """One node: the cluster, the ledger, and the socket that the command `mirrorha` asks."""
    cluster = mirrorha.Cluster(config)
    (data,) = cluster.volumes.values()
    cluster.serve(Ledger(data, host=config.me.addresses[0], port=port).serve)

    @cluster.on_role
    async def tell(why: mirrorha.RoleChange) -> None:
        print(f"{why.node}: {why.from_role.value} -> {why.to_role.value}: {why.why}", flush=True)

    async with trio.open_nursery() as nursery:
        await nursery.start(end_on_signal, cluster, nursery.cancel_scope)
        await nursery.start(cluster.run)
        api = ManagementApi(cluster, path=socket_path(config.me.state_dir))
        await nursery.start(api.serve)
        print(f"{cluster.node} runs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", help="a cluster.toml; without it a trial on this machine")
    parser.add_argument("--node", default="paris", help="which node this is")
    parser.add_argument("--port", type=int, default=7000, help="where clients connect")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    config = options.config or one_machine.trial_config()
    trio.run(run, mirrorha.load_toml(config, node=options.node), options.port)


if __name__ == "__main__":
    main()
