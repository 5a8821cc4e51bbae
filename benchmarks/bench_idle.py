"""What an idle node costs over a minute.

    python benchmarks/bench_idle.py [--seconds 60] [--paths 2]

Two real nodes with one volume, and two or four heartbeat paths (four: both have two addresses),
with the default pulse and timeout. Asked: less than 1 % of a core and 60 MB of memory for each.
It exits with 1 over budget.
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

from tests.shows.idle import TWO_NETWORKS, TWO_PATHS, measure_idle

CPU_PERCENT_MAX: Final = 1.0
MEMORY_MB_MAX: Final = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--paths", type=int, choices=(2, 4), default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mirrorha-idle-") as base:
        addresses = TWO_PATHS if options.paths == 2 else TWO_NETWORKS
        found = trio.run(
            lambda: measure_idle(Path(base), seconds=options.seconds, addresses=addresses)
        )
    is_within = True
    print(f"load {os.getloadavg()[0]:.1f}; over {options.seconds:.0f} s")
    for role, figures in found.items():
        print(
            f"{role:6}  {figures['cpu_percent']:.2f} % of a core (at most {CPU_PERCENT_MAX})  "
            f"{figures['wakes_per_s']:.0f} wake-ups/s  PSS {figures['pss_mb']:.1f} MB, "
            f"RSS {figures['rss_mb']:.1f} MB (at most {MEMORY_MB_MAX:.0f}, "
            f"grown by {figures['grown_mb']:.1f})  {figures['paths']} heartbeat paths"
        )
        is_within = is_within and figures["cpu_percent"] < CPU_PERCENT_MAX
        is_within = is_within and figures["rss_mb"] < MEMORY_MB_MAX
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
