"""What the peer may say on the control session: shapes by type, contents by the checks here."""

from __future__ import annotations

from typing import Final

from mirrorha.core.messages import (
    Adopt,
    AnyMessage,
    PeerState,
    Prepare,
    Record,
    RegisterCopy,
)
from mirrorha.errors import PeerProtocolError
from mirrorha.volume.ops import EPOCH_MAX
from mirrorha.wire.codec import Codec

CODEC: Final[Codec[AnyMessage]] = Codec(AnyMessage)

#: Names are labels, ids and nonces short hexadecimal texts.
_NAME_LENGTH_MAX: Final = 128
_MEMBERS_MAX: Final = 2


def check_message(message: AnyMessage) -> None:
    """Check what the types do not say.

    Raises:
        PeerProtocolError: no node of this version says such a thing.
    """
    match message:
        case Adopt() | Prepare():
            _check_record(message.record)
        case PeerState():
            _check_number("incarnation", message.incarnation, least=1)
            if message.held is not None:
                _check_record(message.held)
            _check_number("top_epoch", message.top_epoch, most=EPOCH_MAX)
        case RegisterCopy():
            for record in (message.copy, message.proposed, message.promised, message.parted):
                if record is not None:
                    _check_record(record)
    epoch = getattr(message, "epoch", 0)
    _check_number("epoch", epoch, most=EPOCH_MAX)


def _check_record(record: Record) -> None:
    _check_number("a record's epoch", record.epoch, least=1, most=EPOCH_MAX)
    names = [name for name, _ in record.nonces]
    if record.primary not in names:
        raise PeerProtocolError("the peer tells of a record whose primary is not in sync")
    if len(set(names)) != len(names) or len(names) > _MEMBERS_MAX:
        raise PeerProtocolError("the peer tells of a record whose members are no two nodes")
    texts = [record.cluster_id, *names, *(nonce for _, nonce in record.nonces)]
    if not all(0 < len(text) <= _NAME_LENGTH_MAX for text in texts):
        raise PeerProtocolError("the peer tells of a record with a name that is none")


def _check_number(what: str, value: int, *, least: int = 0, most: int = 1 << 62) -> None:
    if not least <= value <= most:
        raise PeerProtocolError(f"the peer tells of {what} {value}, which cannot be")
