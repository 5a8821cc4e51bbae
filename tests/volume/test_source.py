"""The serving side: who is answered, when, and what was sent before."""

from __future__ import annotations

import errno

import pytest

from mirrorha.core.orders import (
    AnyOrder,
    Close,
    Drain,
    Drained,
    Follow,
    Freeze,
    Frozen,
    Replayed,
    ServeAlone,
    ServeMirror,
    StopReason,
    Sync,
    Synced,
    Trouble,
)
from mirrorha.core.words import Ack as Level
from mirrorha.volume.disk import Apply, RecordTouched, SyncFiles, SyncTree
from mirrorha.volume.events import (
    Change,
    DiskDone,
    Failure,
    Flush,
    Lane,
    LinkDown,
    Ordered,
    Received,
    Reply,
    Send,
    Withdraw,
)
from mirrorha.volume.ops import (
    FID_COUNTER_BITS,
    ROOT_FID,
    Create,
    SetAttributes,
    SetXattr,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.volume.stream import messages
from mirrorha.volume.stream.flushing import FILES_MAX
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.touched import RETIRED_MAX, SEGMENT_BYTES
from tests.volume.stream_pair import Node, Pair, decode


def write(stamp: int, fid: int, data: bytes = b"x", offset: int = 0) -> Change:
    """A change whose token is also the time of its write."""
    return Change(stamp, Write(fid, offset, data, stamp))


def answered(node: Node) -> list[int]:
    """The tokens that were acknowledged, in order."""
    return [reply.token for reply in node.replies if reply.failure is Failure.NONE]


def troubles(node: Node) -> list[StopReason]:
    return [report.reason for report in node.reports if isinstance(report, Trouble)]


def alone(settings: VolumeSettings | None = None) -> tuple[Pair, Node, int]:
    pair = Pair(settings)
    node = pair.nodes[0]
    pair.order(node, ServeAlone(1, "g"))
    return pair, node, pair.make_file(node)


def mirrored(settings: VolumeSettings | None = None) -> tuple[Pair, Node, Node, int]:
    pair = Pair(settings)
    source, follower = pair.mirror()
    return pair, source, follower, pair.make_file(source)


def make(pair: Pair, node: Node, name: str) -> int:
    """One more file, on every disk; its id."""
    pair.give(node, Change(1, Create(0, ROOT_FID, name, 0o600, 0, 0, 1)))
    pair.settle()
    op = node.replies.pop().op
    assert op is not None
    return op.fid


def applied(pair: Pair, node: Node) -> None:
    """Everything in the tree's lane is done; nothing is delivered."""
    while node.lanes[Lane.TREE]:
        pair.disk(node, Lane.TREE)


def sent(node: Node) -> list[object]:
    """What lies on the way to the other node."""
    return [decode(raw) for raw in node.peer.inbox]


class TestLog:
    def test_a_change_is_answered_once_it_is_applied(self) -> None:
        pair, node, fid = alone()
        pair.give(node, write(5, fid, b"abc"))
        assert answered(node) == []
        pair.disk(node, Lane.TREE)
        assert node.replies == [Reply(5, Failure.NONE, op=Write(fid, 0, b"abc", 5))]

    def test_order_of_asking_is_order_of_the_stream(self) -> None:
        pair, node, fid = alone(VolumeSettings(window_ops_max=2))
        for stamp in range(10, 20):
            pair.give(node, write(stamp, fid))
        pair.settle()
        assert answered(node) == list(range(10, 20))
        assert node.disk.history[1:] == list(range(10, 20))
        assert node.volume.seq == 11

    def test_entries_are_durable_before_the_op_and_hot_ones_cost_nothing(self) -> None:
        pair, node, fid = alone()
        node.disk.performed.clear()
        pair.give(node, write(5, fid, offset=3 << 20), write(6, fid, offset=3 << 20))
        pair.settle()
        assert [type(r) for r in node.disk.performed] == [RecordTouched, Apply, Apply]

    def test_a_refused_op_takes_no_place(self) -> None:
        pair, node, fid = alone()
        pair.give(node, Change(5, Create(0, ROOT_FID, "file", 0o600, 0, 0, 5)), write(6, fid))
        pair.settle()
        assert node.replies[0] == Reply(5, Failure.ERRNO, errno.EEXIST)
        assert answered(node) == [6]
        assert node.volume.seq == 2

    def test_an_op_that_changes_nothing_is_answered_and_takes_no_place(self) -> None:
        pair, node, fid = alone()
        pair.give(node, Change(5, SetAttributes(fid, None, None, None, None)))
        pair.settle()
        assert node.replies == [Reply(5, Failure.NONE)]
        assert node.volume.seq == 1

    def test_files_get_ids_of_the_epoch(self) -> None:
        pair, node, first = alone()
        pair.give(node, Change(5, Create(0, ROOT_FID, "b", 0o600, 0, 0, 5)))
        pair.settle()
        pair.order(node, ServeAlone(4, "h"))
        pair.give(node, Change(6, Create(0, ROOT_FID, "c", 0o600, 0, 0, 6)))
        pair.settle()
        fids = [first] + [reply.op.fid for reply in node.replies if reply.op]
        assert [(fid >> FID_COUNTER_BITS, fid & 0xFF) for fid in fids] == [(1, 1), (1, 2), (4, 1)]

    def test_an_epoch_served_again_goes_on_counting(self) -> None:
        pair, node, first = alone()
        pair.order(node, Freeze(1))
        pair.order(node, ServeAlone(1, "g"))
        pair.give(node, Change(5, Create(0, ROOT_FID, "b", 0o600, 0, 0, 5)))
        pair.settle()
        assert node.replies[0].op is not None
        assert node.replies[0].op.fid == first + 1

    @pytest.mark.parametrize(
        ("op", "wrong"),
        [
            (Write(-1, 0, b"x", 0), errno.EINVAL),
            (Write(7, -1, b"x", 0), errno.EINVAL),
            (Write(7, 1 << 63, b"x", 0), errno.EFBIG),
            (Write(7, 0, bytes((1 << 20) + 1), 0), errno.EINVAL),
            (Write(7, 0, b"x", 1 << 64), errno.EINVAL),
            (Truncate(7, -1, 0), errno.EINVAL),
            (Create(0, 1, "", 0, 0, 0, 0), errno.EINVAL),
            (Create(0, 1, "..", 0, 0, 0, 0), errno.EINVAL),
            (Create(0, 1, "a/b", 0, 0, 0, 0), errno.EINVAL),
            (Create(0, 1, "a\0", 0, 0, 0, 0), errno.EINVAL),
            (Create(0, 1, "\udc80", 0, 0, 0, 0), errno.EILSEQ),
            (Create(0, 1, "é" * 128, 0, 0, 0, 0), errno.ENAMETOOLONG),
            (Create(0, 1, "a", 0o10000, 0, 0, 0), errno.EINVAL),
            (Create(0, 1, "a", 0, 1 << 32, 0, 0), errno.EINVAL),
            (SetXattr(7, "user.a", bytes(65537)), errno.E2BIG),
        ],
    )
    def test_what_cannot_travel_is_refused_at_once(self, op: Write, wrong: int) -> None:
        pair, node, _ = alone()
        pair.give(node, Change(5, op))
        assert node.replies == [Reply(5, Failure.ERRNO, wrong)]
        assert not node.lanes[Lane.TREE]

    def test_more_may_not_wait_than_there_can_be_callers(self) -> None:
        pair, node, fid = alone(VolumeSettings(waiting_max=2))
        pair.order(node, Freeze(1))
        for stamp in (5, 6):
            pair.give(node, write(stamp, fid))
        pair.give(node, write(7, fid), Flush(8, fid))
        assert [(r.token, r.errno) for r in node.replies] == [(7, errno.EAGAIN), (8, errno.EAGAIN)]
        pair.order(node, ServeAlone(1, "g"))
        pair.settle()
        assert answered(node) == [5, 6]


class TestMirror:
    def test_a_change_is_answered_once_both_have_applied_it(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.deliver(follower)
        assert answered(source) == []
        applied(pair, follower)
        assert follower.disk.history == source.disk.history
        assert answered(source) == []
        pair.deliver(source)
        assert answered(source) == [5]

    def test_an_ack_answers_all_up_to_it_and_none_beyond(self) -> None:
        pair, source, _, fid = mirrored()
        for stamp in range(5, 10):
            pair.give(source, write(stamp, fid))
        applied(pair, source)
        pair.give(source, Received(messages.Ack(1, 4)))
        assert answered(source) == [5, 6, 7]

    @pytest.mark.parametrize("epoch", [0, 2])
    def test_an_ack_of_another_epoch_answers_nothing(self, epoch: int) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.give(source, Received(messages.Ack(epoch, 2)))
        assert answered(source) == []
        assert source.volume.counts.other_epoch == 1

    def test_an_ack_of_what_was_never_sent_closes_the_stream(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid))
        pair.give(source, Received(messages.Ack(1, 2)))
        assert answered(source) == []
        assert len(pair.resets) == 1
        assert not source.volume.streaming

    def test_ops_ready_together_go_together(self) -> None:
        pair, source, _, fid = mirrored()
        for stamp in (5, 6, 7):
            pair.give(source, write(stamp, fid))
        done = []
        while source.lanes[Lane.TREE]:
            call = source.lanes[Lane.TREE].popleft()
            done.append(DiskDone(call.token, source.disk.perform(call.request)))
        pair.give(source, *done)
        (message,) = sent(source)
        assert isinstance(message, messages.Ops)
        assert (message.first_seq, len(message.ops)) == (2, 3)

    def test_a_window_holds_so_many_ops(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(window_ops_max=3))
        for stamp in range(5, 11):
            pair.give(source, write(stamp, fid))
        applied(pair, source)
        assert source.disk.history[1:] == [5, 6, 7]
        assert source.volume.waiting == 3
        pair.give(source, Received(messages.Ack(1, 3)))
        applied(pair, source)
        assert source.disk.history[1:] == [5, 6, 7, 8, 9]

    def test_a_window_holds_so_many_bytes_and_at_least_one_change(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(window_bytes_max=3000))
        for stamp in range(5, 8):
            pair.give(source, write(stamp, fid, bytes(2000)))
        applied(pair, source)
        assert source.disk.history[1:] == [5]
        pair.settle()
        assert answered(source) == [5, 6, 7]
        pair.give(source, write(8, fid, bytes(4000)))
        pair.settle()
        assert answered(source)[-1] == 8

    def test_a_nack_is_trouble_with_the_peers_disk(self) -> None:
        pair, source, follower, fid = mirrored()
        follower.disk.full = True
        pair.give(source, write(5, fid), write(6, fid))
        pair.settle()
        assert troubles(source) == [StopReason.PEER_DISK]
        assert answered(source) == []
        pair.give(source, write(7, fid))
        assert not source.lanes[Lane.TREE], "nothing is admitted that cannot be mirrored"

    def test_changes_wait_while_the_stream_is_down(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.disconnect()
        pair.give(source, write(5, fid))
        assert not source.lanes[Lane.TREE]
        pair.connect()
        pair.settle()
        assert answered(source) == [], "nothing flows before the node orders again"
        pair.mirror()
        assert answered(source) == [5]
        assert follower.disk.history == source.disk.history


class TestFreeze:
    def test_what_is_under_way_ends_and_nothing_is_acknowledged(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid), write(6, fid))
        pair.disk(source, Lane.TREE)
        pair.order(source, Freeze(9))
        pair.give(source, write(7, fid))
        assert Frozen(9) not in source.reports
        pair.disk(source, Lane.TREE)
        assert Frozen(9) in source.reports
        pair.settle()
        pair.give(source, Received(messages.Ack(1, 3)))
        assert answered(source) == []
        assert source.disk.history[1:] == [5, 6]

    def test_what_ends_later_is_not_sent(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid), write(6, fid))
        first = source.lanes[Lane.TREE].popleft()
        done = DiskDone(first.token, source.disk.perform(first.request))
        pair.give(source, done, Ordered(Freeze(9)))
        pair.disk(source, Lane.TREE)
        assert sent(source) == []

    def test_in_log_as_well(self) -> None:
        pair, node, fid = alone()
        pair.give(node, write(5, fid))
        pair.order(node, Freeze(9))
        pair.settle()
        assert answered(node) == []
        assert node.disk.history[1:] == [5]

    def test_only_the_last_token_is_confirmed_and_twice_is_as_good(self) -> None:
        pair, node, fid = alone()
        pair.give(node, write(5, fid))
        pair.order(node, Freeze(8))
        pair.order(node, Freeze(9))
        pair.settle()
        pair.order(node, Freeze(10))
        assert [r for r in node.reports if isinstance(r, Frozen)] == [Frozen(9), Frozen(10)]

    def test_going_on_alone_acknowledges_what_is_applied_and_admits_what_waits(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.order(source, Freeze(9))
        pair.give(source, write(6, fid), Flush(7, fid))
        pair.order(source, ServeAlone(2, "h"))
        assert answered(source) == [5]
        pair.settle()
        assert answered(source) == [5, 6, 7]

    def test_sync_covers_what_was_given_to_the_tree_before(self) -> None:
        pair, node, fid = alone()
        pair.give(node, write(5, fid))
        pair.order(node, Sync(9))
        assert not node.lanes[Lane.SYNC]
        pair.settle()
        assert Synced(9) in node.reports
        assert node.disk.durable == node.disk.tree


class TestReplay:
    def test_only_what_the_follower_lacks_is_sent_again(self) -> None:
        pair, source, follower, fid = mirrored()
        for stamp in (5, 6, 7):
            pair.give(source, write(stamp, fid))
        applied(pair, source)
        pair.deliver(follower)
        applied(pair, follower)  # it holds 5, and its ack is lost
        pair.disconnect()
        pair.connect()
        source.reports.clear()
        pair.order(follower, Follow(1, "g", round=2))
        pair.order(source, ServeMirror(1, "g", round=2))
        pair.deliver(follower)  # Begin
        pair.deliver(source)  # At
        assert answered(source) == [5]
        assert [m.first_seq for m in sent(source) if isinstance(m, messages.Ops)] == [3]
        assert Replayed(1) not in source.reports
        pair.settle()
        assert answered(source) == [5, 6, 7]
        assert Replayed(1) in source.reports
        assert follower.disk.history == source.disk.history

    def test_large_windows_are_sent_in_pieces(self) -> None:
        pair, source, follower, fid = mirrored(VolumeSettings(message_bytes_max=3000))
        for stamp in range(5, 10):
            pair.give(source, write(stamp, fid, bytes(1000)))
        applied(pair, source)
        pair.disconnect()
        pair.connect()
        pair.order(follower, Follow(1, "g", round=2))
        pair.order(source, ServeMirror(1, "g", round=2))
        pair.deliver(follower)
        pair.deliver(source)
        found = [m for m in sent(source) if isinstance(m, messages.Ops)]
        assert [(m.first_seq, len(m.ops)) for m in found] == [(2, 2), (4, 2), (6, 1)]
        pair.settle()
        assert follower.disk.history == source.disk.history

    @pytest.mark.parametrize("change", ["seq", "chain"])
    def test_a_follower_that_stands_nowhere_in_our_stream_is_refused(self, change: str) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.disconnect()
        pair.connect()
        pair.order(source, ServeMirror(1, "g", round=2))
        at = messages.At(1, 2, seq=2 + (change == "seq"), chain=12345)
        pair.give(source, Received(at))
        assert answered(source) == []
        assert troubles(source) == [StopReason.PEER_DISK]
        assert len(pair.resets) == 1

    def test_an_answer_to_an_older_question_is_ignored(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.settle()
        pair.order(follower, Follow(1, "g", round=2))
        pair.order(source, ServeMirror(1, "g", round=2))
        pair.deliver(follower)
        pair.order(source, ServeMirror(1, "g", round=3))
        pair.settle()
        assert not source.volume.streaming
        assert source.volume.counts.out_of_place == 1
        assert answered(source) == [5], "as before"
        pair.order(follower, Follow(1, "g", round=3))
        pair.settle()
        assert source.volume.streaming

    def test_a_new_round_ends_the_one_that_runs(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        late = follower.inbox.popleft()
        pair.order(source, ServeMirror(1, "g", round=2))
        pair.settle()
        follower.inbox.append(late)  # an op of the round before
        pair.settle()
        assert follower.disk.history == [1_000_000]
        pair.order(follower, Follow(1, "g", round=2))
        pair.settle()
        assert answered(source) == [5]

    @pytest.mark.parametrize("first", [0, 1])
    def test_orders_may_come_before_the_link_in_any_order(self, first: int) -> None:
        pair = Pair()
        source, follower = pair.nodes
        orders: list[tuple[Node, AnyOrder]] = [
            (source, ServeMirror(1, "g", round=1)),
            (follower, Follow(1, "g", round=1)),
        ]
        for index in (first, 1 - first):
            pair.order(*orders[index])
        pair.connect(first)
        pair.settle()
        assert source.volume.streaming
        assert Replayed(1) in source.reports

    def test_a_follower_that_is_ordered_anew_is_asked_anew(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.order(follower, Freeze(1))
        pair.give(source, write(5, fid))
        pair.settle()
        assert answered(source) == []
        pair.order(follower, Follow(1, "g", round=1))
        pair.settle()
        assert answered(source) == [5]

    def test_who_was_alone_meanwhile_is_no_continuation(self) -> None:
        """Even if not one op tells the two apart."""
        pair, source, follower, _ = mirrored()
        pair.order(source, ServeAlone(2, "h"))
        pair.order(source, ServeMirror(3, "h", round=1))
        pair.order(follower, Follow(3, "h", round=1))
        pair.settle()
        assert troubles(source) == [StopReason.PEER_DISK]
        assert not source.volume.streaming


class TestFlush:
    def test_it_covers_what_was_asked_before_and_is_on_both(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.give(source, write(5, fid), Flush(6, fid))
        assert not source.lanes[Lane.SYNC], "the write is not applied yet"
        pair.settle()
        assert answered(source) == [5, 6]
        for node in (source, follower):
            assert node.disk.durable.files[fid] == {0: 5}

    @pytest.mark.parametrize("late", ["here", "there"])
    def test_it_waits_for_the_slower_disk(self, late: str) -> None:
        pair, source, follower, fid = mirrored()
        slow = source if late == "here" else follower
        pair.give(source, Flush(6, fid))
        pair.settle(held=(slow, Lane.SYNC))
        assert slow.lanes[Lane.SYNC]
        assert answered(source) == []
        pair.settle()
        assert answered(source) == [6]

    def test_several_are_one(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.give(source, Flush(5, fid))
        for token in range(6, 16):
            pair.give(source, Flush(token, fid))
        follower.disk.performed.clear()
        pair.settle()
        assert answered(source) == list(range(5, 16))
        assert follower.disk.performed == [SyncFiles([fid]), SyncFiles([fid])]

    @pytest.mark.parametrize("later", [[], [FILES_MAX + 5]], ids=["", "whole tree"])
    def test_data_suffices_if_it_does_for_all_who_ask(self, later: list[int]) -> None:
        pair, source, follower, one = mirrored()
        two, three, four = (make(pair, source, name) for name in ("two", "three", "four"))
        pair.give(source, Flush(50, four))
        for token, fid, data_only in (
            *((51, one, True), (52, two, True), (53, two, False), (54, three, False)),
            *((55, three, True), (56, four, True), (57, four, True)),
        ):
            pair.give(source, Flush(token, fid, data_only))
        for token in later:
            for more in range(token):
                pair.give(source, Flush(60 + more, 1000 + more, data_only=True))
        for node in (source, follower):
            node.disk.performed.clear()
        pair.settle()
        batch = SyncTree() if later else SyncFiles([one, two, three, four], [one, four])
        for node in (source, follower):
            assert node.disk.performed == [SyncFiles([four]), batch]
        assert answered(source)[-8:] == sorted(answered(source))[-8:]

    def test_what_waited_for_an_order_says_so_too(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.order(source, Freeze(1))
        pair.give(source, Flush(6, fid, data_only=True))
        for node in (source, follower):
            node.disk.performed.clear()
        pair.order(source, ServeMirror(1, "g", round=2))
        pair.order(follower, Follow(1, "g", round=2))
        pair.settle()
        assert answered(source) == [6]
        for node in (source, follower):
            assert SyncFiles([fid], [fid]) in node.disk.performed

    def test_many_files_are_the_whole_tree(self) -> None:
        pair, node, fid = alone()
        pair.give(node, Flush(4, fid))
        for token in range(5, 25):
            pair.give(node, Flush(token, token))
        node.disk.performed.clear()
        pair.settle()
        assert node.disk.performed == [SyncFiles([fid]), SyncTree()]
        assert answered(node) == [4, *range(5, 25)]

    def test_a_replay_asks_again(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.give(source, Flush(6, fid))
        pair.disk(source, Lane.SYNC)
        pair.disconnect()
        pair.connect()
        pair.mirror()
        assert answered(source) == [6]
        assert SyncFiles([fid]) in follower.disk.performed

    def test_frozen_it_is_not_answered_and_alone_it_needs_one_disk(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, Flush(6, fid))
        pair.order(source, Freeze(1))
        pair.settle()
        assert answered(source) == []
        pair.order(source, ServeAlone(2, "h"))
        assert answered(source) == [6]

    def test_a_failed_one_is_final(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, Flush(6, fid))
        source.disk.broken = True
        pair.settle()
        assert troubles(source) == [StopReason.OWN_DISK]
        pair.order(source, Freeze(1))
        pair.order(source, ServeAlone(2, "h"))
        assert troubles(source) == [StopReason.OWN_DISK] * 2
        pair.give(source, write(7, fid))
        pair.order(source, Close("broken", "other"))
        pair.settle()
        failures = {reply.token: reply.failure for reply in source.replies}
        assert failures == {6: Failure.UNKNOWN, 7: Failure.NOT_PRIMARY}

    def test_nobody_flushes_nothing(self) -> None:
        pair, node, _ = alone()
        pair.give(node, Flush(6, 0))
        assert node.replies == [Reply(6, Failure.ERRNO, errno.EINVAL)]


class TestDurable:
    SETTINGS = VolumeSettings(ack=Level.DURABLE)

    def test_a_change_is_answered_once_both_disks_hold_it(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        seen = []
        pair.on_reply = lambda node, reply: seen.append(
            [n.disk.durable.files[fid] for n in (source, follower)]
        )
        pair.give(source, write(5, fid))
        pair.settle()
        assert answered(source) == [5]
        assert seen == [[{0: 5}, {0: 5}]]

    def test_alone_one_disk_is_enough_but_needed(self) -> None:
        pair, node, fid = alone(self.SETTINGS)
        pair.give(node, write(5, fid))
        applied(pair, node)
        assert answered(node) == []
        pair.settle()
        assert answered(node) == [5]
        assert node.disk.durable.files[fid] == {0: 5}

    def test_changes_share_a_flush(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        for stamp in range(5, 55):
            pair.give(source, write(stamp, fid))
        follower.disk.performed.clear()
        applied(pair, source)
        pair.settle()
        assert answered(source) == list(range(5, 55))
        assert follower.disk.performed.count(SyncFiles([fid])) <= 3

    def test_data_is_not_enough_for_a_change(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        for node in (source, follower):
            node.disk.performed.clear()
        pair.give(source, Flush(4, fid), write(5, fid), Flush(6, fid, data_only=True))
        pair.settle()
        for node in (source, follower):
            syncs = [one for one in node.disk.performed if isinstance(one, SyncFiles)]
            assert syncs == [SyncFiles([fid])] * 2

    def test_names_are_durable_as_well(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        pair.give(source, Change(5, Unlink(fid, ROOT_FID, "file", 5)))
        pair.settle()
        assert answered(source) == [5]
        assert follower.disk.durable.names[ROOT_FID] == {}

    def test_lower_numbers_of_a_later_life_are_not_taken_for_durable(self) -> None:
        pair, node, fid = alone(self.SETTINGS)
        for stamp in range(5, 9):
            pair.give(node, write(stamp, fid))
        pair.settle()
        pair.order(node, Close("over", None))
        node.volume._position.adopt(0, 0)  # as a join does
        pair.order(node, ServeAlone(2, "h"))
        pair.give(node, write(9, fid))
        applied(pair, node)
        assert answered(node) == [5, 6, 7, 8]


class TestDrain:
    def test_it_ends_when_both_hold_all_and_have_synced(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.give(source, write(5, fid))
        pair.order(source, Drain(9))
        pair.give(source, write(6, fid))
        pair.settle()
        assert answered(source) == [5]
        assert Drained(9) in source.reports
        for node in (source, follower):
            assert node.disk.durable == node.disk.tree
        assert source.volume.waiting == 1

    def test_it_is_undone_in_the_same_epoch(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.order(source, Drain(9))
        pair.give(source, write(6, fid))
        pair.order(source, ServeMirror(1, "g", round=2))
        pair.order(follower, Follow(1, "g", round=2))
        pair.settle()
        assert answered(source) == [6]

    def test_a_swap_goes_on_where_it_stands(self) -> None:
        pair, source, follower, fid = mirrored()
        pair.give(source, write(5, fid))
        pair.order(source, Drain(9))
        pair.settle()
        pair.order(source, Follow(2, "g", round=1))
        pair.order(follower, ServeMirror(2, "g", round=1))
        pair.give(follower, write(6, fid))
        pair.settle()
        assert answered(follower) == [6]
        assert source.disk.history == follower.disk.history == [1_000_000, 5, 6]
        assert follower.volume.seq == source.volume.seq == 3

    def test_a_broken_stream_drains_nothing(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.give(source, LinkDown())
        pair.order(source, Drain(9))
        pair.settle()
        assert Drained(9) not in source.reports


class TestWithdraw:
    def test_what_waits_is_taken_back_and_answered_once(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(window_ops_max=2))
        for stamp in range(5, 9):
            pair.give(source, write(stamp, fid))
        pair.give(source, Flush(9, fid))
        pair.give(source, Withdraw(8))
        pair.give(source, Withdraw(9))
        assert source.replies == [
            Reply(8, Failure.WITHDRAWN, why="interrupted"),
            Reply(9, Failure.WITHDRAWN, why="interrupted"),
        ]
        pair.settle()
        assert answered(source) == [5, 6, 7]
        assert len(source.replies) == 5

    @pytest.mark.parametrize("stage", ["admitted", "applied", "answered"])
    def test_what_was_admitted_is_answered_as_ever(self, stage: str) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid))
        if stage != "admitted":
            applied(pair, source)
        if stage == "answered":
            pair.settle()
        pair.give(source, Withdraw(5))
        pair.settle()
        assert answered(source) == [5]
        assert len(source.replies) == 1

    def test_nobody_who_waits_is_held_up_by_one_who_left(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(window_ops_max=1))
        for stamp in range(5, 8):
            pair.give(source, write(stamp, fid))
        pair.give(source, Withdraw(6))
        pair.settle()
        assert answered(source) == [5, 7]

    def test_a_volume_that_does_not_serve_has_nothing_to_take_back(self) -> None:
        pair, _, follower, _ = mirrored()
        pair.give(follower, Withdraw(5))
        assert follower.replies == []


class TestClose:
    def test_everybody_is_told_what_is_known(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(window_ops_max=3))
        pair.give(source, Flush(4, fid))
        for stamp in range(5, 9):
            pair.give(source, write(stamp, fid))
        pair.disk(source, Lane.TREE)  # 5 is in the window, 6 and 7 are being applied, 8 waits
        pair.order(source, Close("no longer", "lyon"))
        assert {reply.token: reply.failure for reply in source.replies} == {
            4: Failure.UNKNOWN,
            5: Failure.UNKNOWN,
            6: Failure.UNKNOWN,
            7: Failure.UNKNOWN,
            8: Failure.NOT_PRIMARY,
        }
        assert {(reply.why, reply.primary) for reply in source.replies} == {("no longer", "lyon")}
        pair.settle()
        assert len(source.replies) == 5, "nobody is answered twice"

    def test_later_callers_are_told_at_once(self) -> None:
        pair, source, _, fid = mirrored()
        pair.order(source, Close("no longer", "lyon"))
        pair.give(source, write(5, fid), Flush(6, fid))
        expected = {"failure": Failure.NOT_PRIMARY, "why": "no longer", "primary": "lyon"}
        assert source.replies == [Reply(5, **expected), Reply(6, **expected)]  # type: ignore[arg-type]

    @pytest.mark.parametrize("order", [Follow(2, "h", round=1), Close("x", None)])
    def test_who_follows_has_no_callers(self, order: Follow | Close) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.order(source, order)
        assert [reply.failure for reply in source.replies] == [Failure.UNKNOWN]


class TestTime:
    def test_a_peer_that_leaves_us_waiting_is_slow_then_stuck_once_each(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(peer_slow_max_ms=3_000))
        pair.jump(60_000)
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.tick(1_499)
        assert troubles(source) == []
        pair.tick(1)
        assert troubles(source) == [StopReason.STREAM_SLOW]
        pair.tick(1_499)
        assert troubles(source) == [StopReason.STREAM_SLOW]
        for _ in range(5):
            pair.tick(1)
        assert troubles(source) == [StopReason.STREAM_SLOW, StopReason.PEER_STUCK]

    def test_progress_starts_the_count_anew(self) -> None:
        settings = VolumeSettings(peer_slow_max_ms=3_000, disk_max_ms=100_000)
        pair, source, _, fid = mirrored(settings)
        for stamp in range(5, 15):
            pair.give(source, write(stamp, fid))
        applied(pair, source)
        for seq in range(2, 9):
            pair.tick(1_400)
            pair.give(source, Received(messages.Ack(1, seq)))
        assert troubles(source) == []
        pair.tick(1_600)
        assert troubles(source) == [StopReason.STREAM_SLOW]
        pair.give(source, Received(messages.Ack(1, 9)))
        pair.tick(1_600)
        assert troubles(source) == [StopReason.STREAM_SLOW] * 2

    def test_a_loop_that_was_late_judges_nobody_by_that_time(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(peer_slow_max_ms=3_000))
        pair.tick(1_000)
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.jump(4_000)
        assert troubles(source) == []
        pair.tick(3_000)
        assert troubles(source) == [StopReason.STREAM_SLOW, StopReason.PEER_STUCK]

    def test_a_flush_that_the_peer_does_not_answer_counts(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, Flush(5, fid))
        pair.disk(source, Lane.SYNC)
        pair.tick(3_000)
        assert troubles(source) == [StopReason.STREAM_SLOW, StopReason.PEER_STUCK]

    def test_who_waits_for_a_stream_that_is_down_counts(self) -> None:
        pair, source, _, fid = mirrored()
        pair.disconnect()
        pair.tick(10_000)
        assert troubles(source) == []
        pair.give(source, write(5, fid))
        pair.tick(3_000)
        assert troubles(source) == [StopReason.STREAM_SLOW, StopReason.PEER_STUCK]

    def test_alone_or_frozen_nobody_is_slow(self) -> None:
        pair, source, _, fid = mirrored()
        pair.give(source, write(5, fid))
        applied(pair, source)
        pair.order(source, Freeze(1))
        pair.tick(10_000)
        assert troubles(source) == []

    @pytest.mark.parametrize("lane", [Lane.TREE, Lane.SYNC])
    def test_a_disk_that_takes_too_long_fails(self, lane: Lane) -> None:
        pair, node, fid = alone(VolumeSettings(disk_max_ms=10_000))
        event = write(5, fid) if lane is Lane.TREE else Flush(5, fid)
        pair.tick(50_000)
        pair.give(node, event)
        pair.tick(10_000)
        assert troubles(node) == []
        pair.tick(1)
        pair.tick(1)
        assert troubles(node) == [StopReason.DISK_SLOW]

    def test_a_queue_is_no_slow_disk(self) -> None:
        pair, node, fid = alone(VolumeSettings(disk_max_ms=10_000))
        for stamp in range(5, 15):
            pair.give(node, write(stamp, fid))
        for _ in range(10):
            pair.tick(9_000)
            pair.disk(node, Lane.TREE)
        assert troubles(node) == []


class TestCheckpoint:
    SETTINGS = VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=2)

    def test_what_both_disks_hold_is_forgotten_by_both(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        pair.give(source, write(5, fid))
        pair.settle()
        for _ in range(3):
            pair.tick(1_000)
            pair.settle()
        for node in (source, follower):
            assert node.disk.touched == set()
            assert len(node.volume.touched) == 0
            assert node.disk.retired == node.disk.confirmed == (1, 2)
            assert node.disk.durable == node.disk.tree

    def test_what_is_written_again_and_again_stays_hot(self) -> None:
        pair, source, _, fid = mirrored(self.SETTINGS)
        records = 0
        for stamp in range(5, 15):
            source.disk.performed.clear()
            pair.give(source, write(stamp, fid))
            pair.settle()
            pair.tick(1_000)
            pair.settle()
            records += sum(isinstance(r, RecordTouched) for r in source.disk.performed)
        assert records == 0
        assert (fid, 0) in source.disk.touched

    def test_what_is_not_acknowledged_is_not_covered(self) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=1))
        for _ in range(3):
            pair.tick(1_000)
            pair.settle()
        assert source.disk.touched == set()
        pair.give(source, write(5, fid))
        applied(pair, source)
        raw = source.peer.inbox.popleft()  # held on the way
        for _ in range(5):
            pair.tick(1_000)
            pair.settle()
        assert (fid, 0) in source.disk.touched
        source.peer.inbox.append(raw)
        pair.settle()

    @pytest.mark.parametrize("late", [0, 1])
    def test_it_needs_both_disks(self, late: int) -> None:
        pair, source, _, fid = mirrored(VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=1))
        pair.give(source, write(5, fid))
        pair.settle()
        for _ in range(5):
            pair.tick(1_000)
            pair.settle(held=(pair.nodes[late], Lane.SYNC))
        assert (fid, 0) in source.disk.touched

    def test_what_comes_while_the_trees_are_synced_is_not_covered(self) -> None:
        settings = VolumeSettings(checkpoint_ms=1_000, touched_max=1)
        pair, source, follower, fid = mirrored(settings)
        pair.give(source, write(5, fid))
        pair.settle()
        pair.tick(1_000)
        pair.settle(held=(source, Lane.SYNC))  # the follower is done
        pair.begin_sync(source)
        pair.give(source, write(6, fid, offset=40 * SEGMENT_BYTES))
        for _ in range(3):
            pair.settle(held=(source, Lane.SYNC))
            pair.tick(50)
        pair.disk(source, Lane.SYNC)
        pair.settle()
        for node in (source, follower):
            assert (fid, 0) not in node.disk.touched
            assert (fid, 40) in node.disk.touched

    def test_a_long_log_is_forgotten_piece_by_piece(self) -> None:
        pair = Pair(VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=1))
        for node in pair.nodes:
            node.disk.touched = {(number, 0) for number in range(100, 100 + 2 * RETIRED_MAX + 1)}
            node.boot()
        source, follower = pair.mirror()
        left = []
        for _ in range(6):
            pair.tick(1_000)
            pair.settle()
            left.append((len(source.disk.touched), len(follower.disk.touched)))
        assert {(RETIRED_MAX + 1, RETIRED_MAX + 1), (1, 1)} <= set(left)
        assert left[-1] == (0, 0)

    def test_numbers_that_a_swap_starts_anew_keep_nothing_for_ever(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        for stamp in range(100, 200):  # counted by the touched log, though they have no seq
            pair.give(source, Change(stamp, Create(0, ROOT_FID, "file", 0o600, 0, 0, stamp)))
        pair.give(source, write(5, fid))
        pair.settle()
        pair.order(source, Follow(2, "g", round=2))
        pair.order(follower, ServeMirror(2, "g", round=2))
        pair.settle()
        pair.give(follower, write(6, fid, offset=5 << 20))
        pair.settle()
        for _ in range(6):
            pair.tick(1_000)
            pair.settle()
        assert source.disk.touched == follower.disk.touched == set()

    def test_here_first_then_there(self) -> None:
        pair, source, follower, fid = mirrored(self.SETTINGS)
        pair.give(source, write(5, fid))
        pair.settle()
        pair.tick(1_000)
        pair.settle()
        pair.tick(1_000)
        pair.settle()
        pair.tick(1_000)
        assert source.disk.touched
        while follower.disk.touched:
            pair.busy()[0]()
            assert follower.disk.touched or not source.disk.touched

    def test_alone_nothing_is_forgotten(self) -> None:
        pair, node, fid = alone(self.SETTINGS)
        pair.give(node, write(5, fid))
        for _ in range(5):
            pair.tick(1_000)
            pair.settle()
        assert (fid, 0) in node.disk.touched

    def test_a_crowded_log_does_not_wait(self) -> None:
        settings = VolumeSettings(checkpoint_ms=1_000, hot_checkpoints=100, touched_max=5)
        pair, source, _, _ = mirrored(settings)
        assert len(source.disk.touched) > 5
        pair.tick(100)
        pair.settle()
        assert source.disk.touched == set()


def test_effects_of_a_step_come_in_order() -> None:
    """An op is sent before the flush that speaks of it, and that before our own disk syncs."""
    pair, source, _, fid = mirrored()
    pair.give(source, write(5, fid), Flush(6, fid))
    call = source.lanes[Lane.TREE].popleft()
    done = DiskDone(call.token, source.disk.perform(call.request))
    effects = source.volume.step(done, pair.now_ms)
    said = [effect.message if isinstance(effect, Send) else effect.request for effect in effects]
    assert [type(one) for one in said] == [messages.Ops, messages.FlushRequest, SyncFiles]
