"""The following side: an exact prefix, acknowledged, and nothing else."""

from __future__ import annotations

import errno

import pytest

from mirrorha.core.orders import (
    AnyOrder,
    BecomeTarget,
    Close,
    Follow,
    Freeze,
    Frozen,
    ServeAlone,
    ServeMirror,
    StopReason,
    Trouble,
)
from mirrorha.volume.disk import ApplyAll, RecordTouched, SyncFiles, SyncTree
from mirrorha.volume.events import Change, Lane, Received
from mirrorha.volume.ops import (
    ROOT_FID,
    XATTR_CREATE,
    AnyOp,
    Create,
    Fallocate,
    Kind,
    Mkdir,
    Mknod,
    Rename,
    SetAttributes,
    SetXattr,
    Symlink,
    Unlink,
    Write,
)
from mirrorha.volume.stream import messages
from mirrorha.volume.stream.flushing import FILES_MAX
from mirrorha.volume.stream.follower import BATCH_OPS_MAX, JOBS_MAX
from mirrorha.volume.stream.messages import CHAIN_START, Ack, At, Begin, Nack, Ops, chain
from mirrorha.volume.touched import NAMES
from tests.volume.stream_pair import Node, Pair, decode

FID = 1 << 40 | 1
CREATE = Create(FID, ROOT_FID, "file", 0o600, 0, 0, 1)


def write(stamp: int) -> Write:
    return Write(FID, 0, b"x", stamp)


OPS: list[AnyOp] = [CREATE, *(write(stamp) for stamp in range(2, 10))]


def prev(seq: int) -> int:
    """The hash up to the `seq`th of OPS."""
    hash_ = CHAIN_START
    for op in OPS[:seq]:
        hash_ = chain(op, hash_)
    return hash_


def ops(first: int, last: int, **changes: object) -> Received:
    """A message with the ops from the `first`th to the `last`th."""
    fields: dict[str, object] = {
        "epoch": 1,
        "generation": "g",
        "first_seq": first,
        "prev": prev(first - 1),
        "ops": OPS[first - 1 : last],
    }
    return Received(Ops(**(fields | changes)))  # type: ignore[arg-type]


def following() -> tuple[Pair, Node]:
    """A follower at 0 whose source is this test."""
    pair = Pair()
    node = pair.nodes[1]
    pair.connect()
    pair.order(node, Follow(1, "g", round=1))
    pair.give(node, Received(Begin(1, "g", 1)))
    said(node)
    return pair, node


def said(node: Node) -> list[object]:
    """What it said since it was asked last."""
    raw = list(node.peer.inbox)
    node.peer.inbox.clear()
    return [decode(message) for message in raw]


