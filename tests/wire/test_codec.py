"""Codecs: any bytes are a message or a PeerProtocolError, and versions understand each other."""

from __future__ import annotations

import time
import tracemalloc
from typing import Annotated, Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.errors import InvariantViolation, PeerProtocolError
from mirrorha.wire.codec import Codec
from mirrorha.wire.limits import CONTROL_FRAME_BYTES_MAX


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=1):
    seq: int
    note: str = ""


class Listing(msgspec.Struct, frozen=True, array_like=True, tag=2):
    names: list[str]
    sizes: dict[str, int]
    digests: tuple[bytes, ...] = ()
    name: Annotated[str, msgspec.Meta(max_length=5)] | None = None


class Nested(msgspec.Struct, frozen=True, array_like=True, tag=3):
    tree: list[Any]


CODEC: Final[Codec[Ping | Listing | Nested]] = Codec(Ping | Listing | Nested)

messages = st.one_of(
    st.builds(Ping, seq=st.integers(-(2**63), 2**64 - 1), note=st.text(max_size=30)),
    st.builds(
        Listing,
        names=st.lists(st.text(max_size=10), max_size=5),
        sizes=st.dictionaries(st.text(max_size=5), st.integers(0, 2**32), max_size=4),
        digests=st.lists(st.binary(max_size=16), max_size=3).map(tuple),
        name=st.none() | st.text(max_size=5),
    ),
)


@given(message=messages)
def test_a_message_arrives_as_it_was(message: Ping | Listing) -> None:
    assert CODEC.decode(CODEC.encode(message)) == message
    assert CODEC.decode(memoryview(bytearray(CODEC.encode(message)))) == message


def decode_or_refuse(raw: bytes) -> None:
    try:
        decoded = CODEC.decode(raw)
    except PeerProtocolError:
        return
    assert isinstance(decoded, Ping | Listing | Nested)


@given(raw=st.binary(max_size=400))
def test_any_bytes_are_a_message_or_refused(raw: bytes) -> None:
    decode_or_refuse(raw)


# Bytes that look like the beginning of a message reach deeper than random ones.
plausible = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.binary(max_size=8),
        st.text(max_size=8),
        st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=12)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=4),
    ),
    max_leaves=12,
)


@given(
    tag=st.integers(0, 5),
    fields=st.lists(plausible, max_size=6),
    flips=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 3),
)
def test_near_messages_are_messages_or_refused(
    tag: int, fields: list[Any], flips: list[tuple[int, int]], cut: int
) -> None:
    raw = bytearray(msgspec.msgpack.encode([tag, *fields]))
    for at, value in flips:
        raw[at % len(raw)] = value
    decode_or_refuse(bytes(raw[: len(raw) - cut]))


HOSTILE: Final = {
    "an array of 4 Gi": b"\xdd\xff\xff\xff\xff",
    "a list of 4 Gi": b"\x94\x02\xdd\xff\xff\xff\xff",
    "a list of 96 Mi": b"\x94\x02\xdd\x05\xff\xff\xff",
    "a map of 4 Gi": b"\x94\x02\x90\xdf\xff\xff\xff\xff",
    "a tuple of 4 Gi": b"\x94\x02\x90\x80\xdd\xff\xff\xff\xff",
    "bytes of 4 Gi": b"\x94\x02\x90\x80\x91\xc6\xff\xff\xff\xff",
    "text of 4 Gi": b"\x93\x01\x01\xdb\xff\xff\xff\xff",
    "an unknown field of 4 Gi": b"\x94\x01\x01\xa0\xdd\xff\xff\xff\xff",
    "text that is not UTF-8": b"\x93\x01\x01\xa2\xff\xff",
    "a name that is not UTF-8": b"\x93\x02\x91\xa1\xff\x80",
    "a deep unknown field": b"\x94\x01\x01\xa0" + b"\x91" * 100_000,
    "a deep field": b"\x92\x03" + b"\x91" * 100_000,
    "nothing": b"",
    "bytes behind the message": b"\x92\x01\x05\x00",
    "an unknown tag": b"\x92\x09\x05",
    "text for a tag": b"\x92\xa4Ping\x05",
    "a map for a message": b"\x81\xa3seq\x05",
    "text for a number": b"\x92\x01\xa15",
    "text that is too long": b"\x95\x02\x90\x80\x90\xa6abcdef",
    "too few fields": b"\x91\x01",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused_cheaply(raw: bytes) -> None:
    tracemalloc.start()
    began_s = time.process_time()
    try:
        with pytest.raises(PeerProtocolError) as caught:
            CODEC.decode(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        assert time.process_time() - began_s < 1
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 400


def test_a_message_that_is_too_long_is_refused_unread() -> None:
    small: Codec[Ping] = Codec(Ping, bytes_max=10)
    with pytest.raises(PeerProtocolError, match="11 bytes exceeds the 10"):
        small.decode(b"\x93\x01\x01\xa7abcdefg")
    assert small.decode(b"\x93\x01\x01\xa6abcdef") == Ping(1, "abcdef")
    with pytest.raises(InvariantViolation):
        small.encode(Ping(1, "abcdefg"))


def test_memory_is_in_proportion_to_the_message() -> None:
    raw = b"\x92\x03\xdd\x00\x03\xff\x00" + b"\x90" * 0x3FF00
    assert len(raw) <= CONTROL_FRAME_BYTES_MAX
    tracemalloc.start()
    try:
        CODEC.decode(raw)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(raw)
    finally:
        tracemalloc.stop()


class PingLater(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """`Ping` as a later version may have it."""

    seq: int
    note: str = ""
    urgency: int = 7
    trace: dict[str, list[int]] = {}


LATER: Final[Codec[PingLater]] = Codec(PingLater)


def test_an_older_reader_ignores_later_fields() -> None:
    raw = LATER.encode(PingLater(3, "n", 9, {"a": [1, 2]}))
    assert CODEC.decode(raw) == Ping(3, "n")


def test_a_newer_reader_fills_in_defaults() -> None:
    assert LATER.decode(CODEC.encode(Ping(3, "n"))) == PingLater(3, "n", 7, {})


class NotArrayLike(msgspec.Struct, tag=1):
    seq: int


class TextTag(msgspec.Struct, array_like=True, tag=True):
    seq: int


class Strict(msgspec.Struct, array_like=True, tag=4, forbid_unknown_fields=True):
    seq: int


class SameTag(msgspec.Struct, array_like=True, tag=1):
    name: str


@pytest.mark.parametrize("wrong", [NotArrayLike, TextTag, Strict, Ping | NotArrayLike, int])
def test_types_that_cannot_evolve_are_our_bug(wrong: Any) -> None:
    with pytest.raises(InvariantViolation):
        Codec(wrong)


def test_a_tag_is_used_once() -> None:
    with pytest.raises((InvariantViolation, TypeError)):
        Codec(Ping | SameTag)
