"""Two volumes' machines on disks in memory, and everything between them in any order."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from mirrorha.core.orders import AnyOrder, AnyReport, ResyncFailed
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.codec import AnyMessage
from mirrorha.volume.disk import LoadTouched
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
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.touched import TouchedState
from tests.volume.resync_trees import Application, twin

STEPS_MAX: Final = 200_000
decode: Final = msgspec.msgpack.Decoder(AnyMessage).decode


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

    def perform(self, node: Node, lane: Lane, count: int = 1) -> None:
        """Have the disk perform some of what is asked; the results are handed back together."""
        calls = [node.lanes[lane].popleft()[1] for _ in range(min(count, len(node.lanes[lane])))]
        self.give(node, *[DiskDone(call.token, node.disk.perform(call.request)) for call in calls])

    def receive(self, node: Node) -> None:
        """What has arrived, or the beginning of it, together."""
        count = self.rng.randint(1, len(node.inbox))
        self.give(node, *[Received(decode(node.inbox.popleft())) for _ in range(count)])

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