class TestOps:
    def test_they_are_applied_in_order_and_acknowledged_together(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 3))
        assert said(node) == []
        pair.settle()
        assert node.disk.history == [1, 2, 3]
        assert node.volume.seq == 3

    def test_one_ack_for_a_batch(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 3))
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        assert said(node) == [Ack(1, 3)]

    def test_what_comes_while_a_batch_is_applied_is_the_next_batch(self) -> None:
        pair, node = following()
        for seq in range(1, 6):
            pair.give(node, ops(seq, seq))
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        batches = [len(r.ops) for r in node.disk.performed if isinstance(r, ApplyAll)]
        assert batches == [1, 4]
        assert said(node) == [Ack(1, 1), Ack(1, 5)]

    def test_a_batch_has_an_end(self) -> None:
        pair, node = following()
        many: list[AnyOp] = [CREATE, *(write(stamp) for stamp in range(2, 2 * BATCH_OPS_MAX))]
        pair.give(node, ops(1, 1, ops=many))
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        batches = [len(r.ops) for r in node.disk.performed if isinstance(r, ApplyAll)]
        assert batches == [BATCH_OPS_MAX, BATCH_OPS_MAX - 1]

    def test_entries_are_durable_first(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 2))
        kinds = [type(call.request) for call in node.lanes[Lane.TREE]]
        assert kinds == [RecordTouched, ApplyAll]
        pair.settle()
        assert {(ROOT_FID, NAMES), (FID, 0)} <= node.disk.touched

    @pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 3), (2, 3), (3, 3)])
    def test_what_is_held_already_is_acknowledged_and_not_applied(
        self, first: int, last: int
    ) -> None:
        pair, node = following()
        pair.give(node, ops(1, 3))
        pair.settle()
        said(node)
        pair.give(node, ops(first, last))
        assert said(node) == [Ack(1, 3)]
        assert not node.lanes[Lane.TREE]

    def test_of_a_message_only_the_new_part_is_applied(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 3))
        pair.settle()
        pair.give(node, ops(2, 5))
        pair.settle()
        assert node.disk.history == [1, 2, 3, 4, 5]
        assert not pair.resets

    def test_a_hole_closes_the_stream(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 1), ops(3, 3))
        pair.settle()
        assert node.disk.history == [1]
        assert pair.resets == ["op 3 does not follow 1"]

    @pytest.mark.parametrize("first", [2, 1])
    def test_other_predecessors_close_the_stream(self, first: int) -> None:
        pair, node = following()
        pair.give(node, ops(1, 1))
        pair.settle()
        pair.give(node, ops(first, 2, prev=prev(first - 1) ^ 1))
        pair.settle()
        assert node.disk.history == [1]
        assert len(pair.resets) == 1

    def test_another_op_before_it_closes_the_stream(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 2))
        pair.settle()
        pair.give(node, ops(2, 3, ops=[write(77), OPS[2]]))
        pair.settle()
        assert node.disk.history == [1, 2]
        assert len(pair.resets) == 1

    @pytest.mark.parametrize("epoch", [0, 2])
    def test_another_epoch_is_refused(self, epoch: int) -> None:
        pair, node = following()
        pair.give(node, ops(1, 1, epoch=epoch))
        pair.settle()
        assert node.disk.history == []
        assert said(node) == []
        assert node.volume.counts.other_epoch == 1
        assert not pair.resets

    def test_another_generation_closes_the_stream(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 1, generation="h"))
        assert len(pair.resets) == 1
        assert not node.lanes[Lane.TREE]

    @pytest.mark.parametrize(
        "op",
        [
            Create(FID, 1, "../x", 0o600, 0, 0, 0),
            Create(0, 1, "x", 0o600, 0, 0, 0),
            Unlink(0, 1, "x", 0),
            Write(FID, -1, b"x", 0),
            Write(0, 0, b"x", 0),
            # What the disk that applies an op first fills in.
            Create(FID, 1, "x", 0o600, 0, 0, 0, 0o22),
            Mkdir(FID, 1, "x", 0o700, 0, 0, 0, 0),
            Symlink(FID, 1, "x", "y", 0, 0, 0, 0),
            Mknod(FID, 1, "x", Kind.FIFO, 0o600, 0, 0, 0, 0, 0),
            SetXattr(FID, "user.a", b"", XATTR_CREATE),
            # And what no disk would take.
            Create(FID, 1, "x", 0o600, 0, 0, 0, 0o1000),
            Create(FID, 1, "x", 0o600, 0, 0, 0, None, {"security.x": b""}),
            Create(FID, 1, "x", 0o600, 0, 0, 0, None, {"user.\udc80": b""}),
            Create(FID, 1, "x", 0o600, 0, 0, 0, None, {f"user.{n}": b"" for n in range(17)}),
            Mkdir(FID, 1, "x", 0o700, 0, 0, 0, None, {"user.a": bytes(65_537)}),
            Mknod(FID, 1, "x", Kind.FILE, 0o600, 0, 0, 0, 0),
            Mknod(FID, 1, "x", Kind.FIFO, 0o600, 1, 0, 0, 0),
            Mknod(FID, 1, "x", Kind.BLOCK_DEVICE, 0o600, 1 << 32, 0, 0, 0),
            Mknod(FID, 1, "x", Kind.BLOCK_DEVICE, 0o10600, 1, 0, 0, 0),
            Mknod(FID, 1, "a/b", Kind.FIFO, 0o600, 0, 0, 0, 0),
            Rename(FID, 1, "x", 1, "y", 0, 0, 4),
            Fallocate(FID, 8, 0, 1, 0),
            Fallocate(FID, 0, 1, (1 << 63) - 1, 0),
            Fallocate(0, 0, 0, 1, 0),
            SetAttributes(FID, None, None, None, None, 1 << 63),
            SetXattr(FID, "user.a", b"", 0, 1 << 15),
            SetXattr(FID, "", b""),
        ],
        ids=str,
    )
    def test_an_op_that_cannot_be_closes_the_stream(self, op: AnyOp) -> None:
        pair, node = following()
        pair.give(node, ops(1, 1, ops=[op]))
        assert len(pair.resets) == 1
        assert not node.lanes[Lane.TREE]

    def test_after_a_reset_nothing_is_heard(self) -> None:
        pair, node = following()
        pair.give(node, ops(2, 2), ops(1, 1))
        pair.settle()
        assert node.disk.history == []
        assert len(pair.resets) == 1


