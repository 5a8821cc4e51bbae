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
from mirrorha.volume.ops import LOCAL_FID_MIN, Write
from mirrorha.volume.stream.pending import Stance
from mirrorha.volume.worker.driver import Driver
from mirrorha.volume.worker.local_changes import LocalChanges
from mirrorha.volume.worker.loop import Loop
from mirrorha.volume.worker.short_syncs import CHANGES_MAX, MOMENT_NS, SHORT_NS, ShortSyncs
from tests.worker.worker_pair import NODES, T0, WAIT_S, Asked, Pair, open_pair

LOOP, THREAD = "loop", "mirrorha-sync"
ONE = SyncFiles([5])
#: A disk that nobody frees any more goes on: then whoever waited for it fails the test.
HANGS_S = 5.0


# ---- the decision ----


class Trial:
    """Syncs of callers who are alone, each as long, and as lonely, as it is told."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.seq = 0
        self.syncs = ShortSyncs(clock_ns=lambda: self.now_ns)

    def sync(
        self, took_ns: int = 0, *, in_loop_ns: int = 0, has_come: bool = False, fid: int = 5
    ) -> bool:
        """Whether it was the loop's."""

        def call() -> str:
            self.now_ns += took_ns + in_loop_ns
            return "done"

        if self.syncs.begin(fid, self.seq):
            assert self.syncs.perform(call, has_somebody_come=lambda: has_come) == "done"
            return True
        self.now_ns += took_ns
        self.syncs.end()
        return False


@pytest.fixture
def trial() -> Trial:
    return Trial()


@pytest.fixture
def again(trial: Trial) -> Trial:
    """The file was synced before, and that was short."""
    assert not trial.sync(), "how long the first one takes nobody knows"
    return trial


def test_the_loop_syncs_as_long_as_it_is_short_and_nobody_comes(again: Trial) -> None:
    assert [again.sync(SHORT_NS) for _ in range(100)] == [True] * 100


def between(tried: list[int]) -> list[int]:
    return [later - earlier - 1 for earlier, later in itertools.pairwise(tried)]


def test_what_went_badly_is_tried_more_and_more_rarely(again: Trial) -> None:
    tried = [number for number in range(5000) if again.sync(has_come=True)]
    assert between(tried) == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]


def test_after_a_long_sync_the_thread_looks_first_whether_the_disk_is_well(again: Trial) -> None:
    assert again.sync(SHORT_NS + 1)
    assert not any(again.sync(SHORT_NS + 1) for _ in range(1000))
    assert [again.sync() for _ in range(4)] == [False, False, False, True]


def test_what_is_long_in_the_loop_only_is_tried_more_and_more_rarely(again: Trial) -> None:
    tried = [number for number in range(5000) if again.sync(in_loop_ns=SHORT_NS + 1)]
    assert between(tried) == [3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 1025, 1025]


def test_what_goes_well_again_is_soon_as_it_was(again: Trial) -> None:
    for _ in range(100):
        again.sync(has_come=True)
    well = [again.sync() for _ in range(200)]
    assert all(well[-100:])
    assert again.sync(has_come=True)
    assert [again.sync() for _ in range(4)] == [False, False, True, True]


def test_a_sync_finds_little_new_to_write(again: Trial) -> None:
    again.seq += CHANGES_MAX
    assert again.sync()
    again.seq += CHANGES_MAX + 1
    assert [again.sync() for _ in range(2)] == [False, True]


def test_what_was_long_ago_says_nothing(again: Trial) -> None:
    again.now_ns += MOMENT_NS
    assert again.sync()
    again.now_ns += MOMENT_NS + 1
    assert [again.sync() for _ in range(2)] == [False, True]


def test_of_each_file_the_last_sync_counts(again: Trial) -> None:
    assert not again.sync(fid=6)
    assert [again.sync(fid=fid) for fid in (5, 6) * 10] == [True] * 20
    again.seq += CHANGES_MAX
    assert again.sync(fid=6)
    again.seq += 1
    assert not again.sync(fid=5)
    assert again.sync(fid=6)


def test_of_some_files_only_is_it_known(again: Trial) -> None:
    for fid in range(100, 164):
        assert not again.sync(fid=fid)
    assert again.sync(fid=163)
    assert not again.sync(fid=5)


def test_what_is_to_be_forgotten_is(again: Trial) -> None:
    again.syncs.begin(5, 0)
    again.syncs.forget()
    again.syncs.end()
    assert [again.sync() for _ in range(2)] == [False, True]


# ---- the driver ----


