"""Two real nodes in one trio loop: TLS, heartbeats, disks in temporary directories."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from mirrorha.arbiters import LocalArbiter
from mirrorha.cluster.cluster import Cluster
from mirrorha.cluster.runtime import Seams
from mirrorha.config import (
    ClusterConfig,
    HeartbeatConfig,
    NodeConfig,
    ServiceConfig,
    TimingConfig,
)
from mirrorha.core.words import Role
from mirrorha.net.keys import create_keys
from mirrorha.volume.names import RESCUE_NAME

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from mirrorha.core.change import RoleChange
    from mirrorha.volume.replicator import Replicator

NAMES: Final = ("lyon", "paris")
#: Everything here takes a second or two; a stuck node fails the test rather than the run.
LIMIT_S: Final = 30
# Quick to notice a death, and slow enough for a machine that is busy with other things.
PULSE_S: Final = 0.05
TIMEOUT_S: Final = 0.6


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, for TCP and UDP on the loopback."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            found.append(one.getsockname()[1])
        return found


@functools.cache
def keys_directory() -> Path:
    """Keys of the tests' cluster, made once: they cost more than many a test."""
    directory = Path(tempfile.mkdtemp(prefix="mirrorha-keys-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    create_keys(directory, cluster="orders", nodes=list(NAMES))
    return directory


@attrs.frozen
class Site:
    """What both nodes have in common: ports, directories, configuration."""

    base: Path
    ports: tuple[int, ...] = attrs.field(factory=lambda: tuple(free_ports(4)))
    changes: dict[str, Any] = attrs.field(factory=dict)

    def data(self, name: str) -> Path:
        return self.base / name / "data"

    def state(self, name: str) -> Path:
        return self.base / name / "state"

    @property
    def keys(self) -> Path:
        """Beside the data, if `share_keys` has put them there for other processes."""
        shared = self.base / "keys"
        return shared if shared.exists() else keys_directory()

    def share_keys(self) -> None:
        shutil.copytree(keys_directory(), self.base / "keys")

    def config(self, name: str, **changes: Any) -> ClusterConfig:
        self.data(name).mkdir(parents=True, exist_ok=True)
        nodes = [
            NodeConfig(
                name=each,
                addresses=["127.0.0.1"],
                port=self.ports[index],
                state_dir=str(self.state(each)),
                api=f"127.0.0.1:{self.ports[index + 2]}",
            )
            for index, each in enumerate(NAMES)
        ]
        options: dict[str, Any] = {
            "name": "orders",
            "node": name,
            "keys": str(self.keys),
            "nodes": nodes,
            "heartbeat": HeartbeatConfig(pulse_s=PULSE_S, timeout_s=TIMEOUT_S),
            "timing": TimingConfig(
                wait_peer_s=1, takeover_delay_s=0.2, fence_delay_s=0.1, peer_slow_max_s=2
            ),
            "service": ServiceConfig(start_timeout_s=5, stop_timeout_s=5),
            **self.changes,
            **changes,
        }
        return ClusterConfig(**options)

    def arbiter(self) -> LocalArbiter:
        return LocalArbiter(self.base / "register")


@attrs.define
class TestNode:
    """A node that can be started, killed and started again, and what its service was told."""

    __test__ = False

    site: Site
    name: str
    nursery: trio.Nursery
    mount: bool | None = False
    exclude: tuple[str, ...] = ()
    cluster: Cluster = attrs.field(init=False)
    data: Replicator = attrs.field(init=False)
    told: list[tuple[str, RoleChange]] = attrs.field(factory=list)
    scope: trio.CancelScope | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)
    error: BaseException | None = None
    seams: Seams = attrs.field(factory=Seams)
    stop_s: float = 0.0  # how long its service takes to stop
    on_told: Callable[[str], None] = lambda _: None

    def __attrs_post_init__(self) -> None:
        self.make()

    @property
    def other(self) -> str:
        return NAMES[1 - NAMES.index(self.name)]

    @property
    def is_serving(self) -> bool:
        """What the service says: started and not stopped since."""
        return bool(self.told) and self.told[-1][0] == "start"

    def make(self, **changes: Any) -> Cluster:
        """Put the node together anew, with another configuration."""
        config = self.site.config(self.name, **changes)
        cluster = Cluster(config, None if config.split_brain else self.site.arbiter())
        self.data = cluster.replicate(
            str(self.site.data(self.name)),
            peer_path=str(self.site.data(self.other)),
            mount=self.mount,
            exclude=self.exclude,
        )
        self.cluster = cluster
        if config.service.is_separate:
            return cluster

        @cluster.on_start
        async def start(why: RoleChange) -> None:
            self.told.append(("start", why))
            self.on_told("start")

        @cluster.on_stop
        async def stop(why: RoleChange) -> None:
            await trio.sleep(self.stop_s)
            self.told.append(("stop", why))
            self.on_told("stop")

        return cluster

    async def start(self) -> None:
        """Run the node in the background."""
        self.cluster._seams = self.seams
        self.ended = trio.Event()
        self.error = None
        await self.nursery.start(self._run)
        if self.error is not None:
            raise self.error

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self.scope:
            try:
                await self.cluster.run(task_status=task_status)
            except Exception as error:
                self.error = error
        self.ended.set()
        with contextlib.suppress(RuntimeError):  # it had begun
            task_status.started()

    async def end(self, *, says_goodbye: bool = False) -> None:
        """End it; without a goodbye it is, for the peer, as if it had been killed."""
        self.seams = attrs.evolve(self.seams, says_goodbye=says_goodbye)
        runtime = self.cluster._runtime
        if runtime is not None:
            runtime._seams = self.seams
        if self.scope is not None:
            self.scope.cancel()
        await self.ended.wait()

    async def write(self, name: str, content: bytes) -> None:
        """Make a file; returns once it is acknowledged."""
        async with self.data.open(name, "wb") as file:
            await file.write(content)

    def files(self) -> dict[str, bytes]:
        """What its directory holds, but for what was kept of a split."""
        return read_tree(self.site.data(self.name))


def read_tree(root: Path) -> dict[str, bytes]:
    found = {}
    for directory, inner, names in os.walk(root):
        if RESCUE_NAME in inner:
            inner.remove(RESCUE_NAME)
        for name in names:
            path = Path(directory, name)
            if not name.startswith(".mirrorha"):
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


@contextlib.asynccontextmanager
async def open_pair(
    base: Path,
    *,
    mount: bool | None = False,
    exclude: tuple[str, ...] = (),
    limit_s: float = LIMIT_S,
    **changes: Any,
) -> AsyncGenerator[tuple[TestNode, TestNode]]:
    """Two nodes that are not started; whatever still runs is ended with the block."""
    site = Site(base, changes=changes)
    with trio.fail_after(limit_s):
        async with trio.open_nursery() as nursery:
            pair = tuple(TestNode(site, name, nursery, mount, exclude) for name in NAMES)
            yield pair  # type: ignore[misc]
            for node in pair:
                if node.scope is not None:
                    await node.end()


async def start_pair(nodes: Iterable[TestNode]) -> tuple[TestNode, TestNode]:
    """Start both and wait for a mirrored pair; return (PRIM, SECOND)."""
    for node in nodes:
        await node.start()
    return await wait_mirrored(nodes)


async def wait_mirrored(nodes: Iterable[TestNode]) -> tuple[TestNode, TestNode]:
    """Wait until one serves and the other stands by; return them in this order."""
    pair = list(nodes)
    for node in pair:
        await node.cluster.wait_role(Role.PRIM, Role.SECOND)
        await wait_until(lambda node=node: node.cluster.status()["colour"] == "green")
    first = next(node for node in pair if node.cluster.role is Role.PRIM)
    second = next(node for node in pair if node.cluster.role is Role.SECOND)
    await wait_until(lambda: first.is_serving)
    # What it knows of the other comes a moment later; before that it would refuse a swap.
    await wait_until(lambda: first.cluster.status()["peer"]["colour"] == "green")
    return first, second


async def wait_until(holds: Any) -> None:
    """Wait for what no event tells. The block around has the deadline."""
    while not holds():  # noqa: ASYNC110 - files, and the other process
        await trio.sleep(0.005)
