"""Both probes polled every 10 ms through swaps and kill -9s: never 200 from both.

    python benchmarks/campaign_probe.py [--swaps 20] [--kills 20]

Two real nodes. A violation is two 200 answers, one of each node, whose requests overlap, or more
changes between the nodes in the order of the answers than there were swaps and kills. It exits
with 1 if there was one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.shows.probing import measure_probes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mirrorha-probes-") as base:
        found = trio.run(
            lambda: measure_probes(
                Path(base), swaps=options.swaps, kills=options.kills, seed=options.seed
            )
        )
    print(f"load {os.getloadavg()[0]:.1f}; {found.polls} polls, 200 by node: {found.ok}")
    for kind in ("swap", "kill"):
        dark = [s for name, s in zip(found.faults, found.dark_s, strict=True) if name == kind]
        if dark:
            print(
                f"{len(dark)} of {kind}: no 200 for {statistics.median(dark):.3f} s (median), "
                f"{max(dark):.3f} s (maximum)"
            )
    print(f"200 from both at once: {len(found.both)}; the service moved {found.moves} times")
    for one, two in found.both[:10]:
        print(f"  {one}\n  {two}")
    return 0 if not found.both and found.moves == len(found.faults) else 1


if __name__ == "__main__":
    sys.exit(main())
