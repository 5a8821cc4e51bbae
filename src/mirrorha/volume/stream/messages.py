"""What two volumes say to each other on their stream.

Pure data, and the hash that chains the ops. The stream keeps order and loses nothing while it is
up. Whatever names another epoch than the receiver's is refused: lower ones for ever, higher ones
until an order has brought the receiver there. Fields are only ever appended. Tags up to 31 are
the stream's, those from 32 on the resync's, those from 64 on those of a comparison.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec
import xxhash

from mirrorha.volume.disk import Space
from mirrorha.volume.ops import AnyOp, Op, Write

_encode: Final = msgspec.msgpack.Encoder().encode
_hash: Final = xxhash.xxh3_64_intdigest
_pack_write: Final = struct.Struct(">4sqqq").pack

CHAIN_START: Final = 0


def chain(op: Op, prev: int) -> int:
    """The hash of the stream up to `op`, whose predecessors hash to `prev`.

    Two nodes whose hashes agree at a seq have applied the same ops up to it.
    """
    if type(op) is Write:  # the hot path: its data is not copied
        head = _pack_write(b"data", op.fid, op.offset, op.mtime_ns)
        return _hash(op.data, _hash(head, prev))
    return _hash(_encode(op), prev)


def chain_mark(mark: str, prev: int) -> int:
    """The hash after something happened to the line that is no op: the two no longer compare."""
    return _hash(mark.encode(), prev)


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages."""


class Begin(Message, frozen=True, tag=1):
    """Source: a new round of the stream; where are you? Nothing else is sent before the answer."""

    epoch: int
    generation: str
    round: int


class At(Message, frozen=True, tag=2):
    """Follower, to `Begin`: I have applied everything up to `seq`, which hashes to `chain`."""

    epoch: int
    round: int
    seq: int
    chain: int


class Ops(Message, frozen=True, tag=3):
    """Source: the ops from `first_seq` on; those before it hash to `prev`."""

    epoch: int
    generation: str
    first_seq: int
    prev: int
    ops: list[AnyOp]


class Ack(Message, frozen=True, tag=4):
    """Follower: everything up to `seq` is applied."""

    epoch: int
    seq: int


class Nack(Message, frozen=True, tag=5):
    """Follower: I could not apply the op at `seq`, nor will I apply any after it."""

    epoch: int
    seq: int
    errno: int
    text: str


class FlushRequest(Message, frozen=True, tag=6):
    """Source: once `after_seq` is applied, make these fids durable; none: the whole tree.

    Of those in `data_only` content and size suffice; an older follower makes all of them durable.
    """

    epoch: int
    flush: int
    after_seq: int
    fids: list[int]
    data_only: list[int] = []


class FlushDone(Message, frozen=True, tag=7):
    """Follower: done."""

    epoch: int
    flush: int


class Checkpoint(Message, frozen=True, tag=8):
    """Source: make everything up to `seq`, at least, durable."""

    epoch: int
    seq: int


class CheckpointDone(Message, frozen=True, tag=9):
    """Follower: it is, and I have noted so."""

    epoch: int
    seq: int


class Retire(Message, frozen=True, tag=10):
    """Source: I have forgotten the touched entries whose last op `seq` covers; so may you."""

    epoch: int
    seq: int


class Ready(Message, frozen=True, tag=13):
    """Either side of a resync: I have my order for this session. It begins once both have."""

    epoch: int
    session: int


class AskAgain(Message, frozen=True, tag=14):
    """Follower: I was ordered into this round once more, after I had answered. Ask once more."""

    epoch: int
    round: int


class SpaceLeft(Message, frozen=True, tag=15):
    """Follower: what my file system has room for. When that has changed; nobody waits for it."""

    epoch: int
    space: Space


class Base(Message, frozen=True, tag=11):
    """Source, at cut-over: our trees are equal; make yours durable and count it as `seq`."""

    epoch: int
    session: int
    seq: int
    chain: int


class BaseDone(Message, frozen=True, tag=12):
    """Target: done."""

    epoch: int
    session: int
    seq: int


StreamMessage = (
    Begin
    | At
    | Ops
    | Ack
    | Nack
    | FlushRequest
    | FlushDone
    | Checkpoint
    | CheckpointDone
    | Retire
    | Base
    | BaseDone
    | Ready
    | AskAgain
    | SpaceLeft
)
