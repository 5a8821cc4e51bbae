"""The follower reads nothing for a minute while 64 writers write: the memory that it costs.

    python benchmarks/bench_deaf_peer.py [--seconds 60] [--writers 64] [--kib 64]

Two real nodes, whose `peer_slow_max` is longer than that. First the follower's event loop is
blocked (its heartbeats go on), then its whole process is stopped. Exits with 1 if the source's
memory grew by more than 32 MB, a write was acknowledged or failed in that time, an acknowledged
one is lost, or they do not go on.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.shows.deaf_peer import measure_deaf_peer


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--kib", type=int, default=64)
    options = parser.parse_args()
    is_well = True
    for how, blocks_loop in (("its loop is blocked", True), ("it is stopped", False)):
        with tempfile.TemporaryDirectory(prefix="mirrorha-deaf-") as base:
            found = trio.run(
                lambda base=base, blocks_loop=blocks_loop: measure_deaf_peer(
                    Path(base),
                    seconds=options.seconds,
                    writers=options.writers,
                    size=options.kib * 1024,
                    blocks_loop=blocks_loop,
                )
            )
        print(
            f"load {os.getloadavg()[0]:.1f}; {how} for {found.silent_s:.0f} s: memory "
            f"{found.before_mb:.1f} MB before, at most {found.highest_mb:.1f} MB; "
            f"{found.acks_before} writes acknowledged before, {found.acks_while} meanwhile, "
            f"{found.acks_after} after it, the first {found.resumed_s:.3f} s later; "
            f"{found.errors} failed, {found.lost} lost, {found.decisions} decisions"
        )
        is_well = is_well and found.is_well
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
