"""How much room there is on both nodes: measured by who follows, told to who serves."""

from __future__ import annotations

import copy
import itertools
import os
import threading
from typing import Any

import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.core.orders import AnyOrder, Close, Drain, Follow, Freeze, ServeAlone, ServeMirror
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import AnyRequest, LoadTouched, MeasureSpace, ReadBytes, Space
from mirrorha.volume.engine import SPACE_MS as LOOK_MS
from mirrorha.volume.engine import Engine
from mirrorha.volume.events import LinkDown, Received, SpaceSeen
from mirrorha.volume.fuse.reading import smaller
from mirrorha.volume.ops import ROOT_FID
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.follower import SPACE_MS
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.messages import SpaceLeft
from mirrorha.volume.stream.pending import VolumeSettings
from tests.volume.stream_pair import Node, Pair, decode

GIB = 1 << 30
SPACE = Space(100 * GIB, 50 * GIB, 45 * GIB, files=1000, files_free=900)


def space(free_gib: float, files_free: int = 900) -> Space:
    free_bytes = int(free_gib * GIB)
    return Space(100 * GIB, free_bytes, free_bytes, files=1000, files_free=files_free)


def told(node: Node) -> list[Space]:
    """What it has told since it was asked last."""
    raw = list(node.peer.inbox)
    node.peer.inbox.clear()
    return [m.space for m in map(decode, raw) if isinstance(m, SpaceLeft)]


def mirror() -> tuple[Pair, Node, Node]:
    pair = Pair()
    source, follower = pair.mirror()
    return pair, source, follower


class TestFollower:
    def test_it_tells_what_it_sees_first(self) -> None:
        pair, _, follower = mirror()
        pair.give(follower, SpaceSeen(SPACE))
        assert told(follower) == [SPACE]

    def test_only_what_is_much_is_told_at_once(self) -> None:
        pair, _, follower = mirror()
        for seen in (space(50), space(50), space(49.1), space(48.9), space(48.9, 889)):
            pair.give(follower, SpaceSeen(seen))
        assert told(follower) == [space(50), space(48.9), space(48.9, 889)]

    def test_what_is_little_is_told_after_a_while(self) -> None:
        pair, _, follower = mirror()
        pair.give(follower, SpaceSeen(space(50)))
        pair.now_ms += SPACE_MS
        pair.give(follower, SpaceSeen(space(50)))
        pair.give(follower, SpaceSeen(space(49.9)))
        pair.give(follower, SpaceSeen(space(49.8)))
        assert told(follower) == [space(50), space(49.9)]

    def test_each_round_is_told_anew(self) -> None:
        pair, source, follower = mirror()
        pair.give(follower, SpaceSeen(SPACE))
        pair.settle()
        pair.order(follower, Follow(1, "g", round=2))
        pair.give(follower, SpaceSeen(SPACE))
        assert told(follower) == [], "the source has not asked where it is"
        pair.order(source, ServeMirror(1, "g", round=2))
        pair.settle()
        pair.give(follower, SpaceSeen(SPACE))
        assert told(follower) == [SPACE]

    def test_who_serves_tells_nothing(self) -> None:
        pair, source, _ = mirror()
        pair.give(source, SpaceSeen(SPACE))
        assert told(source) == []


class TestSource:
    def knowing(self) -> tuple[Pair, Node]:
        pair, source, follower = mirror()
        assert source.volume.peer_space is None
        pair.give(follower, SpaceSeen(SPACE))
        pair.settle()
        assert source.volume.peer_space == SPACE
        return pair, source

    def test_it_knows_what_it_was_told_last(self) -> None:
        pair, source = self.knowing()
        pair.give(source, Received(SpaceLeft(1, space(1))))
        assert source.volume.peer_space == space(1)
        pair.order(source, Drain(9))
        assert source.volume.peer_space == space(1)

    @pytest.mark.parametrize(
        "order",
        [
            Freeze(5),
            ServeAlone(2, "h"),
            ServeMirror(1, "g", round=2),
            ServeMirror(2, "g", round=1),
            Follow(2, "g", round=1),
            Close("the end", None),
        ],
    )
    def test_it_forgets_with_each_order(self, order: AnyOrder) -> None:
        pair, source = self.knowing()
        pair.order(source, order)
        assert source.volume.peer_space is None
        pair.settle()
        assert source.volume.peer_space is None, "nobody has told it anything since"

    def test_what_it_was_told_in_an_earlier_round_means_nothing(self) -> None:
        pair, source = self.knowing()
        pair.order(source.peer, Follow(1, "g", round=2))
        pair.order(source, ServeMirror(1, "g", round=2))
        pair.settle()
        assert source.volume.streaming
        assert source.volume.peer_space is None

    def test_it_forgets_with_the_link(self) -> None:
        pair, source = self.knowing()
        pair.give(source, LinkDown())
        assert source.volume.peer_space is None

    def test_what_is_of_another_epoch_or_cannot_be_is_ignored(self) -> None:
        pair, source = self.knowing()
        pair.give(source, Received(SpaceLeft(0, space(1))), Received(SpaceLeft(2, space(1))))
        pair.give(source, Received(SpaceLeft(1, space(-1))))
        assert source.volume.peer_space == SPACE