class Machine:
    """A machine, a disk and a stream in one; it asks for what it is told to."""

    def __init__(self) -> None:
        self.effects: list[AnyEffect] = []
        self.names: list[str] = []  # of the threads that synced
        self.during: Callable[[], object] = lambda: None
        self.stance = Stance.MIRROR
        self.is_at_rest = False  # a tick may come, where a machine is busy
        self.streaming = True
        self.seq = 0
        self.left: list[str] = []  # who had synced when something left
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
        self.left = list(self.names)


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
            on_fault=print,
            reset=print,
            freeze_max_ms=60_000,
            short_syncs=ShortSyncs(clock_ns=lambda: 0),
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
        made = set(self.names(before + len(requests))[before:])
        self.settle()
        return made

    def settle(self) -> None:
        """Wait until no thread has anything left to say."""
        ends = time.monotonic() + WAIT_S
        while self.driver.syncs_in_threads and time.monotonic() < ends:
            time.sleep(0.001)
        assert self.driver.syncs_in_threads == 0

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


@pytest.fixture
def known(syncing: Syncing) -> Syncing:
    """The file was synced before, and that was short."""
    assert syncing.sync(ONE) == {THREAD}, "how long the first one takes nobody knows"
    return syncing


def test_the_sync_of_a_caller_who_is_alone_is_the_loops(known: Syncing) -> None:
    assert known.sync(ONE) == {LOOP}, "of the peer's caller"
    known.somebody_waits()
    assert known.sync(ONE) == {LOOP}, "of our own"


def test_what_was_collected_for_the_peer_leaves_before_the_loop_syncs(known: Syncing) -> None:
    left: list[list[str]] = []
    known.machine.during = lambda: left.append(known.machine.left)
    before = known.names(1)
    known.machine.left = []
    assert known.sync(ONE) == {LOOP}
    assert left == [before]


@pytest.mark.parametrize("requests", [[SyncFiles([5, 6])], [SyncTree()], [ONE, SyncFiles([6])]])
def test_what_may_take_long_is_the_threads(known: Syncing, requests: list[AnyRequest]) -> None:
    assert known.sync(*requests) == {THREAD}


def test_what_has_much_to_write_is_the_threads(known: Syncing) -> None:
    known.machine.seq += CHANGES_MAX + 1
    assert known.sync(ONE) == {THREAD}
    assert known.sync(ONE) == {LOOP}


def test_with_an_order_everything_may_have_changed(known: Syncing) -> None:
    known.do(lambda: known.driver.order(ServeMirror(1, "g", 1)))
    assert known.sync(ONE) == {THREAD}


def test_whoever_else_waits_need_not_wait_for_a_sync(known: Syncing) -> None:
    known.somebody_waits()
    known.somebody_waits()
    assert known.sync(ONE) == {THREAD}


class Hanging:
    """A disk that hangs in each sync until it may go on."""

    def __init__(self, machine: Machine) -> None:
        self._has_begun, self._may_end = threading.Event(), threading.Event()
        machine.during = self._hang

    def _hang(self) -> None:
        self._has_begun.set()
        self._may_end.wait(WAIT_S)

    def wait_begun(self) -> None:
        assert self._has_begun.wait(WAIT_S)

    def end(self) -> None:
        self._may_end.set()


def test_a_sync_does_not_overtake_what_the_thread_has_to_do(known: Syncing) -> None:
    hanging = Hanging(known.machine)
    known.ask(SyncTree())
    hanging.wait_begun()
    try:
        known.ask(ONE)
        assert len(known.machine.names) == 1
    finally:
        hanging.end()
    assert known.names(3) == [THREAD] * 3
    known.settle()
    assert known.sync(ONE) == {LOOP}


def test_the_loop_does_not_wait_for_the_sync_of_what_is_excluded(known: Syncing) -> None:
    driver = known.driver
    changes = LocalChanges(driver, known.machine, known.loop, report=print)  # type: ignore[arg-type]
    hanging = Hanging(known.machine)
    known.do(lambda: changes.flush(LOCAL_FID_MIN, lambda _: None))
    hanging.wait_begun()
    try:
        known.ask(ONE)  # the loop goes on
        assert len(known.machine.names) == 1
    finally:
        hanging.end()
    assert set(known.names(3)[1:]) == {THREAD, "mirrorha-local-sync"}
    known.settle()
    assert known.sync(ONE) == {LOOP}
    assert changes.end(WAIT_S)


