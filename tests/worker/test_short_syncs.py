"""Who makes a sync: the loop itself, or the thread that is there for it."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorha.core.orders import Close, Follow, Replayed, ServeMirror, StopReason, Trouble
from mirrorha.volume.disk import AnyRequest, SyncFiles, SyncTree
from mirrorha.volume.events import AnyEffect, DiskCall, Failure, Lane
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.local_disk.ids import IdTable
from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.opening import OpenVolume
from mirrorha.volume.ops import Write
from mirrorha.volume.worker.driver import Driver
from mirrorha.volume.worker.loop import Loop
from mirrorha.volume.worker.short_syncs import SHORT_NS, ShortSyncs
from tests.worker.worker_pair import NODES, T0, WAIT_S, Asked, Pair, open_pair

LOOP, THREAD = "loop", "mirrorha-sync"
ONE = SyncFiles([5])


# ---- the decision ----


class Trial:
    """Syncs of callers who are alone, each as long, and as lonely, as it is told."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.syncs = ShortSyncs(clock_ns=lambda: self.now_ns)

    def sync(self, took_ns: int = 0, *, has_come: bool = False) -> bool:
        """Whether it was the loop's."""
        if not self.syncs.is_next():
            return False

        def call() -> str:
            self.now_ns += took_ns
            return "done"

        assert self.syncs.perform(call, has_somebody_come=lambda: has_come) == "done"
        return True


@pytest.fixture
def trial() -> Trial:
    return Trial()


def test_the_loop_syncs_as_long_as_it_is_short_and_nobody_comes(trial: Trial) -> None:
    assert [trial.sync(SHORT_NS) for _ in range(100)] == [True] * 100


@pytest.mark.parametrize("why", [{"took_ns": SHORT_NS + 1}, {"has_come": True}])
def test_what_went_badly_is_tried_more_and_more_rarely(trial: Trial, why: dict[str, Any]) -> None:
    tried = [number for number in range(5000) if trial.sync(**why)]
    between = [later - earlier - 1 for earlier, later in itertools.pairwise(tried)]
    assert between == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]


def test_what_goes_well_again_is_soon_as_it_was(trial: Trial) -> None:
    for _ in range(100):
        trial.sync(has_come=True)
    well = [trial.sync() for _ in range(200)]
    assert all(well[-100:])
    assert trial.sync(has_come=True)
    assert [trial.sync() for _ in range(4)] == [False, False, True, True]


# ---- the driver ----


class Machine:
    """A machine, a disk and a stream in one; it asks for what it is told to."""

    def __init__(self) -> None:
        self.effects: list[AnyEffect] = []
        self.names: list[str] = []  # of the threads that synced
        self.during: Callable[[], object] = lambda: None
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)

    def step_all(self, _events: list[object], _now_ms: int) -> list[AnyEffect]:
        effects, self.effects = self.effects, []
        return effects

    def perform(self, _request: object) -> None:
        self.during()
        self.names.append(threading.current_thread().name)

    def fileno(self) -> int:
        return self.fd

    def flush(self) -> None:
        """As a stream."""


class Syncing:
    """A driver of a `Machine`, and its loop, in a thread."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.loop = Loop()
        anything: Any = self.machine
        self.driver = Driver(
            anything,
            anything,
            self.loop,
            report=print,
            on_fault=print,  # type: ignore[arg-type]
            reset=print,
            freeze_max_ms=60_000,
        )
        self._thread = threading.Thread(target=self.loop.run, name=LOOP, daemon=True)
        self._thread.start()

    def do(self, call: Callable[[], object]) -> None:
        """Have it called in the loop's thread, and what follows from it done."""
        called = threading.Event()
        self.loop.from_thread(lambda: (call(), self.driver.pump(), called.set()))
        assert called.wait(WAIT_S)

    def ask(self, *requests: AnyRequest) -> None:
        calls = [DiskCall(token, Lane.SYNC, each) for token, each in enumerate(requests)]

        def call() -> None:
            self.machine.effects += calls
            self.driver.link_up(self.machine)  # type: ignore[arg-type]

        self.do(call)

    def sync(self, *requests: AnyRequest) -> set[str]:
        """Who makes these."""
        before = len(self.machine.names)
        self.ask(*requests)
        return set(self.names(before + len(requests))[before:])

    def names(self, count: int) -> list[str]:
        """Who made the first so many."""
        ends = time.monotonic() + WAIT_S
        while len(self.machine.names) < count and time.monotonic() < ends:
            time.sleep(0.001)
        return self.machine.names[:count]

    def somebody_waits(self) -> None:
        self.do(lambda: self.driver.change(Write(5, 0, b"x", T0), lambda _: None))

    def close(self) -> None:
        self.loop.from_thread(self.loop.stop)
        self._thread.join(WAIT_S)
        assert self.driver.end(WAIT_S)
        self.loop.close()
        os.close(self.machine.fd)


@pytest.fixture
def syncing() -> Iterator[Syncing]:
    made = Syncing()
    yield made
    made.close()


def test_the_sync_of_a_caller_who_is_alone_is_the_loops(syncing: Syncing) -> None:
    assert syncing.sync(ONE) == {LOOP}, "of the peer's caller"
    syncing.somebody_waits()
    names = [syncing.sync(ONE) for _ in range(20)]
    assert {LOOP} in names, "of our own"


