"""What a worker keeps of what it has written: its memory after much, beside that after little.

    python benchmarks/bench_worker_memory.py [--first-mb 1000] [--total-mb 20000] [--link tls|plain]

A pair of real nodes; a program writes over the same 256 MiB file of the mount again and again, in
pieces of 4 KiB to 1 MiB, with an fsync now and then. Asked: at most a tenth more on either node.
Exits with 1 if it is more. Needs root and /dev/fuse.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.mounted.mounts import run_bounded
from tests.mounted.real_pair import NODES, RealPair, Setup, open_real_pair
from tests.shows.show_pair import rss_mb

GROWTH_MAX: Final = 0.10
#: Nobody dies here, and a saturated machine is late.
TIMEOUT_S: Final = 30.0
#: What is under way has ended, and checkpoints have retired what they may.
SETTLE_S: Final = 5.0
#: A slow machine writes a megabyte in so long.
MB_S_MAX: Final = 0.5

_WRITE: Final = """
import os, sys
path, total_mb = sys.argv[1], int(sys.argv[2])
file_bytes, mb, left = 256 << 20, 1 << 20, total_mb << 20
piece = os.urandom(mb)
fd = os.open(path, os.O_RDWR | os.O_CREAT)
offset = number = 0
sizes = [mb, mb, mb, 64 << 10, 4 << 10, 4 << 10, 4 << 10]
while left > 0:
    size = sizes[number % len(sizes)]
    if offset + size > file_bytes:
        offset = 0
    left -= os.pwrite(fd, piece[:size], offset)
    offset += size
    number += 1
    if number % 1000 == 0:
        os.fsync(fd)
"""


def measure(pair: RealPair, steps_mb: Sequence[int]) -> list[dict[str, float]]:
    """RSS of each node's worker, in MB, each time that so much was written in all."""
    serves = pair.primary()
    directory = pair.directory(serves)
    found, written_mb = [], 0
    for step_mb in steps_mb:
        more_mb, written_mb = step_mb - written_mb, step_mb
        command = [sys.executable, "-c", _WRITE, str(directory / "written"), str(more_mb)]
        limit_s = 30 + more_mb * MB_S_MAX
        done = run_bounded(command, limit_s=limit_s, directory=directory)
        if done.code:
            raise RuntimeError(f"the writer ended with {done.code}: {done.said}")
        time.sleep(SETTLE_S)
        found.append({name: rss_mb(worker(pair, name)) for name in NODES})
    return found


def worker(pair: RealPair, name: str) -> int:
    """The process that serves the node's mount."""
    pid = pair.status(name)["volumes"][0]["worker_pid"]
    if not isinstance(pid, int):
        raise RuntimeError(f"{name} has no worker")
    return pid


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--first-mb", type=int, default=1_000)
    parser.add_argument("--total-mb", type=int, default=20_000)
    parser.add_argument("--link", choices=("tls", "plain"), default="tls")
    options = parser.parse_args()
    is_within = True
    with (
        tempfile.TemporaryDirectory(prefix="mirrorha-memory-", ignore_cleanup_errors=True) as base,
        open_real_pair(Path(base), Setup(link=options.link, timeout_s=TIMEOUT_S)) as pair,
    ):
        pair.start()
        serves = pair.wait_mirrored()
        first, last = measure(pair, [options.first_mb, options.total_mb])
        print(f"load {os.getloadavg()[0]:.1f}; {options.link}")
        for name in NODES:
            growth = last[name] / first[name] - 1
            is_within = is_within and growth <= GROWTH_MAX
            role = "PRIM" if name == serves else "SECOND"
            print(
                f"{role:6}  worker's RSS after {options.first_mb} MB: {first[name]:.1f} MB, after "
                f"{options.total_mb} MB: {last[name]:.1f} MB ({growth:+.1%}, at most "
                f"{GROWTH_MAX:+.0%})"
            )
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