class TestFailure:
    def test_nothing_after_an_op_that_fails_is_applied(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 1))
        pair.give(node, ops(2, 3))
        pair.disk(node, Lane.TREE)  # the entries of op 1
        pair.disk(node, Lane.TREE)
        pair.give(node, ops(4, 4))
        node.disk.full = True
        pair.disk(node, Lane.TREE)
        node.disk.full = False
        pair.give(node, ops(5, 5))
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        (first, nack) = said(node)
        assert first == Ack(1, 1)
        assert isinstance(nack, Nack)
        assert (nack.seq, nack.errno) == (2, errno.ENOSPC)
        assert node.disk.history == [1]

    def test_what_was_applied_of_the_batch_is_acknowledged(self) -> None:
        pair, node = following()
        bad = Create(FID + 1, ROOT_FID, "file", 0o600, 0, 0, 3)  # the name is taken
        pair.give(node, ops(1, 1, ops=[CREATE, write(2), bad, write(4)]))
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        ack, nack = said(node)
        assert ack == Ack(1, 2)
        assert isinstance(nack, Nack)
        assert (nack.seq, nack.errno) == (3, errno.EEXIST)
        assert node.disk.history == [1, 2]

    def test_another_order_tries_again(self) -> None:
        pair, node = following()
        node.disk.full = True
        pair.give(node, ops(1, 1))
        pair.settle()
        node.disk.full = False
        pair.order(node, Follow(1, "g", round=2))
        pair.give(node, Received(Begin(1, "g", 2)), ops(1, 1))
        pair.give(node, ops(1, 1))
        pair.settle()
        assert node.disk.history == [1]

    def test_a_disk_that_fails_is_told_to_both(self) -> None:
        pair, node = following()
        node.disk.broken = True
        pair.give(node, ops(1, 1))
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        (nack,) = said(node)
        assert isinstance(nack, Nack)
        assert (nack.seq, nack.errno) == (1, errno.EIO)
        assert [r.reason for r in node.reports if isinstance(r, Trouble)] == [StopReason.OWN_DISK]
        pair.give(node, ops(1, 1))
        assert not node.lanes[Lane.TREE]


