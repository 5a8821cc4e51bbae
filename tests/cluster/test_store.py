"""The state of a running node: written whole, or the node does not go on."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import final

import pytest
import trio

from mirrorha.cluster.store import MetaStore
from mirrorha.core.meta import Meta
from mirrorha.errors import StateError
from mirrorha.state.atomic import write_atomically
from mirrorha.state.meta import META_NAME, read_meta

META = Meta(node="lyon", incarnation=3)


@final
class SomeRoom:
    """Reserves, the first of which is lent."""

    def __init__(self, reserves: list[str]) -> None:
        self.reserves, self.calls = reserves, list[str]()

    def lend(self) -> bool:
        self.calls.append("lend")
        return bool(self.reserves and self.reserves.pop(0))

    def take_back(self) -> None:
        self.calls.append("take back")

    def give_up(self) -> bool:
        self.calls.append("give up")
        return bool(self.reserves and self.reserves.pop(0))


def full_disk(path: Path, raw: bytes) -> None:
    raise OSError(errno.ENOSPC, "no room")


async def test_it_keeps_what_it_was_given(tmp_path: Path) -> None:
    store = MetaStore(tmp_path / "new" / META_NAME, limit_s=5)
    assert await store.load(node="lyon") == Meta(node="lyon")
    await store.save(META)
    assert read_meta(tmp_path / "new" / META_NAME, node="lyon") == META
    assert await store.close()


@pytest.mark.parametrize(
    ("reserve", "calls"),
    [
        (["decisions"], ["lend", "take back"]),
        (["decisions", "logs"], ["lend", "give up", "take back"]),
    ],
)
async def test_a_full_disk_costs_as_little_of_the_reserve_as_it_takes(
    tmp_path: Path, reserve: list[str], calls: list[str]
) -> None:
    room = SomeRoom(reserve)

    def write(path: Path, raw: bytes) -> None:
        if reserve:
            full_disk(path, raw)
        write_atomically(path, raw)

    store = MetaStore(
        tmp_path / META_NAME,
        limit_s=5,
        room=room,
        write=write,
    )
    await store.save(META)
    assert room.calls == calls
    assert read_meta(tmp_path / META_NAME, node="lyon") == META


async def test_a_disk_that_stays_full_is_an_error(tmp_path: Path) -> None:
    room = SomeRoom(["decisions", "logs"])
    store = MetaStore(tmp_path / META_NAME, limit_s=5, room=room, write=full_disk)
    with pytest.raises(StateError, match="cannot be written: no room"):
        await store.save(META)
    assert room.calls == ["lend", "give up", "take back"]


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
