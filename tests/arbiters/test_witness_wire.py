"""Whatever bytes come, the parsers of the witness answer with a message or PeerProtocolError."""

from __future__ import annotations

import contextlib
import ssl
import struct
from typing import TYPE_CHECKING, get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorha.arbiters.witness_sni import (
    CLIENT_HELLO_BYTES_MAX,
    UNRECOGNIZED_NAME,
    find_client_hello,
    server_name,
)
from mirrorha.arbiters.witness_wire import (
    FRAME_BYTES_MAX,
    VERSION_MAX,
    VERSION_MIN,
    Failed,
    Found,
    FrameReader,
    Hello,
    Read,
    Refused,
    Reply,
    Request,
    Swap,
    Swapped,
    Welcome,
    decode_reply,
    decode_request,
    encode_frame,
    problem_with_cluster_name,
)
from mirrorha.core.register import RECORD_BYTES_MAX
from mirrorha.errors import PeerProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST = b"\xff" * RECORD_BYTES_MAX
REQUESTS: list[Request] = [
    Hello("mirrorha-witness", VERSION_MIN, VERSION_MAX),
    Read(0),
    Swap(2**60, None, b""),
    Swap(2**60, LARGEST, LARGEST),
]
REPLIES: list[Reply] = [
    Welcome(1, "orders"),
    Refused("busy"),
    Found(1, None, 0),
    Found(1, LARGEST, 2**60),
    Swapped(1, True, 1),
    Failed(1, "nothing", "é" * 500),
    Failed(1, "unknown", ""),
]


def body_of(message: Request | Reply) -> bytes:
    return encode_frame(message)[4:]