def seen(**fields: int) -> os.statvfs_result:
    names = ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree")
    given = {"bsize": 4096, "frsize": 4096, **fields}
    return os.statvfs_result([*(given[name] for name in names), 0, 0, 255])


MINE = seen(blocks=1000, bfree=500, bavail=400, files=100, ffree=90)


class TestShown:
    def test_without_a_peer_it_is_ours(self) -> None:
        assert smaller(MINE, None) == (1000, 500, 400, 100, 90)

    def test_of_each_the_smaller_in_our_blocks(self) -> None:
        theirs = Space(3000 * 4096, 450 * 4096 + 4095, 420 * 4096, files=50, files_free=50)
        assert smaller(MINE, theirs) == (1000, 450, 400, 50, 50)

    def test_a_file_system_without_a_limit_of_inodes_limits_nothing(self) -> None:
        unlimited = seen(blocks=1000, bfree=500, bavail=400, files=0, ffree=0)
        theirs = Space(GIB, GIB, GIB, files=0, files_free=0)
        assert smaller(MINE, theirs)[3:] == (100, 90)
        assert smaller(unlimited, SPACE)[3:] == (1000, 900)
        assert smaller(unlimited, theirs)[3:] == (0, 0)

    @given(st.lists(st.integers(0, 1 << 40), min_size=10, max_size=10))
    def test_never_more_is_free_than_there_is(self, numbers: list[int]) -> None:
        available, free, total = sorted(numbers[:3])
        files_free, files = sorted(numbers[3:5])
        mine = seen(blocks=total, bfree=free, bavail=available, files=files, ffree=files_free)
        available, free, total = sorted(numbers[5:8])
        files_free, files = sorted(numbers[8:])
        shown = smaller(mine, Space(total, free, available, files, files_free))
        assert shown[0] >= shown[1] >= shown[2]
        assert shown[3] >= shown[4]


class Watched:
    """A disk that says when somebody looks."""

    def __init__(self) -> None:
        self.inner = MemoryDisk()
        self.looks = 0
        self.looks_before_reading = 0
        self.goes_on = threading.Event()

    def perform(self, request: AnyRequest) -> object:
        if isinstance(request, MeasureSpace):
            self.looks += 1
            assert self.goes_on.wait(20)
        if isinstance(request, ReadBytes):
            self.looks_before_reading = self.looks
        return self.inner.perform(request)


async def test_a_volume_of_the_file_api_looks_while_it_follows() -> None:
    """In the thread of its tree, so that nobody waits for it; one look at a time."""
    disk = Watched()
    touched: Any = disk.perform(LoadTouched())
    machine = Volume(VolumeSettings(), touched=touched, resyncs=ComparingResyncs())
    clock = itertools.count(1, LOOK_MS)  # each tick is late for the next look
    engine = Engine("v", machine, disk, clock_ms=clock.__next__, report=lambda _: None)  # type: ignore[arg-type]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            engine.order(ServeAlone(epoch=1, generation="g"))
            await wait_ticks(clock)
            assert not disk.looks
            engine.order(Follow(2, "g", round=1))
            while not disk.looks:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await wait_ticks(clock)
            nursery.start_soon(engine.query, ReadBytes(ROOT_FID, 0, 1))
            await trio.lowlevel.checkpoint()
            disk.goes_on.set()
            while disk.looks < 3:  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert disk.looks_before_reading == 1, "while one hangs, there is no other"


async def wait_ticks(clock: itertools.count[int]) -> None:
    """Until the engine has ticked a few times."""
    until = next(clock) + 12 * LOOK_MS
    while next(copy.copy(clock)) < until:  # noqa: ASYNC110
        await trio.sleep(0.01)
