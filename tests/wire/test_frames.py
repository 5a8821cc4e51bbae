"""Frames: whatever arrives, in whatever pieces, is a frame or a PeerProtocolError."""

from __future__ import annotations

import itertools
import os
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.errors import InvariantViolation, PeerProtocolError
from mirrorha.wire.frames import FORMAT, MAGIC, Frame, FrameReader, encode_frame
from mirrorha.wire.limits import (
    FRAME_BYTES_MAX,
    FRAME_HEADER_BYTES,
    JOIN_BYTES_MAX,
    WRITE_BYTES_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

bodies = st.one_of(
    st.binary(max_size=200),
    st.integers(0, 40_000).map(lambda n: bytes(range(256)) * (n // 256) + b"x" * (n % 256)),
)


def encoded(kind: int, *parts: bytes) -> bytes:
    return b"".join(encode_frame(kind, *parts))


def read_all(
    reader: FrameReader, pieces: Iterable[bytes], direct_min: int = 0
) -> list[tuple[int, bytes]]:
    """Feed all pieces; return what came out as plain values.

    With `direct_min` what belongs to a body of which so much is left is put where it belongs.
    """
    frames = []
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            room = reader.room(direct_min) if direct_min else None
            count = len(rest) if room is None else min(len(rest), len(room))
            if room is None:
                reader.feed(rest[:count])
            else:
                assert len(room) >= direct_min
                room[:count] = rest[:count]
                reader.received(count)
            rest = rest[count:]
            while (frame := reader.next_frame()) is not None:
                frames.append((frame.kind, bytes(frame.body)))
    return frames


direct_mins = st.one_of(st.just(0), st.integers(1, 300), st.integers(1, 50_000))


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds)]


@given(
    frames=st.lists(st.tuples(st.integers(1, 255), bodies), max_size=5),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=12),
    direct_min=direct_mins,
)
def test_frames_arrive_however_they_are_cut(
    frames: list[tuple[int, bytes]], cuts: list[int], direct_min: int
) -> None:
    data = b"".join(encoded(kind, body) for kind, body in frames)
    reader = FrameReader(FRAME_BYTES_MAX)
    assert read_all(reader, in_pieces(data, cuts), direct_min) == frames
    assert reader.is_between_frames


@given(
    frames=st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=60)), max_size=4),
    direct_min=direct_mins,
)
def test_frames_arrive_byte_by_byte(frames: list[tuple[int, bytes]], direct_min: int) -> None:
    data = b"".join(encoded(kind, body) for kind, body in frames)
    reader = FrameReader(FRAME_BYTES_MAX)
    assert read_all(reader, (data[i : i + 1] for i in range(len(data))), direct_min) == frames


@given(parts=st.lists(bodies, max_size=6))
def test_parts_are_one_body(parts: list[bytes]) -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    assert read_all(reader, [encoded(7, *parts)]) == [(7, b"".join(parts))]


def test_the_layout_is_the_documented_one() -> None:
    """Two versions of this program must agree on it for ever."""
    assert encoded(2, b"abc").hex(" ") == (
        "b5 48 01 02 00 00 00 03 78 af 5f 94 89 2f 39 50 a6 83 35 06 9c dc a3 d4 61 62 63"
    )


@given(
    kind=st.integers(1, 255),
    body=st.binary(max_size=80),
    flips=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 1 << 16),
    direct_min=direct_mins,
)
def test_damage_is_never_delivered(
    kind: int, body: bytes, flips: list[tuple[int, int]], cut: int, direct_min: int
) -> None:
    good = encoded(kind, body)
    damaged = bytearray(good)
    for at, mask in flips:
        damaged[at % len(good)] ^= mask
    if damaged == good:
        return
    with pytest.raises(PeerProtocolError):
        read_all(FrameReader(FRAME_BYTES_MAX), in_pieces(bytes(damaged), [cut]), direct_min)


