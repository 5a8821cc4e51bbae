"""The production volume machine on a memory disk, in the place of the model volume.

Same port to the simulated node as `ModelVolume`: orders, messages, a client's numbered writes. The
numbers go into small files, sixteen to a file, and beside them files are made, renamed and
removed, so that names are mirrored and resynchronised as well.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, final

from mirrorha.core import orders as o
from mirrorha.core.words import Ack, Mode
from mirrorha.testing.crash_points import Moment, disk_steps
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.testing.sim.world import World
from mirrorha.volume import events as v
from mirrorha.volume.access_lists import ACL_DEFAULT, packed_list
from mirrorha.volume.disk import (
    Apply,
    DiskError,
    LoadTouched,
    ReadBytes,
    Resolve,
    SyncFiles,
    SyncTree,
)
from mirrorha.volume.ops import (
    EPOCH_MAX,
    FALLOCATE_KEEP_SIZE,
    FID_COUNTER_BITS,
    RENAME_EXCHANGE,
    ROOT_FID,
    AnyOp,
    Create,
    Fallocate,
    Kind,
    Mknod,
    Rename,
    SetAttributes,
    SetXattr,
    Unlink,
    Write,
    make_fid,
)
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.stream.resync_interface import Resyncs
from mirrorha.volume.touched import TouchedState

SLOTS: Final = 16
SLOT_BYTES: Final = 8
TICK_MS: Final = 100
NOISE: Final = "noise"
# One in so many pieces of noise is of each of the rarer kinds. By the client's number, not by
# chance: what chance decides elsewhere stays as it was.
RARE: Final = 11
LIST: Final = packed_list((1, 7, 0), (2, 6, 7), (4, 5, 0), (16, 7, 0), (32, 1, 0))


def draw_fid(rng: random.Random) -> int:
    """An id for a file that lost its own."""
    return make_fid(epoch=EPOCH_MAX, counter=rng.randrange(1, 1 << FID_COUNTER_BITS))


def _numbers(content: bytes) -> list[int]:
    """The numbers in a file, or in as much of one as was written."""
    found = []
    for at in range(0, len(content) - SLOT_BYTES + 1, SLOT_BYTES):
        number = int.from_bytes(content[at : at + SLOT_BYTES], "big")
        if number:
            found.append(number)
    return found


def _nothing(*_arguments: object) -> None:
    """Nobody wants to know."""


def _never(*_arguments: object) -> bool:
    """Nobody crashes there."""
    return False


#: The longest that a request waits and takes, however slow the disk was: longer than `disk_max`.
BACKLOG_MS: Final = 15_000


@final
class Shelf:
    """What survives a process: the disk. Its page cache is lost with the power."""

    def __init__(self, world: World) -> None:
        # Drawn at random: both nodes may lose rows of their tables, and must not draw alike.
        rng = self._rng = random.Random(world.rng.getrandbits(64))
        self.disk = MemoryDisk(draw=lambda: draw_fid(rng))
        self.slow_ms = 0

    @property
    def cache(self) -> list[int]:
        """Every number that the tree holds."""
        found: list[int] = []
        for seen in self.disk.snapshot().values():
            found += _numbers(seen.content)
        return found

    @property
    def rescued(self) -> set[int]:
        """Every number that was kept of splits."""
        return {number for content in self.disk.rescued() for number in _numbers(content)}

    @property
    def in_limbo(self) -> set[int]:
        """Every number that an interrupted resync has moved aside: the next one finds it there."""
        return {number for content in self.disk.in_limbo() for number in _numbers(content)}

    def put(self, value: int) -> None:
        """Something that was there before there was a cluster."""
        fid = draw_fid(self._rng)
        self.disk.perform(Apply(Create(fid, ROOT_FID, f"before-{value}", 0o644, 0, 0, 1)))
        self.disk.perform(Apply(Write(fid, 0, value.to_bytes(SLOT_BYTES, "big"), 1)))
        self.disk.perform(SyncTree())

    def surely_holds(self, values: set[int]) -> bool:
        """Whether all of these are on the disk."""
        files = {value // SLOTS for value in values}
        held = (_numbers(self.disk.durable_content(f"numbers-{file}")) for file in files)
        return values <= {number for numbers in held for number in numbers}

    def start(self) -> None:
        """A process opens it: a disk that failed answers again."""
        self.disk.replace()
        self.make_fast()

    def make_fast(self) -> None:
        self.slow_ms = 0

    def lose_power(self, world: World) -> None:
        self.disk.replace()
        self.disk.power_loss(world.rng)
        self.disk.open_again()

    def as_image(self, world: World) -> Shelf:
        image = copy.deepcopy(self)
        image.lose_power(world)
        return image


@final
class ProductionVolume:
    """One volume of one incarnation of one node."""

    def __init__(
        self,
        world: World,
        name: str,
        shelf: Shelf,
        *,
        send: Callable[[Any], None],
        report: Callable[[o.AnyReport], None],
        acked: Callable[[int, int, bool], None],
        on_synced: Callable[[set[int]], None],
        reset: Callable[[], None],
        resyncs: Resyncs,
        on_more: Callable[[set[int]], None] = _nothing,
        on_fsynced: Callable[[set[int], bool], None] = _nothing,
        durable: bool = False,
        crashes: Callable[[Sequence[str], Moment], bool] = _never,
    ) -> None:
        """`crashes` is told what the disk is about to do, or has done: True if the node is dead."""
        self.world, self.name, self.shelf = world, name, shelf
        self._crashes = crashes
        self._send, self._report, self._acked = send, report, acked
        self._on_synced, self._reset = on_synced, reset
        self._on_more, self._on_fsynced = on_more, on_fsynced
        self.dead = False
        touched = shelf.disk.perform(LoadTouched())
        if not isinstance(touched, TouchedState):
            raise TypeError("LoadTouched answers with a TouchedState")
        settings = VolumeSettings(ack=Ack.DURABLE if durable else Ack.APPLIED)
        self.machine = Volume(settings, touched=touched, resyncs=resyncs)
        self._events: deque[v.AnyEvent] = deque()
        self._stepping = False
        self._free_ms = dict.fromkeys(v.Lane, 0)
        self._tokens = 0
        self._wanted: dict[int, tuple[int, AnyOp]] = {}  # token -> the client's number, its op
        self._askers: dict[int, Callable[[v.Reply], None]] = {}
        self._epoch = 0
        self._replied: dict[str, set[int]] = {}  # file -> the client's numbers in it
        self._tick()

    # ---- the port ----

    def order(self, order: o.AnyOrder) -> None:
        if not self.dead:
            self._epoch = getattr(order, "epoch", self._epoch)
            if isinstance(order, o.BecomeTarget):
                self._replied.clear()  # its files become the peer's
            self._take(v.Ordered(order))

    def receive(self, message: Any) -> None:
        self._take(v.Received(message))

    def link_up(self) -> None:
        self._take(v.LinkUp())

    def link_down(self) -> None:
        self._take(v.LinkDown())

    def write(self, value: int) -> None:
        """A client writes its number, and sometimes does something beside it."""
        self._write(value)
        if self.world.chance(0.1):
            self._make_noise(value)

    # ---- clients ----

    def fsync(self) -> None:
        """A client wants what it was answered of its latest file on the disks.

        Every other time the data alone, which is what the numbers are.
        """
        name = next(reversed(self._replied), "")
        fid = self.fid_of(name) if name else 0
        if not fid:
            return
        values = set(self._replied[name])

        def answer(reply: v.Reply) -> None:
            if reply.failure is v.Failure.NONE:
                self._on_fsynced(values, self.machine.mode is not Mode.LOG)

        self.ask(lambda token: v.Flush(token, fid, data_only=token % 2 == 0), answer)

    def fid_of(self, name: str) -> int:
        """0: there is no such file, or the disk failed."""
        try:
            found = self.shelf.disk.perform(Resolve(name))
        except DiskError:
            return 0
        return found[2] if isinstance(found, tuple) else 0

    def _write(self, value: int) -> None:
        name = f"numbers-{value // SLOTS}"
        fid = self.fid_of(name)
        if fid:
            offset = value % SLOTS * SLOT_BYTES
            data = value.to_bytes(SLOT_BYTES, "big")
            self._change(value, Write(fid, offset, data, self._now_ns()))
        else:
            self._change(value, self._create(name))

    def _create(self, name: str) -> Create:
        return Create(0, ROOT_FID, name, 0o644, 0, 0, self._now_ns())

    def _make_noise(self, value: int) -> None:
        names = [path for path in self.shelf.disk.snapshot() if path.startswith(NOISE)]
        if not names or self.world.chance(0.5):
            self._change(0, self._noise(f"{NOISE}-{value}", value))
            return
        name = self.world.rng.choice(names)
        fid = self.fid_of(name)
        if value % RARE == 5:
            # Of a file that nobody has written for long: only who has applied it knows of it.
            self._change(0, Write(fid, 0, value.to_bytes(SLOT_BYTES, "big"), self._now_ns()))
        elif self.world.chance(0.5):
            self._change(0, Unlink(fid, ROOT_FID, name, self._now_ns()))
        elif value % RARE == 0:
            other = names[(names.index(name) + 1) % len(names)]
            flags, now_ns = RENAME_EXCHANGE, self._now_ns()
            self._change(0, Rename(fid, ROOT_FID, name, ROOT_FID, other, 0, now_ns, flags))
        else:
            new = f"{NOISE}-{value}"
            self._change(0, Rename(fid, ROOT_FID, name, ROOT_FID, new, 0, self._now_ns()))

    def _noise(self, name: str, value: int) -> AnyOp:
        """Something new, or a change of something: mostly a file, whatever chance says."""
        now_ns = self._now_ns()
        numbers = next(reversed(self._replied), "")
        match value % RARE:
            case 1:
                return Mknod(0, ROOT_FID, name, Kind.FIFO, 0o666, 0, 0, 0, now_ns, 0o22)
            case 2 if numbers:
                # Room behind what the clients write, which stays as it is.
                reserve = FALLOCATE_KEEP_SIZE
                return Fallocate(self.fid_of(numbers), reserve, 0, SLOTS * SLOT_BYTES, now_ns)
            case 3:
                return SetXattr(ROOT_FID, ACL_DEFAULT, LIST if value % 2 else None)
            case 4:
                return SetAttributes(ROOT_FID, None, None, None, now_ns, now_ns)
            case _:
                return self._create(name)

    def _change(self, value: int, op: AnyOp) -> None:
        self._tokens += 1
        self._wanted[self._tokens] = (value, op)
        self._take(v.Change(self._tokens, op))

    def _now_ns(self) -> int:
        return self.world.now_ms * 1_000_000

    def ask(
        self,
        make: Callable[[int], v.Change | v.Flush],
        answer: Callable[[v.Reply], None],
    ) -> None:
        """A caller from outside the simulation wants something. `answer` is called once, or never:
        when this incarnation ends before."""
        self._tokens += 1
        self._askers[self._tokens] = answer
        self._take(make(self._tokens))

    def _answered(self, reply: v.Reply) -> None:
        asker = self._askers.pop(reply.token, None)
        if asker is not None:
            asker(reply)
            return
        value, op = self._wanted.pop(reply.token)
        if not value:
            return
        exists = isinstance(op, Create) and reply.failure in (v.Failure.NONE, v.Failure.ERRNO)
        if exists:
            self._write(value)
        elif reply.failure is v.Failure.NONE:
            self._replied.setdefault(f"numbers-{value // SLOTS}", set()).add(value)
            self._acked(value, self._epoch, self.machine.mode is not Mode.LOG)

    # ---- the driver ----

    def _tick(self) -> None:
        if not self.dead:
            self._take(v.Tick())
            self.world.after(TICK_MS, self._tick)

    def _take(self, event: v.AnyEvent) -> None:
        """One event after the other: what an effect brings about waits for its turn."""
        if self.dead:
            return
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events and not self.dead:
                for effect in self.machine.step(self._events.popleft(), self.world.now_ms):
                    self._perform(effect)
        finally:
            self._stepping = False

    def _perform(self, effect: v.AnyEffect) -> None:
        if self.dead:
            return
        match effect:
            case v.Send():
                self._send(effect.message)
            case v.DiskCall():
                self._call(effect)
            case v.Reply():
                self._answered(effect)
            case v.Reported():
                self._report(effect.report)
            case v.ResetLink():
                self.world.count("stream reset")
                self.world.say(f"{self.name}: {effect.why}")
                self.world.after(0, self._reset)

    def _call(self, call: v.DiskCall) -> None:
        """Requests of a lane one after the other, each taking its time."""
        world = self.world
        slow_ms = (20 if call.lane is v.Lane.SYNC else 1) + self.shelf.slow_ms
        ready_ms = max(self._free_ms[call.lane], world.now_ms) + world.between(0, slow_ms)
        # What waited behind slow requests is not slow itself: else it would be for ever.
        ready_ms = min(ready_ms, world.now_ms + BACKLOG_MS)
        self._free_ms[call.lane] = ready_ms

        def done() -> None:
            steps = disk_steps(call.request)
            if self.dead or self._crashes(steps, Moment.BEFORE):
                return
            try:
                result = self.shelf.disk.perform(call.request)
            except DiskError as error:
                self._take(v.DiskDone(call.token, None, str(error)))
                return
            if isinstance(call.request, SyncTree):
                self._on_synced(set(self.shelf.cache))
            elif isinstance(call.request, SyncFiles):
                for fid in call.request.fids:
                    self._on_more(self._numbers_of(fid))
            if not self._crashes(steps, Moment.AFTER):
                self._take(v.DiskDone(call.token, result))

        world.after(ready_ms - world.now_ms, done)

    def _numbers_of(self, fid: int) -> set[int]:
        """What a file holds, once it is synced."""
        try:
            content = self.shelf.disk.perform(ReadBytes(fid, 0, SLOTS * SLOT_BYTES))
        except DiskError:
            return set()
        return set(_numbers(content)) if isinstance(content, bytes) else set()
