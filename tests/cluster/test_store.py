"""The state of a running node: written whole, or the node does not go on."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
import trio

from mirrorha.cluster.store import MetaStore
from mirrorha.core.meta import Meta
from mirrorha.errors import StateError
from mirrorha.state.atomic import write_atomically
from mirrorha.state.meta import META_NAME, read_meta

META = Meta(node="lyon", incarnation=3)


def full_disk(path: Path, raw: bytes) -> None:
    raise OSError(errno.ENOSPC, "no room")


async def test_it_keeps_what_it_was_given(tmp_path: Path) -> None:
    store = MetaStore(tmp_path / "new" / META_NAME, limit_s=5)
    assert await store.load(node="lyon") == Meta(node="lyon")
    await store.save(META)
    assert read_meta(tmp_path / "new" / META_NAME, node="lyon") == META
    assert await store.close()


async def test_a_full_disk_costs_the_reserve_once(tmp_path: Path) -> None:
    reserve = [True]

    def write(path: Path, raw: bytes) -> None:
        if reserve:
            full_disk(path, raw)
        write_atomically(path, raw)

    store = MetaStore(
        tmp_path / META_NAME,
        limit_s=5,
        give_up_reserve=lambda: bool(reserve) and reserve.pop(),
        write=write,
    )
    await store.save(META)
    assert read_meta(tmp_path / META_NAME, node="lyon") == META


async def test_a_disk_that_stays_full_is_an_error(tmp_path: Path) -> None:
    store = MetaStore(
        tmp_path / META_NAME, limit_s=5, give_up_reserve=lambda: True, write=full_disk
    )
    with pytest.raises(StateError, match="cannot be written: no room"):
        await store.save(META)


async def test_a_disk_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    goes_on = threading.Event()
    store = MetaStore(
        tmp_path / META_NAME, limit_s=0.05, write=lambda path, raw: goes_on.wait(30) and None
    )
    began = trio.current_time()
    with pytest.raises(StateError, match="failing"):
        await store.save(META)
    assert trio.current_time() - began < 5
    goes_on.set()
    assert await store.close(), "the write has ended, and nobody writes any more"
