"""What a request costs on the real disk and on the one in memory.

    python benchmarks/bench_disk.py [DIRECTORY]

Prints microseconds a request, the best of several rounds. DIRECTORY says which file system (by
default the one for temporary files); it is left as it was found.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import AnyRequest, Apply, Disk, HashBlocks, ReadBytes, SyncFiles, SyncTree
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.local_disk.ids import IdTable
from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.ops import ROOT_FID, Create, Rename, Unlink, Write, make_fid

ROUNDS = 5
T0 = 1_700_000_000_000_000_000
PAGE = bytes(range(256)) * 16
FILE = make_fid(epoch=1, counter=1)


def best_us(disk: Disk, make: Callable[[], Sequence[AnyRequest]]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        requests = make()
        began_s = time.perf_counter()
        for request in requests:
            disk.perform(request)
        rounds.append((time.perf_counter() - began_s) / len(requests) * 1e6)
        disk.perform(SyncTree())
    return min(rounds)


def measure(disk: Disk) -> dict[str, float]:
    disk.perform(Apply(Create(FILE, ROOT_FID, "file", 0o644, -1, -1, T0)))
    counter = itertools.count(2)
    names = range(1000)

    def creates() -> list[AnyRequest]:
        fids = [make_fid(epoch=1, counter=next(counter)) for _ in names]
        return [
            Apply(Create(fid, ROOT_FID, f"a{name}", 0o644, -1, -1, T0))
            for name, fid in zip(names, fids, strict=True)
        ]

    found = {
        "write 4 KiB": best_us(
            disk, lambda: [Apply(Write(FILE, i % 256 * 4096, PAGE, T0 + i)) for i in range(5000)]
        ),
        "write 100 bytes": best_us(
            disk, lambda: [Apply(Write(FILE, i % 8 * 100, PAGE[:100], T0 + i)) for i in range(5000)]
        ),
        "write and sync": best_us(
            disk, lambda: [Apply(Write(FILE, 0, PAGE, T0)), SyncFiles([FILE])] * 100
        ),
        "read 4 KiB": best_us(
            disk, lambda: [ReadBytes(FILE, i % 256 * 4096, 4096) for i in range(5000)]
        ),
        "hash 1 MiB": best_us(disk, lambda: [HashBlocks(FILE, 0, 16, 7)] * 50),
    }
    rounds: dict[str, list[float]] = {"create": [], "rename": [], "unlink": []}
    for _ in range(ROUNDS):
        steps: dict[str, list[AnyRequest]] = {
            "create": creates(),
            "rename": [
                Apply(Rename(0, ROOT_FID, f"a{name}", ROOT_FID, f"b{name}", 0, T0))
                for name in names
            ],
            "unlink": [Apply(Unlink(0, ROOT_FID, f"b{name}", T0)) for name in names],
        }
        for what, requests in steps.items():
            began_s = time.perf_counter()
            for request in requests:
                disk.perform(request)
            rounds[what].append((time.perf_counter() - began_s) / len(requests) * 1e6)
    return found | {what: min(times) for what, times in rounds.items()}


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=where) as name:
        (Path(name) / "root").mkdir()
        ids = IdTable(Path(name) / "ids.db")
        touched = TouchedStore(Path(name) / "touched.db")
        draws = itertools.count(1)
        disk = RealDisk(
            Path(name) / "root",
            ids,
            touched,
            draw=lambda: make_fid(epoch=2, counter=next(draws)),
        )
        real = measure(disk)
        for one in (disk, ids, touched):
            one.close()
    memory = measure(MemoryDisk())
    for what in real:
        print(f"{what:16}  real {real[what]:8.2f} us   memory {memory[what]:8.2f} us")


if __name__ == "__main__":
    main()
