"""Two nodes in two processes, and `kill -9`: the service goes on with every acknowledged write."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio
import trio.testing

from tests.cluster.rig import NAMES, Site, read_tree

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SCRIPT = Path(__file__).with_name("node_process.py")
ROOT = Path(__file__).parents[2]
#: Generous: other tests may have the machine. What was measured is printed.
TAKEOVER_S_MAX = 10
ACKED_MIN = 100


class NodeProcess:
    """A node in a process, and what it has said so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.said: list[list[str]] = []
        self.news = trio.Event()

    async def listen(self) -> None:
        rest = b""
        async for piece in self.process.stdout:
            *lines, rest = (rest + piece).split(b"\n")
            self.said += [line.decode().split() for line in lines]
            self.news.set()
            self.news = trio.Event()

    async def wait_said(self, *words: str) -> int:
        """Wait for a line that begins so; return its time, in milliseconds."""
        while True:
            for line in self.said:
                if line[: len(words)] == list(words):
                    return int(line[-1])
            await self.news.wait()

    @property
    def acked(self) -> int:
        return sum(line[0] == "acked" for line in self.said)


@contextlib.asynccontextmanager
async def run_nodes(site: Site) -> AsyncGenerator[tuple[NodeProcess, NodeProcess]]:
    async with trio.open_nursery() as nursery:
        nodes = []
        try:
            for name, *more in ((NAMES[0], "write"), (NAMES[1],)):
                command = [sys.executable, str(SCRIPT), str(site.base), name]
                process = await trio.lowlevel.open_process(
                    [*command, *map(str, site.ports), *more],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
                )
                nodes.append(NodeProcess(process))
                nursery.start_soon(nodes[-1].listen)
            yield nodes[0], nodes[1]
        finally:
            with trio.CancelScope(shield=True):
                for node in nodes:
                    node.process.send_signal(signal.SIGKILL)
                    await node.process.wait()


async def test_kill_9_costs_a_moment_and_no_acknowledged_write(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.share_keys()
    for name in NAMES:
        site.data(name).mkdir(parents=True)
    with trio.fail_after(60):
        async with run_nodes(site) as (first, second):
            await second.wait_said("role", "SECOND")
            while first.acked < ACKED_MIN:
                await first.news.wait()
            killed_ms = time.monotonic_ns() // 1_000_000
            first.process.send_signal(signal.SIGKILL)
            await first.process.wait()
            alone_ms = await second.wait_said("role", "ALONE")
            started_ms = await second.wait_said("service", "start")
            await trio.testing.wait_all_tasks_blocked()
    held = read_tree(site.data(NAMES[1]))
    acked = first.acked
    print(
        f"kill -9: ALONE after {alone_ms - killed_ms} ms, the service started after "
        f"{started_ms - killed_ms} ms; {acked} writes were acknowledged"
    )
    assert acked >= ACKED_MIN
    assert {f"f{number}": b"%d" % number for number in range(acked)}.items() <= held.items()
    assert 0 <= started_ms - killed_ms < TAKEOVER_S_MAX * 1000