@pytest.mark.parametrize("requests", [[SyncFiles([5, 6])], [SyncTree()], [ONE, SyncFiles([6])]])
def test_what_may_take_long_is_the_threads(syncing: Syncing, requests: list[AnyRequest]) -> None:
    assert syncing.sync(*requests) == {THREAD}


def test_whoever_else_waits_need_not_wait_for_a_sync(syncing: Syncing) -> None:
    syncing.somebody_waits()
    syncing.somebody_waits()
    assert syncing.sync(ONE) == {THREAD}


def test_a_sync_does_not_overtake_what_the_thread_has_to_do(syncing: Syncing) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def hang() -> None:
        has_begun.set()
        may_end.wait(WAIT_S)

    syncing.machine.during = hang
    syncing.ask(SyncTree())
    assert has_begun.wait(WAIT_S)
    try:
        syncing.ask(ONE)
        assert syncing.machine.names == []
    finally:
        may_end.set()
    assert syncing.names(2) == [THREAD] * 2
    # The thread may still have to say that it ended.
    assert {LOOP} in [syncing.sync(ONE) for _ in range(20)]


def test_if_somebody_came_during_a_sync_the_next_one_is_the_threads(syncing: Syncing) -> None:
    came = os.eventfd(0, os.EFD_NONBLOCK)
    syncing.do(lambda: syncing.loop.watch(came, lambda _: os.eventfd_read(came)))
    syncing.machine.during = lambda: os.eventfd_write(came, 1)
    assert syncing.sync(ONE) == {LOOP}
    syncing.machine.during = lambda: None
    assert syncing.sync(ONE) == {THREAD}
    syncing.do(lambda: syncing.loop.unwatch(came))
    os.close(came)


@pytest.mark.parametrize("serves", [True, False])
def test_the_peers_answer_is_nobody_who_waits_for_us(syncing: Syncing, *, serves: bool) -> None:
    machine = syncing.machine
    syncing.do(lambda: syncing.loop.watch(machine.fd, lambda _: os.eventfd_read(machine.fd)))
    if serves:
        syncing.somebody_waits()
    machine.during = lambda: os.eventfd_write(machine.fd, 1)
    names = [syncing.sync(ONE) for _ in range(20)]
    # A sync that the system interrupts for long is no short one: not each need be the loop's.
    assert (names.count({LOOP}) > 10) is serves


# ---- two nodes ----


class Disks:
    """Two nodes' disks: who has synced their files, and on which that fails."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {node: [] for node in NODES}
        self.fails = ""

    def open_one(self, root: Path, state: Path) -> OpenVolume:
        state.mkdir()
        node = root.parent.name
        ids, touched = IdTable(state / "ids"), TouchedStore(state / "touched")

        def fsync(descriptor: int) -> None:
            self.names[node].append(threading.current_thread().name)
            if node == self.fails:
                raise OSError(errno.EIO, "the disk is worn out")
            os.fsync(descriptor)

        draw = itertools.count(1 << 62).__next__
        disk = RealDisk(root, ids, touched, draw=draw, fsync=fsync)

        def close() -> None:
            for one in (disk, touched, ids):
                one.close()

        return OpenVolume(disk=disk, touched=touched.load(), close=close)


@pytest.fixture
def disks() -> Disks:
    return Disks()


@pytest.fixture
def pair(tmp_path: Path, disks: Disks) -> Iterator[Pair]:
    with open_pair(tmp_path, open_one=disks.open_one, checkpoint_ms=3_600_000) as opened:
        opened.connect(plain=True)
        opened.wait_linked()
        opened.lyon.order(Follow(1, "g", 1))
        opened.paris.order(ServeMirror(1, "g", 1))
        opened.paris.wait_report(Replayed)
        opened.paris.reports.clear()
        yield opened


def test_a_lone_flush_is_the_loops_on_both_nodes(pair: Pair, disks: Disks) -> None:
    fid = pair.paris.create("journal")
    pair.paris.write(fid, 0, b"x").done()
    pair.paris.ask_flush(fid).done()
    for node in NODES:
        assert disks.names[node]
        assert THREAD not in disks.names[node], node


@pytest.mark.parametrize("where", NODES)
def test_what_one_node_could_not_sync_is_never_said_to_be_durable(
    pair: Pair, disks: Disks, where: str
) -> None:
    paris = pair.paris
    fid = paris.create("journal")
    paris.write(fid, 0, b"x").done()
    disks.fails = where
    flushes: list[Asked] = [paris.ask_flush(fid)]
    trouble = {"paris": paris, "lyon": pair.lyon}[where].wait_report(Trouble)
    assert trouble.reason is StopReason.OWN_DISK
    assert THREAD not in disks.names[where]
    if where == "lyon":
        assert paris.wait_report(Trouble).reason is StopReason.PEER_DISK
    flushes.append(paris.ask_flush(fid))
    paris.order(Close("the node ends", None))
    assert flushes[0].reply().failure is Failure.UNKNOWN
    assert flushes[1].reply().failure is not Failure.NONE
