"""What a resync sends after 1 % of the blocks have changed, and how long it keeps who writes.

    python benchmarks/bench_resync.py [--mib 200] [--rounds 1]

Two real nodes, TLS; the follower is killed, blocks are changed at random, it returns. Asked: at
most 1.2 times the changed blocks and 48 bytes for each block compared, counted by the kernel in
both directions; and no pause above 250 ms (the goal: 100 ms) of an application that writes 4 KiB
all the time, from the follower's return until half a second after the cut-over. It exits with 1
otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.shows.resync import Resync, measure_resync

FILES: Final = 10
SHARE: Final = 0.01
PAUSE_MS_MAX: Final = 250


def report(quiet: Resync, busy: Resync) -> bool:
    """Print both resyncs. Returns whether they are within what is asked."""
    print(
        f"load {os.getloadavg()[0]:.1f}; {quiet.changed_blocks} of {quiet.compared_blocks} blocks "
        f"changed: {quiet.wire_bytes:,} bytes on the wire (allowed {quiet.allowed_bytes:,.0f}), "
        f"{quiet.sent_bytes:,} of them content; {quiet.took_s:.2f} s from start to mirror"
    )
    pauses = " ".join(f"{pause_ms:.0f}" for pause_ms in busy.pauses_ms)
    print(
        f"  with a writer: longest pauses {pauses} ms (at most {PAUSE_MS_MAX}); "
        f"{busy.took_s:.2f} s, {busy.acks} writes acknowledged"
    )
    return quiet.wire_bytes <= quiet.allowed_bytes and busy.pauses_ms[0] <= PAUSE_MS_MAX


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    is_within = True
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="mirrorha-resync-") as base:
            mib = max(1, options.mib // FILES)
            quiet, busy = trio.run(
                lambda base=base, mib=mib: measure_resync(
                    Path(base), files=FILES, file_mib=mib, share=SHARE
                )
            )
        is_within = report(quiet, busy) and is_within
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
