"""What two volumes say to each other, in frames.

Most messages are one encoded body. A large write is a body of its own kind: its data stands behind
the rest as it is, and is copied neither here nor there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from mirrorha.errors import PeerProtocolError
from mirrorha.volume.ops import Write
from mirrorha.volume.resync.messages import AnyResyncMessage
from mirrorha.volume.stream.messages import Ops, StreamMessage
from mirrorha.volume.verify.messages import AnyVerifyMessage
from mirrorha.wire.codec import Codec
from mirrorha.wire.frames import STREAM_KIND_MIN
from mirrorha.wire.limits import FRAME_BYTES_MAX, FRAME_HEADER_BYTES, KIB

if TYPE_CHECKING:
    from mirrorha.wire.frames import Frame

AnyMessage: TypeAlias = StreamMessage | AnyResyncMessage | AnyVerifyMessage

#: One message.
STREAM_KIND: Final = STREAM_KIND_MIN
#: Ops of one write without its data: their length in two bytes, they, the data.
BULK_KIND: Final = STREAM_KIND_MIN + 1
#: From here on copying costs more than a frame of two parts.
BULK_BYTES_MIN: Final = 32 * KIB

_LENGTH_BYTES: Final = 2
_CODEC: Final[Codec[AnyMessage]] = Codec(
    StreamMessage | AnyResyncMessage | AnyVerifyMessage,
    bytes_max=FRAME_BYTES_MAX - FRAME_HEADER_BYTES,
)


def encode(message: AnyMessage) -> tuple[int, tuple[bytes, ...]]:
    """The kind and the parts of the frame that `message` travels in."""
    if type(message) is Ops and len(message.ops) == 1:
        op = message.ops[0]
        if type(op) is Write and len(op.data) >= BULK_BYTES_MIN:
            bare = msgspec.structs.replace(op, data=b"")
            head = _CODEC.encode(msgspec.structs.replace(message, ops=[bare]))
            return BULK_KIND, (len(head).to_bytes(_LENGTH_BYTES, "big") + head, op.data)
    return STREAM_KIND, (_CODEC.encode(message),)


def decode(frame: Frame) -> AnyMessage:
    """The message in a frame. A large write's data is a view of the frame's body.

    Raises:
        PeerProtocolError: it is of another kind, or none of the messages.
    """
    if frame.kind == STREAM_KIND:
        return _CODEC.decode(frame.body)
    if frame.kind != BULK_KIND:
        raise PeerProtocolError(f"the peer sends frames of kind {frame.kind} on a stream")
    end = _LENGTH_BYTES + int.from_bytes(frame.body[:_LENGTH_BYTES], "big")
    message = _CODEC.decode(frame.body[_LENGTH_BYTES:end])
    bare = message.ops[0] if type(message) is Ops and len(message.ops) == 1 else None
    if type(message) is not Ops or type(bare) is not Write or bare.data:
        raise PeerProtocolError("the peer sends a large write that is none")
    whole = msgspec.structs.replace(bare, data=frame.body[end:])
    return msgspec.structs.replace(message, ops=[whole])
