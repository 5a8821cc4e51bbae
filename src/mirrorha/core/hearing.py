"""Whether what the peer says can be said at all. What cannot is ignored, and counted.

The types of the messages were checked where they were decoded. Here are the relations between
their fields, without which a rule would take nonsense for a fact.
"""

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
from mirrorha.core.state import State

# Epochs rise by one or a few a decision. This one is never reached, and leaves room above itself.
EPOCH_MAX: Final = 1 << 48


def is_sound(s: State, message: AnyMessage) -> bool:
    """Whether a node of this cluster could have sent `message`."""
    match message:
        case PeerState():
            held = message.held is None or _is_record(s, message.held)
            return held and 0 <= message.top_epoch <= EPOCH_MAX and message.incarnation >= 1
        case Prepare():
            return _is_pair(s, message.record)
        case Adopt():
            return _is_pair(s, message.record)
        case RegisterCopy():
            told = (message.copy, message.proposed, message.promised, message.parted)
            return all(each is None or _is_record(s, each) for each in told)
        case _:
            return True


def _is_record(s: State, record: Record) -> bool:
    members = [name for name, _ in record.nonces]
    return (
        1 <= record.epoch <= EPOCH_MAX
        and len(set(members)) == len(members)
        and set(members) <= {s.me, s.other}
        and record.primary in members
    )


def _is_pair(s: State, record: Record) -> bool:
    """Only records that name both are ever prepared on the peer, or adopted by it."""
    return _is_record(s, record) and len(record.nonces) == 2
