"""A resync between two volumes' machines: ordered, cut over, and then a mirror of the two."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import pytest

from mirrorha.core.orders import (
    AnyOrder,
    AnyReport,
    BecomeTarget,
    CutDone,
    CutOver,
    Follow,
    NearlyEqual,
    ResyncFailed,
    ServeAlone,
    ServeMirror,
    StartResync,
)
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import LIMBO_FID, ListDirectory, LoadTouched
from mirrorha.volume.events import (
    AnyEvent,
    Change,
    DiskCall,
    DiskDone,
    Lane,
    LinkDown,
    LinkUp,
    Ordered,
    Received,
    Reply,
    Reported,
    ResetLink,
    Send,
    Tick,
)
from mirrorha.volume.ops import Create, Mkdir, Symlink
from mirrorha.volume.resync.messages import FromSource, FromTarget
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.messages import StreamMessage
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.touched import TouchedState
from tests.volume.resync_pair import difference
from tests.volume.resync_trees import Application, twin

STEPS_MAX: Final = 200_000
_decode: Final = msgspec.msgpack.Decoder(StreamMessage | FromSource | FromTarget).decode


class Node:
    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        state = disk.perform(LoadTouched())
        assert isinstance(state, TouchedState)
        self.volume = Volume(VolumeSettings(), touched=state, resyncs=ComparingResyncs())
        self.lanes: dict[Lane, deque[tuple[int, DiskCall]]] = {lane: deque() for lane in Lane}
        self.inbox: deque[bytes] = deque()
        self.reports: deque[AnyReport] = deque()
        self.replies: list[Reply] = []
        self.peer: Node


class World:
    """Two volumes, and chance."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        disk = MemoryDisk()
        Application(rng, disk, epoch=1).live(40)
        self.first, self.second = Node(disk), Node(twin(disk))
        self.first.peer, self.second.peer = self.second, self.first
        self.application = Application(rng, disk, epoch=1)
        self.tokens = itertools.count(1)
        self.asked = 0
        self.now_ms = 0
        self.calls = itertools.count()
        self.link = False
        self.resets: list[str] = []

    def give(self, node: Node, *events: AnyEvent) -> None:
        for effect in node.volume.step_all(events, self.now_ms):
            match effect:
                case Send(message):
                    if self.link:
                        node.peer.inbox.append(msgspec.msgpack.encode(message))
                case DiskCall():
                    node.lanes[effect.lane].append((next(self.calls), effect))
                case Reported(report):
                    node.reports.append(report)
                case Reply():
                    node.replies.append(effect)
                case ResetLink(why):
                    self.resets.append(why)

    def order(self, node: Node, order: AnyOrder) -> None:
        self.give(node, Ordered(order))

    def connect(self, up: bool) -> None:
        self.link = up
        self.first.inbox.clear()
        self.second.inbox.clear()
        for node in (self.first, self.second):
            self.give(node, LinkUp() if up else LinkDown())

    def change(self) -> None:
        op = self.application()
        if isinstance(op, Create | Mkdir | Symlink):
            op = msgspec.structs.replace(op, fid=0)
        self.asked += 1
        self.give(self.first, Change(next(self.tokens), op))

    def perform(self, node: Node, lane: Lane) -> None:
        _, call = node.lanes[lane].popleft()
        self.give(node, DiskDone(call.token, node.disk.perform(call.request)))

    def receive(self, node: Node) -> None:
        """What has arrived, or the beginning of it, together."""
        count = self.rng.randint(1, len(node.inbox))
        self.give(node, *[Received(_decode(node.inbox.popleft())) for _ in range(count)])

    def step(self, *, changes: float = 0.0) -> bool:
        """Something happens. False: nothing can, time has passed."""
        moves: list[Callable[[], None]] = []
        for node in (self.first, self.second):
            tree, bulk = node.lanes[Lane.TREE], node.lanes[Lane.BULK]
            for lane, calls in node.lanes.items():
                waits = lane is Lane.BULK and tree and bulk and tree[0][0] < bulk[0][0]
                if calls and not waits:
                    moves.append(lambda n=node, x=lane: self.perform(n, x))  # type: ignore[misc]
            if node.inbox:
                moves.append(lambda n=node: self.receive(n))  # type: ignore[misc]
        if self.rng.random() < changes:
            self.change()
        elif moves and self.rng.random() > 0.01:
            self.rng.choice(moves)()
        else:
            self.now_ms += 50
            for node in (self.first, self.second):
                self.give(node, Tick())
            return bool(moves)
        return True

    def settle(self) -> None:
        idle = 0
        while idle < 3:
            idle = 0 if self.step() else idle + 1

    def wait_for(self, kind: type[AnyReport], *, changes: float, steps: int = STEPS_MAX) -> bool:
        """Go on until the first node reports this. False: not within so many steps."""
        for _ in range(steps):
            while self.first.reports:
                report = self.first.reports.popleft()
                if isinstance(report, kind):
                    return True
                assert not isinstance(report, ResyncFailed), report.text
            self.step(changes=changes)
        return False


def join(world: World, session: int, *, everything: bool) -> None:
    orders: list[Callable[[], None]] = [
        lambda: world.order(world.second, BecomeTarget(5, session)),
        lambda: world.order(
            world.first, StartResync(5, session, everything, world.rng.randrange(1 << 64))
        ),
        lambda: world.connect(up=True),
    ]
    world.rng.shuffle(orders)
    for order in orders:
        order()


@pytest.mark.parametrize("seed", range(40))
def test_a_volume_joins_and_follows(seed: int) -> None:
    rng = random.Random(seed)
    world = World(rng)
    world.order(world.first, ServeAlone(5, "alone"))
    for _ in range(rng.randrange(60)):
        world.step(changes=0.3)
    sessions = itertools.count(1)
    for _ in range(rng.randrange(3)):
        join(world, next(sessions), everything=rng.random() < 0.3)
        if world.wait_for(NearlyEqual, changes=0.02, steps=rng.randrange(600)):
            break
        world.connect(up=False)
        world.settle()
        world.first.reports.clear()
    else:
        join(world, next(sessions), everything=rng.random() < 0.3)
        assert world.wait_for(NearlyEqual, changes=0.02)
    world.order(world.first, CutOver(99))
    # Callers go on asking; nothing of it is applied until the cut is over.
    assert world.wait_for(CutDone, changes=0.005)
    assert difference(world.first.disk, world.second.disk) == []
    assert world.second.disk.perform(ListDirectory(LIMBO_FID)) == []
    # What lost its power now would lose nothing.
    world.second.disk.power_loss(rng)
    world.second.disk.open_again()
    assert difference(world.first.disk, world.second.disk) == []
    world.order(world.second, Follow(6, "mirror", 1))
    world.order(world.first, ServeMirror(6, "mirror", 1))
    for _ in range(300):
        world.step(changes=0.1)
    world.settle()
    assert difference(world.first.disk, world.second.disk) == []
    assert len(world.first.replies) == world.asked
    assert not world.resets


def test_the_rate_of_a_resync_is_that_of_its_volume() -> None:
    resyncs = ComparingResyncs(rate_bytes_per_s=5 << 20)
    first = resyncs.source(StartResync(1, 1, True, 1), [])
    resyncs.set_rate(7 << 20)
    second = resyncs.source(StartResync(1, 2, True, 1), [])
    assert (first.rate_bytes_per_s, second.rate_bytes_per_s) == (7 << 20, 7 << 20)
    resyncs.set_rate(9 << 20)
    assert second.rate_bytes_per_s == 9 << 20
