"""The serving side: what is on both disks when a flush, or a durable change, is answered."""

from __future__ import annotations

import errno

import pytest

from mirrorha.core.orders import Close, Follow, Freeze, ServeAlone, ServeMirror, StopReason
from mirrorha.core.words import Ack as Level
from mirrorha.volume.disk import SyncFiles, SyncTree
from mirrorha.volume.events import Change, DiskDone, Failure, Flush, Lane, Reply, Send
from mirrorha.volume.ops import ROOT_FID, Create, Unlink
from mirrorha.volume.stream import messages
from mirrorha.volume.stream.flushing import FILES_MAX
from mirrorha.volume.stream.pending import VolumeSettings
from tests.volume.source_steps import alone, answered, applied, mirrored, troubles, write
from tests.volume.stream_pair import Node, Pair


def make(pair: Pair, node: Node, name: str) -> int:
    """One more file, on every disk; its id."""
    pair.give(node, Change(1, Create(0, ROOT_FID, name, 0o600, 0, 0, 1)))
    pair.settle()
    op = node.replies.pop().op
    assert op is not None
    return op.fid


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


def test_effects_of_a_step_come_in_order() -> None:
    """An op is sent before the flush that speaks of it, and that before our own disk syncs."""
    pair, source, _, fid = mirrored()
    pair.give(source, write(5, fid), Flush(6, fid))
    call = source.lanes[Lane.TREE].popleft()
    done = DiskDone(call.token, source.disk.perform(call.request))
    effects = source.volume.step(done, pair.now_ms)
    said = [effect.message if isinstance(effect, Send) else effect.request for effect in effects]
    assert [type(one) for one in said] == [messages.Ops, messages.FlushRequest, SyncFiles]
