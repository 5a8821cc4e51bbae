"""Hello: who belongs together is decided alike on both sides, and every reason is named."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.errors import LocalUsageError, PeerProtocolError
from mirrorha.wire.hello import (
    HELLO_CODEC,
    MAGIC,
    Agreed,
    Disagreement,
    Hello,
    HelloRule,
    Refused,
    Welcome,
    compare,
    encode_hello,
    printable,
)
from mirrorha.wire.limits import (
    HELLO_KEY_LENGTH_MAX,
    HELLO_KEYS_MAX,
    REASON_LENGTH_MAX,
)
from tests.wire.hellos import LYON, PARIS, but

DIFFERENT: Final[dict[str, tuple[dict[str, Any], HelloRule, list[str]]]] = {
    "magic": ({"magic": "etcd"}, HelloRule.NOT_MIRRORHA, ["'etcd'"]),
    "versions": (
        {"version_min": 2, "version_max": 4},
        HelloRule.NO_COMMON_VERSION,
        ["'1' on 'paris'", "'2 to 4' on 'lyon'"],
    ),
    "cluster": (
        {"cluster": "bills"},
        HelloRule.OTHER_CLUSTER,
        ["'orders' on 'paris'", "'bills' on 'lyon'"],
    ),
    "cluster id": (
        {"cluster_id": "c2"},
        HelloRule.OTHER_CLUSTER_ID,
        ["'c1' on 'paris'", "'c2' on 'lyon'"],
    ),
    "same node": ({"node": "paris"}, HelloRule.SAME_NODE, ["both sides", "'paris'"]),
    "other node": ({"node": "nice"}, HelloRule.OTHER_NODE, ["'lyon'", "this is 'nice'"]),
    "other peer": ({"peer": "nice"}, HelloRule.OTHER_NODE, ["'nice'", "this is 'paris'"]),
    "kind": ({"kind": "stream"}, HelloRule.OTHER_KIND, ["'control'", "'stream'"]),
    "volume": ({"volume": "v2"}, HelloRule.OTHER_VOLUME, ["'' on 'paris'", "'v2' on 'lyon'"]),
    "setting": (
        {"must_agree": {"volumes": "/data", "ack": "applied"}},
        HelloRule.SETTING_DIFFERS,
        ["'volumes'", "'/srv' on 'paris'", "'/data' on 'lyon'"],
    ),
    "missing setting": (
        {"must_agree": {"volumes": "/srv"}},
        HelloRule.SETTING_DIFFERS,
        ["'ack'", "'applied' on 'paris'", "nothing on 'lyon'"],
    ),
}


def test_nodes_that_fit_agree() -> None:
    verdict = compare(PARIS, LYON)
    assert verdict == Agreed(version=1, peer=LYON, warnings=())
    assert compare(LYON, PARIS) == Agreed(version=1, peer=PARIS, warnings=())


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_named(what: str) -> None:
    changes, rule, words = DIFFERENT[what]
    verdict = compare(PARIS, but(LYON, **changes))
    assert isinstance(verdict, Disagreement)
    assert [difference.rule for difference in verdict.differences] == [rule]
    for word in words:
        assert word in verdict.reason


def test_every_rule_has_its_case() -> None:
    found_elsewhere = {HelloRule.LEFT_OVER}  # by a volume's worker, which knows what it waits for
    assert {rule for _, rule, _ in DIFFERENT.values()} == set(HelloRule) - found_elsewhere


@pytest.mark.parametrize("what", [what for what in DIFFERENT if what != "magic"])
def test_the_mirror_image_gives_the_same_reasons(what: str) -> None:
    changed = but(LYON, **DIFFERENT[what][0])
    if changed.node == changed.peer:
        changed = but(changed, peer="lyon")
    here, there = compare(PARIS, changed), compare(changed, PARIS)
    assert isinstance(here, Disagreement)
    assert isinstance(there, Disagreement)
    assert here.reason == there.reason


def test_all_reasons_are_given_at_once() -> None:
    theirs = but(LYON, cluster_id="c2", must_agree={"volumes": "/data", "ack": "durable"})
    verdict = compare(PARIS, theirs)
    assert isinstance(verdict, Disagreement)
    assert len(verdict.differences) == 3
    assert verdict.as_refused().keys == ("ack", "volumes")


@pytest.mark.parametrize(("mine", "theirs"), [(None, "c1"), ("c1", None), (None, None)])
def test_a_new_node_has_no_cluster_id_yet(mine: str | None, theirs: str | None) -> None:
    verdict = compare(but(PARIS, cluster_id=mine), but(LYON, cluster_id=theirs))
    assert isinstance(verdict, Agreed)


@pytest.mark.parametrize(
    ("mine", "theirs", "agreed"),
    [((1, 3), (2, 5), 3), ((1, 1), (1, 9), 1), ((2, 5), (1, 3), 3), ((4, 4), (1, 4), 4)],
)
def test_the_highest_common_version_is_spoken(
    mine: tuple[int, int], theirs: tuple[int, int], agreed: int
) -> None:
    verdict = compare(
        but(PARIS, version_min=mine[0], version_max=mine[1]),
        but(LYON, version_min=theirs[0], version_max=theirs[1]),
    )
    assert isinstance(verdict, Agreed)
    assert verdict.version == agreed


def test_other_settings_give_warnings_by_name() -> None:
    verdict = compare(PARIS, but(LYON, may_differ={"probe.port": "9011", "restart_limit": "5"}))
    assert isinstance(verdict, Agreed)
    assert verdict.warnings == (
        "'probe.port' differs: '9011' on 'lyon', '9010' on 'paris'",
        "'restart_limit' differs: '5' on 'lyon', nothing on 'paris'",
    )


names = st.sampled_from(["paris", "lyon", "nice"])
settings = st.dictionaries(st.sampled_from("abc"), st.text(max_size=3), max_size=3)
hellos = st.builds(
    Hello,
    magic=st.just(MAGIC),
    version_min=st.integers(-2, 3),
    version_max=st.integers(-2, 4),
    cluster=st.sampled_from(["orders", "bills"]),
    cluster_id=st.sampled_from([None, "c1", "c2"]),
    node=names,
    peer=names,
    kind=st.sampled_from(["control", "stream", "?"]),
    volume=st.sampled_from(["", "v1"]),
    incarnation=st.just("1"),
    boot_id=st.just("b"),
    must_agree=settings,
    may_differ=settings,
).filter(lambda hello: hello.node != hello.peer)


@given(one=hellos, other=hellos)
def test_both_sides_come_to_the_same_verdict(one: Hello, other: Hello) -> None:
    here, there = compare(one, other), compare(other, one)
    match here, there:
        case Agreed(), Agreed():
            assert here.version == there.version
            assert here.warnings == there.warnings
        case Disagreement(), Disagreement():
            assert here.reason == there.reason
        case _:
            pytest.fail(f"{here} but {there}")


@given(one=hellos)
def test_nobody_agrees_with_himself(one: Hello) -> None:
    assert isinstance(compare(one, one), Disagreement)


def test_a_hostile_hello_neither_floods_nor_steers_a_log() -> None:
    keys = {f"\x1b[2J\n{i:03}".ljust(HELLO_KEY_LENGTH_MAX, "x"): "\r\n" * 500 for i in range(200)}
    verdict = compare(PARIS, but(LYON, must_agree=keys, node="a\nb"))
    assert isinstance(verdict, Disagreement)
    assert len(verdict.reason) <= REASON_LENGTH_MAX
    assert verdict.reason.isprintable()
    refused = verdict.as_refused()
    assert len(refused.keys) <= HELLO_KEYS_MAX
    assert HELLO_CODEC.decode(HELLO_CODEC.encode(refused)) == refused


def test_a_refusal_fits_in_its_frame_whatever_it_quotes() -> None:
    mine = {f"{i:03}".ljust(HELLO_KEY_LENGTH_MAX, "\U0001f600"): "" for i in range(120)}
    theirs = {f"{i:03}".ljust(HELLO_KEY_LENGTH_MAX, "\U0001f601"): "" for i in range(120)}
    hello = but(LYON, must_agree=theirs)
    assert HELLO_CODEC.decode(HELLO_CODEC.encode(hello)) == hello  # so much can arrive
    verdict = compare(but(PARIS, must_agree=mine), hello)
    assert isinstance(verdict, Disagreement)
    refused = verdict.as_refused()
    assert HELLO_CODEC.decode(HELLO_CODEC.encode(refused)) == refused
    assert refused.keys


def test_our_own_hello_is_checked_before_it_is_sent() -> None:
    assert HELLO_CODEC.decode(encode_hello(PARIS)) == PARIS
    for wrong in ({"volume": "v" * 4097}, {"must_agree": {"k": "v" * 4097}}, {"node": "n" * 64}):
        with pytest.raises(LocalUsageError, match="would be refused"):
            encode_hello(but(PARIS, **wrong))
    many = {str(i): "v" * 4000 for i in range(20)}
    with pytest.raises(LocalUsageError, match="exceeds"):
        encode_hello(but(PARIS, may_differ=many))


def test_printable() -> None:
    assert printable("naïve\x1b[31m\nx") == "naïve?[31m?x"


@pytest.mark.parametrize(
    "too_much",
    [
        but(LYON, node="n" * 64),
        but(LYON, magic="m" * 129),
        but(LYON, must_agree={str(i): "" for i in range(HELLO_KEYS_MAX + 1)}),
        but(LYON, must_agree={"k" * (HELLO_KEY_LENGTH_MAX + 1): ""}),
        but(LYON, may_differ={"k": "v" * 4097}),
    ],
)
def test_a_hello_is_bounded(too_much: Hello) -> None:
    raw = msgspec.msgpack.encode(too_much)
    with pytest.raises(PeerProtocolError):
        HELLO_CODEC.decode(raw)


def test_the_first_hello_ever_is_understood_for_ever() -> None:
    """The shortest form that any version sends: a later version must read it."""
    raw = msgspec.msgpack.encode([1, MAGIC, 1, 1, "o", None, "a", "b", "control", "", "1", "x"])
    hello = HELLO_CODEC.decode(raw)
    assert isinstance(hello, Hello)
    assert (hello.must_agree, hello.may_differ, hello.software) == ({}, {}, "")
    assert HELLO_CODEC.decode(msgspec.msgpack.encode([2, 1])) == Welcome(1)
    assert HELLO_CODEC.decode(msgspec.msgpack.encode([3, "no"])) == Refused("no")


def test_fields_of_later_versions_are_ignored() -> None:
    raw = msgspec.msgpack.encode([2, 1, "later", {"x": [1]}])
    assert HELLO_CODEC.decode(raw) == Welcome(1)
