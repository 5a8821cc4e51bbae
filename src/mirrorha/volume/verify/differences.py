"""What differs between what the two nodes hold, as it is told. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

import attrs

from mirrorha.volume.verify.exchange import Both
from mirrorha.volume.verify.messages import Blocks, SeenAttributes, SeenBlocks
from mirrorha.wire.limits import BLOCK_BYTES

_MISSING: Final = "missing"
_THERE: Final = "there"
_ZEROS: Final = "zeros"
#: What a repair can restate by an op of the stream.
RESTATED: Final = frozenset({"mode", "owner", "mtime", "size"})


@final
@attrs.frozen
class Difference:
    """One thing that differs. `name`: of directory `fid`; else it is about `fid` itself."""

    fid: int
    what: str
    mine: str
    theirs: str
    offset: int = 0
    length: int = 0
    name: str = ""


def differing_fields(both: Both) -> list[Difference]:
    """What of a file's attributes differs."""
    fid, mine, theirs = both.item.fid, both.mine, both.theirs
    if not isinstance(mine, SeenAttributes) or not isinstance(theirs, SeenAttributes):
        here, there = (_MISSING if each is None else _THERE for each in (mine, theirs))
        return [Difference(fid, "file", here, there)]
    ours, others = _fields(mine), _fields(theirs)
    if mine.kind is not theirs.kind:
        return [Difference(fid, "kind", ours["kind"], others["kind"])]
    return [
        Difference(fid, what, ours[what], others[what])
        for what in ours
        if ours[what] != others[what]
    ]


def differing_blocks(both: Both) -> Iterator[Difference]:
    """Which blocks of a file's content differ."""
    item, mine, theirs = both.item, both.mine, both.theirs
    if not isinstance(item, Blocks) or not both.differ:
        return
    # Gone from one of them: told of by its attributes or its directory, if that is so.
    if not isinstance(mine, SeenBlocks) or not isinstance(theirs, SeenBlocks):
        return
    for at in range(max(len(mine.digests), len(theirs.digests))):
        here, there = (
            _digest_text(each.digests[at]) if at < len(each.digests) else _MISSING
            for each in (mine, theirs)
        )
        if here != there:
            offset = (item.first + at) * BLOCK_BYTES
            yield Difference(item.fid, "content", here, there, offset, BLOCK_BYTES)


def _digest_text(digest: bytes) -> str:
    return digest.hex() or _ZEROS


def _fields(seen: SeenAttributes) -> dict[str, str]:
    return {
        "kind": seen.kind.name.lower(),
        "mode": f"{seen.mode:#o}",
        "owner": f"{seen.uid}:{seen.gid}",
        "size": str(seen.size_bytes),
        "mtime": str(seen.mtime_ns),
        "links": str(seen.links),
        "device": f"{seen.rdev:#x}",
        "target": seen.target.hex(),
        "xattrs": seen.xattrs.hex(),
    }
