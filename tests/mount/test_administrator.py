"""Somebody unmounts, or aborts, what a node serves: it hands over, and nobody writes beside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from mirrorha.core.words import Role
from mirrorha.mount_table import MountEntry, read_mount_table
from mirrorha.volume.fuse import mount_calls
from mirrorha.volume.fuse.connection import abort
from tests.cluster.rig import open_pair, start_pair, wait_mirrored, wait_until
from tests.cluster.test_mounted import READ, WRITE, at, python
from tests.mount.mount_support import ground, write_into
from tests.requirements import require_device, require_root


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: mount_calls.detach(entry.mount_point),
        lambda entry: abort(entry.connection),
    ],
    ids=["umount", "abort"],
)
async def test_a_mount_that_is_taken_away(spoil: Callable[[MountEntry], object]) -> None:
    require_root()
    require_device("/dev/fuse")
    with ground() as here:
        async with open_pair(here.path, mount=True) as pair:
            first, second = await start_pair(pair)
            await python(WRITE, at(first, "a"), "one")
            place = first.site.data(first.name)
            spoil(read_mount_table().spot(str(place)).seen)
            how = await trio.to_thread.run_sync(write_into, place)
            assert how in {"ENOTCONN", "EROFS"}
            await wait_until(lambda: second.cluster.role in (Role.ALONE, Role.PRIM))
            await wait_mirrored(pair)
            assert second.cluster.role is Role.PRIM
            how = await trio.to_thread.run_sync(write_into, place)
            assert how == "EROFS", "it stands by"
            assert [what for what, _ in first.told] == ["start", "stop"]
            await python(WRITE, at(second, "a"), " two")
            assert await python(READ, at(first, "a")) == "one two"
            for node in (first, second):
                await node.cluster.stop()
            await wait_until(lambda: not here.mounts())
            assert first.files() == second.files() == {"a": b"one two"}
