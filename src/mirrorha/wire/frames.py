"""Frames: how a stream of bytes is cut into messages, without any I/O.

A frame is a header of 24 bytes, all numbers big-endian, and a body::

    offset  bytes  field
         0      2  magic, B5 48
         2      1  frame format, 1; it is what a hello travels in and therefore never changes,
                   versions of everything else are agreed upon in the hello
         3      1  kind of the body
         4      4  length of the body in bytes
         8      8  XXH3-64 of the body
        16      8  XXH3-64 of the sixteen bytes before

The second hash lets a reader believe the length before it waits for so many bytes: over a plain
link a flipped bit there would otherwise stall the link instead of closing it. Neither hash is
protection against a forger, TLS is; they catch bad memory, bad cards and our own mistakes.
Whether frames are complete and in order is for their contents to say: ops carry a number and
the hash of their predecessor.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, final

import xxhash

from mirrorha.errors import PeerProtocolError, ensure
from mirrorha.wire.limits import FRAME_BYTES_MAX, FRAME_HEADER_BYTES, JOIN_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC: Final = b"\xb5\x48"
FORMAT: Final = 1

# Kinds of this module's neighbours; the volumes' stream uses those from STREAM_KIND_MIN on.
HELLO_KIND: Final = 1
CONTROL_KIND: Final = 2
STREAM_KIND_MIN: Final = 16
KIND_MAX: Final = 255

_CHECKED: Final = struct.Struct(">2sBBIQ")
_CHECK: Final = struct.Struct(">Q")
_HEADER: Final = struct.Struct(">2sBBIQQ")

ensure(_HEADER.size == FRAME_HEADER_BYTES, "the header has the length that limits reckon with")
ensure(_CHECKED.size + _CHECK.size == _HEADER.size, "the check covers the rest of the header")


@final
class Frame(NamedTuple):
    """One frame as it arrived. The body is read-only and belongs to the receiver."""

    kind: int
    body: memoryview


def encode_frame(
    kind: int, *parts: bytes | memoryview, frame_bytes_max: int = FRAME_BYTES_MAX
) -> list[bytes | memoryview]:
    """Make a frame whose body is all `parts` in a row, as buffers to be sent in order.

    Parts of more than JOIN_BYTES_MAX are not copied but returned as they are: they must not be
    changed before they are sent. A frame of smaller parts is one buffer.
    """
    ensure(0 < kind <= KIND_MAX, "a kind is one byte, and not zero")
    if len(parts) == 1 and type(parts[0]) is bytes and 0 < len(parts[0]) <= JOIN_BYTES_MAX:
        return [_small_frame(kind, parts[0], frame_bytes_max)]
    sizes = [_size_of(part) for part in parts]
    length = sum(sizes)
    ensure(FRAME_HEADER_BYTES + length <= frame_bytes_max, "a frame is no longer than the limit")
    checked = _CHECKED.pack(MAGIC, FORMAT, kind, length, _hash_of(parts))
    small: list[bytes | memoryview] = [checked, _CHECK.pack(xxhash.xxh3_64_intdigest(checked))]
    small_bytes = FRAME_HEADER_BYTES
    buffers: list[bytes | memoryview] = []
    for part, size in zip(parts, sizes, strict=True):
        if size > JOIN_BYTES_MAX or small_bytes + size > 2 * JOIN_BYTES_MAX:
            buffers += [b"".join(small), part]
            small, small_bytes = [], 0
        else:
            small.append(part)
            small_bytes += size
    if small:
        buffers.append(b"".join(small))
    return [buffer for buffer in buffers if len(buffer)]


def _small_frame(kind: int, body: bytes, frame_bytes_max: int) -> bytes:
    """The hot path: the frame of a page's write, or of an acknowledgement."""
    length = len(body)
    ensure(FRAME_HEADER_BYTES + length <= frame_bytes_max, "a frame is no longer than the limit")
    checked = _CHECKED.pack(MAGIC, FORMAT, kind, length, xxhash.xxh3_64_intdigest(body))
    return checked + _CHECK.pack(xxhash.xxh3_64_intdigest(checked)) + body


def _size_of(part: bytes | memoryview) -> int:
    ensure(isinstance(part, bytes) or part.itemsize == 1, "a part consists of bytes")
    return len(part)


def _hash_of(parts: Sequence[bytes | memoryview]) -> int:
    if len(parts) == 1:
        return xxhash.xxh3_64_intdigest(parts[0])
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return state.intdigest()


