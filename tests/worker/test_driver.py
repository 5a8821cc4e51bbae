"""Two drivers over real disks and a real connection, each in the loop of a thread."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mirrorha.core.orders import (
    BecomeTarget,
    Close,
    CutDone,
    CutOver,
    Follow,
    Freeze,
    Frozen,
    NearlyEqual,
    Replayed,
    ServeAlone,
    ServeMirror,
    StartResync,
    StopReason,
    StreamUp,
    Sync,
    Synced,
    Trouble,
)
from mirrorha.volume.disk import Apply, RecordTouched, RetireTouched, SyncFiles
from mirrorha.volume.events import AnyEffect, DiskCall, Failure, Lane, Send
from mirrorha.volume.fuse.interface import Known
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.local_disk.ids import IdTable
from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.opening import OpenVolume
from mirrorha.volume.ops import Fallocate, Write
from mirrorha.volume.stream.messages import FlushRequest
from mirrorha.volume.worker.driver import Driver, recorded_together
from mirrorha.volume.worker.loop import Loop
from mirrorha.volume.worker.messages import Unlinked
from tests.worker.worker_pair import T0, WAIT_S, Asked, Node, Pair, open_pair, tcp_pair, tree


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with open_pair(tmp_path) as opened:
        yield opened


def mirror(pair: Pair, *, epoch: int = 1, round_: int = 1, source: str = "paris") -> None:
    """Make a mirror of two empty volumes that are connected."""
    nodes = {"paris": (pair.paris, pair.lyon), "lyon": (pair.lyon, pair.paris)}
    serving, following = nodes[source]
    following.order(Follow(epoch, "g", round_))
    serving.order(ServeMirror(epoch, "g", round_))
    serving.wait_report(Replayed)
    serving.reports.clear()


@pytest.mark.parametrize("plain", [False, True])
def test_a_write_is_on_both_disks_when_it_is_answered(pair: Pair, *, plain: bool) -> None:
    pair.connect(plain=plain)
    pair.wait_linked()
    mirror(pair)
    fid = pair.paris.create("journal")
    for number in range(20):
        pair.paris.write(fid, number * 4096, bytes([number]) * 4096).done()
        assert (pair.lyon.root / "journal").stat().st_size == (number + 1) * 4096
    big = bytes(range(256)) * 4096
    pair.paris.write(fid, 1 << 20, big).done()
    pair.paris.ask_flush(fid).done()
    assert tree(pair.paris.root) == tree(pair.lyon.root)
    assert (pair.lyon.root / "journal").read_bytes()[1 << 20 :] == big
    assert pair.paris.driver.status(faults=0, turn_ms_max=0).peer_seq == 22


class Syncs:
    """Two nodes' disks, and how each has made which of its files durable."""

    def __init__(self) -> None:
        self._seen: list[tuple[str, str, str]] = []

    def open_one(self, root: Path, state: Path) -> OpenVolume:
        state.mkdir()
        ids, touched = IdTable(state / "ids"), TouchedStore(state / "touched")

        def noting(name: str, sync: Callable[[int], None]) -> Callable[[int], None]:
            def call(descriptor: int) -> None:
                sync(descriptor)
                path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
                self._seen.append((root.parent.name, name, str(path.relative_to(root))))

            return call

        disk = RealDisk(
            root,
            ids,
            touched,
            draw=itertools.count(1 << 62).__next__,
            fsync=noting("fsync", os.fsync),
            fdatasync=noting("fdatasync", os.fdatasync),
        )

        def close() -> None:
            for one in (disk, touched, ids):
                one.close()

        return OpenVolume(disk=disk, touched=touched.load(), close=close)

    def taken(self) -> list[tuple[str, str, str]]:
        seen, self._seen = sorted(self._seen), []
        return seen


def test_data_of_a_file_that_has_its_room_is_synced_as_data_on_both_nodes(tmp_path: Path) -> None:
    syncs = Syncs()
    with open_pair(tmp_path, open_one=syncs.open_one, checkpoint_ms=3_600_000) as pair:
        pair.connect(plain=True)
        pair.wait_linked()
        mirror(pair)
        paris = pair.paris
        fid = paris.create("wal")
        paris.ask(Fallocate(fid, 0, 0, 1 << 16, T0)).done()
        paris.ask_flush(fid, data_only=True).done()
        whole = [(node, "fsync", path) for node in ("lyon", "paris") for path in (".", "wal")]
        assert syncs.taken() == whole, "it is new"
        for number in range(3):
            paris.write(fid, number * 4096, b"x" * 4096).done()
            paris.ask_flush(fid, data_only=True).done()
            assert syncs.taken() == [(node, "fdatasync", "wal") for node in ("lyon", "paris")]
        # What was left out is not forgotten: a checkpoint is a sync of the tree on both.
        for node in (paris, pair.lyon):
            node.order(Sync(5))
            node.wait_report(Synced)
        assert syncs.taken() == [(node, "fsync", "wal") for node in ("lyon", "paris")]


