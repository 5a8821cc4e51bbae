"""Two real nodes in two processes on the loopback, for the measurements of this directory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final, final

import attrs
import trio

from mirrorha.net.keys import create_keys
from tests.cluster.rig import free_ports

CHECKOUT: Final = Path(__file__).parents[2]
NODES: Final = ("paris", "lyon")
STEP_S: Final = 30.0
END_S: Final = 10.0


class ShowError(Exception):
    """A measurement could not be made to its end."""


def environment() -> dict[str, str]:
    """So that a child finds `tests` and the package, installed or not."""
    paths = [str(CHECKOUT), str(CHECKOUT / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@final
class NodeProcess:
    """One node: its process and what it has said."""

    def __init__(self, name: str, settings: dict[str, Any], log: Path) -> None:
        self.name, self._settings, self._log = name, settings, log
        self.events: list[dict[str, Any]] = []
        self._answers: list[dict[str, Any]] = []
        self._news = trio.lowlevel.ParkingLot()
        self._process: trio.Process | None = None

    @property
    def process(self) -> trio.Process:
        if self._process is None:
            raise ShowError(f"{self.name} was not started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self, nursery: trio.Nursery) -> None:
        script = Path(__file__).with_name("show_node.py")
        with self._log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, str(script), json.dumps({**self._settings, "node": self.name})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
            )
        self._answers.clear()
        nursery.start_soon(self._listen, self._process)

    async def _listen(self, process: trio.Process) -> None:
        pending = b""
        if process.stdout is None:
            return
        async for received in process.stdout:
            *lines, pending = (pending + received).split(b"\n")
            for line in map(json.loads, lines):
                (self.events if "event" in line else self._answers).append(line)
            self._news.unpark_all()
        await process.wait()
        self._news.unpark_all()

    async def ask(self, do: str, **options: Any) -> Any:
        """Have it do something, and wait until it is done.

        Raises:
            ShowError: it refused, or ended.
        """
        await self.tell(do, **options)
        while True:
            for line in self._answers:
                if line.get("done") == do:
                    self._answers.remove(line)
                    if "refused" in line:
                        raise ShowError(f"{self.name} refused to {do}: {line['refused']}")
                    return line["result"]
            if not self.is_running:
                raise ShowError(f"{self.name} has ended: {self._log.read_text()[-2000:]}")
            await self._news.park()

    async def tell(self, do: str, **options: Any) -> None:
        """Have it do something, and do not wait. Its answer is never asked for."""
        if self.process.stdin is None:
            raise ShowError(f"{self.name} hears nothing")
        await self.process.stdin.send_all(json.dumps({"do": do, **options}).encode() + b"\n")

    async def wait_event(self, rule: str, *, since_s: float, at_most_s: float = STEP_S) -> float:
        """Wait until `rule` has fired after `since_s`. Returns when, by the monotonic clock."""
        with trio.move_on_after(at_most_s):
            while True:
                for line in self.events:
                    if line["event"]["rule"] == rule and line["at_s"] > since_s:
                        return float(line["at_s"])
                await self._news.park()
        raise ShowError(f"{self.name}: no {rule} within {at_most_s} s; its log: {self._log}")

    @property
    def log(self) -> str:
        """What it wrote to its standard error."""
        return self._log.read_text()

    async def kill(self) -> None:
        """kill -9: nothing is flushed, nobody says goodbye."""
        os.kill(self.pid, signal.SIGKILL)
        await self.process.wait()

    async def end(self) -> None:
        if not self.is_running:
            return
        os.kill(self.pid, signal.SIGCONT)
        if self.process.stdin is not None:
            await self.process.stdin.aclose()
        with trio.move_on_after(END_S):
            await self.process.wait()
        if self.is_running:
            await self.kill()


@final
class ShowPair:
    """The two nodes of a measurement."""

    def __init__(self, base: Path, nursery: trio.Nursery, **settings: Any) -> None:
        self.base, self._nursery = base, nursery
        ports = free_ports(7)
        create_keys(base / "keys", cluster="orders", nodes=list(NODES))
        self.settings: dict[str, Any] = {
            "base": str(base),
            "keys": str(base / "keys"),
            "addresses": {"paris": ["127.0.0.1"], "lyon": ["127.0.0.2"]},
            "ports": dict(zip(NODES, ports[:2], strict=True)),
            "probe_ports": dict(zip(NODES, ports[2:4], strict=True)),
            "service_ports": dict(zip(NODES, ports[4:6], strict=True)),
            "api_port": ports[6],
            **settings,
        }
        self.nodes = {
            name: NodeProcess(name, self.settings, base / f"{name}.log") for name in NODES
        }

    def data(self, node: str) -> Path:
        return self.base / node / "data"

    def other(self, node: str) -> str:
        return NODES[1 - NODES.index(node)]

    async def start(self, *names: str) -> None:
        for name in names or NODES:
            await self.nodes[name].start(self._nursery)

    async def wait_mirrored(self, *, at_most_s: float = STEP_S) -> tuple[str, str]:
        """Wait until one serves and the other stands by. Returns their names, in this order."""
        seen: dict[str, Any] = {}
        with trio.move_on_after(at_most_s):
            while True:  # what is asked for is in other processes
                seen = {name: await node.ask("status") for name, node in self.nodes.items()}
                roles = {status["role"]: name for name, status in seen.items()}
                is_green = all(status["colour"] == "green" for status in seen.values())
                if is_green and set(roles) == {"PRIM", "SECOND"}:
                    primary = seen[roles["PRIM"]]
                    if primary["service"]["state"] == "started" and primary["peer"]["data"]:
                        return roles["PRIM"], roles["SECOND"]
                await trio.sleep(0.02)
        whys = "; ".join(f"{name} {each['role']}: {each['why']}" for name, each in seen.items())
        raise ShowError(f"no mirror within {at_most_s} s: {whys}; logs are in {self.base}")

    async def wait(self, what: str, done: Callable[[], bool], *, at_most_s: float = STEP_S) -> None:
        with trio.move_on_after(at_most_s):
            while not done():  # noqa: ASYNC110 - what it looks at is in other processes
                await trio.sleep(0.01)
            return
        raise ShowError(f"{what}: not within {at_most_s} s; logs are in {self.base}")


@contextlib.asynccontextmanager
async def open_show(base: Path, *, limit_s: float, **settings: Any) -> AsyncGenerator[ShowPair]:
    """A pair that is not started; its processes have ended when the block is left."""
    with trio.fail_after(limit_s):
        async with trio.open_nursery() as nursery:
            pair = ShowPair(base, nursery, **settings)
            try:
                yield pair
            finally:
                with trio.CancelScope(shield=True):
                    for node in pair.nodes.values():
                        if node._process is not None:
                            await node.end()
            nursery.cancel_scope.cancel()


# ---- what a process takes ----


@attrs.frozen
class Usage:
    """What a process has taken so far, and takes now."""

    at_s: float
    cpu_s: float
    wakes: int  # voluntary context switches of all its threads
    rss_mb: float
    pss_mb: float


def usage(pid: int) -> Usage:
    """Of the kernel, about another process of this user."""
    proc = Path(f"/proc/{pid}")
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    wakes = sum(
        _figure(task / "status", "voluntary_ctxt_switches") for task in (proc / "task").iterdir()
    )
    return Usage(
        at_s=time.monotonic(),
        cpu_s=ticks / os.sysconf("SC_CLK_TCK"),
        wakes=wakes,
        rss_mb=_figure(proc / "status", "VmRSS") / 1024,
        pss_mb=_figure(proc / "smaps_rollup", "Pss") / 1024,
    )


def rss_mb(pid: int) -> float:
    return _figure(Path(f"/proc/{pid}/status"), "VmRSS") / 1024


def _figure(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ShowError(f"{path} has no {name}")
