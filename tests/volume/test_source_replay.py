"""A source and a follower that meet again: what is sent a second time, and who is refused."""

from __future__ import annotations

import pytest

from mirrorha.core.orders import (
    AnyOrder,
    Follow,
    Freeze,
    Replayed,
    ServeAlone,
    ServeMirror,
    StopReason,
)
from mirrorha.volume.events import Received
from mirrorha.volume.stream import messages
from mirrorha.volume.stream.pending import VolumeSettings
from tests.volume.source_steps import answered, applied, mirrored, sent, troubles, write
from tests.volume.stream_pair import Node, Pair


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
