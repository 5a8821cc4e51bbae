"""What it takes to hear of a rename that happened while a node was away.

    python benchmarks/bench_renames.py [--mib 2048] [--files 50000] [--rounds 3] [--link plain]

A large file, and a directory with many, get other names while the second node is dead; it comes
back. Timed from its start until both mirror again, with no file in memory. Asked, of each: less
than a megabyte on the wire, within three seconds. It exits with 1 otherwise. Both copies are read
and compared at the end. Needs root and /dev/fuse.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.mixed_tree import MIB
from benchmarks.recovery_subjects import LIMIT_S, drop_caches, ensure_equal, open_place

from tests.mounted.real_pair import NODES, RealPair, Setup, open_real_pair

WIRE_BYTES_MAX: Final = 1_000_000
TOOK_S_MAX: Final = 3.0
#: A node compares what was changed in the last ten checkpoints, whatever has happened to it.
SETTLE_S: Final = 12.0
FILE: Final = "large"
DIRECTORY: Final = "many"


@attrs.frozen
class Renamed:
    """What a rename cost the node that was away."""

    took_s: float
    wire_bytes: int


def fill(directory: Path, *, mib: int, files: int) -> None:
    """A file of so many mebibytes, and a directory with so many files."""
    rng = random.Random(0)
    with (directory / FILE).open("wb", buffering=0) as file:
        for _ in range(mib):
            file.write(rng.randbytes(MIB))
    (directory / DIRECTORY).mkdir()
    for number in range(files):
        (directory / DIRECTORY / str(number)).write_bytes(rng.randbytes(100))
    os.sync()


def rename_while_away(pair: RealPair, names: Sequence[str], number: int) -> Renamed:
    """Kill the second node, rename what is named so, and time the node's return."""
    serves = pair.wait_mirrored()
    time.sleep(SETTLE_S)
    away = pair.other(serves)
    pair.kill(away)
    pair.wait(f"{serves} serves alone", lambda: pair.role(serves) == "ALONE")
    directory = pair.directory(serves)
    for name in names:
        (found,) = directory.glob(f"{name}*")
        found.rename(directory / f"{name}-{number}")
    drop_caches()
    began_s = time.monotonic()
    pair.start(away)
    pair.wait_mirrored(limit_s=LIMIT_S)
    return Renamed(time.monotonic() - began_s, pair.wire_bytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--link", choices=("tls", "plain"), default="tls")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    is_met = True
    with open_place() as base, open_real_pair(base, Setup(link=options.link)) as pair:
        fill(pair.directory(NODES[0]), mib=options.mib, files=options.files)
        pair.start()
        pair.wait_mirrored(limit_s=LIMIT_S)
        for name in (FILE, DIRECTORY):
            rounds = [rename_while_away(pair, [name], number) for number in range(options.rounds)]
            took_s = statistics.median(each.took_s for each in rounds)
            wire_bytes = max(each.wire_bytes for each in rounds)
            print(
                f"load {os.getloadavg()[0]:.1f}; {name}: {took_s:.2f} s (at most {TOOK_S_MAX:g}), "
                f"{wire_bytes:,} bytes on the wire (less than {WIRE_BYTES_MAX:,})",
                flush=True,
            )
            is_met &= took_s <= TOOK_S_MAX and wire_bytes < WIRE_BYTES_MAX
        ensure_equal(*map(pair.directory, NODES))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