def test_if_somebody_came_during_a_sync_the_next_one_is_the_threads(known: Syncing) -> None:
    came = os.eventfd(0, os.EFD_NONBLOCK)
    known.do(lambda: known.loop.watch(came, lambda _: os.eventfd_read(came)))
    known.machine.during = lambda: os.eventfd_write(came, 1)
    assert known.sync(ONE) == {LOOP}
    known.machine.during = lambda: None
    assert known.sync(ONE) == {THREAD}
    known.do(lambda: known.loop.unwatch(came))
    os.close(came)


@pytest.mark.parametrize("serves", [True, False])
def test_the_peers_answer_is_nobody_who_waits_for_us(known: Syncing, *, serves: bool) -> None:
    machine = known.machine
    known.do(lambda: known.loop.watch(machine.fd, lambda _: os.eventfd_read(machine.fd)))
    if serves:
        known.somebody_waits()
    machine.during = lambda: os.eventfd_write(machine.fd, 1)
    names = [known.sync(ONE) for _ in range(20)]
    assert (names.count({LOOP}) > 10) is serves


# ---- two nodes ----


class Disks:
    """Two nodes' disks: who has synced their files, on which that fails, and whether it hangs."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {node: [] for node in NODES}
        self.fails = ""
        self.goes_on = threading.Event()
        self.goes_on.set()

    def is_loops(self, node: str) -> bool:
        """Whether the last sync of a file was."""
        return not self.names[node][-1].startswith("mirrorha-")

    def open_one(self, root: Path, state: Path) -> OpenVolume:
        state.mkdir()
        node = root.parent.name
        ids, touched = IdTable(state / "ids"), TouchedStore(state / "touched")

        def fsync(descriptor: int) -> None:
            self.names[node].append(threading.current_thread().name)
            if node == self.fails:
                raise OSError(errno.EIO, "the disk is worn out")
            self.goes_on.wait(HANGS_S)
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
    settings: dict[str, Any] = {"checkpoint_ms": 3_600_000, "clock_ns": lambda: 0}
    with open_pair(tmp_path, open_one=disks.open_one, **settings) as opened:
        opened.connect(plain=True)
        opened.wait_linked()
        opened.lyon.order(Follow(1, "g", 1))
        opened.paris.order(ServeMirror(1, "g", 1))
        opened.paris.wait_report(Replayed)
        opened.paris.reports.clear()
        yield opened


def sync_in_loops(pair: Pair, disks: Disks, fid: int) -> None:
    """Have a file written and synced until both nodes' loops do that."""
    for _ in range(100):
        pair.paris.write(fid, 0, b"x").done()
        pair.paris.ask_flush(fid).done()
        if all(disks.is_loops(node) for node in NODES):
            return
    pytest.fail(f"who syncs: {disks.names}")


def test_a_lone_flush_is_the_loops_on_both_nodes(pair: Pair, disks: Disks) -> None:
    sync_in_loops(pair, disks, pair.paris.create("journal"))


@pytest.mark.parametrize("is_first", [True, False])
def test_nobody_waits_for_a_sync_of_who_knows_how_much(
    pair: Pair, disks: Disks, *, is_first: bool
) -> None:
    paris = pair.paris
    fid, other = paris.create("journal"), paris.create("other")
    if not is_first:
        sync_in_loops(pair, disks, fid)
    for number in range(CHANGES_MAX + 1):
        paris.write(fid, 4096 * number, b"x").done()
    disks.goes_on.clear()
    flush = paris.ask_flush(fid)
    paris.write(other, 0, b"x").done()
    assert not flush.is_answered, "the other one has waited for it"
    disks.goes_on.set()
    flush.done()


@pytest.mark.parametrize("where", NODES)
def test_what_one_node_could_not_sync_is_never_said_to_be_durable(
    pair: Pair, disks: Disks, where: str
) -> None:
    paris = pair.paris
    fid = paris.create("journal")
    sync_in_loops(pair, disks, fid)
    paris.write(fid, 0, b"x").done()
    disks.fails = where
    flushes: list[Asked] = [paris.ask_flush(fid)]
    trouble = {"paris": paris, "lyon": pair.lyon}[where].wait_report(Trouble)
    assert trouble.reason is StopReason.OWN_DISK
    assert disks.is_loops(where)
    if where == "lyon":
        assert paris.wait_report(Trouble).reason is StopReason.PEER_DISK
    flushes.append(paris.ask_flush(fid))
    paris.order(Close("the node ends", None))
    assert flushes[0].reply().failure is Failure.UNKNOWN
    assert flushes[1].reply().failure is not Failure.NONE
