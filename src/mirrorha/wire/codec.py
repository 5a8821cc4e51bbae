"""Messages to bytes and back: msgpack arrays of a closed set of msgspec structs.

Every message type is a `msgspec.Struct` with `array_like=True` and an integer `tag` of its own.
Its fields are only ever appended, with defaults: a reader that is older ignores what it does not
know, one that is newer fills in the defaults. A tag is never used again for something else.
"""

from __future__ import annotations

import typing
from typing import Any, Final, Generic, TypeVar, final

import msgspec

from mirrorha.errors import PeerProtocolError, ensure
from mirrorha.wire.limits import CONTROL_FRAME_BYTES_MAX, FRAME_HEADER_BYTES

T = TypeVar("T")

# So much of msgspec's text goes into ours: it can quote what the peer sent.
_DETAIL_LENGTH_MAX: Final = 200


@final
class Codec(Generic[T]):
    """Encodes and decodes the members of one union of message types.

    Args:
        message_type: A struct or a union of structs, as described above.
        bytes_max: The longest encoded message, both ways.
    """

    def __init__(
        self, message_type: Any, *, bytes_max: int = CONTROL_FRAME_BYTES_MAX - FRAME_HEADER_BYTES
    ) -> None:
        _check_members(message_type)
        self._bytes_max: Final = bytes_max
        self._encoder: Final = msgspec.msgpack.Encoder()
        self._decoder: Final[msgspec.msgpack.Decoder[T]] = msgspec.msgpack.Decoder(message_type)

    def encode(self, message: T) -> bytes:
        """Return `message` as bytes. It is our own bug if it is longer than the limit."""
        encoded = self._encoder.encode(message)
        if len(encoded) > self._bytes_max:  # the text alone would cost a part of every message
            ensure(False, f"a {type(message).__name__} fits in its frame")
        return encoded

    def decode(self, raw: bytes | bytearray | memoryview) -> T:
        """Return the message that `raw` is.

        Takes time and memory in proportion to the length of `raw`: lengths inside it are compared
        with what is there before anything is allocated, and nesting is bounded by the
        interpreter's recursion limit.

        Raises:
            PeerProtocolError: `raw` is too long, or none of the messages.
        """
        if len(raw) > self._bytes_max:
            raise PeerProtocolError(
                f"a message of {len(raw)} bytes exceeds the {self._bytes_max} allowed here"
            )
        try:
            return self._decoder.decode(raw)
        except RecursionError:
            raise PeerProtocolError("a message is nested too deeply") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PeerProtocolError(
                f"a message cannot be read: {str(error)[:_DETAIL_LENGTH_MAX]}"
            ) from error


def _check_members(message_type: Any) -> None:
    members = typing.get_args(message_type) or (message_type,)
    tags = []
    for member in members:
        ensure(
            isinstance(member, type) and issubclass(member, msgspec.Struct),
            f"{member!r} is a msgspec struct",
        )
        config = member.__struct_config__
        ensure(config.array_like, f"{member.__name__} is array_like")
        ensure(isinstance(config.tag, int), f"{member.__name__} has an integer tag")
        ensure(
            not config.forbid_unknown_fields, f"{member.__name__} lets later versions append fields"
        )
        tags.append(config.tag)
    ensure(len(set(tags)) == len(tags), "no two messages have the same tag")
