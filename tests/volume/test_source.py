"""The serving side: who is answered, when, and what was sent before."""

from __future__ import annotations

import errno

import pytest

from mirrorha.core.orders import (
    Close,
    Drain,
    Drained,
    Follow,
    Freeze,
    Frozen,
    ServeAlone,
    ServeMirror,
    StopReason,
    Sync,
    Synced,
)
from mirrorha.volume.disk import Apply, RecordTouched
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
    Withdraw,
)
from mirrorha.volume.ops import (
    FID_COUNTER_BITS,
    ROOT_FID,
    Create,
    SetAttributes,
    SetXattr,
    Truncate,
    Write,
)
from mirrorha.volume.stream import messages
from mirrorha.volume.stream.pending import VolumeSettings
from tests.volume.source_steps import alone, answered, applied, mirrored, sent, troubles, write


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
