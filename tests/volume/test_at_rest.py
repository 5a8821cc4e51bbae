"""When a volume may be looked after less often: only when nothing is under way."""

from __future__ import annotations

import pytest

from mirrorha.core.orders import BecomeTarget, Freeze, ServeAlone, StartResync
from mirrorha.volume.events import AnyEvent, Change, Flush, Lane
from mirrorha.volume.ops import Write
from tests.volume.stream_pair import Node, Pair


def rests(*nodes: Node) -> list[bool]:
    return [node.volume.is_at_rest for node in nodes]


@pytest.mark.parametrize("kind", [Change, Flush])
@pytest.mark.parametrize("lane", [Lane.TREE, Lane.SYNC])
def test_a_mirrored_volume_rests_once_both_nodes_have_done_all(kind: type, lane: Lane) -> None:
    pair = Pair()
    source, follower = pair.mirror()
    fid = pair.make_file(source)
    assert rests(source, follower) == [True, True]
    event: AnyEvent = Change(1, Write(fid, 0, b"x", 1)) if kind is Change else Flush(1, fid)
    pair.give(source, event)
    assert rests(source) == [False]
    pair.settle(held=(follower, lane))
    # With the follower's lane held, the source still waits for what that lane has to do.
    waits = not source.replies
    assert rests(source) == [not waits]
    assert waits == ((kind is Change) is (lane is Lane.TREE))
    pair.settle()
    assert rests(source, follower) == [True, True]


def test_a_frozen_volume_is_looked_after_while_it_has_callers() -> None:
    pair = Pair()
    source, _ = pair.mirror()
    fid = pair.make_file(source)
    pair.order(source, Freeze(token=1))
    pair.settle()
    pair.give(source, Change(1, Write(fid, 0, b"x", 1)))
    pair.settle()
    assert rests(source) == [False]


def test_a_resync_is_looked_after_from_its_order_to_its_end() -> None:
    pair = Pair()
    source, target = pair.nodes
    pair.order(source, ServeAlone(1, "g"))
    pair.settle()
    assert rests(source, target) == [True, True]
    pair.order(source, StartResync(session=1, epoch=1, everything=True, seed=0))
    pair.order(target, BecomeTarget(session=1, epoch=1))
    assert rests(source, target) == [False, False]
    pair.connect()
    pair.settle()
    assert rests(source, target) == [False, False]
