"""What the two volumes say to each other to compare their trees, and what of it is lawful.

The source asks what the follower holds at one place of the stream; the follower answers with
hashes. Fields are only ever appended. Tags from 64 on.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mirrorha.errors import PeerProtocolError, ensure
from mirrorha.volume.disk import Entry, Kind
from mirrorha.volume.op_checks import FID_MAX, OFFSET_MAX
from mirrorha.wire.limits import BLOCK_BYTES, FRAME_BYTES_MAX, NAME_BYTES_MAX

DIGEST_BYTES: Final = 16
# One question is one request to either disk, during which no change is applied there: short.
ITEMS_MAX: Final = 64
BLOCKS_MAX: Final = 8  # of all its items together
# What a directory that differs is divided into, to find the names in which it does.
BUCKETS_MAX: Final = 4096
ENTRIES_MAX: Final = 256
# Questions that the source may have under way.
LOOKS_MAX: Final = 4
BLOCK_MAX: Final = OFFSET_MAX // BLOCK_BYTES

ensure(
    ENTRIES_MAX * (4 * NAME_BYTES_MAX + 32) < FRAME_BYTES_MAX
    and ITEMS_MAX * (DIGEST_BYTES + 2) * BLOCKS_MAX + BUCKETS_MAX * 20 < FRAME_BYTES_MAX,
    "the longest answer fits in a frame",
)


class Names(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The names in directory `fid`: a hash for each of so many buckets."""

    fid: int
    buckets: int = 1


class NamesIn(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The names themselves, of one bucket."""

    fid: int
    buckets: int
    bucket: int


class Attributes(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """All that is compared of `fid` besides names and content."""

    fid: int


class Blocks(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Content: hashes of blocks from `first`, at most `count`."""

    fid: int
    first: int
    count: int


Item = Names | NamesIn | Attributes | Blocks


class SeenNames(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """How many names there are, and a hash for each bucket."""

    count: int
    digests: list[bytes]


class SeenEntries(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The names of a bucket. More than ENTRIES_MAX are not told."""

    entries: list[Entry]


class SeenAttributes(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """What is compared. Texts and extended attributes as hashes; the time of access is not."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    links: int
    rdev: int
    target: bytes
    xattrs: bytes


class SeenBlocks(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """As `mirrorha.volume.disk.HashBlocks` answers."""

    digests: list[bytes]


Seen = SeenNames | SeenEntries | SeenAttributes | SeenBlocks


class VerifyMessage(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages."""

    epoch: int
    session: int


class Look(VerifyMessage, frozen=True, tag=64):
    """Source: what do you hold of these, once you have applied `seq` and nothing after it?

    Sent between the op `seq` and the next one.
    """

    number: int
    seq: int
    seed: int
    items: list[Item]


class Soon(VerifyMessage, frozen=True, tag=65):
    """Source: I shall ask for these. Have them read from the device."""

    blocks: list[Blocks]


class Looked(VerifyMessage, frozen=True, tag=66):
    """Follower, to `Look`: an answer to each item. None: it is gone, or of another kind."""

    number: int
    seen: list[Seen | None]


AnyVerifyMessage = Look | Soon | Looked


def flaw(message: Look | Soon) -> str:
    """Why no source sends this, or ""."""
    items = message.blocks if isinstance(message, Soon) else message.items
    if not 0 < len(items) <= ITEMS_MAX:
        return f"a question of {len(items)} items"
    if sum(each.count for each in items if isinstance(each, Blocks)) > BLOCKS_MAX:
        return "a question that is too long"
    if not all(_is_lawful(each) for each in items):
        return "a question that cannot be meant"
    return ""


def check_answer(message: Looked, items: list[Item]) -> None:
    """See that each item is answered, by something that can be its answer.

    Raises:
        PeerProtocolError: it is not.
    """
    fits = len(message.seen) == len(items) and all(
        seen is None or _answers(seen, item) for seen, item in zip(message.seen, items, strict=True)
    )
    if not fits:
        raise PeerProtocolError("the follower answers another question than was asked")


def _is_lawful(item: Item) -> bool:
    if not 0 < item.fid <= FID_MAX:
        return False
    match item:
        case Names():
            return 0 < item.buckets <= BUCKETS_MAX
        case NamesIn():
            return 0 < item.buckets <= BUCKETS_MAX and 0 <= item.bucket < item.buckets
        case Attributes():
            return True
        case Blocks():
            return 0 < item.count <= BLOCKS_MAX and 0 <= item.first <= BLOCK_MAX - BLOCKS_MAX


def _answers(seen: Seen, item: Item) -> bool:
    match item:
        case Names():
            return isinstance(seen, SeenNames) and len(seen.digests) == item.buckets
        case NamesIn():
            return isinstance(seen, SeenEntries) and len(seen.entries) <= ENTRIES_MAX
        case Attributes():
            return isinstance(seen, SeenAttributes)
        case Blocks():
            return isinstance(seen, SeenBlocks) and len(seen.digests) <= item.count
