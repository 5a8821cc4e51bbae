"""Two disks in memory, the two sides of a resync, and everything that may happen in between.

Which of the things that can happen happens next is drawn by chance: a disk performs a request, its
answer arrives, a message arrives, the application changes something, time passes. So requests,
answers and messages meet in every order that a driver allows.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from mirrorha.core.orders import (
    BecomeTarget,
    NearlyEqual,
    Progress,
    Rescued,
    StartResync,
    Widened,
)
from mirrorha.volume.disk import AnyRequest, Apply, Disk, Outcome, RecordTouched
from mirrorha.volume.events import DiskCall, DiskDone, Lane, Received, Reported, Send, Tick
from mirrorha.volume.ops import AnyOp
from mirrorha.volume.resync.messages import AnyResyncMessage, Content, FromSource, FromTarget
from mirrorha.volume.resync.source import ResyncSource
from mirrorha.volume.resync.target import ResyncTarget
from mirrorha.volume.stream.resync_interface import ResyncEffect, ResyncEvent, ResyncStatus
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.touched import TouchedState, TouchKey, touches
from mirrorha.wire.limits import FRAME_BYTES_MAX, FRAME_HEADER_BYTES
from tests.volume.resync_trees import snapshot

AnyDisk = TypeVar("AnyDisk", bound=Disk)

STEPS_MAX: Final = 400_000
_encode: Final = msgspec.msgpack.Encoder().encode
_decoders: Final = {
    "source": msgspec.msgpack.Decoder(FromTarget),
    "target": msgspec.msgpack.Decoder(FromSource),
}


class Machine(Protocol):
    def step(self, event: ResyncEvent, now_ms: int) -> object: ...


class Node(Generic[AnyDisk]):
    """A disk with its lanes, and the side of the resync that asks it."""

    def __init__(self, name: str, disk: AnyDisk) -> None:
        self.name = name
        self.disk = disk
        self.log: set[TouchKey] = set()
        self.confirmed = self.retired = self.filled = (0, 0)
        self.damaged = False
        self.lanes: dict[Lane, deque[tuple[int, DiskCall]]] = {lane: deque() for lane in Lane}
        self.answers: deque[DiskDone] = deque()
        self.inbox: deque[bytes] = deque()
        self.reports: list[object] = []
        self.performed: list[type[AnyRequest]] = []
        self.emitted = 0
        self.in_flight_max = 0

    def touched(self) -> TouchedState:
        """Its touched log, as it is now."""
        keys = list(self.log)
        return TouchedState(keys, self.confirmed, self.retired, self.damaged, self.filled)

    def take(self, call: DiskCall) -> None:
        self.emitted += 1
        self.lanes[call.lane].append((self.emitted, call))
        self.in_flight_max = max(self.in_flight_max, sum(map(len, self.lanes.values())))

    def ready_lanes(self) -> list[Lane]:
        """Lanes whose first request may be performed now."""
        tree, bulk = self.lanes[Lane.TREE], self.lanes[Lane.BULK]
        ready = [lane for lane in (Lane.TREE, Lane.SYNC) if self.lanes[lane]]
        if bulk and (not tree or tree[0][0] > bulk[0][0]):
            ready.append(Lane.BULK)
        return ready

    def perform(self, lane: Lane) -> None:
        _, call = self.lanes[lane].popleft()
        self.performed.append(type(call.request))
        self.answers.append(DiskDone(call.token, self.request(call.request)))

    def request(self, request: AnyRequest) -> object:
        if isinstance(request, RecordTouched):
            self.log.update(request.keys)
            return None
        return self.disk.perform(request)

    def drop_calls(self, *, perform: bool) -> None:
        """The session is over: what was asked of the disk is performed, or never will be."""
        while perform and any(self.lanes.values()):
            self.perform(self.ready_lanes()[0])
        for lane in self.lanes.values():
            lane.clear()
        self.answers.clear()
        self.inbox.clear()


class Pair(Generic[AnyDisk]):
    """Runs resyncs from one disk to another.

    Args:
        rng: All chance comes from here.
        mutate: Draws the application's next op, given the source's disk; None: nothing changes.
        rescue: The generation of what the target alone acknowledged; "": it did not.
    """

    def __init__(
        self,
        rng: random.Random,
        source: AnyDisk,
        target: AnyDisk,
        *,
        everything: bool,
        mutate: Callable[[], AnyOp] | None = None,
        epoch: int = 5,
        rescue: str = "",
    ) -> None:
        self.rescue = rescue
        self.rng = rng
        self.source = Node("source", source)
        self.target = Node("target", target)
        self.everything = everything
        self.mutate = mutate
        self.epoch = epoch
        self.session = 0
        self.now_ms = 0
        self.mutations_left = 0
        self.changing: deque[AnyOp] = deque()
        self.sent: list[tuple[str, AnyResyncMessage, int]] = []
        self.steps = 0
        self.holds_when_nearly = True
        self.filled = FidSet()  # as long as the target lives

    @property
    def sent_bytes(self) -> int:
        """Of all messages of both sides in this session."""
        return sum(size for _, _, size in self.sent)

    @property
    def content_bytes(self) -> int:
        return sum(len(one.data) for _, one, _ in self.sent if isinstance(one, Content))

    def begin(self, *, seed: int | None = None) -> None:
        """A new session; whatever was left of the last one is gone."""
        self.session += 1
        seed = self.rng.randrange(1 << 64) if seed is None else seed
        start = StartResync(self.epoch, self.session, self.everything, seed)
        self.machine_s = ResyncSource(start, self.source.touched())
        become = BecomeTarget(self.epoch, self.session, self.rescue, "source")
        self.machine_t = ResyncTarget(become, self.target.touched(), self.filled)
        self.is_held = False
        self.wants_hold = False
        self.sent = []
        self.do(self.target, self.machine_t.start(self.now_ms))
        self.do(self.source, self.machine_s.start(self.now_ms))

    def run(self, *, until: Callable[[], bool] | None = None, mutations: int = 0) -> None:
        """Go on until the sides are equal, one has failed, or `until` says so."""
        self.mutations_left = mutations
        for _ in range(STEPS_MAX):
            if self.is_over() or (until is not None and until()):
                return
            self.one_step()
        raise AssertionError("it never ends")

    def trips(self) -> int:
        """Go to the end over a link that is slow beside everything else: its trips, one way."""
        trips = 0
        while not self.is_over():
            for node in (self.source, self.target):
                while node.ready_lanes() or node.answers:
                    for lane in node.ready_lanes()[:1]:
                        node.perform(lane)
                    self._answer(node)
            arrived = [(node, list(node.inbox)) for node in (self.source, self.target)]
            self.source.inbox.clear()
            self.target.inbox.clear()
            for node, messages in arrived:
                for raw in messages:
                    self.give(node, Received(_decoders[node.name].decode(raw)))
            trips += 1
        return trips

    def watch(
        self, node: Node[AnyDisk], *, until: Callable[[], bool]
    ) -> Iterator[type[AnyRequest]]:
        """Go on, and tell what this node's disk performs."""
        seen = len(node.performed)
        while not until():
            self.one_step()
            yield from node.performed[seen:]
            seen = len(node.performed)

    def is_over(self) -> bool:
        """Whether both know how it ended."""
        sides = {self.machine_s.status, self.machine_t.status}
        return ResyncStatus.RUNNING not in sides

    def lose_link(self, *, target_dies: bool = False) -> None:
        """The session ends; what was asked of the disks is done, except by a target that dies."""
        self.source.drop_calls(perform=True)
        self.target.drop_calls(perform=not target_dies)
        if target_dies:
            self.filled = FidSet()
        self.changing.clear()

    def inject(self, message: AnyResyncMessage, *, at: float = 1.0) -> None:
        """Have a message arrive out of nowhere, before or after those under way.

        One that either side may send goes to the source.
        """
        node = self.source if isinstance(message, FromTarget) else self.target
        node.inbox.insert(int(at * len(node.inbox)), _encode(message))

    def give_message(self, node: Node[AnyDisk], message: object) -> None:
        """Have it arrive now, whatever it is."""
        self.give(node, Received(message))

    def fail_next(self, node: Node[AnyDisk], why: str) -> None:
        """The disk's next answer is that it failed."""
        while not node.answers:
            self.one_step()
        node.answers.append(msgspec.structs.replace(node.answers.pop(), failure=why))

    def one_step(self) -> None:
        self.steps += 1
        choices = self._choices(self.source, self.target)
        if choices and self.rng.random() >= 0.002:
            self.rng.choice(choices)()
            return
        self.now_ms += 100
        self.give(self.source, Tick())
        self.give(self.target, Tick())

    def one_step_of(self, node: Node[AnyDisk]) -> None:
        """Something happens on this node alone, or time passes."""
        choices = self._choices(node)
        if choices:
            self.rng.choice(choices)()
            return
        self.now_ms += 100
        self.give(node, Tick())

    def _choices(self, *nodes: Node[AnyDisk]) -> list[Callable[[], object]]:
        choices: list[Callable[[], object]] = []
        for node in nodes:
            choices += [lambda n=node, x=lane: n.perform(x) for lane in node.ready_lanes()]  # type: ignore[misc]
            if node.answers:
                choices.append(lambda n=node: self._answer(n))  # type: ignore[misc]
            if node.inbox:
                choices.append(lambda n=node: self._deliver(n))  # type: ignore[misc]
        if self.mutations_left and self.mutate is not None and not self.wants_hold:
            choices.append(self._mutate)
        if self.wants_hold and not self.is_held and not self.changing:
            choices.append(self._hold)
        return choices

    def _mutate(self) -> None:
        assert self.mutate is not None
        op = self.mutate()
        self.mutations_left -= 1
        self.source.log.update(touches(op))
        self.changing.append(op)
        self.source.take(DiskCall(-1, Lane.TREE, Apply(op)))

    def _hold(self) -> None:
        self.is_held = True
        self.do(self.source, self.machine_s.final_pass(self.now_ms))

    def _answer(self, node: Node[AnyDisk]) -> None:
        event = node.answers.popleft()
        if event.token == -1:
            self.changing.popleft()
            outcome = event.result
            assert isinstance(outcome, Outcome)
            if outcome.done is not None:
                self.source.log.update(touches(outcome.done))
                self.machine_s.touched(touches(outcome.done))
            return
        self.give(node, event)

    def _deliver(self, node: Node[AnyDisk]) -> None:
        self.give(node, Received(_decoders[node.name].decode(node.inbox.popleft())))

    def give(self, node: Node[AnyDisk], event: ResyncEvent) -> None:
        machine = self.machine_s if node is self.source else self.machine_t
        self.do(node, machine.step(event, self.now_ms))

    def do(self, node: Node[AnyDisk], effects: object) -> None:
        peer = self.target if node is self.source else self.source
        assert isinstance(effects, list)
        for effect in effects:
            self._do_one(node, peer, effect)

    def _do_one(self, node: Node[AnyDisk], peer: Node[AnyDisk], effect: ResyncEffect) -> None:
        match effect:
            case DiskCall():
                node.take(effect)
            case Send(message):
                raw = _encode(message)
                assert len(raw) + FRAME_HEADER_BYTES <= FRAME_BYTES_MAX
                self.sent.append((node.name, message, len(raw)))  # type: ignore[arg-type]
                peer.inbox.append(raw)
            case Reported(report):
                node.reports.append(report)
                assert isinstance(report, Progress | NearlyEqual | Rescued | Widened)
                if isinstance(report, NearlyEqual) and self.holds_when_nearly:
                    self.wants_hold = True


def difference(source: Disk, target: Disk) -> list[str]:
    """What differs between two trees, for people."""
    mine, theirs = snapshot(source), snapshot(target)
    return [
        f"{path}: {mine.get(path)} is {theirs.get(path)}"
        for path in sorted(mine.keys() | theirs.keys())
        if mine.get(path) != theirs.get(path)
    ]