class TestFreeze:
    def test_the_batch_under_way_is_applied_and_not_acknowledged(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 1))
        pair.give(node, ops(2, 2))
        pair.order(node, Freeze(9))
        assert Frozen(9) not in node.reports
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        assert Frozen(9) in node.reports
        pair.give(node, ops(2, 2), ops(3, 3))
        pair.settle()
        assert said(node) == []
        assert node.disk.history == [1], "what was not begun is dropped: it will come again"

    def test_a_flush_under_way_is_not_answered(self) -> None:
        pair, node = following()
        pair.give(node, Received(messages.FlushRequest(1, 1, 0, [FID])))
        pair.order(node, Freeze(9))
        pair.settle()
        assert said(node) == []

    def test_who_was_frozen_says_where_it_is_when_it_follows_again(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 2))
        pair.order(node, Freeze(9))
        pair.give(node, Received(Begin(1, "g", 2)))
        pair.order(node, Follow(1, "g", round=2))
        assert said(node) == [], "not before the batch has ended"
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        assert said(node) == [At(1, 2, 2, prev(2))]

    def test_who_goes_on_alone_goes_on_from_there(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 3))
        pair.order(node, Freeze(9))
        pair.settle()
        pair.order(node, ServeAlone(2, "h"))
        pair.give(node, Change(4, write(4)))
        pair.settle()
        assert node.disk.history == [1, 2, 3, 4]
        assert node.volume.seq == 4

    def test_what_ends_after_that_does_not_undo_it(self) -> None:
        """The batch under way counts, and the new line is still no continuation of the old one."""
        pair, node = following()
        pair.give(node, ops(1, 3))
        pair.order(node, ServeAlone(2, "h"))
        pair.settle()
        assert node.volume.seq == 3
        pair.order(node, ServeMirror(3, "h", round=5))
        said(node)
        pair.give(node, Received(At(3, 5, 3, prev(3))))
        assert not node.volume.streaming
        assert len(pair.resets) == 1

    def test_who_becomes_the_source_first_ends_its_batch(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 3))
        pair.order(node, ServeMirror(2, "g", round=5))
        assert said(node) == []
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        assert said(node) == [Begin(2, "g", 5)]


class TestMeeting:
    def test_an_early_begin_is_kept(self) -> None:
        pair = Pair()
        node = pair.nodes[1]
        pair.connect()
        pair.give(node, Received(Begin(3, "g", 1)))
        assert said(node) == []
        pair.order(node, Follow(3, "g", round=1))
        assert said(node) == [At(3, 1, 0, CHAIN_START)]

    def test_a_begin_of_a_lower_epoch_is_refused(self) -> None:
        pair, node = following()
        pair.order(node, Follow(3, "g", round=1))
        said(node)
        pair.give(node, Received(Begin(2, "g", 1)))
        assert said(node) == []
        assert node.volume.counts.other_epoch == 1

    def test_a_begin_of_another_generation_closes_the_stream(self) -> None:
        pair = Pair()
        node = pair.nodes[1]
        pair.connect()
        pair.order(node, Follow(1, "g", round=1))
        pair.give(node, Received(Begin(1, "h", 1)))
        assert len(pair.resets) == 1

    def test_after_a_break_nothing_flows_before_the_next_order(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 1))
        pair.settle()
        pair.disconnect()
        pair.connect()
        pair.give(node, ops(2, 2))
        pair.give(node, Received(Begin(1, "g", 2)), ops(2, 2))
        pair.settle()
        assert said(node) == []
        assert node.disk.history == [1]
        pair.order(node, Follow(1, "g", round=2))
        assert said(node) == [At(1, 2, 1, prev(1))]

    @pytest.mark.parametrize("number", [1, 3])
    def test_a_begin_of_another_round_is_not_answered(self, number: int) -> None:
        pair = Pair()
        node = pair.nodes[1]
        pair.connect()
        pair.order(node, Follow(1, "g", round=2))
        pair.give(node, Received(Begin(1, "g", number)))
        assert said(node) == []

    def test_a_begin_of_another_round_ends_the_one_that_runs(self) -> None:
        pair, node = following()
        pair.give(node, Received(Begin(1, "g", 2)))
        pair.give(node, ops(1, 1))
        pair.settle()
        assert said(node) == []
        assert node.disk.history == []
        pair.order(node, Follow(1, "g", round=2))
        assert said(node) == [At(1, 2, 0, CHAIN_START)]

    def test_ordered_into_a_round_once_more_it_has_itself_asked_once_more(self) -> None:
        pair, node = following()
        pair.order(node, Freeze(9))
        pair.order(node, Follow(1, "g", round=1))
        assert said(node) == [messages.AskAgain(1, 1)]
        pair.give(node, Received(Begin(1, "g", 1)))
        assert said(node) == [At(1, 1, 0, CHAIN_START)]

    def test_a_begin_of_an_earlier_connection_is_void(self) -> None:
        pair = Pair()
        node = pair.nodes[1]
        pair.connect()
        pair.give(node, Received(Begin(1, "g", 1)))
        pair.disconnect()
        pair.connect()
        pair.order(node, Follow(1, "g", round=1))
        assert said(node) == []

    @pytest.mark.parametrize(
        "order", [Close("x", None), BecomeTarget(2, 1), ServeAlone(2, "h"), Freeze(1)]
    )
    def test_who_was_ordered_otherwise_follows_no_more(self, order: AnyOrder) -> None:
        pair, node = following()
        pair.order(node, order)
        said(node)
        pair.give(node, ops(1, 1))
        pair.settle()
        assert node.disk.history == []


