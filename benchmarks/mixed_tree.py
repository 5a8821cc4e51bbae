"""A directory of large and small files, and the change of a small share of it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

KIB: Final = 1 << 10
MIB: Final = 1 << 20
BLOCK_BYTES: Final = 64 * KIB
SEGMENT_BYTES: Final = MIB

#: Of all bytes, how much lies in files of which size; the rest in small ones. Of four gigabytes,
#: the largest file has one.
_LARGE: Final = ((1 / 4, 1 / 4), (3 / 16, 1 / 16), (1 / 8, 1 / 64), (3 / 32, 1 / 256))
_SMALLEST_LARGE: Final = (3 / 32, MIB)
_SMALL_BYTES: Final = (4 * KIB, 64 * KIB)
_FILES_EACH: Final = 100


@attrs.frozen
class Changed:
    """What was changed.

    Attributes:
        content_bytes: what a perfect copier would send.
        segments: how many segments of a mebibyte were touched.
    """

    content_bytes: int
    segments: int


@attrs.frozen
class MixedTree:
    """What such a directory holds; the same wherever it lies. Paths are relative to it."""

    large: dict[str, int]
    small: dict[str, int]

    @classmethod
    def of(cls, total_mib: int) -> MixedTree:
        """About so many mebibytes: three quarters in files of a mebibyte and more."""
        total = total_mib * MIB
        rng = random.Random(total_mib)
        sizes = [(share, max(MIB, int(part * total))) for share, part in _LARGE]
        large = {}
        for number, (share, size) in enumerate([*sizes, _SMALLEST_LARGE]):
            for each in range(max(1, round(share * total / size))):
                large[f"large{number}/{each}"] = size // BLOCK_BYTES * BLOCK_BYTES
        small: dict[str, int] = {}
        left = total - sum(large.values())
        while left > 0:
            name = f"small{len(small) // _FILES_EACH}/{len(small)}"
            small[name] = rng.randrange(*_SMALL_BYTES)
            left -= small[name]
        return cls(large, small)

    @property
    def total_bytes(self) -> int:
        return sum(self.large.values()) + sum(self.small.values())

    def make(self, directory: Path) -> None:
        """Write all of it."""
        rng = random.Random(0)
        for name, size in {**self.large, **self.small}.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            with path.open("wb", buffering=0) as file:
                for begin in range(0, size, MIB):
                    file.write(rng.randbytes(min(MIB, size - begin)))
        os.sync()

    def change(self, directory: Path, share: float, seed: int) -> Changed:
        """Overwrite this share of all blocks: half evenly over the large files, half small ones."""
        rng = random.Random(seed)
        half = max(1, round(self.total_bytes / BLOCK_BYTES * share / 2))
        segments = set()
        for name, at in self._evenly(half, rng):
            with (directory / name).open("r+b", buffering=0) as file:
                file.seek(at * BLOCK_BYTES)
                file.write(rng.randbytes(BLOCK_BYTES))
            segments.add((name, at * BLOCK_BYTES // SEGMENT_BYTES))
        whole = rng.sample(sorted(self.small), min(half, len(self.small)))
        for name in whole:
            (directory / name).write_bytes(rng.randbytes(self.small[name]))
        content = half * BLOCK_BYTES + sum(self.small[name] for name in whole)
        return Changed(content, len(segments) + len(whole))

    def _evenly(self, count: int, rng: random.Random) -> Iterator[tuple[str, int]]:
        blocks = [(name, size // BLOCK_BYTES) for name, size in self.large.items()]
        step = sum(have for _, have in blocks) / count
        wanted = rng.random() * step
        before = 0
        for name, have in blocks:
            while wanted < before + have:
                yield name, int(wanted) - before
                wanted += step
            before += have