@pytest.mark.parametrize("plain", [False, True])
def test_much_is_carried_in_both_directions_of_a_slow_reader(pair: Pair, *, plain: bool) -> None:
    pair.connect(plain=plain)
    pair.wait_linked()
    mirror(pair)
    fid = pair.paris.create("big")
    data = bytes(range(256)) * 4096
    asked = [pair.paris.write(fid, number << 20, data) for number in range(64)]
    for each in asked:
        each.done()
    assert tree(pair.paris.root) == tree(pair.lyon.root)


def test_alone_a_write_is_answered_without_a_peer(pair: Pair) -> None:
    pair.paris.order(ServeAlone(1, "g"))
    fid = pair.paris.create("journal")
    pair.paris.write(fid, 0, b"x" * 4096).done()
    pair.paris.ask_flush(fid).done()
    assert (pair.paris.root / "journal").read_bytes() == b"x" * 4096


def test_a_hello_of_another_volume_is_refused_on_both_sides(pair: Pair) -> None:
    pair.connect(lyon_says={"volume": "/srv/other"})
    for unlinked in pair.wait_unlinked():
        assert unlinked.fault == "refused"
        assert "the volume differs" in unlinked.why


def test_a_stream_of_an_earlier_life_is_refused(pair: Pair) -> None:
    pair.connect(lyon_says={"incarnation": "6"})
    mine, theirs = pair.wait_unlinked()
    assert (mine.fault, theirs.fault) == ("refused", "refused")
    assert "left over" in mine.why


def test_a_stranger_gets_no_stream(pair: Pair) -> None:
    caller, called = tcp_pair()
    stranger, other = tcp_pair()
    with caller, other:
        pair.pass_on(stranger, called)
        caller.sendall(b"GET / HTTP/1.0\r\n\r\n")
        other.sendall(b"\x16\x03\x03\x00\x04what makes no sense")
        mine, theirs = pair.wait_unlinked()
    assert mine.fault == "protocol"
    assert theirs.fault == "protocol"


class Relay:
    """Between the two nodes. Damages what goes to lyon once `damage` is set; cuts after so much."""

    def __init__(self, pair: Pair, *, plain: bool, cut_after: int = 1 << 62) -> None:
        self.damage = threading.Event()
        self._left = cut_after
        caller, self._mine = tcp_pair()
        self._theirs, called = tcp_pair()
        self._threads = [
            threading.Thread(target=self._carry, args=ends, daemon=True)
            for ends in ((self._mine, self._theirs), (self._theirs, self._mine))
        ]
        for thread in self._threads:
            thread.start()
        pair.pass_on(caller, called, plain=plain)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if sink is self._theirs:
                    self._left -= len(data)
                    if self.damage.is_set():
                        data = bytes(255 - byte for byte in data)
                sink.sendall(data)
                if self._left < 0:
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._mine, self._theirs):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
        self._mine.close()
        self._theirs.close()


@pytest.mark.parametrize("plain", [False, True])
def test_garbage_on_the_stream_resets_it_and_a_new_one_replays(pair: Pair, *, plain: bool) -> None:
    with Relay(pair, plain=plain) as relay:
        pair.wait_linked()
        mirror(pair)
        fid = pair.paris.create("journal")
        relay.damage.set()
        asked = pair.paris.write(fid, 0, b"y" * 4096)
        _, theirs = pair.wait_unlinked()
    assert theirs.fault == "protocol"
    assert not asked.is_answered
    pair.connect(plain=plain)
    pair.wait_linked()
    mirror(pair, round_=2)
    asked.done()
    assert tree(pair.paris.root) == tree(pair.lyon.root)
    assert not pair.lyon.faults
    assert not pair.paris.faults


