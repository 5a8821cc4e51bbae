"""What two volumes say to each other, in frames."""

from __future__ import annotations

from typing import Final

from mirrorha.volume.resync.messages import AnyResyncMessage
from mirrorha.volume.stream.messages import StreamMessage
from mirrorha.wire.codec import Codec
from mirrorha.wire.frames import STREAM_KIND_MIN
from mirrorha.wire.limits import FRAME_BYTES_MAX, FRAME_HEADER_BYTES

STREAM_KIND: Final = STREAM_KIND_MIN
STREAM_CODEC: Final[Codec[StreamMessage | AnyResyncMessage]] = Codec(
    StreamMessage | AnyResyncMessage, bytes_max=FRAME_BYTES_MAX - FRAME_HEADER_BYTES
)
