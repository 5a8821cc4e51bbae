"""A node in a process of its own, told what to do on standard input: `show_node.py SETTINGS`.

SETTINGS is a JSON object, see `Settings`. Each line in is a JSON object `{"do": NAME, ...}`, each
line out one as well: `{"done": NAME, "result": ...}` in answer, or `{"event": ...}`. It has a
service that listens on a port, and writes as many changes as it is asked to. It tells nothing by
itself but events, so that an idle node is idle.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import attrs
import trio

from mirrorha import (
    Checker,
    Cluster,
    ClusterConfig,
    HealthProbe,
    HeartbeatConfig,
    NodeConfig,
    NodeEvent,
    RoleChange,
    ServiceConfig,
    TimingConfig,
)
from mirrorha.arbiters import LocalArbiter
from mirrorha.checks import Tcp
from mirrorha.errors import MirrorHAError
from tests.shows.appending import Appender

KIB: Final = 1024
LINE_BYTES_MAX: Final = 64 * KIB
PAUSES_KEPT: Final = 5
END_S: Final = 5.0
# struct tcp_info: bytes that the peer has acknowledged, and bytes that have come.
TCP_INFO_BYTES: Final = struct.Struct("=120x2Q")


@attrs.frozen(kw_only=True)
class Settings:
    """What the two nodes of a measurement are.

    Attributes:
        node: which of them this is.
        addresses, ports: of each node, by its name; a heartbeat path for each pair of addresses.
        probe_ports, service_ports: of each node.
        check_every_s: how often the service's port is tried; 0: never.
    """

    base: str
    node: str
    addresses: dict[str, list[str]]
    ports: dict[str, int]
    probe_ports: dict[str, int]
    service_ports: dict[str, int]
    api_port: int
    keys: str
    pulse_s: float = 0.1
    timeout_s: float = 1.0
    peer_slow_max_s: float = 3.0
    wait_peer_s: float = 30.0
    check_every_s: float = 0.0
    start_s: float = 0.0
    mount: bool = False

    def directory(self, node: str, kind: str) -> Path:
        found = Path(self.base) / node / kind
        if not os.path.lexists(found.parent) or kind not in os.listdir(found.parent):
            # Else it may be under a mount that is dead. The other node makes it as well.
            with contextlib.suppress(FileExistsError):
                found.mkdir(parents=True)
        return found

    def config(self) -> ClusterConfig:
        nodes = [
            NodeConfig(
                name=name,
                addresses=self.addresses[name],
                port=self.ports[name],
                state_dir=str(self.directory(name, "state")),
                api=f"{self.addresses[name][0]}:{self.api_port}",
            )
            for name in self.addresses
        ]
        return ClusterConfig(
            name="orders",
            node=self.node,
            keys=self.keys,
            nodes=nodes,
            heartbeat=HeartbeatConfig(pulse_s=self.pulse_s, timeout_s=self.timeout_s),
            timing=TimingConfig(
                peer_slow_max_s=self.peer_slow_max_s,
                wait_peer_s=max(self.wait_peer_s, self.timeout_s),
                freeze_max_s=max(60, self.peer_slow_max_s, self.timeout_s + 5),
            ),
            service=ServiceConfig(start_timeout_s=10, stop_timeout_s=10),
        )


@final
class Service:
    """Listens on a port while it is started; can fall silent."""

    def __init__(self, port: int, start_s: float) -> None:
        self._port, self._start_s = port, start_s
        self._listener: socket.socket | None = None
        self.starts = 0

    async def start(self, _why: RoleChange) -> None:
        await trio.sleep(self._start_s)
        self.fall_silent()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(64)
        self._listener = listener
        self.starts += 1
        say({"event": {"rule": "service-listens", "text": str(self.starts)}})

    async def stop(self, _why: RoleChange) -> None:
        await trio.lowlevel.checkpoint()
        self.fall_silent()
        say({"event": {"rule": "service-stopped-listening", "text": ""}})

    def fall_silent(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None


@final
class Writers:
    """Tasks that write on and on, and what they saw."""

    def __init__(self, cluster: Cluster) -> None:
        (self._data,) = cluster.volumes.values()
        self._acked: dict[int, int] = {}  # the last round that was acknowledged, by writer
        self._acks = 0
        self._errors = 0
        self._last_s = 0.0
        self._pauses: list[tuple[float, float]] = []  # the longest ones and when they ended
        self._is_over = False
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    def start(self, nursery: trio.Nursery, *, count: int, size: int) -> None:
        self._acked, self._pauses = {}, []
        self._acks = self._errors = 0
        self._is_over, self._ended = False, trio.Event()
        self._last_s = time.monotonic()
        nursery.start_soon(self._run, count, size)

    async def _run(self, count: int, size: int) -> None:
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                for writer in range(count):
                    nursery.start_soon(self._write_on, writer, size)
        self._ended.set()

    async def _write_on(self, writer: int, size: int) -> None:
        """The file of each writer holds the number of its last round, over and over."""
        async with self._data.open(f"writer-{writer}", "wb") as file:
            number = 0
            while not self._is_over:
                number += 1
                block = struct.pack(">Q", number) * (size // 8)
                try:
                    await file.pwrite(block, 0)
                except (OSError, MirrorHAError):
                    self._errors += 1
                    return
                self._acked[writer] = number
                self._note(time.monotonic())

    def _note(self, now_s: float) -> None:
        self._acks += 1
        pause_s, self._last_s = now_s - self._last_s, now_s
        if len(self._pauses) < PAUSES_KEPT or pause_s > self._pauses[-1][0]:
            self._pauses = sorted([*self._pauses, (pause_s, now_s)], reverse=True)[:PAUSES_KEPT]

    def seen(self) -> dict[str, Any]:
        return {
            "acks": self._acks,
            "errors": self._errors,
            "last_s": self._last_s,
            "longest_pauses": self._pauses,
            "acked": {str(writer): number for writer, number in self._acked.items()},
        }

    def forget_pauses(self) -> None:
        self._pauses, self._last_s = [], time.monotonic()

    async def end(self) -> dict[str, Any]:
        """Let each end its write: one that is cancelled may still be made at any time."""
        self._is_over = True
        with trio.move_on_after(END_S):
            await self._ended.wait()
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()
        return self.seen()


def traffic() -> dict[str, list[int]]:
    """Bytes sent (and acknowledged) and received on each TCP connection of this process."""
    found: dict[str, list[int]] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode):
                continue
            one = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # closed since
            continue
        with one:
            try:
                raw = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES.size)
                ends = f"{one.getsockname()} {one.getpeername()}"
            except OSError:  # no TCP, or not connected
                continue
            found[ends] = list(TCP_INFO_BYTES.unpack(raw))
    return found


def say(line: dict[str, Any]) -> None:
    print(json.dumps({**line, "at_s": time.monotonic()}), flush=True)


@final
class Node:
    """The node, its service and its writers, and the commands that it obeys."""

    def __init__(self, settings: Settings, nursery: trio.Nursery) -> None:
        self._settings, self._nursery = settings, nursery
        arbiter = LocalArbiter(Path(settings.base) / "register")
        self.cluster = Cluster(settings.config(), arbiter)
        peer = next(name for name in settings.addresses if name != settings.node)
        self.cluster.replicate(
            str(settings.directory(settings.node, "data")),
            peer_path=str(settings.directory(peer, "data")),
            mount=settings.mount,
        )
        port = settings.service_ports[settings.node]
        service = self.service = Service(port, settings.start_s)
        self.cluster.on_start(service.start)
        self.cluster.on_stop(service.stop)
        self.cluster.probe(HealthProbe(port=settings.probe_ports[settings.node], host="127.0.0.1"))
        if settings.check_every_s:
            self.cluster.check(Checker(Tcp(port=port), every_s=settings.check_every_s, fall=1))
        self._writers = Writers(self.cluster)
        record = Path(settings.base) / f"{settings.node}.acked"
        appender = Appender(*self.cluster.volumes.values(), record)
        self._commands: dict[str, Callable[..., Any]] = {
            "status": self.cluster.status,
            "history": self._history,
            "swap": self.cluster.swap,
            "stop": self.cluster.stop,
            "start": self.cluster.start,
            "pause": self.cluster.pause,
            "traffic": traffic,
            "write": lambda **options: self._writers.start(nursery, **options),
            "writers": self._writers.seen,
            "forget_pauses": self._writers.forget_pauses,
            "end_writers": self._writers.end,
            "append": lambda **options: nursery.start_soon(partial(appender.run, **options)),
            "appended": appender.seen,
            "end_append": appender.end,
            "fall_silent": service.fall_silent,
            "block": time.sleep,  # the event loop, as a bad call would
            "fill": self._fill,
            "change_blocks": self._change_blocks,
        }

    async def _history(self) -> list[list[str]]:
        return [[each.rule, each.text] for each in await self.cluster.history()]

    async def _fill(self, files: int, file_mib: int, seed: int) -> None:
        """Write so many files of random bytes."""
        (data,) = self.cluster.volumes.values()
        rng = random.Random(seed)
        for number in range(files):
            async with data.open(f"file-{number}", "wb") as file:
                for _ in range(file_mib):
                    await file.write(rng.randbytes(KIB * KIB))

    async def _change_blocks(self, files: int, blocks: int, count: int, seed: int) -> None:
        """Overwrite 64 KiB blocks, `count` of all that there are in files of `blocks` each."""
        (data,) = self.cluster.volumes.values()
        rng = random.Random(seed)
        chosen = sorted(rng.sample(range(files * blocks), count))
        for number in range(files):
            async with data.open(f"file-{number}", "r+b") as file:
                for block in chosen:
                    if block // blocks == number:
                        content = rng.randbytes(64 * KIB)
                        await file.pwrite(content, block % blocks * 64 * KIB)

    async def tell_events(self) -> None:
        async for event in self.cluster.events():
            if isinstance(event, NodeEvent):
                said = {"rule": event.rule, "role": event.role.value, "text": event.text}
                say({"event": said})

    async def obey(self) -> None:
        """One command after the other, until the input ends."""
        pending = b""
        async with trio.lowlevel.FdStream(os.dup(0)) as commands:
            async for received in commands:
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    await self._do(**json.loads(line))

    async def _do(self, do: str, **options: Any) -> None:
        arguments = [options.pop("seconds")] if "seconds" in options else []
        try:
            result = self._commands[do](*arguments, **options)
            if hasattr(result, "__await__"):
                result = await result
        except MirrorHAError as error:
            say({"done": do, "refused": str(error)})
        else:
            say({"done": do, "result": result})


async def main(settings: Settings) -> None:
    async with trio.open_nursery() as nursery:
        node = Node(settings, nursery)
        nursery.start_soon(node.tell_events)
        await nursery.start(node.cluster.run)
        say({"started": settings.node})
        await node.obey()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Settings(**json.loads(sys.argv[1])))
