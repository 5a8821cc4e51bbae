"""Two workers' processes with their mounts; the test plays both clusters."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio

from mirrorha.core.orders import AnyReport, Follow, Replayed, ServeMirror
from mirrorha.errors import PeerError, VolumeError
from mirrorha.mount_table import read_mount_table
from mirrorha.volume.driver import StreamSocket
from mirrorha.volume.fuse.connection import abort
from mirrorha.volume.local_disk.identity import VolumeIdentity
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.worker.client import WorkerEngine
from mirrorha.volume.worker.messages import VERSION, KeysAt, MountWish, Open
from tests.requirements import require_device, require_root
from tests.worker.worker_pair import NODES, VOLUME, hello, keys_for_both, tcp_pair

WAIT_S = 15.0


@attrs.define(eq=False)
class WorkerNode:
    """One worker, its directory, and what it reported."""

    name: str
    path: Path
    engine: WorkerEngine
    reports: list[AnyReport]
    send: trio.MemorySendChannel[AnyReport]
    receive: trio.MemoryReceiveChannel[AnyReport]
    scope: trio.CancelScope
    ended: trio.Event
    error: BaseException | None = None

    @property
    def root(self) -> Path:
        """The directory, mounted over."""
        return self.path / "root"

    async def wait_report(self, kind: type[Any]) -> Any:
        with trio.fail_after(WAIT_S):
            while True:
                for report in self.reports:
                    if isinstance(report, kind):
                        self.reports.remove(report)
                        return report
                self.reports.append(await self.receive.receive())

    async def run(self, program: str, *arguments: object, timeout_s: float = 20) -> str:
        """Run Python code in a process of its own, its working directory the mount."""
        return await run_at(self.root, program, *arguments, timeout_s=timeout_s)

    def spawn(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        """The same, without waiting."""
        return subprocess.Popen(
            [sys.executable, "-c", program, str(self.root), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextlib.contextmanager
    def running(self, program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """The same, ended with the block."""
        child = self.spawn(program, *arguments)
        try:
            yield child
        finally:
            child.kill()
            child.communicate()


async def run_at(root: Path, program: str, *arguments: object, timeout_s: float = 20) -> str:
    argv = [sys.executable, "-c", program, str(root), *map(str, arguments)]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)

    done = await trio.to_thread.run_sync(run, abandon_on_cancel=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@attrs.define(eq=False)
class ProcessPair:
    """Two of them."""

    nursery: trio.Nursery
    keys: dict[str, KeysAt]
    path: Path
    nodes: dict[str, WorkerNode] = attrs.field(factory=dict)
    streams: list[trio.CancelScope] = attrs.field(factory=list)

    @property
    def paris(self) -> WorkerNode:
        return self.nodes["paris"]

    @property
    def lyon(self) -> WorkerNode:
        return self.nodes["lyon"]

    async def start(
        self,
        name: str,
        *,
        freeze_max_ms: int = 60_000,
        judge: Callable[[VolumeIdentity], str] = lambda found: "",
        exclude: tuple[str, ...] = (),
        **settings: Any,
    ) -> WorkerNode:
        path = self.path / name
        if name not in self.nodes:  # else it may be under a mount that hangs
            (path / "root").mkdir(parents=True, exist_ok=True)
        send, receive = trio.open_memory_channel[AnyReport](1000)
        engine = WorkerEngine(
            Open(
                version=VERSION,
                volume=VOLUME,
                root=str(path / "root"),
                state_dir=str(path / "state"),
                reserve="",
                settings=VolumeSettings(**settings),
                freeze_max_ms=freeze_max_ms,
                keys=self.keys[name],
                mount=MountWish(exclude=exclude),
            ),
            report=send.send_nowait,
            judge=judge,
        )
        node = WorkerNode(name, path, engine, [], send, receive, trio.CancelScope(), trio.Event())
        await self.nursery.start(self._run, node)
        self.nodes[name] = node
        return node

    async def _run(
        self, node: WorkerNode, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            with node.scope:
                await node.engine.run(task_status=task_status)
        except VolumeError as error:
            if node.name not in self.nodes:
                raise
            node.error = error
        finally:
            node.ended.set()

    async def stop(self, name: str) -> None:
        node = self.nodes[name]
        node.scope.cancel()
        with trio.fail_after(WAIT_S):
            await node.ended.wait()

    async def start_both(self, **settings: Any) -> None:
        for name in NODES:
            await self.start(name, **settings)

    async def stop_both(self) -> None:
        """In good order: no worker has ended by itself."""
        for name in NODES:
            await self.stop(name)
            assert self.nodes[name].error is None

    async def connect(self, *, plain: bool = False) -> None:
        """Give both a connection to the other; returns once the stream is up."""
        caller, called = tcp_pair()
        admitted = {name: trio.Event() for name in NODES}
        for name, connection in (("paris", caller), ("lyon", called)):
            handed = StreamSocket(
                socket=connection,
                dials=name == "paris",
                hello=hello(name),
                peer_incarnation="7",
                whom=f"node '{NODES[1 - NODES.index(name)]}'",
            )
            self.nursery.start_soon(self._carry, name, handed, admitted[name].set, plain)
        with trio.fail_after(WAIT_S):
            for event in admitted.values():
                await event.wait()

    async def _carry(
        self, name: str, handed: StreamSocket, admitted: Callable[[], None], plain: bool
    ) -> None:
        with trio.CancelScope() as scope, contextlib.suppress(PeerError):
            self.streams.append(scope)
            await self.nodes[name].engine.run_socket(handed, admitted=admitted, plain=plain)

    def cut(self) -> None:
        for scope in self.streams:
            scope.cancel()
        self.streams.clear()

    async def mirror(self, source: str = "paris", *, epoch: int = 1, round_: int = 1) -> None:
        serving = self.nodes[source]
        following = self.nodes[NODES[1 - NODES.index(source)]]
        following.engine.order(Follow(epoch, "g", round_))
        serving.engine.order(ServeMirror(epoch, "g", round_))
        await serving.wait_report(Replayed)


@contextlib.asynccontextmanager
async def open_processes(path: Path) -> AsyncIterator[ProcessPair]:
    """Nothing is left behind: no process, no mount."""
    require_root()
    require_device("/dev/fuse")
    async with trio.open_nursery() as nursery:
        pair = ProcessPair(nursery, keys_for_both(path / "keys"), path)
        try:
            yield pair
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(2 * WAIT_S):
                for node in pair.nodes.values():
                    node.scope.cancel()
                for node in pair.nodes.values():
                    await node.ended.wait()
            pair.cut()
            nursery.cancel_scope.cancel()
            clean(path)


def clean(path: Path) -> None:
    """Take off whatever is mounted below a path."""
    for entry in list(read_mount_table().entries.values())[::-1]:
        if entry.mount_point.startswith(str(path)):
            if entry.is_fuse:
                abort(entry.connection)
            subprocess.run(["umount", "-l", entry.mount_point], check=False, timeout=10)
