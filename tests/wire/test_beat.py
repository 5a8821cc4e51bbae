"""The datagram, its authentication and its protection against replay."""

from __future__ import annotations

import hmac
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.core.words import Role
from mirrorha.errors import InvariantViolation, LocalUsageError, PeerProtocolError
from mirrorha.wire.beat import (
    BEAT_BYTES_MAX,
    BEAT_BYTES_MIN,
    KEY_BYTES_MIN,
    PATHS_MAX,
    Beat,
    Echo,
    Heart,
    ReplayGuard,
    Status,
    decode_beat,
    encode_beat,
    name_tag,
)

KEY = bytes(range(32))
ORDERS, PARIS, LYON = name_tag("orders"), name_tag("paris"), name_tag("lyon")
U32_MAX, U64_MAX = 2**32 - 1, 2**64 - 1

u64 = st.integers(0, U64_MAX)
counts = st.integers(1, U64_MAX)
beats = st.builds(
    Beat,
    path=st.integers(0, PATHS_MAX - 1),
    cluster=st.just(ORDERS),
    sender=st.just(PARIS),
    incarnation=counts,
    sequence=counts,
    sent_ms=u64,
    echo=st.none()
    | st.builds(Echo, incarnation=counts, sequence=u64, age_ms=st.integers(0, U32_MAX)),
    loop_age_ms=st.integers(0, U32_MAX),
    status=st.builds(Status, role=st.sampled_from(Role), epoch=u64, stopping=st.booleans()),
    goodbye=st.booleans(),
)
SAMPLE = Beat(
    path=1,
    cluster=ORDERS,
    sender=PARIS,
    incarnation=7,
    sequence=99,
    sent_ms=123_456,
    echo=Echo(incarnation=3, sequence=41, age_ms=12),
    loop_age_ms=5,
    status=Status(role=Role.PRIM, epoch=17),
    goodbye=False,
)


def decode(raw: bytes, key: bytes = KEY) -> Beat:
    return decode_beat(raw, key, cluster=ORDERS, sender=PARIS)


def heart(node: str, peer: str, *, incarnation: int = 1, peer_incarnation_min: int = 1) -> Heart:
    return Heart(
        cluster="orders",
        node=node,
        peer=peer,
        key=KEY,
        incarnation=incarnation,
        peer_incarnation_min=peer_incarnation_min,
    )


def beat_of(one: Heart, path: int = 0, *, now_ms: int = 0, goodbye: bool = False) -> bytes:
    return one.beat(path, now_ms=now_ms, loop_age_ms=0, status=Status(), goodbye=goodbye)


# The datagram


@given(beats)
def test_what_is_sent_is_what_is_read(beat: Beat) -> None:
    raw = encode_beat(beat, KEY)
    assert len(raw) == BEAT_BYTES_MIN
    assert decode(raw) == beat


def test_the_layout_is_what_it_was() -> None:
    # Nodes of different versions talk to each other: change the version with the layout.
    assert encode_beat(SAMPLE, KEY).hex() == (
        "6d484162"
        "01"
        "00"
        "04"
        "01" + ORDERS.hex() + PARIS.hex() + "0000000000000007"
        "0000000000000063"
        "000000000001e240"
        "0000000000000003"
        "0000000000000029"
        "0000000c"
        "00000005"
        "0000000000000011"
        "566131a921c3ab3575953a2539f384fd"
    )


@given(beats, st.integers(0, BEAT_BYTES_MIN * 8 - 1))
def test_any_flipped_bit_is_refused(beat: Beat, bit: int) -> None:
    raw = bytearray(encode_beat(beat, KEY))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PeerProtocolError):
        decode(bytes(raw))


def test_every_flipped_bit_of_one_beat_is_refused() -> None:
    raw = encode_beat(SAMPLE, KEY)
    for bit in range(len(raw) * 8):
        forged = bytearray(raw)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PeerProtocolError):
            decode(bytes(forged))


@given(st.binary(max_size=BEAT_BYTES_MAX + 50))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        decode(raw)


@given(beats, st.binary(max_size=40), st.integers(0, BEAT_BYTES_MIN))
def test_no_bytes_that_begin_like_a_beat_raise_anything_else(
    beat: Beat, tail: bytes, cut: int
) -> None:
    raw = encode_beat(beat, KEY)
    if raw[:cut] + tail != raw:
        with pytest.raises(PeerProtocolError):
            decode(raw[:cut] + tail)