def test_a_stream_ends_before_its_keys_are_used_up_and_nothing_is_lost(tmp_path: Path) -> None:
    """Under load, again and again: what was not acknowledged is replayed on the next one."""
    with open_pair(tmp_path, records_max=60, window_bytes_max=1 << 16) as pair:
        pair.connect()
        pair.wait_linked()
        mirror(pair)
        fid = pair.paris.create("journal")
        asked = [
            pair.paris.write(fid, number << 14, bytes([number]) * (1 << 14))
            for number in range(200)
        ]
        dialled = 1
        while has_ended(pair, asked):
            ours, theirs = pair.wait_unlinked()
            assert "enough was sent under these keys" in ours.why + theirs.why
            dialled += 1
            assert dialled < 30
            pair.connect()
            pair.wait_linked()
            mirror(pair, round_=dialled)
        assert dialled > 3
        for each in asked:
            each.done()
        assert tree(pair.paris.root) == tree(pair.lyon.root)
        assert len((pair.lyon.root / "journal").read_bytes()) == 200 << 14


def has_ended(pair: Pair, asked: Sequence[Asked]) -> bool:
    """Whether the stream ends before everything is answered."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        if any(isinstance(each, Unlinked) for each in pair.paris.told):
            return True
        if all(each.is_answered for each in asked):
            return False
        time.sleep(0.005)
    raise AssertionError("neither ends")


def test_a_stream_that_is_cut_within_a_frame_leaves_only_whole_writes(pair: Pair) -> None:
    with Relay(pair, plain=True, cut_after=300_000):
        pair.wait_linked()
        mirror(pair)
        fid = pair.paris.create("journal")
        asked = pair.paris.write(fid, 0, b"z" * (1 << 20))
        pair.wait_unlinked()
    assert not asked.is_answered
    assert (pair.lyon.root / "journal").read_bytes() == b""
    pair.connect(plain=True)
    pair.wait_linked()
    mirror(pair, round_=2)
    asked.done()
    assert (pair.lyon.root / "journal").read_bytes() == b"z" * (1 << 20)


def test_a_change_that_waits_can_be_withdrawn_and_is_never_applied(pair: Pair) -> None:
    paris = pair.paris
    paris.order(ServeAlone(1, "g"))
    fid = paris.create("journal")
    paris.order(Freeze(1))
    paris.wait_report(Frozen)
    one, two = paris.write(fid, 0, b"one"), paris.write(fid, 10, b"two")
    assert paris.do(lambda: paris.driver.withdraw(one.token)) is True
    assert paris.do(lambda: paris.driver.withdraw(one.token)) is False
    assert not one.is_answered
    paris.order(ServeAlone(2, "h"))
    two.done()
    assert (paris.root / "journal").read_bytes() == bytes(10) + b"two"
    assert not one.is_answered


def test_an_applied_change_cannot_be_withdrawn(pair: Pair) -> None:
    pair.connect()
    pair.wait_linked()
    mirror(pair)
    fid = pair.paris.create("journal")
    # The follower acknowledges nothing: it is applied here and waits for that.
    pair.lyon.order(Freeze(1))
    pair.lyon.wait_report(Frozen)
    asked = pair.paris.write(fid, 0, b"once")
    until_s = time.monotonic() + WAIT_S
    while (pair.paris.root / "journal").read_bytes() != b"once":
        assert time.monotonic() < until_s
    assert pair.paris.do(lambda: pair.paris.driver.withdraw(asked.token)) is False
    pair.lyon.order(Follow(1, "g", 1))
    asked.done()


def test_roles_are_changed_and_the_stream_goes_the_other_way(pair: Pair) -> None:
    pair.connect()
    pair.wait_linked()
    mirror(pair)
    fid = pair.paris.create("journal")
    pair.paris.write(fid, 0, b"from paris").done()
    pair.paris.order(Follow(2, "g", 2))
    pair.lyon.order(ServeMirror(2, "g", 2))
    pair.lyon.wait_report(Replayed)
    pair.lyon.write(fid, 0, b"from lyon!").done()
    refused = pair.paris.write(fid, 0, b"never").reply()
    assert refused.failure is Failure.NOT_PRIMARY
    assert (pair.paris.root / "journal").read_bytes() == b"from lyon!"


def test_a_copy_is_brought_up_to_date_and_joins(pair: Pair) -> None:
    paris, lyon = pair.paris, pair.lyon
    paris.order(ServeAlone(1, "g"))
    fids = [paris.create(f"file{number}") for number in range(10)]
    for fid in fids:
        paris.write(fid, 0, bytes([fid % 251]) * 200_000).done()
    pair.connect()
    pair.wait_linked()
    lyon.order(BecomeTarget(1, 5))
    paris.order(StartResync(1, 5, everything=True, seed=3))
    paris.wait_report(NearlyEqual)
    paris.order(CutOver(9))
    paris.wait_report(CutDone)
    lyon.order(Follow(2, "g", 1))
    paris.order(ServeMirror(2, "g", 1))
    paris.wait_report(Replayed)
    paris.write(fids[0], 7, b"after").done()
    assert tree(paris.root) == tree(lyon.root)


def test_changes_that_are_held_too_long_are_answered_with_an_error(tmp_path: Path) -> None:
    with open_pair(tmp_path, freeze_max_ms=300) as pair:
        paris = pair.paris
        paris.order(ServeAlone(1, "g"))
        fid = paris.create("journal")
        paris.order(Freeze(1))
        asked = paris.write(fid, 0, b"never")
        assert asked.reply().failure is Failure.NOT_PRIMARY
        assert paris.wait_report(Trouble).reason is StopReason.NOT_DRIVEN
        later = paris.write(fid, 0, b"never").reply()
        assert later.failure is Failure.NOT_PRIMARY
        assert (paris.root / "journal").read_bytes() == b""


def test_a_mirror_without_its_stream_holds_changes_only_so_long(tmp_path: Path) -> None:
    with open_pair(tmp_path, freeze_max_ms=400) as pair:
        pair.connect()
        pair.wait_linked()
        mirror(pair)
        fid = pair.paris.create("journal")
        pair.lyon.do(lambda: pair.lyon.connections.disconnect(0, "cut"))
        pair.wait_unlinked()
        began_s = time.monotonic()
        asked = pair.paris.write(fid, 0, b"never")
        assert asked.reply().failure is Failure.NOT_PRIMARY
        assert time.monotonic() - began_s > 0.2
        assert not any(isinstance(each, Frozen) for each in pair.paris.reports)


class FakeFront:
    """A front whose kernel forgets only when it is let."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.serving = False
        self.failed: list[int] = []
        self.let_go = threading.Event()
        self.is_forgetting = threading.Event()
        self.seen: list[str] = []

    def fileno(self) -> int:
        return -1

    def serve(self, requests_max: int = 32) -> bool:
        return True

    def fail_pending(self, number: int) -> None:
        self.failed.append(number)

    def known(self) -> Known:
        self.seen.append(f"known while {self.node.machine.stance.value}")
        return Known([1], [])

    def invalidate(self, known: Known) -> None:
        assert threading.current_thread() is not self.node._thread
        self.is_forgetting.set()
        assert self.let_go.wait(WAIT_S)