class TestJobs:
    def test_a_flush_waits_for_its_ops(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 2), Received(messages.FlushRequest(1, 7, 2, [FID, FID + 1])))
        assert not node.lanes[Lane.SYNC]
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        assert [call.request for call in node.lanes[Lane.SYNC]] == [SyncFiles([FID, FID + 1])]
        assert said(node) == [Ack(1, 2)]
        pair.disk(node, Lane.SYNC)
        assert said(node) == [messages.FlushDone(1, 7)]

    def test_of_some_files_the_data_is_enough(self) -> None:
        pair, node = following()
        request = messages.FlushRequest(1, 7, 0, [FID, FID + 1], [FID + 1])
        pair.give(node, Received(request))
        assert [call.request for call in node.lanes[Lane.SYNC]] == [
            SyncFiles([FID, FID + 1], [FID + 1])
        ]

    def test_no_file_is_the_whole_tree(self) -> None:
        pair, node = following()
        pair.give(node, Received(messages.FlushRequest(1, 7, 0, [])))
        assert [call.request for call in node.lanes[Lane.SYNC]] == [SyncTree()]

    def test_a_checkpoint_is_noted_before_it_is_confirmed(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 2), Received(messages.Checkpoint(1, 2)))
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
        said(node)
        pair.disk(node, Lane.SYNC)
        assert said(node) == []
        pair.disk(node, Lane.TREE)
        assert said(node) == [messages.CheckpointDone(1, 2)]
        assert node.disk.confirmed == (1, 2)
        assert node.disk.durable == node.disk.tree

    def test_only_what_was_confirmed_is_retired(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 2))
        pair.settle()
        pair.give(node, Received(messages.Retire(1, 2)))
        assert len(pair.resets) == 1
        assert node.disk.touched

    def test_what_a_later_op_needs_is_kept(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 2), Received(messages.Checkpoint(1, 2)))
        pair.settle()
        pair.give(node, ops(3, 3))
        pair.give(node, Received(messages.Retire(1, 2)))
        pair.settle()
        assert (FID, 0) in node.disk.touched
        assert (ROOT_FID, NAMES) not in node.disk.touched
        assert node.disk.retired == (1, 2)

    @pytest.mark.parametrize(
        "message",
        [
            messages.FlushRequest(1, 1, 1, [FID]),  # after an op that was never sent
            messages.FlushRequest(1, 1, -1, [FID]),
            messages.FlushRequest(1, 1, 0, [0]),
            messages.FlushRequest(1, 1, 0, [FID], [FID + 1]),
            messages.FlushRequest(1, 1, 0, [], [FID]),
            messages.FlushRequest(1, 1, 0, [FID] * (FILES_MAX + 1)),
            messages.Checkpoint(1, 1),
            messages.Checkpoint(1, -1),
        ],
    )
    def test_what_cannot_be_meant_closes_the_stream(self, message: messages.Message) -> None:
        pair, node = following()
        pair.give(node, Received(message))
        assert len(pair.resets) == 1
        assert not node.lanes[Lane.SYNC]

    def test_requests_have_a_bound(self) -> None:
        pair, node = following()
        pair.give(node, ops(1, 1))
        for _ in range(JOBS_MAX + 1):
            pair.give(node, Received(messages.Checkpoint(1, 1)))
        assert len(pair.resets) == 1