@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=40)), max_size=4).flatmap(
            lambda frames: st.binary(max_size=30).map(
                lambda tail: b"".join(encoded(kind, body) for kind, body in frames) + tail
            )
        ),
    ),
    cuts=st.lists(st.integers(0, 300), max_size=5),
    direct_min=direct_mins,
)
def test_any_bytes_are_frames_or_refused(data: bytes, cuts: list[int], direct_min: int) -> None:
    reader = FrameReader(4096)
    try:
        frames = read_all(reader, in_pieces(data, cuts), direct_min)
    except PeerProtocolError:
        assert reader.room(1) is None
        with pytest.raises(PeerProtocolError):  # broken once, broken for ever
            reader.next_frame()
        reader.feed(encoded(1, b""))
        with pytest.raises(PeerProtocolError):
            reader.next_frame()
    else:
        used = b"".join(encoded(kind, body) for kind, body in frames)
        assert data.startswith(used)
        assert reader.is_between_frames == (used == data)


def forged_header(*, kind: int = 1, length: int = 0, version: int = FORMAT) -> bytes:
    """A header that is right but for one thing: as a hostile peer, or a later version, makes it."""
    checked = struct.pack(">2sBBIQ", MAGIC, version, kind, length, xxhash.xxh3_64_intdigest(b""))
    return checked + struct.pack(">Q", xxhash.xxh3_64_intdigest(checked))


def test_a_forged_header_is_right_but_for_one_thing() -> None:
    assert read_all(FrameReader(FRAME_BYTES_MAX), [forged_header()]) == [(1, b"")]


@pytest.mark.parametrize("length", [101, 1 << 20, 0xFFFFFFFF])
def test_a_length_beyond_the_limit_allocates_nothing(length: int) -> None:
    reader = FrameReader(FRAME_HEADER_BYTES + 100)
    reader.feed(forged_header(length=length))
    tracemalloc.start()
    try:
        with pytest.raises(PeerProtocolError, match=f"{length} bytes exceeds the 100"):
            reader.next_frame()
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [0, 1, FRAME_HEADER_BYTES - 1])
def test_there_is_no_room_before_the_header_is_whole(cut: int) -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    data = encoded(1, bytes(100))
    reader.feed(data[:cut])
    assert reader.next_frame() is None
    assert reader.room(1) is None
    reader.feed(data[cut:FRAME_HEADER_BYTES])
    assert reader.next_frame() is None
    room = reader.room(100)
    assert room is not None
    assert len(room) == 100
    assert reader.room(101) is None


def test_there_is_no_room_for_what_is_not_believed() -> None:
    damaged = bytearray(encoded(1, bytes(100)))
    damaged[20] ^= 1
    for header in (bytes(damaged[:-100]), forged_header(length=101)):
        reader = FrameReader(FRAME_HEADER_BYTES + 100)
        reader.feed(header)
        assert reader.room(1) is None
        with pytest.raises(PeerProtocolError):
            reader.next_frame()
        assert reader.room(1) is None


def test_more_is_never_received_than_there_is_room_for() -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    with pytest.raises(InvariantViolation):
        reader.received(1)
    reader.feed(encoded(1, bytes(100))[:-60])
    assert reader.next_frame() is None
    for count in (61, -1):
        with pytest.raises(InvariantViolation):
            reader.received(count)
    reader.received(60)
    assert reader.room(1) is None
    assert reader.next_frame() == Frame(1, memoryview(bytes(100)))
    assert reader.is_between_frames


def test_another_format_is_named() -> None:
    with pytest.raises(PeerProtocolError, match="format 2, this node reads 1"):
        read_all(FrameReader(FRAME_BYTES_MAX), [forged_header(version=2)])


def test_a_frame_has_a_kind() -> None:
    with pytest.raises(PeerProtocolError, match="no kind"):
        read_all(FrameReader(FRAME_BYTES_MAX), [forged_header(kind=0)])


