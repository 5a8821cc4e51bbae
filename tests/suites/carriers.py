"""What carries a file API in the suites of others: a memory, a directory, the kernel, a pair."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import trio

from mirrorha.core.words import Role
from mirrorha.testing.direct_engine import DirectEngine
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.files.api import FileApi
from mirrorha.volume.files.mounted import MountedFiles
from mirrorha.volume.files.streamed import Files
from tests.cluster.rig import NAMES, Site, TestNode, wait_until
from tests.suites.portal import given
from tests.suites.trees import differences
from tests.volume.disk_support import Home

Carrier = Callable[[Path], AbstractAsyncContextManager[FileApi]]
PAIR_S: Final = 30.0


def _ticking() -> Callable[[], int]:
    """Times that the suites compare with the wall's, and that never stand still."""
    return itertools.count(time.time_ns(), 1000).__next__


def in_memory(root: Path) -> AbstractAsyncContextManager[FileApi]:
    return given(Files(root, DirectEngine(MemoryDisk()), clock_ns=_ticking()))


@contextlib.asynccontextmanager
async def in_a_directory(root: Path) -> AsyncIterator[FileApi]:
    home = Home(root)
    try:
        engine = DirectEngine(home.open(), in_threads=True)
        yield Files(home.root, engine, clock_ns=time.time_ns)
    finally:
        home.close()


def by_the_kernel(root: Path) -> AbstractAsyncContextManager[FileApi]:
    """Also what a mounted volume has: give it the place where one is mounted."""
    return given(MountedFiles(root))


@contextlib.asynccontextmanager
async def mirrored(root: Path) -> AsyncIterator[FileApi]:
    """Two nodes that mirror over TLS; their directories must be equal at the end."""
    site = Site(root)
    async with trio.open_nursery() as nursery:
        nodes = [TestNode(site, name, nursery) for name in NAMES]
        for node in nodes:
            await node.start()
        first, second = nodes
        with trio.fail_after(PAIR_S):
            await wait_until(
                lambda: {node.cluster.role for node in nodes} == {Role.PRIM, Role.SECOND}
            )
        primary = first if first.cluster.role is Role.PRIM else second
        yield primary.data
        found = await trio.to_thread.run_sync(
            differences, site.data(first.name), site.data(second.name)
        )
        for node in nodes:
            await node.end()
        nursery.cancel_scope.cancel()
    if found:
        raise AssertionError(f"the two copies differ: {found}")


CARRIERS: Final[dict[str, Carrier]] = {
    "in_memory": in_memory,
    "in_a_directory": in_a_directory,
    "by_the_kernel": by_the_kernel,
    "mirrored": mirrored,
}
