"""An application that writes its volume by the file API: `sdk_node.py PORTS CONFIG NODE`.

PORTS is `paris=1234,lyon=1235`. While it serves it takes requests at its port, one JSON object a
line, and answers each with `{"problem": ""}`, or with what went wrong. It can be asked by the
commands of `mirrorha`, as a node of `mirrorha run`.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import trio

import mirrorha
from mirrorha.api import ManagementApi, socket_path
from mirrorha.config import load_toml
from mirrorha.errors import MirrorHAError


async def perform(data: mirrorha.Replicator, asked: dict[str, Any]) -> None:
    path = asked["path"]
    match asked["do"]:
        case "write":
            async with data.open(path, "r+b") as file:
                await file.pwrite(bytes.fromhex(asked["data"]), asked["offset"])
        case "make":
            async with data.open(path, "xb") as file:
                await file.write(bytes.fromhex(asked["data"]))
        case "sync":
            async with data.open(path, "r+b") as file:
                await (file.fdatasync() if asked["data_only"] else file.fsync())
        case "sync_names":
            await data.sync(path)
        case "rename":
            await data.rename(path, asked["new"])
        case "unlink":
            await data.unlink(path)
        case "mkdir":
            await data.mkdir(path)


async def answer(data: mirrorha.Replicator, stream: trio.SocketStream) -> None:
    """Until the client goes, or the service is stopped."""
    rest = b""
    try:
        async with stream:
            async for piece in stream:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    problem = ""
                    try:
                        await perform(data, json.loads(line))
                    except (OSError, MirrorHAError) as error:
                        problem = str(error) or type(error).__name__
                    await stream.send_all(json.dumps({"problem": problem}).encode() + b"\n")
    except trio.BrokenResourceError:
        return


async def main(ports: str, config: str, node: str) -> None:
    port = int(dict(one.split("=") for one in ports.split(","))[node])
    cluster = mirrorha.Cluster(load_toml(Path(config), node=node))
    (data,) = cluster.volumes.values()

    @cluster.serve
    async def serve(_why: mirrorha.RoleChange, *, task_status: trio.TaskStatus[Any]) -> None:
        await trio.serve_tcp(
            lambda stream: answer(data, stream), port, host="127.0.0.1", task_status=task_status
        )

    path = socket_path(cluster.config.me.state_dir)
    path.parent.mkdir(exist_ok=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(ManagementApi(cluster, path=path).serve)
        await cluster.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main, *sys.argv[1:])
