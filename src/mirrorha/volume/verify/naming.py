"""Which names it is in which two directories differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mirrorha.volume.disk import Entry
from mirrorha.volume.tasks.task import Steps
from mirrorha.volume.verify.differences import Difference
from mirrorha.volume.verify.exchange import Exchange
from mirrorha.volume.verify.messages import (
    BUCKETS_MAX,
    Names,
    NamesIn,
    SeenEntries,
    SeenNames,
)

_NAMES_A_BUCKET: Final = 32
# Buckets that are looked into: enough for a person to see what is the matter.
_LOOKED_INTO_MAX: Final = 16


def named_differences(
    exchange: Exchange, mine: SeenNames, theirs: SeenNames, fid: int
) -> Steps[list[Difference]]:
    """The names in which directory `fid` differs, some of them if they are many; never none.

    That it does differ is known. Each question is for another place of the stream, so the names may
    be others by then: then it is told without them.
    """
    buckets = min(BUCKETS_MAX, max(mine.count, theirs.count) // _NAMES_A_BUCKET + 1)
    (both,) = yield from exchange.ask([Names(fid, buckets)])
    found: list[Difference] = []
    if isinstance(both.mine, SeenNames) and isinstance(both.theirs, SeenNames):
        pairs = zip(both.mine.digests, both.theirs.digests, strict=True)
        differing = [at for at, (here, there) in enumerate(pairs) if here != there]
        for bucket in differing[:_LOOKED_INTO_MAX]:
            (inside,) = yield from exchange.ask([NamesIn(fid, buckets, bucket)])
            if isinstance(inside.mine, SeenEntries) and isinstance(inside.theirs, SeenEntries):
                found += _differing(fid, inside.mine.entries, inside.theirs.entries)
    if not found:
        found = [Difference(fid, "names", f"{mine.count} names", f"{theirs.count} names")]
    return found


def _differing(fid: int, mine: Iterable[Entry], theirs: Iterable[Entry]) -> list[Difference]:
    here = {entry.name: entry for entry in mine}
    there = {entry.name: entry for entry in theirs}
    return [
        Difference(fid, "name", _text(here.get(name)), _text(there.get(name)), name=name)
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]


def _text(entry: Entry | None) -> str:
    return "missing" if entry is None else f"{entry.kind.name.lower()} {entry.fid:#x}"
