"""The whole machine: every event in every stance, arbitrary messages, joining a pair."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorha.core.orders import (
    AnyOrder,
    BecomeTarget,
    Close,
    CutDone,
    CutOver,
    Drain,
    Follow,
    Freeze,
    Frozen,
    NearlyEqual,
    ResyncFailed,
    ServeAlone,
    ServeMirror,
    SetResyncRate,
    SetVerifyRate,
    StartResync,
    StartVerify,
    StopReason,
    StopVerify,
    StreamDown,
    StreamUp,
    Sync,
    Trouble,
)
from mirrorha.core.words import Mode
from mirrorha.errors import InvariantViolation
from mirrorha.volume import ops
from mirrorha.volume.disk import Space
from mirrorha.volume.events import (
    AnyEvent,
    Change,
    DiskCall,
    DiskDone,
    Failure,
    Flush,
    Lane,
    LinkDown,
    LinkUp,
    Ordered,
    Received,
    SpaceSeen,
    Tick,
    Withdraw,
)
from mirrorha.volume.ops import ROOT_FID, AnyOp, Create, Write
from mirrorha.volume.stream import messages
from mirrorha.volume.stream.messages import StreamMessage
from mirrorha.volume.stream.pending import Stance, VolumeSettings
from mirrorha.volume.stream.resync_interface import ResyncEffect, ResyncEvent, ResyncStatus
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.touched import INODE, TouchedState, TouchKey
from mirrorha.volume.verify.messages import (
    AnyVerifyMessage,
    Blocks,
    Look,
    Looked,
    Names,
    Soon,
)
from tests.volume.stream_pair import Copied, Node, Pair

EPOCH = 3


def put(stance: Stance, *, connected: bool = True) -> tuple[Pair, Node]:
    """A node in `stance`, in the midst of something, and the pair that it is one of."""
    pair = Pair()
    node = pair.nodes[0]
    if connected:
        pair.connect()
    follow = Follow(EPOCH, "g", round=1)
    match stance:
        case Stance.CLOSED:
            pass
        case Stance.LOG:
            pair.order(node, ServeAlone(EPOCH, "g"))
        case Stance.MIRROR | Stance.DRAIN | Stance.FROZEN:
            pair.order(pair.nodes[1], follow)
            pair.order(node, ServeMirror(EPOCH, "g", round=1))
            pair.settle()
        case Stance.CUT:
            pair.order(node, ServeAlone(EPOCH, "g"))
            pair.order(pair.nodes[1], BecomeTarget(EPOCH, 1))
            pair.order(node, StartResync(EPOCH, 1, everything=False, seed=0))
            pair.settle()
        case Stance.FOLLOW:
            pair.order(pair.nodes[1], ServeMirror(EPOCH, "g", round=1))
            pair.order(node, follow)
            pair.settle()
        case Stance.TARGET:
            pair.order(pair.nodes[1], ServeAlone(EPOCH, "g"))
            pair.order(node, BecomeTarget(EPOCH, 1))
            pair.order(pair.nodes[1], StartResync(EPOCH, 1, everything=False, seed=0))
            pair.settle()
    for serving in pair.nodes:
        if serving.volume.mode is not None:
            pair.give(serving, Change(900, Create(0, ROOT_FID, "f", 0o600, 0, 0, 900)))
    if stance is Stance.DRAIN:
        pair.order(node, Drain(901))
    elif stance is Stance.FROZEN:
        pair.order(node, Freeze(901))
    elif stance is Stance.CUT:
        pair.order(node, CutOver(901))
    if connected or stance is not Stance.CUT:
        assert node.volume.stance is stance
    return pair, node


SPACE = Space(1 << 30, 1 << 29, 1 << 28, files=1000, files_free=900)
ORDERS: list[AnyOrder] = [
    Freeze(1),
    Sync(2),
    ServeAlone(EPOCH, "g"),
    ServeAlone(EPOCH + 1, "h"),
    ServeMirror(EPOCH, "g", round=1),
    ServeMirror(EPOCH, "g", round=1),
    ServeMirror(EPOCH + 1, "g", round=1),
    Follow(EPOCH, "g", round=1),
    Follow(EPOCH + 1, "g", round=1),
    BecomeTarget(EPOCH, 1),
    BecomeTarget(EPOCH + 1, 2),
    StartResync(EPOCH, 2, everything=True, seed=0),
    CutOver(3),
    Drain(4),
    StartVerify(5, seed=1, rate_bytes_per_s=0),
    SetVerifyRate(1 << 20),
    SetResyncRate(1 << 20),
    StopVerify("why"),
    Close("why", "lyon"),
]
EVENTS: list[AnyEvent] = [
    Change(950, Create(0, ROOT_FID, "x", 0o600, 0, 0, 950)),
    Flush(951, ROOT_FID),
    Withdraw(1),
    Withdraw(952),
    *(Ordered(order) for order in ORDERS),
    DiskDone(10_000, None),
    DiskDone(1, None, "EIO"),
    LinkUp(),
    LinkDown(),
    Received(messages.Begin(EPOCH, "g", 1)),
    Received(messages.At(EPOCH, 1, 0, 0)),
    Received(messages.Ops(EPOCH, "g", 1, 0, [Write(7, 0, b"x", 0)])),
    Received(messages.Ack(EPOCH, 1)),
    Received(messages.Nack(EPOCH, 1, 28, "")),
    Received(messages.FlushRequest(EPOCH, 1, 0, [7])),
    Received(messages.FlushDone(EPOCH, 1)),
    Received(messages.Checkpoint(EPOCH, 0)),
    Received(messages.CheckpointDone(EPOCH, 0)),
    Received(messages.Retire(EPOCH, 0)),
    Received(messages.Ready(EPOCH, 1)),
    Received(messages.AskAgain(EPOCH, 1)),
    Received(messages.SpaceLeft(EPOCH, SPACE)),
    Received(messages.Base(EPOCH, 1, 0, 0)),
    Received(messages.BaseDone(EPOCH, 1, 0)),
    Received(Copied(EPOCH, 1)),
    Received(Look(EPOCH, 5, 1, 0, 1, [Names(ROOT_FID)])),
    Received(Soon(EPOCH, 5, [Blocks(7, 0, 1)])),
    Received(Looked(EPOCH, 5, 1, [None])),
    SpaceSeen(SPACE),
    Tick(),
]


def test_the_tables_are_complete() -> None:
    assert {type(order) for order in ORDERS} == set(typing.get_args(AnyOrder))
    assert {type(event) for event in EVENTS} == set(typing.get_args(AnyEvent))
    found = {type(event.message) for event in EVENTS if isinstance(event, Received)}
    told = {*typing.get_args(StreamMessage), *typing.get_args(AnyVerifyMessage)}
    assert found == told | {Copied}


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("stance", Stance)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event)[:60])
def test_every_event_has_an_effect_in_every_stance(
    stance: Stance, event: AnyEvent, connected: bool
) -> None:
    """Nothing is raised, and afterwards the machine still does what it is told."""
    pair, node = put(stance, connected=connected)
    pair.give(node, event)
    pair.give(node, Tick())
    pair.settle()
    failed = any(isinstance(r, Trouble) and r.reason is StopReason.OWN_DISK for r in node.reports)
    pair.order(node, Freeze(77))
    pair.settle()
    assert Frozen(77) in node.reports
    pair.order(node, ServeAlone(EPOCH + 5, "z"))
    pair.give(node, Change(999, Create(0, ROOT_FID, "last", 0o600, 0, 0, 999)))
    pair.settle()
    if not failed:
        assert {r.failure for r in node.replies if r.token == 999} == {Failure.NONE}
    pair.order(node, Close("the end", None))
    tokens = [reply.token for reply in node.replies]
    assert len(tokens) == len(set(tokens)), "one reply each"
    assert 999 in tokens


def test_modes_of_stances() -> None:
    modes = {stance: put(stance)[1].volume.mode for stance in Stance}
    assert modes == {
        Stance.CLOSED: None,
        Stance.LOG: Mode.LOG,
        Stance.MIRROR: Mode.MIRROR,
        Stance.DRAIN: Mode.MIRROR,
        Stance.CUT: Mode.FROZEN,
        Stance.FROZEN: Mode.FROZEN,
        Stance.FOLLOW: None,
        Stance.TARGET: None,
    }


@pytest.mark.parametrize(
    "order",
    [
        ServeAlone(EPOCH - 1, "g"),
        ServeMirror(EPOCH - 1, "g", round=1),
        Follow(EPOCH - 1, "g", round=1),
    ],
)
def test_an_order_of_a_lower_epoch_is_a_bug_of_the_node(order: AnyOrder) -> None:
    pair, node = put(Stance.LOG)
    with pytest.raises(InvariantViolation):
        pair.order(node, order)


def test_a_copy_that_is_given_up_may_be_filled_from_a_lower_epoch() -> None:
    pair, node = put(Stance.LOG)
    pair.order(node, BecomeTarget(EPOCH - 1, 1))
    assert node.volume.stance is Stance.TARGET


def test_time_does_not_run_backwards() -> None:
    _, node = put(Stance.LOG)
    node.volume.step(Tick(), 5)
    with pytest.raises(InvariantViolation):
        node.volume.step(Tick(), 4)


def test_the_link_is_reported() -> None:
    pair, node = put(Stance.CLOSED, connected=False)
    pair.give(node, LinkDown(), LinkUp(), LinkUp(), LinkDown(), LinkDown())
    assert node.reports == [StreamUp(), StreamDown(), StreamUp(), StreamDown()]


def test_settings_are_positive() -> None:
    with pytest.raises(InvariantViolation, match="window_ops_max"):
        VolumeSettings(window_ops_max=0)


# ---- arbitrary messages --------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-2, 5), st.sampled_from([EPOCH, 1 << 40, 1 << 63, (1 << 64) - 1, -(1 << 63)])
)
texts = st.one_of(st.sampled_from(["g", "a", "..", "", "a/b", "\0"]), st.text(max_size=4))
VALUES: dict[object, st.SearchStrategy[object]] = {
    int: numbers,
    str: texts,
    bytes: st.binary(max_size=8),
    list[int]: st.lists(numbers, max_size=10),
}


def value_of(kind: object) -> st.SearchStrategy[object]:
    if kind in VALUES:
        return VALUES[kind]
    if kind == list[AnyOp]:
        return st.lists(any_op, max_size=3)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return any_struct(kind)
    members = typing.get_args(kind)
    return st.one_of(
        *(st.none() if member is type(None) else value_of(member) for member in members)
    )


def any_struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[object]:
    hints = typing.get_type_hints(kind)
    fields = {name: value_of(hints[name]) for name in kind.__struct_fields__}
    if "epoch" in fields:  # mostly ours, or nothing would happen
        fields["epoch"] = st.one_of(st.just(EPOCH), st.just(EPOCH), numbers)
    return st.builds(kind, **fields)


any_op = st.one_of(*(any_struct(kind) for kind in typing.get_args(AnyOp)))
any_message = st.one_of(*(any_struct(kind) for kind in typing.get_args(StreamMessage)))


@settings(max_examples=300)
@given(
    stance=st.sampled_from(list(Stance)),
    arriving=st.lists(any_message, min_size=1, max_size=12),
    settling=st.booleans(),
)
def test_no_message_raises_anything(stance: Stance, arriving: list[object], settling: bool) -> None:
    """What a peer says, however odd, closes the stream at the worst.

    And nobody is told that something is held by both which the other has not applied.
    """
    pair, node = put(stance)
    pair.settle()
    node.peer.inbox.clear()
    for message in arriving:
        node.volume.step(Received(message), 0) if not settling else pair.give(
            node, Received(message)
        )
    if settling:
        while node.lanes[Lane.TREE]:
            pair.disk(node, Lane.TREE)
    pair.order(node, Close("the end", None))
    assert len({reply.token for reply in node.replies}) == len(node.replies)


def test_the_strategies_make_every_kind() -> None:
    """Or the property above would hold for want of messages."""
    kinds = {*typing.get_args(StreamMessage), *typing.get_args(AnyOp)}
    assert all(set(k.__struct_fields__) == set(typing.get_type_hints(k)) for k in kinds)
    assert ops.Write in kinds


# ---- joining -------------------------------------------------------------------------------------


def joining() -> tuple[Pair, Node, Node]:
    """A source that serves alone and holds a file; a target that holds nothing; resync ordered."""
    pair = Pair()
    source, target = pair.nodes
    pair.order(source, ServeAlone(EPOCH, "g"))
    pair.make_file(source)
    pair.connect()
    pair.order(target, BecomeTarget(EPOCH, 1))
    pair.order(source, StartResync(EPOCH, 1, everything=False, seed=0))
    return pair, source, target


class TestJoin:
    def test_from_alone_to_mirror(self) -> None:
        pair, source, target = joining()
        pair.settle()
        assert NearlyEqual(1) in source.reports
        pair.order(source, CutOver(5))
        pair.give(source, Change(6, Write(EPOCH << 40 | 1, 0, b"x", 6)))
        pair.settle()
        assert CutDone(5) in source.reports
        assert source.replies == [], "nothing is acknowledged from the cut on"
        for node in (source, target):
            assert node.disk.durable == node.disk.tree
            assert node.disk.confirmed == (EPOCH, 1)
        assert (source.disk.retired, target.disk.retired) == ((EPOCH, 1), (0, 0))
        pair.order(source, ServeMirror(EPOCH + 1, "g", round=1))
        pair.settle()
        assert source.replies == [], "the other does not follow yet"
        pair.order(target, Follow(EPOCH + 1, "g", round=1))
        pair.settle()
        assert [reply.token for reply in source.replies] == [6]
        assert target.disk.history == source.disk.history == [1_000_000, 6]

    @pytest.mark.parametrize("late", ["source", "target", "link"])
    def test_whoever_is_ordered_last(self, late: str) -> None:
        pair = Pair()
        source, target = pair.nodes
        pair.order(source, ServeAlone(EPOCH, "g"))
        steps: dict[str, Callable[[], None]] = {
            "source": lambda: pair.order(source, StartResync(EPOCH, 1, False, 0)),
            "target": lambda: pair.order(target, BecomeTarget(EPOCH, 1)),
            "link": pair.connect,
        }
        last = steps.pop(late)
        for step in steps.values():
            step()
        pair.settle()
        assert NearlyEqual(1) not in source.reports
        last()
        pair.settle()
        assert NearlyEqual(1) in source.reports

    def test_the_cut_waits_for_what_is_being_applied(self) -> None:
        pair, source, target = joining()
        pair.settle()
        pair.give(source, Change(6, Write(EPOCH << 40 | 1, 0, b"x", 6)))
        pair.order(source, CutOver(5))
        pair.settle(held=(source, Lane.TREE))
        assert target.disk.history == []
        pair.settle()
        assert CutDone(5) in source.reports
        assert target.disk.history == source.disk.history

    @pytest.mark.parametrize("late", [0, 1])
    def test_the_cut_is_done_once_both_have_synced(self, late: int) -> None:
        pair, source, _ = joining()
        pair.settle()
        pair.order(source, CutOver(5))
        pair.settle(held=(pair.nodes[late], Lane.SYNC))
        assert CutDone(5) not in source.reports
        pair.settle()
        assert CutDone(5) in source.reports

    def test_local_changes_are_told_to_the_resync_once_applied(self) -> None:
        pair, source, _ = joining()
        pair.settle()
        side = source.volume._joining._session.source_side  # type: ignore[union-attr]
        pair.give(source, Change(6, Write(EPOCH << 40 | 1, 0, b"x", 6)))
        assert side.keys == set()  # type: ignore[union-attr]
        pair.settle()
        assert side.keys == {(EPOCH << 40 | 1, 0)}  # type: ignore[union-attr]

    def test_the_union_of_both_logs_is_kept_here(self) -> None:
        pair, source, target = joining()
        target.disk.touched = {(77, INODE)}
        pair.settle()
        assert (77, INODE) in source.disk.touched
        assert (77, INODE) in set(source.volume.touched.state().keys)

    def test_given_up_before_the_cas(self) -> None:
        pair, source, _ = joining()
        pair.settle()
        pair.order(source, CutOver(5))
        pair.give(source, Change(6, Write(EPOCH << 40 | 1, 0, b"x", 6)))
        pair.settle()
        pair.order(source, ServeAlone(EPOCH, "g"))
        pair.settle()
        assert [reply.token for reply in source.replies] == [6]

    @pytest.mark.parametrize("cutting", [False, True])
    def test_a_break_is_a_failure_on_both_sides(self, cutting: bool) -> None:
        pair, source, target = joining()
        pair.settle()
        if cutting:
            pair.order(source, CutOver(5))
        pair.disconnect()
        for node in (source, target):
            failed = [r for r in node.reports if isinstance(r, ResyncFailed)]
            assert [report.session for report in failed] == [1]
        assert source.volume.mode is (Mode.FROZEN if cutting else Mode.LOG)
        pair.connect()
        pair.settle()
        assert CutDone(5) not in source.reports

    def test_a_break_before_the_beginning_is_none(self) -> None:
        pair = Pair()
        source, target = pair.nodes
        pair.order(source, ServeAlone(EPOCH, "g"))
        pair.order(source, StartResync(EPOCH, 1, False, 0))
        pair.connect()
        pair.disconnect()
        pair.connect()
        pair.order(target, BecomeTarget(EPOCH, 1))
        pair.settle()
        assert NearlyEqual(1) in source.reports

    @pytest.mark.parametrize("stance", [s for s in Stance if s not in (Stance.LOG, Stance.CLOSED)])
    def test_only_who_serves_alone_can_start_one(self, stance: Stance) -> None:
        pair, node = put(stance)
        node.reports.clear()
        pair.order(node, StartResync(EPOCH, 8, False, 0))
        assert [r.session for r in node.reports if isinstance(r, ResyncFailed)] == [8]

    def test_a_cut_without_a_resync_fails(self) -> None:
        pair, node = put(Stance.LOG)
        pair.order(node, CutOver(5))
        assert any(isinstance(report, ResyncFailed) for report in node.reports)
        assert node.volume.mode is Mode.LOG

    def test_a_base_out_of_the_blue_closes_the_stream(self) -> None:
        pair, _, target = joining()
        pair.settle()
        pair.give(target, Received(messages.Base(EPOCH, 1, 50, 1234)))
        assert len(pair.resets) == 1
        assert target.volume.seq == 0

    def test_a_base_of_another_session_is_ignored(self) -> None:
        pair, _, target = joining()
        pair.settle()
        pair.give(target, Received(messages.Base(EPOCH, 2, 50, 1234)))
        assert target.volume.counts.out_of_place == 1

    def test_a_target_first_ends_what_it_was_applying(self) -> None:
        pair = Pair()
        source, target = pair.nodes
        pair.order(target, ServeAlone(EPOCH, "g"))
        pair.give(target, Change(5, Create(0, ROOT_FID, "stale", 0o600, 0, 0, 5)))
        pair.connect()
        pair.order(source, ServeAlone(EPOCH + 1, "h"))
        pair.order(target, BecomeTarget(EPOCH + 1, 1))
        pair.order(source, StartResync(EPOCH + 1, 1, False, 0))
        pair.settle(held=(target, Lane.TREE))
        assert NearlyEqual(1) not in source.reports
        pair.settle()
        assert NearlyEqual(1) in source.reports

    def test_a_target_stands_nowhere_before_it_is_told(self) -> None:
        pair = Pair()
        source, follower = pair.mirror(EPOCH)
        pair.order(follower, BecomeTarget(EPOCH, 1))
        pair.order(source, ServeMirror(EPOCH, "g", round=7))
        pair.order(follower, Follow(EPOCH, "g", round=7))
        pair.settle()
        assert not source.volume.streaming
        assert any(isinstance(report, Trouble) for report in source.reports)

    def test_a_disk_that_fails_ends_it(self) -> None:
        pair, source, target = joining()
        pair.settle()
        target.disk.broken = True
        pair.order(source, CutOver(5))
        pair.settle()
        assert any(isinstance(report, ResyncFailed) for report in target.reports)
        assert CutDone(5) not in source.reports

    def test_a_side_that_fails_ends_it(self) -> None:
        pair, source, _ = joining()
        source.volume._joining._resyncs = _Failing()
        pair.settle()
        failed = [report for report in source.reports if isinstance(report, ResyncFailed)]
        assert failed == [ResyncFailed(1, "no such file", here=True)]
        assert source.volume.mode is Mode.LOG


class _FailingSide:
    status, failure, failed_here = ResyncStatus.FAILED, "no such file", True

    def start(self, now_ms: int) -> Sequence[ResyncEffect]:
        return []

    step: Callable[[ResyncEvent, int], Sequence[ResyncEffect]]

    def touched(self, keys: Sequence[TouchKey]) -> None: ...

    def set_rate(self, rate_bytes_per_s: int) -> None: ...

    def final_pass(self, now_ms: int) -> Sequence[ResyncEffect]:
        return []


class _Failing:
    def source(self, order: StartResync, touched: Sequence[TouchKey]) -> _FailingSide:
        return _FailingSide()

    def target(
        self, order: BecomeTarget, touched: Sequence[TouchKey], filled: FidSet
    ) -> _FailingSide:
        return _FailingSide()


def test_loaded_entries_are_there() -> None:
    pair = Pair()
    node = pair.nodes[0]
    node.disk.touched = {(7, 0)}
    node.boot()
    assert node.volume.touched.state().keys == [(7, 0)]
    assert node.disk.state() == TouchedState([(7, 0)])


def test_disk_calls_have_tokens_of_their_own() -> None:
    _, node = put(Stance.LOG)
    tokens = [
        effect.token
        for n in range(5)
        for effect in node.volume.step(Change(n, Write(7, n, b"x", n)), 0)
        if isinstance(effect, DiskCall)
    ]
    assert len(tokens) == len(set(tokens)) >= 5
