"""A TCP check fails: restarted in place, three times, then handed over. How long each takes.

    python benchmarks/bench_check.py

Two real nodes; the check looks five times a second, and one failure counts. Prints what the first
node's history says of it. Exits with 1 if the service did not end on the other node.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.shows.failing_check import CHECK_EVERY_S, measure_failing_check


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mirrorha-check-") as base:
        found = trio.run(measure_failing_check, Path(base))
    print(f"load {os.getloadavg()[0]:.1f}; checked every {CHECK_EVERY_S} s")
    restarts = ", ".join(f"{restarted_s:.3f}" for restarted_s in found.restarted_s)
    print(f"restarted in place {found.restarts_shown} times, after {restarts} s")
    print(f"handed over after {found.moved_s:.3f} s")
    for rule, text in found.history:
        print(f"  {rule:20} {text}")
    return 0 if found.has_moved else 1


if __name__ == "__main__":
    sys.exit(main())
