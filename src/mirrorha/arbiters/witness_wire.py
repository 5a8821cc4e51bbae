"""What a witness and its clients say to each other, over TLS.

A frame is a length (4 bytes, big-endian) and that many bytes: one message, as a MessagePack array
that begins with the message's tag. The client says `Hello`, the witness `Welcome` or `Refused`;
from then on the client sends one request at a time and waits for its reply.

Messages are append-only: a field is added at the end, with a default, or not at all. An older
reader skips what it does not know, a newer one fills in the defaults.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar, final

import msgspec

from mirrorha.core.register import RECORD_BYTES_MAX
from mirrorha.errors import PeerProtocolError, ensure

if TYPE_CHECKING:
    from trio.abc import Stream

_T = TypeVar("_T")

PROTOCOL: Final = "mirrorha-witness"
#: The oldest and the newest version of the protocol that this code speaks.
VERSION_MIN: Final = 1
VERSION_MAX: Final = 1

TEXT_CHARACTERS_MAX: Final = 500
CLUSTER_NAME_CHARACTERS_MAX: Final = 200
# A swap carries two records, beside a few numbers.
FRAME_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX + 1024
_RECEIVE_BYTES: Final = 16 * 1024
_LENGTH: Final = struct.Struct(">I")
ensure(FRAME_BYTES_MAX > 4 * TEXT_CHARACTERS_MAX, "a refusal fits in one frame")

# The name goes through TLS as a server name, and into a certificate as a DNS name.
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_CLUSTER_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")

Record = Annotated[bytes, msgspec.Meta(max_length=RECORD_BYTES_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARACTERS_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0)]


@final
class Hello(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Client: what I speak."""

    protocol: Text
    version_min: Number
    version_max: Number


@final
class Read(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Client: what is the record?"""

    number: Number


@final
class Swap(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Client: replace the record by `new` if it equals `expected` (None: if there is none)."""

    number: Number
    expected: Record | None
    new: Record


@final
class Welcome(msgspec.Struct, array_like=True, frozen=True, tag=101):
    """Witness: we speak `version`, about the record of `cluster`."""

    version: Number
    cluster: Text


@final
class Refused(msgspec.Struct, array_like=True, frozen=True, tag=102):
    """Witness: I will not talk with you. It closes the connection."""

    why: Text


@final
class Found(msgspec.Struct, array_like=True, frozen=True, tag=103):
    """Witness: the record, None if there is none, and how often it was replaced so far."""

    number: Number
    record: Record | None
    version: Number


@final
class Swapped(msgspec.Struct, array_like=True, frozen=True, tag=104):
    """Witness: whether the record was replaced, durably; its version now."""

    number: Number
    done: bool
    version: Number


@final
class Failed(msgspec.Struct, array_like=True, frozen=True, tag=105):
    """Witness: I cannot answer that. `outcome` says what became of a swap."""

    number: Number
    outcome: Literal["nothing", "unknown"]
    why: Text


Request = Hello | Read | Swap
Reply = Welcome | Refused | Found | Swapped | Failed

_ENCODER: Final = msgspec.msgpack.Encoder()
_REQUESTS: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_REPLIES: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)


def problem_with_cluster_name(name: str) -> str | None:
    """Why `name` cannot name a cluster to a witness, or None if it can."""
    if len(name) > CLUSTER_NAME_CHARACTERS_MAX:
        return f"it is longer than {CLUSTER_NAME_CHARACTERS_MAX} characters"
    if not _CLUSTER_NAME.fullmatch(name):
        return "a witness knows clusters by DNS names: ASCII letters, digits, '-', '_' and '.'"
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return None
    return "it reads as an IP address, which TLS does not send as a server name"


def encode_frame(message: Request | Reply) -> bytes:
    """Return the message as a frame."""
    body = _ENCODER.encode(message)
    ensure(len(body) <= FRAME_BYTES_MAX, "every message fits in a frame")
    return _LENGTH.pack(len(body)) + body


def decode_request(body: bytes) -> Request:
    """Read what a client sent.

    Raises:
        PeerProtocolError: it is not a request.
    """
    return _decode(_REQUESTS, body)


def decode_reply(body: bytes) -> Reply:
    """Read what a witness sent.

    Raises:
        PeerProtocolError: it is not a reply.
    """
    return _decode(_REPLIES, body)


def _decode(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    # Text that is not UTF-8, and arrays nested too deeply in a field that is skipped.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PeerProtocolError(f"not a message of {PROTOCOL}: {error}") from error


@final
class FrameReader:
    """Cuts a stream of bytes into the bodies of frames. Holds at most one frame and one read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether no part of a further frame was received."""
        return not self._buffer

    def feed(self, received: bytes | bytearray) -> None:
        """Add what was received.

        Raises:
            PeerProtocolError: the frame that has begun is longer than any message.
        """
        self._buffer += received
        self._body_bytes()

    def take(self) -> bytes | None:
        """Remove and return the body of the first frame, or None if it is not complete.

        Raises:
            PeerProtocolError: the next frame is longer than any message.
        """
        size = self._body_bytes()
        if size is None or len(self._buffer) < _LENGTH.size + size:
            return None
        body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + size])
        del self._buffer[: _LENGTH.size + size]
        return body

    def _body_bytes(self) -> int | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._buffer)
        if size > FRAME_BYTES_MAX:
            raise PeerProtocolError(f"a frame of {size} bytes; at most {FRAME_BYTES_MAX} are read")
        return int(size)


@final
class Channel:
    """Frames over a stream. Adds no timeout: whoever uses it has a deadline."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._reader = FrameReader()

    async def send(self, message: Request | Reply) -> None:
        """Send one message.

        Raises:
            trio.BrokenResourceError: the connection is lost.
        """
        await self._stream.send_all(encode_frame(message))

    async def wait_begun(self) -> bool:
        """Wait until some of the next frame is there. False: the other side has closed.

        Raises:
            PeerProtocolError: it is longer than any message.
            trio.BrokenResourceError: the connection is lost.
        """
        if self._reader.is_empty:
            await self._receive_some()
        return not self._reader.is_empty

    async def receive(self) -> bytes:
        """Return the body of the next frame, waiting for it.

        Raises:
            PeerProtocolError: it is longer than any message, cut short, or followed by more:
                each side waits for the other's answer before it goes on.
            trio.BrokenResourceError: the connection is lost.
        """
        while (body := self._reader.take()) is None:
            if not await self._receive_some():
                raise PeerProtocolError("the connection was closed in the middle of a message")
        if not self._reader.is_empty:
            raise PeerProtocolError("more than one message at a time")
        return body

    async def _receive_some(self) -> bool:
        received = await self._stream.receive_some(_RECEIVE_BYTES)
        self._reader.feed(received)
        return bool(received)