@final
class FrameReader:
    """Cuts what arrives into frames. Holds at most one unfinished frame and what was fed last.

    Give it what was received with `feed`, then take frames with `next_frame` until that returns
    None. What is left to come of a large body may be received where it belongs instead (`room`). A
    stream that has broken the rules once stays broken.

    Args:
        frame_bytes_max: The longest frame that is let through, its header included.
    """

    def __init__(self, frame_bytes_max: int) -> None:
        ensure(frame_bytes_max > FRAME_HEADER_BYTES, "a frame may have a body")
        self._body_bytes_max = frame_bytes_max - FRAME_HEADER_BYTES
        self._chunk = b""  # what was fed and not yet used, from `_at` on
        self._at = 0
        self._kind = 0  # of the body that is under way
        self._hash = 0
        self._body: bytearray | None = None
        self._filled = 0
        self._fault: str | None = None

    def allow(self, frame_bytes_max: int) -> None:
        """Let frames of this length through from the next one on."""
        ensure(frame_bytes_max > FRAME_HEADER_BYTES, "a frame may have a body")
        self._body_bytes_max = frame_bytes_max - FRAME_HEADER_BYTES

    @property
    def is_between_frames(self) -> bool:
        """Whether everything that was fed has been returned as frames."""
        return self._fault is None and self._body is None and self._at == len(self._chunk)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add what was received, once `next_frame` has returned None.

        The caller may use a mutable buffer again afterwards.
        """
        if self._fault is not None:
            return
        if self._body is None and self._at == len(self._chunk):  # the hot path: nothing is left
            self._chunk, self._at = bytes(data), 0
            return
        used = 0
        if self._body is not None:
            # Straight to where it belongs: a large body is copied once.
            ensure(self._filled < len(self._body), "frames are taken before more is fed")
            used = min(len(data), len(self._body) - self._filled)
            self._body[self._filled : self._filled + used] = memoryview(data)[:used]
            self._filled += used
        rest = self._chunk[self._at :]
        ensure(len(rest) < FRAME_HEADER_BYTES, "frames are taken before more is fed")
        if rest:
            self._chunk, self._at = rest + memoryview(data)[used:], 0
        elif isinstance(data, bytes):
            self._chunk, self._at = data, used
        else:
            self._chunk, self._at = bytes(memoryview(data)[used:]), 0

    def room(self, bytes_min: int) -> memoryview | None:
        """Where to receive next, and then to say `received`; None: `feed` what comes.

        It is for the rest of the body under way, if that is `bytes_min` or more. Ask, as for
        `feed`, once `next_frame` has returned None, and again after every `received`.
        """
        if self._body is None or len(self._body) - self._filled < bytes_min:
            return None
        return memoryview(self._body)[self._filled :]

    def received(self, count: int) -> None:
        """So many bytes were received at the beginning of the last `room`."""
        left = 0 if self._body is None else len(self._body) - self._filled
        ensure(0 <= count <= left, "no more is received than there is room for")
        self._filled += count

    def next_frame(self) -> Frame | None:
        """Return the next frame, or None if it has not arrived entirely.

        Raises:
            PeerProtocolError: what arrived is not a frame, too long, or damaged. Also at every
                later call.
        """
        if self._fault is not None:
            raise PeerProtocolError(self._fault)
        if self._body is not None:
            return self._finish_body()
        if len(self._chunk) - self._at < FRAME_HEADER_BYTES:
            return None
        length = self._take_header()
        end = self._at + length
        if end <= len(self._chunk):
            body = self._chunk[self._at : end]
            self._at = end
            return self._checked(body)
        self._body = bytearray(length)
        self._filled = len(self._chunk) - self._at
        self._body[: self._filled] = memoryview(self._chunk)[self._at :]
        self._chunk, self._at = b"", 0
        return None

    def _finish_body(self) -> Frame | None:
        body = self._body
        if body is None or self._filled < len(body):
            return None
        self._body = None
        return self._checked(body)

    def _take_header(self) -> int:
        """Read a header and return the length of its body."""
        magic, version, kind, length, self._hash, check = _HEADER.unpack_from(self._chunk, self._at)
        if magic != MAGIC:
            self._fail("what arrived is no frame of mirrorha; is something else on that port?")
        checked = self._chunk[self._at : self._at + _CHECKED.size]
        if check != xxhash.xxh3_64_intdigest(checked):
            self._fail("a frame's header was damaged on its way")
        if version != FORMAT:
            self._fail(f"the frame has format {version}, this node reads {FORMAT}")
        if kind == 0:
            self._fail("the frame has no kind")
        if length > self._body_bytes_max:
            self._fail(f"a body of {length} bytes exceeds the {self._body_bytes_max} allowed here")
        self._kind = kind
        self._at += FRAME_HEADER_BYTES
        return int(length)

    def _checked(self, body: bytes | bytearray) -> Frame:
        if xxhash.xxh3_64_intdigest(body) != self._hash:
            self._fail("a frame's body was damaged on its way")
        view = memoryview(body)
        return Frame(self._kind, view if view.readonly else view.toreadonly())

    def _fail(self, fault: str) -> None:
        # Nothing after a fault has a meaning: forget it, and where it was.
        self._fault = fault
        self._chunk, self._at, self._body = b"", 0, None
        raise PeerProtocolError(fault)