def test_the_kernel_forgets_between_the_last_answer_and_the_first_foreign_change(
    pair: Pair,
) -> None:
    paris, lyon = pair.paris, pair.lyon
    front = FakeFront(paris)
    paris.do(lambda: paris.driver.attach(front))
    pair.connect()
    pair.wait_linked()
    mirror(pair)
    assert front.serving
    fid = paris.create("journal")
    lyon.order(Freeze(1))
    pending = paris.write(fid, 0, b"applied here")
    paris.order(Follow(2, "g", 2))
    # First: everybody is answered, and the kernel is asked while the machine is closed.
    assert pending.reply().failure is Failure.UNKNOWN
    assert front.is_forgetting.wait(WAIT_S)
    assert front.seen == ["known while closed"]
    assert not front.serving
    # Meanwhile the loop goes on, and orders wait in their order.
    paris.order(Freeze(8))
    assert paris.machine.stance.value == "closed"
    assert paris.write(fid, 0, b"no").reply().failure is Failure.NOT_PRIMARY
    assert not any(isinstance(each, Frozen) for each in paris.reports)
    front.let_go.set()
    assert paris.wait_report(Frozen).token == 8
    assert paris.machine.stance.value == "follow"


def test_a_volume_that_never_served_follows_at_once(pair: Pair) -> None:
    front = FakeFront(pair.paris)
    pair.paris.do(lambda: pair.paris.driver.attach(front))
    pair.paris.order(Follow(1, "g", 1))
    assert pair.paris.machine.stance.value == "follow"
    assert not front.seen


