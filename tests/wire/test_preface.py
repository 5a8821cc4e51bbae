"""The first line of a stream's connection."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorha.errors import PeerProtocolError
from mirrorha.wire.preface import (
    FIRST_BYTE,
    PREFACE_BYTES,
    decode_preface,
    encode_preface,
    stream_label,
)

TLS_HANDSHAKE = b"\x16"


@given(st.text(min_size=1))
@example("/srv/orders")
@example("/srv/" + "x" * 4000)
@example("/srv/with\na line")
def test_what_is_said_is_understood(volume: str) -> None:
    raw = encode_preface(volume)
    assert decode_preface(raw) == stream_label(volume)
    assert len(raw) == PREFACE_BYTES
    assert raw.startswith(FIRST_BYTE)
    assert raw.index(b"\n") == PREFACE_BYTES - 1


def test_it_is_told_from_tls_and_tells_no_paths() -> None:
    assert FIRST_BYTE != TLS_HANDSHAKE
    assert b"orders" not in encode_preface("/srv/orders")
    assert stream_label("/srv/orders") != stream_label("/srv/order")


GOOD = encode_preface("/srv/orders")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\n",
        GOOD.replace(b" 1 ", b" 2 "),
        GOOD[:-1] + b" ",
        GOOD[:20] + b"G" + GOOD[21:],
        GOOD[:20] + b"\xff" + GOOD[21:],
        b"M" * PREFACE_BYTES,
    ],
)
def test_what_is_not_quite_one_is_none(raw: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        decode_preface(raw)


@given(st.binary(max_size=2 * PREFACE_BYTES))
def test_nothing_else_is_raised(raw: bytes) -> None:
    try:
        decode_preface(raw)
    except PeerProtocolError:
        return
    assert raw[:-33] == GOOD[:-33], "it was one"
