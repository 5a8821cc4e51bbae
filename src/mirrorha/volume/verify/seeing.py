"""What a disk is asked of an item, and what is told of its answer. Pure; the same on both nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import xxhash

from mirrorha.errors import unreachable
from mirrorha.volume import disk
from mirrorha.volume.verify.messages import (
    DIGEST_BYTES,
    ENTRIES_MAX,
    Attributes,
    Blocks,
    Item,
    Names,
    NamesIn,
    Seen,
    SeenAttributes,
    SeenBlocks,
    SeenEntries,
    SeenNames,
)

_encode: Final = msgspec.msgpack.Encoder().encode
_DIGEST_MODULUS: Final = 1 << (8 * DIGEST_BYTES)


def request_of(item: Item, seed: int) -> disk.AnyRequest:
    """What the disk is asked."""
    match item:
        case Names() | NamesIn():
            return disk.ListDirectory(item.fid)
        case Attributes():
            return disk.ReadAttributes(item.fid)
        case Blocks():
            return disk.HashBlocks(item.fid, item.first, item.count, seed)


def requests_of(items: Sequence[Item], seed: int) -> list[disk.AnyRequest]:
    """The same of several, to be performed as one."""
    return [request_of(item, seed) for item in items]


def reads_of(blocks: Sequence[Blocks]) -> disk.Many:
    """What the disk is asked some time before that."""
    return disk.Many([disk.ReadAnew(each.fid, each.first, each.count) for each in blocks])


def seen_of(item: Item, result: object, seed: int) -> Seen | None:
    """What is told of the disk's answer to `request_of`."""
    if result is None:
        return None
    match item, result:
        case Names(), list():
            return _names(result, item.buckets, seed)
        case NamesIn(), list():
            entries = [one for one in result if bucket_of(one, item.buckets, seed) == item.bucket]
            return SeenEntries(sorted(entries, key=_name_of)[:ENTRIES_MAX])
        case Attributes(), disk.Attributes():
            return _attributes(result, seed)
        case Blocks(), list():
            return SeenBlocks(result)
    unreachable("a disk answers what it was asked")


def seen_of_all(items: Sequence[Item], results: object, seed: int) -> list[Seen | None]:
    """The same of several."""
    if not isinstance(results, list):
        unreachable("many requests have a list of results")
    return [seen_of(item, one, seed) for item, one in zip(items, results, strict=True)]


def bucket_of(entry: disk.Entry, buckets: int, seed: int) -> int:
    """Into which of so many buckets a name falls, whatever it stands for."""
    return xxhash.xxh3_64_intdigest(entry.name.encode(), seed) % buckets


def _names(entries: list[disk.Entry], buckets: int, seed: int) -> SeenNames:
    # A sum does not depend on the order, and nobody who does not know the seed can choose it.
    sums = [0] * buckets
    for entry in entries:
        at = bucket_of(entry, buckets, seed) if buckets > 1 else 0
        sums[at] += xxhash.xxh3_128_intdigest(_encode(entry), seed)
    digests = [(each % _DIGEST_MODULUS).to_bytes(DIGEST_BYTES, "big") for each in sums]
    return SeenNames(len(entries), digests)


def _attributes(found: disk.Attributes, seed: int) -> SeenAttributes:
    return SeenAttributes(
        kind=found.kind,
        mode=found.mode,
        uid=found.uid,
        gid=found.gid,
        size_bytes=found.size_bytes,
        mtime_ns=found.mtime_ns,
        links=found.links,
        rdev=found.rdev,
        target=xxhash.xxh3_128_digest(found.target.encode(), seed),
        xattrs=xxhash.xxh3_128_digest(_encode(sorted(found.xattrs.items())), seed),
    )


def _name_of(entry: disk.Entry) -> str:
    return entry.name
