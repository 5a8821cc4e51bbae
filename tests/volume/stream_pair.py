"""Two volume machines, two tiny disks and a link that breaks: what the tests of the stream drive.

The disks check what the machines owe them (entries of the touched log before the ops that need
them; a follower's history is its source's); the pair checks what is owed to callers.
"""

from __future__ import annotations

import copy
import errno
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from mirrorha.core.orders import (
    AnyOrder,
    AnyReport,
    BecomeTarget,
    Follow,
    NearlyEqual,
    ServeMirror,
    StartResync,
)
from mirrorha.volume import disk as requests
from mirrorha.volume.disk import Applied, Outcome
from mirrorha.volume.events import (
    AnyEffect,
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
from mirrorha.volume.ops import (
    ROOT_FID,
    AnyOp,
    Create,
    Rename,
    SetAttributes,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.messages import Message, StreamMessage
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.stream.resync_interface import ResyncEffect, ResyncEvent, ResyncStatus
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.touched import (
    INODE,
    NAMES,
    SEGMENT_SHIFT,
    TouchedState,
    TouchKey,
    tail_start,
    touches,
)
from mirrorha.volume.verify.messages import AnyVerifyMessage


class Wrong(Exception):  # noqa: N818 - a verdict
    """A promise was broken. Not an AssertionError, so that no machinery takes it for its own."""


def demand(condition: bool, claim: str) -> None:
    if not condition:
        raise Wrong(claim)


class Tree:
    """Names in directories; of every byte in a file, the id (mtime) of the op that wrote it.

    And of its attributes the id of the op that set any last.
    """

    def __init__(self) -> None:
        self.names: dict[int, dict[str, int]] = {ROOT_FID: {}}
        self.files: dict[int, dict[int, int]] = {}
        self.sizes: dict[int, int] = {}
        self.attributes: dict[int, int] = {}

    def copy(self) -> Tree:
        return copy.deepcopy(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def differences(self, other: Tree) -> list[tuple[int, int | None]]:
        """Where two trees differ, as (fid, segment).

        The segment is None for a directory, INODE for a file's attributes.
        """
        found: list[tuple[int, int | None]] = []
        for parent in self.names.keys() | other.names.keys():
            if self.names.get(parent) != other.names.get(parent):
                found.append((parent, None))
        for fid in self.files.keys() & other.files.keys():
            if self.attributes[fid] != other.attributes[fid]:
                found.append((fid, INODE))
            mine, theirs = self.files[fid], other.files[fid]
            for offset in mine.keys() | theirs.keys():
                if mine.get(offset) != theirs.get(offset):
                    found.append((fid, offset >> SEGMENT_SHIFT))
        return found


def covers(keys: set[TouchKey], difference: tuple[int, int | None]) -> bool:
    fid, segment = difference
    if segment is None:
        return (fid, NAMES) in keys
    if segment == INODE:
        return any(of == fid for of, _ in keys)
    if (fid, segment) in keys:
        return True
    starts = (tail_start(part) for of, part in keys if of == fid and part not in (INODE, NAMES))
    return any(start is not None and start <= segment for start in starts)


class TinyDisk:
    """As much of a disk as the stream needs. What is not synced is lost in an OS crash."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self.tree = Tree()
        self.durable = Tree()
        self.history: list[int] = []  # the ids (mtimes) of all ops that made this tree
        self.touched: set[TouchKey] = set()
        self.confirmed = self.retired = (0, 0)
        self.source: TinyDisk | None = None  # whose history ours must be a prefix of
        self.full = self.broken = False
        self.chance = chance
        self.performed: list[requests.AnyRequest] = []

    def state(self) -> TouchedState:
        return TouchedState(list(self.touched), self.confirmed, self.retired)

    def perform(self, request: requests.AnyRequest, was: Tree | None = None) -> object:
        """`was`: the tree when a sync began. What came later it does not make durable."""
        if self.broken:
            raise requests.DiskError("EIO")
        self.performed.append(request)
        match request:
            case requests.Apply(op):
                return self.apply(op, whole=False)
            case requests.ApplyAll(ops):
                return self.apply_all(ops)
            case requests.SyncTree():
                self.durable = (was or self.tree).copy()
            case requests.SyncFiles(fids, data_only):
                for fid in fids:
                    self.sync_file(fid, (was or self.tree).copy(), data_only=fid in data_only)
            case requests.RecordTouched(keys):
                self.touched |= set(keys)
            case requests.RetireTouched(keys, epoch, seq):
                self.touched -= set(keys)
                self.retired = max(self.retired, (epoch, seq))
                self.confirmed = max(self.confirmed, (epoch, seq))
            case requests.ConfirmCheckpoint(epoch, seq):
                self.confirmed = max(self.confirmed, (epoch, seq))
            case requests.Many(asked):
                return [self.perform(one) for one in asked]
            case requests.ListDirectory() | requests.ReadAttributes() | requests.ReadAnew():
                pass  # of what a comparison wants to see it knows nothing
            case _:
                raise Wrong(f"the stream has no business with {request}")
        return None

    def sync_file(self, fid: int, tree: Tree, *, data_only: bool) -> None:
        durable = self.durable
        if fid in tree.names:
            durable.names[fid] = tree.names[fid]
        if fid in tree.files:
            durable.files[fid] = tree.files[fid]
            durable.sizes[fid] = tree.sizes[fid]
            if not data_only or fid not in durable.attributes:
                durable.attributes[fid] = tree.attributes[fid]
            for parent, names in tree.names.items():
                for name, child in names.items():
                    if child == fid:
                        durable.names[parent][name] = child

    def apply_all(self, ops: list[AnyOp]) -> Applied:
        for count, op in enumerate(ops):
            outcome = self.apply(op, whole=True)
            if outcome.done != op:
                return Applied(count, outcome.errno or errno.EIO)
            if self.source is not None:
                at = len(self.history)
                demand(self.history[at - 1] == self.source.history[at - 1], "I5: not a prefix")
        return Applied(len(ops))

    def apply(self, op: AnyOp, *, whole: bool) -> Outcome:
        demand(set(touches(op)) <= self.touched, f"applied before its entries are durable: {op}")
        if self.full:
            return Outcome(None, errno.ENOSPC)
        if isinstance(op, SetAttributes) and op.mtime_ns is None:
            return Outcome(None)  # nothing to do
        if isinstance(op, Write) and not whole and self.chance and self.chance.random() < 0.1:
            op = msgspec.structs.replace(op, data=op.data[:1])  # a short write
        wrong = self.change(op)
        if wrong:
            return Outcome(None, wrong)
        self.history.append(op.mtime_ns)  # type: ignore[union-attr]
        return Outcome(op)

    def change(self, op: AnyOp) -> int:
        tree = self.tree
        match op:
            case Write(fid, offset, data, stamp):
                if fid not in tree.files:
                    return errno.ESTALE
                for at in range(offset, offset + len(data)):
                    tree.files[fid][at] = stamp
                tree.sizes[fid] = max(tree.sizes[fid], offset + len(data))
                tree.attributes[fid] = stamp
            case SetAttributes(fid):
                if fid not in tree.files:
                    return errno.ESTALE
                tree.attributes[fid] = op.mtime_ns or 0
            case Truncate(fid, size, stamp):
                if fid not in tree.files:
                    return errno.ESTALE
                tree.files[fid] = {at: b for at, b in tree.files[fid].items() if at < size}
                tree.sizes[fid] = size
                tree.attributes[fid] = stamp
            case Create(fid, parent, name):
                if name in tree.names[parent]:
                    return errno.EEXIST
                tree.names[parent][name] = fid
                tree.files[fid] = {}
                tree.sizes[fid] = 0
                tree.attributes[fid] = op.mtime_ns
            case Unlink(fid, parent, name):
                if tree.names[parent].get(name) != fid:
                    return errno.ENOENT
                del tree.names[parent][name]
                del tree.files[fid], tree.sizes[fid], tree.attributes[fid]
            case Rename(fid, parent, name, new_parent, new_name):
                if tree.names[parent].get(name) != fid or new_name in tree.names[new_parent]:
                    return errno.ENOENT
                del tree.names[parent][name]
                tree.names[new_parent][new_name] = fid
            case _:
                raise Wrong(f"the tiny disk knows no {op}")
        return 0

    def become(self, other: TinyDisk) -> None:
        """What a resync does, in the end."""
        self.tree = other.tree.copy()
        self.history = list(other.history)

    def os_crash(self) -> None:
        """All that was not synced is lost, or nothing of it."""
        if self.chance is not None and self.chance.random() < 0.7:
            self.tree = self.durable.copy()
        self.durable = self.tree.copy()


class Copied(Message, frozen=True, tag=40):
    """The tiny resync's only message: source to target, and back."""

    epoch: int
    session: int


decode = msgspec.msgpack.Decoder(StreamMessage | AnyVerifyMessage | Copied).decode


class TinySource:
    """A resync that copies everything at the final pass, behind the machines' backs."""

    def __init__(self, order: StartResync, mine: TinyDisk, theirs: TinyDisk) -> None:
        self.order, self.mine, self.theirs = order, mine, theirs
        self.status, self.failure, self.failed_here = ResyncStatus.RUNNING, "", False
        self.keys: set[TouchKey] = set()

    def start(self, now_ms: int) -> Sequence[ResyncEffect]:
        record = requests.RecordTouched(list(self.theirs.touched))
        near = Reported(NearlyEqual(self.order.session))
        return [DiskCall(77, Lane.TREE, record), near]

    def step(self, event: ResyncEvent, now_ms: int) -> Sequence[ResyncEffect]:
        if isinstance(event, Received):
            self.status = ResyncStatus.EQUAL
        return []

    def touched(self, keys: Sequence[TouchKey]) -> None:
        self.keys |= set(keys)

    def set_rate(self, rate_bytes_per_s: int) -> None: ...

    def final_pass(self, now_ms: int) -> Sequence[ResyncEffect]:
        self.theirs.become(self.mine)
        return [Send(Copied(self.order.epoch, self.order.session))]


class TinyTarget:
    def __init__(self, order: BecomeTarget) -> None:
        self.status, self.failure, self.failed_here = ResyncStatus.RUNNING, "", False

    def start(self, now_ms: int) -> Sequence[ResyncEffect]:
        return []

    def step(self, event: ResyncEvent, now_ms: int) -> Sequence[ResyncEffect]:
        if not isinstance(event, Received):
            return []
        self.status = ResyncStatus.EQUAL
        return [Send(event.message)]


class TinyResyncs:
    def __init__(self, mine: TinyDisk, theirs: TinyDisk) -> None:
        self.mine, self.theirs = mine, theirs

    def source(self, order: StartResync, touched: TouchedState) -> TinySource:
        keys = set(touched.keys) | self.theirs.touched
        for difference in self.mine.tree.differences(self.theirs.tree):
            demand(covers(keys, difference), f"I4: {difference} is in no touched log")
        return TinySource(order, self.mine, self.theirs)

    def target(self, order: BecomeTarget, touched: TouchedState, filled: FidSet) -> TinyTarget:
        return TinyTarget(order)


class Node:
    """One machine and what stands around it."""

    def __init__(self, settings: VolumeSettings, disk: TinyDisk) -> None:
        self.settings = settings
        self.disk = disk
        self.lanes: dict[Lane, deque[DiskCall]] = {lane: deque() for lane in Lane}
        self.syncs_take_time = True  # a tiny disk knows what was there when one began
        self.synced: Tree | None = None  # that, while one is under way
        self.inbox: deque[bytes] = deque()
        self.reports: list[AnyReport] = []
        self.replies: list[Reply] = []
        self.peer: Node
        self.volume: Volume

    def boot(self) -> None:
        """Make a machine of what the disk holds."""
        for lane in self.lanes.values():
            lane.clear()
        self.synced = None
        self.inbox.clear()
        self.reports.clear()
        resyncs = TinyResyncs(self.disk, self.peer.disk)
        self.volume = Volume(self.settings, touched=self.disk.state(), resyncs=resyncs)


class Pair:
    """Two nodes. Nothing happens by itself: each move is asked for, or `settle` makes them all."""

    def __init__(
        self, settings: VolumeSettings | None = None, chance: random.Random | None = None
    ) -> None:
        settings = settings or VolumeSettings()
        self.now_ms = 0
        self.link = False
        self.round = 0
        self.nodes = [Node(settings, TinyDisk(chance)) for _ in range(2)]
        self.resets: list[str] = []
        self.on_reply: Callable[[Node, Reply], None] = lambda node, reply: None
        first, second = self.nodes
        first.peer, second.peer = second, first
        for node in self.nodes:
            node.boot()

    def give(self, node: Node, *events: AnyEvent) -> None:
        self.perform(node, node.volume.step_all(events, self.now_ms))

    def order(self, node: Node, order: AnyOrder) -> None:
        self.give(node, Ordered(order))

    def perform(self, node: Node, effects: list[AnyEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    if self.link:  # as bytes: whatever cannot travel shows here
                        node.peer.inbox.append(msgspec.msgpack.encode(message))
                case DiskCall():
                    node.lanes[effect.lane].append(effect)
                case Reported(report):
                    node.reports.append(report)
                case Reply():
                    node.replies.append(effect)
                    self.on_reply(node, effect)
                case ResetLink(why):
                    self.resets.append(why)

    def disk(self, node: Node, lane: Lane) -> None:
        """Have the next request of a lane carried out, and tell the machine."""
        call = node.lanes[lane].popleft()
        perform: Callable[[requests.AnyRequest], object] = node.disk.perform
        if lane is Lane.SYNC and node.synced is not None:
            perform = partial(node.disk.perform, was=node.synced)
            node.synced = None
        try:
            done = DiskDone(call.token, perform(call.request))
        except requests.DiskError as error:
            done = DiskDone(call.token, None, str(error))
        self.give(node, done)

    def begin_sync(self, node: Node) -> None:
        """Begin the next request of the lane; `disk` ends it, and other moves come between."""
        node.synced = node.disk.tree.copy()

    def deliver(self, node: Node) -> None:
        self.give(node, Received(decode(node.inbox.popleft())))

    def connect(self, first: int = 0) -> None:
        self.link = True
        for index in (first, 1 - first):
            self.give(self.nodes[index], LinkUp())

    def disconnect(self, first: int = 0) -> None:
        self.link = False
        for node in self.nodes:
            node.inbox.clear()
        for index in (first, 1 - first):
            self.give(self.nodes[index], LinkDown())

    def tick(self, after_ms: int = 0) -> None:
        """Let time pass, with a tick every second at least."""
        while after_ms > 1_000:
            self.jump(1_000)
            after_ms -= 1_000
        self.jump(after_ms)

    def jump(self, after_ms: int) -> None:
        """One tick, after a time in which there was none: the loops were late by that much."""
        self.now_ms += after_ms
        for node in self.nodes:
            self.give(node, Tick())

    def busy(self, held: tuple[Node, Lane] | None = None) -> list[Callable[[], None]]:
        """Every move of a disk or the link that can be made now, but for a disk's that is held."""
        moves: list[Callable[[], None]] = []
        for node in self.nodes:
            if node.inbox:
                moves.append(lambda node=node: self.deliver(node))  # type: ignore[misc]
            for lane, calls in node.lanes.items():
                if not calls or (node, lane) == held:
                    continue
                if lane is Lane.SYNC and node.syncs_take_time and node.synced is None:
                    moves.append(lambda node=node: self.begin_sync(node))  # type: ignore[misc]
                else:
                    moves.append(lambda node=node, lane=lane: self.disk(node, lane))  # type: ignore[misc]
        return moves

    def settle(self, held: tuple[Node, Lane] | None = None) -> None:
        """Let everything under way come to its end."""
        for _ in range(100_000):
            moves = self.busy(held)
            if not moves:
                return
            moves[0]()
        raise Wrong("it never comes to rest")

    def mirror(self, epoch: int = 1) -> tuple[Node, Node]:
        """Make the two, who stand at one place, a source and its follower; or open a new round."""
        source, follower = self.nodes
        if not self.link:
            self.connect()
        self.round += 1
        self.order(follower, Follow(epoch, "g", self.round))
        self.order(source, ServeMirror(epoch, "g", self.round))
        self.settle()
        demand(source.volume.streaming, "the stream is there")
        return source, follower

    def make_file(self, node: Node) -> int:
        """Create a file through `node`, which serves; its fid."""
        self.give(node, Change(1_000_000, Create(0, ROOT_FID, "file", 0o600, 0, 0, 1_000_000)))
        self.settle()
        op = node.replies.pop().op
        demand(isinstance(op, Create), "a file was made")
        return op.fid  # type: ignore[union-attr]