@given(st.binary(min_size=BEAT_BYTES_MIN - 31, max_size=BEAT_BYTES_MIN + 50))
def test_an_authentic_sender_of_nonsense_raises_nothing_else(rest: bytes) -> None:
    # The key is right and the contents are anything: checks after the tag must be as careful.
    body = b"mHAb\x01" + rest[:3] + ORDERS + PARIS + rest[3:]
    mac = hmac_of(body)
    try:
        beat = decode(body + mac)
    except PeerProtocolError:
        return
    assert beat.path < PATHS_MAX
    assert beat.incarnation > 0
    assert beat.sequence > 0


def hmac_of(body: bytes) -> bytes:
    return hmac.digest(KEY, body, "sha256")[:16]


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [
        (6, b"\x00", "names role 0"),
        (6, b"\x63", "names role 99"),
        (7, bytes([PATHS_MAX]), "names path 64"),
        (24, bytes(8), "counts from 0"),
        (32, bytes(8), "counts from 0"),
    ],
)
def test_authentic_nonsense_is_named(offset: int, value: bytes, text: str) -> None:
    body = bytearray(encode_beat(SAMPLE, KEY)[:-16])
    body[offset : offset + len(value)] = value
    with pytest.raises(PeerProtocolError, match=text):
        decode(bytes(body) + hmac_of(bytes(body)))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cluster": name_tag("stock")}, "another cluster"),
        ({"sender": LYON}, "another node"),
    ],
)
def test_whose_beat_it_is_is_checked(change: dict[str, Any], text: str) -> None:
    with pytest.raises(PeerProtocolError, match=text):
        decode(encode_beat(attrs.evolve(SAMPLE, **change), KEY))


def test_another_key_is_refused_and_says_so() -> None:
    with pytest.raises(PeerProtocolError, match="not authentic: the peer has keys of another"):
        decode(encode_beat(SAMPLE, KEY[::-1]))


def test_another_version_is_refused_and_says_so() -> None:
    raw = bytearray(encode_beat(SAMPLE, KEY))
    raw[4] = 9
    with pytest.raises(PeerProtocolError, match="version 9, this node reads 1"):
        decode(bytes(raw))


def test_fields_that_a_later_version_appends_are_passed_over() -> None:
    body = encode_beat(SAMPLE, KEY)[:-16] + b"more to know"
    assert decode(body + hmac_of(body)) == SAMPLE


def test_ages_are_cut_off_and_never_wrap() -> None:
    old = attrs.evolve(
        SAMPLE, loop_age_ms=2**40, echo=Echo(incarnation=1, sequence=1, age_ms=2**40)
    )
    read = decode(encode_beat(old, KEY))
    assert read.loop_age_ms == U32_MAX
    assert read.echo == Echo(incarnation=1, sequence=1, age_ms=U32_MAX)


def test_a_short_key_is_refused_on_both_sides() -> None:
    short = KEY[: KEY_BYTES_MIN - 1]
    with pytest.raises(LocalUsageError, match="15 bytes"):
        encode_beat(SAMPLE, short)
    with pytest.raises(LocalUsageError, match="keys init"):
        decode(encode_beat(SAMPLE, KEY), short)


@pytest.mark.parametrize(
    "change",
    [{"path": PATHS_MAX}, {"incarnation": 0}, {"sequence": 0}, {"sent_ms": -1}, {"cluster": b""}],
)
def test_what_would_be_refused_is_not_sent(change: dict[str, Any]) -> None:
    with pytest.raises(InvariantViolation):
        encode_beat(attrs.evolve(SAMPLE, **change), KEY)


def test_an_echo_of_another_incarnation_of_ours_says_nothing_of_this_one() -> None:
    assert SAMPLE.for_detector(incarnation=3).echo_sequence == 41
    assert SAMPLE.for_detector(incarnation=4).echo_sequence is None
    assert attrs.evolve(SAMPLE, echo=None).for_detector(incarnation=3).echo_sequence is None


# Replay


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 6)), max_size=60))
def test_the_guard_lets_pass_what_rises_and_nothing_else(
    tries: list[tuple[int, int, int]],
) -> None:
    guard = ReplayGuard()
    passed: list[tuple[int, int, int]] = []
    for path, incarnation, sequence in tries:
        beat = attrs.evolve(SAMPLE, path=path, incarnation=incarnation, sequence=sequence)
        rises = all(
            incarnation >= past_incarnation
            and (path != past_path or (incarnation, sequence) > (past_incarnation, past_sequence))
            for past_path, past_incarnation, past_sequence in passed
        )
        if rises:
            guard.check(beat)
            passed.append((path, incarnation, sequence))
            assert guard.newest(path) == (incarnation, sequence)
        else:
            with pytest.raises(PeerProtocolError):
                guard.check(beat)