def test_a_closed_volume_has_the_kernel_forget_before_it_follows(pair: Pair) -> None:
    paris = pair.paris
    front = FakeFront(paris)
    paris.do(lambda: paris.driver.attach(front))
    paris.order(ServeAlone(1, "g"), Close("it stops", None))
    assert front.is_forgetting.wait(WAIT_S)
    paris.order(Follow(2, "g", 1))
    assert paris.machine.stance.value == "closed"
    front.let_go.set()
    until_s = time.monotonic() + WAIT_S
    while paris.do(lambda: paris.machine.stance.value) != "follow":
        assert time.monotonic() < until_s
    paris.order(Follow(3, "g", 1))  # nothing was served since: nothing to forget
    assert paris.machine.stance.value == "follow"
    assert front.seen == ["known while closed"]


def test_a_bug_of_the_machine_answers_everybody_and_ends_the_volume(pair: Pair) -> None:
    paris = pair.paris
    paris.order(ServeAlone(5, "g"))
    fid = paris.create("journal")
    paris.order(Freeze(1))
    asked = paris.write(fid, 0, b"x")
    paris.order(ServeAlone(4, "g"))  # an epoch that falls is nobody's order
    assert asked.reply().failure is Failure.UNKNOWN
    assert len(paris.faults) == 1
    assert paris.write(fid, 0, b"x").reply().failure is Failure.UNKNOWN


def test_both_learn_that_the_stream_is_up(pair: Pair) -> None:
    pair.connect()
    pair.paris.wait_report(StreamUp)
    pair.lyon.wait_report(StreamUp)


def test_the_newest_connection_counts(pair: Pair) -> None:
    pair.connect()
    pair.wait_linked()
    pair.connect()
    mine, theirs = pair.wait_unlinked()
    assert (mine.number, theirs.number) == (1, 1)
    pair.paris.wait_report(StreamUp)
    mirror(pair)
    pair.paris.create("journal")
    assert tree(pair.paris.root) == tree(pair.lyon.root)


def record(token: int, *keys: tuple[int, int]) -> DiskCall:
    return DiskCall(token, Lane.TREE, RecordTouched(list(keys)))


def test_entries_become_durable_together_but_not_before_others_are_taken_out() -> None:
    write = DiskCall(2, Lane.TREE, Apply(Write(1, 0, b"x", 0)))
    retire = DiskCall(4, Lane.TREE, RetireTouched([(1, 3)], 1, 1))
    effects: list[AnyEffect] = [
        record(1, (1, 0)),
        write,
        record(3, (1, 1), (1, 2)),
        retire,
        record(5, (1, 3)),
    ]
    together = recorded_together(effects)
    assert together[0] == record(1, (1, 0), (1, 1), (1, 2))
    assert together[1] is write
    assert together[3:] == effects[3:]
    skipped = together[2]
    assert isinstance(skipped, DiskCall)
    assert skipped.token == 3
    assert isinstance(skipped.request, RecordTouched)
    assert skipped.request.keys == []


class Ordering:
    """A machine, a disk and a stream in one, for the order of what a driver does."""

    def __init__(self) -> None:
        self.effects: list[AnyEffect] = []
        self.done: list[str] = []
        self.syncs = threading.Event()

    def step_all(self, _events: list[object], _now_ms: int) -> list[AnyEffect]:
        effects, self.effects = self.effects, []
        return effects

    def perform(self, request: object) -> None:
        self.done.append(type(request).__name__)
        self.syncs.set()

    def send(self, _kind: int, *_parts: bytes) -> None:
        self.done.append("send")

    def flush(self) -> None:
        if "send" in self.done:
            self.syncs.wait(0.05)  # the thread that syncs has time enough to be first
            self.done.append("leaves")


def test_what_the_peer_is_asked_leaves_before_our_own_sync_begins() -> None:
    one = Ordering()
    anything: Any = one
    loop = Loop()
    driver = Driver(
        anything,
        anything,
        loop,
        report=one.done.append,  # type: ignore[arg-type]
        on_fault=one.done.append,  # type: ignore[arg-type]
        reset=one.done.append,
        freeze_max_ms=60_000,
    )
    try:
        driver.link_up(anything)
        asked = Send(FlushRequest(1, 1, 0, [5, 6]))
        one.effects = [DiskCall(1, Lane.SYNC, SyncFiles([5, 6])), asked]
        driver.pump()
        assert one.syncs.wait(WAIT_S)
        assert one.done == ["send", "leaves", "SyncFiles"]
    finally:
        assert driver.end(WAIT_S)
        loop.close()