class TestMessages:
    def test_every_message_stands_here(self) -> None:
        assert {type(message) for message in REQUESTS} == set(get_args(Request))
        assert {type(message) for message in REPLIES} == set(get_args(Reply))

    @pytest.mark.parametrize("message", REQUESTS, ids=lambda m: type(m).__name__)
    def test_requests_come_back(self, message: Request) -> None:
        assert decode_request(body_of(message)) == message
        with pytest.raises(PeerProtocolError):
            decode_reply(body_of(message))

    @pytest.mark.parametrize("message", REPLIES, ids=lambda m: type(m).__name__)
    def test_replies_come_back(self, message: Reply) -> None:
        assert decode_reply(body_of(message)) == message
        with pytest.raises(PeerProtocolError):
            decode_request(body_of(message))

    @pytest.mark.parametrize(
        ("message", "plain"),
        [
            (Hello("mirrorha-witness", 1, 1), [1, "mirrorha-witness", 1, 1]),
            (Read(7), [2, 7]),
            (Swap(7, None, b"x"), [3, 7, None, b"x"]),
            (Welcome(1, "orders"), [101, 1, "orders"]),
            (Refused("why"), [102, "why"]),
            (Found(7, b"x", 3), [103, 7, b"x", 3]),
            (Swapped(7, False, 3), [104, 7, False, 3]),
            (Failed(7, "unknown", "why"), [105, 7, "unknown", "why"]),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_their_form_is_kept_for_ever(
        self, message: Request | Reply, plain: list[object]
    ) -> None:
        """Version 1 on the wire. A change here parts us from every witness that runs."""
        assert msgspec.msgpack.decode(body_of(message)) == plain
        later = msgspec.msgpack.encode([*plain, "a field of a later version", {"x": [1]}])
        decode: Callable[[bytes], Request | Reply] = (
            decode_request if isinstance(message, Request) else decode_reply
        )
        assert decode(later) == message

    @pytest.mark.parametrize(
        "plain",
        [
            [],
            [2],
            [2, -1],
            [2, 1.5],
            [2, None],
            [3, 1, None, LARGEST + b"x"],
            [3, 1, LARGEST + b"x", b""],
            [3, 1, None, None],
            [3, 1, None, "text"],
            [99, 1],
            ["2", 1],
            [1, "x" * 501, 1, 1],
            {"number": 1},
            None,
            7,
            [[2, 1]],
        ],
        ids=repr,
    )
    def test_what_is_none_of_them_is_refused(self, plain: object) -> None:
        with pytest.raises(PeerProtocolError):
            decode_request(msgspec.msgpack.encode(plain))

    @given(st.binary(max_size=200))
    @example(b"\x91" * 5000)
    @example(body_of(Read(1))[:-1] + b"\x01" + b"\x91" * 5000)
    @example(b"\x93\x02\x01" + b"\x91" * 8000)  # nested, in a field that is skipped
    @example(b"\x92\x01\xa2\xff\xff")
    @example(b"\xdd\xff\xff\xff\xff")
    @example(b"\xc6\xff\xff\xff\xff")
    def test_bytes_are_a_message_or_refused(self, body: bytes) -> None:
        for decode in (decode_request, decode_reply):
            with contextlib.suppress(PeerProtocolError):
                assert isinstance(decode(body), Request | Reply)


class TestFrames:
    @given(st.lists(st.binary(max_size=50), max_size=5), st.data())
    def test_any_pieces_give_the_same_frames(
        self, bodies: list[bytes], data: st.DataObject
    ) -> None:
        stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
        reader, seen = FrameReader(), []
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            reader.feed(stream[:size])
            stream = stream[size:]
            while (body := reader.take()) is not None:
                seen.append(body)
        assert seen == bodies
        assert reader.is_empty

    def test_a_length_is_judged_before_the_body_comes(self) -> None:
        reader = FrameReader()
        reader.feed(struct.pack(">I", FRAME_BYTES_MAX))
        assert reader.take() is None
        for size in (FRAME_BYTES_MAX + 1, 2**32 - 1):
            with pytest.raises(PeerProtocolError, match="at most"):
                FrameReader().feed(struct.pack(">I", size))

    def test_the_second_length_is_judged_as_well(self) -> None:
        reader = FrameReader()
        reader.feed(struct.pack(">I", 1) + b"x" + b"\xff" * 4)
        assert reader.take() == b"x"
        with pytest.raises(PeerProtocolError):
            reader.take()


def client_hello(name: str | None) -> bytes:
    """What OpenSSL sends first, as a TLS record."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(message: bytes, size: int) -> bytes:
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece for piece in pieces)


class TestServerName:
    @pytest.mark.parametrize("name", ["orders", "Orders-2.example", "x" * 63, None])
    def test_is_read_from_what_openssl_sends(self, name: str | None) -> None:
        hello = find_client_hello(client_hello(name))
        assert hello is not None
        assert server_name(hello) == name

    def test_is_read_once_all_is_there(self) -> None:
        raw = client_hello("orders")
        for size in range(len(raw)):
            assert find_client_hello(raw[:size]) is None
        assert find_client_hello(raw) == find_client_hello(raw + b"more") is not None

    @pytest.mark.parametrize("size", [100, 300, 1000])
    def test_is_read_from_several_records(self, size: int) -> None:
        raw = client_hello("orders")
        split = in_records(raw[5:], size)
        assert find_client_hello(split) == find_client_hello(raw)
        assert find_client_hello(split[:-1]) is None

    def test_the_first_message_is_bounded(self) -> None:
        long = b"\x01" + CLIENT_HELLO_BYTES_MAX.to_bytes(3, "big")
        with pytest.raises(PeerProtocolError, match="no first message"):
            find_client_hello(in_records(long, 4))
        with pytest.raises(PeerProtocolError, match="pieces"):
            find_client_hello(in_records(client_hello("orders")[5:], 10))

    @given(st.binary(max_size=40_000), st.integers(1, 16_000))
    def test_no_more_is_waited_for_than_the_bound(self, filler: bytes, size: int) -> None:
        hello = b"\x01" + (CLIENT_HELLO_BYTES_MAX - 4).to_bytes(3, "big") + filler
        received = in_records(hello, size)
        with contextlib.suppress(PeerProtocolError):
            if find_client_hello(received) is None:
                assert len(received) < CLIENT_HELLO_BYTES_MAX + 8 * 5

    @pytest.mark.parametrize(
        "raw",
        [
            b"GET / HTTP/1.1\r\n",
            b"SSH-2.0-x\r\n",
            b"\0\0\0\x12mirrorha",
            b"\x15\x03\x01\0\x02\x02\x28",
            b"\x16\x02\x01\0\x04\x01\0\0\0",
            b"\x16\x03\x01\0\0",
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x01\0\x04\x02\0\0\0",
        ],
    )
    def test_what_is_no_beginning_of_tls_is_refused(self, raw: bytes) -> None:
        with pytest.raises(PeerProtocolError):
            find_client_hello(raw)

    def test_a_name_that_is_not_ascii_is_refused(self) -> None:
        raw = client_hello("orders").replace(b"orders", b"ord\xffrs")
        hello = find_client_hello(raw)
        assert hello is not None
        with pytest.raises(PeerProtocolError, match="not ASCII"):
            server_name(hello)

    @given(st.binary(max_size=300))
    def test_bytes_are_a_hello_or_refused(self, raw: bytes) -> None:
        with contextlib.suppress(PeerProtocolError):
            find_client_hello(raw)
        with contextlib.suppress(PeerProtocolError):
            server_name(raw)

    @given(st.data())
    def test_a_damaged_hello_has_a_name_or_is_refused(self, data: st.DataObject) -> None:
        hello = bytearray(client_hello("orders")[9:])
        for _ in range(data.draw(st.integers(1, 3))):
            hello[data.draw(st.integers(0, len(hello) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(PeerProtocolError):
            name = server_name(bytes(hello[: data.draw(st.integers(0, len(hello)))]))
            assert name is None or name.isascii()

    def test_the_refusal_is_what_openssl_takes_for_one(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="orders")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        incoming.write(UNRECOGNIZED_NAME)
        with pytest.raises(ssl.SSLError) as caught:
            client.do_handshake()
        assert caught.value.reason == "TLSV1_UNRECOGNIZED_NAME"


@pytest.mark.parametrize("name", ["orders", "o", "Orders-2", "a_b", "eu.orders", "1", "x" * 63])
def test_names_of_clusters(name: str) -> None:
    assert problem_with_cluster_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a..b", "a/b", "../a", "-a", "a-", "é", "a b", "a\n", "a\0b"),
        *("x" * 64, "a." * 150 + "a", "10.0.0.1"),
    ],
)
def test_names_that_a_witness_cannot_know(name: str) -> None:
    assert problem_with_cluster_name(name)