def test_a_stream_broken_once_stays_broken() -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    reader.feed(encoded(1, b"good") + bytes(FRAME_HEADER_BYTES))
    assert reader.next_frame() == Frame(1, memoryview(b"good"))
    for _ in range(2):
        with pytest.raises(PeerProtocolError, match="no frame"):
            reader.next_frame()
        reader.feed(encoded(1, b"good"))
    assert not reader.is_between_frames


def test_a_body_at_the_limit_passes() -> None:
    reader = FrameReader(FRAME_HEADER_BYTES + 100)
    assert read_all(reader, [encoded(1, b"x" * 100)]) == [(1, b"x" * 100)]


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "no frame of mirrorha"),
        (b"\x16\x03\x01" + bytes(40), "no frame of mirrorha"),
        (bytes(24), "no frame of mirrorha"),
    ],
)
def test_strangers_are_named(header: bytes, complaint: str) -> None:
    with pytest.raises(PeerProtocolError, match=complaint):
        read_all(FrameReader(FRAME_BYTES_MAX), [header])


@pytest.mark.parametrize("direct_min", [0, 1])
def test_memory_is_bounded_by_one_frame_and_one_piece(direct_min: int) -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    data = memoryview(encoded(3, bytes(WRITE_BYTES_MAX)))
    tracemalloc.start()
    try:
        for _ in range(5):
            at = 0
            while at < len(data):
                room = reader.room(direct_min) if direct_min else None
                if room is None:
                    count = min(65_536, len(data) - at)
                    reader.feed(data[at : at + count])
                else:
                    count = len(room)
                    room[:] = data[at : at + count]
                    reader.received(count)
                del room
                at += count
                reader.next_frame()
        assert tracemalloc.get_traced_memory()[1] < 1.5 * WRITE_BYTES_MAX
    finally:
        tracemalloc.stop()


def test_feeding_before_taking_is_a_bug() -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    reader.feed(encoded(1, b"one"))
    with pytest.raises(InvariantViolation):
        reader.feed(encoded(1, b"two"))


def test_feeding_before_taking_a_large_body_is_a_bug() -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    data = encoded(1, b"one")
    reader.feed(data[:-1])
    assert reader.next_frame() is None
    reader.feed(data[-1:])
    with pytest.raises(InvariantViolation):
        reader.feed(b"x")


def test_a_reused_receive_buffer_does_no_harm() -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    buffer = bytearray(encoded(1, b"first"))
    reader.feed(buffer)
    buffer[:] = bytes(len(buffer))
    assert reader.next_frame() == Frame(1, memoryview(b"first"))


def test_a_truncated_frame_is_not_between_frames() -> None:
    for cut in (1, FRAME_HEADER_BYTES - 1, FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + 1):
        reader = FrameReader(FRAME_BYTES_MAX)
        reader.feed(encoded(1, b"four")[:cut])
        assert reader.next_frame() is None
        assert not reader.is_between_frames


def test_large_parts_are_not_copied() -> None:
    payload = memoryview(os.urandom(JOIN_BYTES_MAX + 1))
    buffers = encode_frame(16, b"head", payload)
    assert len(buffers) == 2
    assert buffers[1] is payload
    assert len(encode_frame(16, b"head", bytes(4096))) == 1


def test_a_frame_that_is_too_long_is_our_bug() -> None:
    with pytest.raises(InvariantViolation):
        encode_frame(1, bytes(FRAME_BYTES_MAX - FRAME_HEADER_BYTES + 1))
    with pytest.raises(InvariantViolation):
        encode_frame(0, b"")
    with pytest.raises(InvariantViolation):
        encode_frame(256, b"")


def test_a_received_body_is_read_only() -> None:
    reader = FrameReader(FRAME_BYTES_MAX)
    data = encoded(1, bytes(100))
    reader.feed(data[:60])
    assert reader.next_frame() is None
    reader.feed(data[60:])
    frame = reader.next_frame()
    assert frame is not None
    assert frame.body.readonly