def test_the_guard_knows_incarnations_from_before_its_time() -> None:
    guard = ReplayGuard(incarnation_min=8)
    with pytest.raises(PeerProtocolError, match="8 is known already"):
        guard.check(SAMPLE)
    guard.check(attrs.evolve(SAMPLE, incarnation=8))


# One node's side


def test_two_hearts_hear_each_other_and_echo() -> None:
    paris, lyon = heart("paris", "lyon", incarnation=4), heart("lyon", "paris", incarnation=9)
    first = lyon.hear(0, beat_of(paris, now_ms=1_000), now_ms=50)
    assert (first.incarnation, first.sequence, first.echo) == (4, 1, None)
    answer = paris.hear(0, beat_of(lyon, now_ms=80), now_ms=1_001)
    assert answer.echo == Echo(incarnation=4, sequence=1, age_ms=30)
    assert answer.for_detector(incarnation=paris.incarnation).echo_sequence == 1


def test_a_recorded_beat_is_heard_once() -> None:
    paris, lyon = heart("paris", "lyon"), heart("lyon", "paris")
    recorded = beat_of(paris)
    lyon.hear(0, recorded, now_ms=0)
    with pytest.raises(PeerProtocolError, match="heard before"):
        lyon.hear(0, recorded, now_ms=1)
    lyon.hear(0, beat_of(paris), now_ms=2)
    with pytest.raises(PeerProtocolError, match="heard before"):
        lyon.hear(0, recorded, now_ms=3)


def test_a_recorded_beat_is_of_no_use_on_another_path() -> None:
    paris, lyon = heart("paris", "lyon"), heart("lyon", "paris")
    with pytest.raises(PeerProtocolError, match="path 0 came on path 1"):
        lyon.hear(1, beat_of(paris, 0), now_ms=0)


def test_what_is_refused_leaves_nothing_behind() -> None:
    paris, lyon = heart("paris", "lyon"), heart("lyon", "paris")
    beat_of(paris, 0)
    recorded = beat_of(paris, 0)
    with pytest.raises(PeerProtocolError):
        lyon.hear(1, recorded, now_ms=0)
    with pytest.raises(PeerProtocolError):
        lyon.hear(0, recorded[:-1] + bytes([recorded[-1] ^ 1]), now_ms=0)
    assert lyon.hear(0, recorded, now_ms=0).sequence == 2


def test_our_own_beat_reflected_is_refused() -> None:
    paris = heart("paris", "lyon")
    with pytest.raises(PeerProtocolError, match="reflected"):
        paris.hear(0, beat_of(paris), now_ms=0)


def test_a_restart_counts_on_and_its_past_is_refused() -> None:
    lyon = heart("lyon", "paris")
    before, after = heart("paris", "lyon", incarnation=1), heart("paris", "lyon", incarnation=2)
    past = [beat_of(before) for _ in range(5)]
    lyon.hear(0, past[0], now_ms=0)
    assert lyon.hear(0, beat_of(after), now_ms=1).sequence == 1
    for raw in past:
        with pytest.raises(PeerProtocolError, match="incarnation 1, 2 is known"):
            lyon.hear(0, raw, now_ms=2)


def test_a_recorded_goodbye_of_an_older_incarnation_is_refused_after_our_restart() -> None:
    goodbye = beat_of(heart("paris", "lyon", incarnation=4), goodbye=True)
    lyon = heart("lyon", "paris", peer_incarnation_min=5)
    with pytest.raises(PeerProtocolError, match="a replay"):
        lyon.hear(0, goodbye, now_ms=0)


def test_renewing_rises_and_the_sequence_goes_on() -> None:
    paris, lyon = heart("paris", "lyon", incarnation=4), heart("lyon", "paris")
    lyon.hear(0, beat_of(paris), now_ms=0)
    paris.renew(6)
    beat = lyon.hear(0, beat_of(paris), now_ms=0)
    assert (beat.incarnation, beat.sequence) == (6, 2)
    with pytest.raises(InvariantViolation, match="rise"):
        paris.renew(6)


def test_both_nodes_cannot_have_one_name() -> None:
    with pytest.raises(LocalUsageError, match="different names"):
        heart("paris", "paris")
