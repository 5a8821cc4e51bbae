"""A witness killed in mid-swap, every second time with its power lost: epochs never fall.

    python benchmarks/campaign_witness.py [--rounds 100] [--seed 1]

Two nodes go on winning epochs while their witness dies, in one of the two fsyncs of a swap, and is
started again. After a power loss it has what it had fsynced, and of the rest what chance left. It
ends with an error if an epoch fell or has two winners.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.arbiters.witness_campaign import campaign


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mirrorha-witness-") as directory:
        found = trio.run(
            lambda: campaign(Path(directory), rounds=options.rounds, seed=options.seed)
        )
    print(
        f"load {os.getloadavg()[0]:.1f}, {time.monotonic() - began_s:.0f} s: {found.kills} "
        f"witnesses killed, {found.cut_short} of them with a swap under way, "
        f"{found.power_losses} with a power loss; {found.epochs} epochs, {found.wins} wins "
        f"acknowledged, {found.unknown} of unknown outcome; none fell, none has two winners"
    )


if __name__ == "__main__":
    main()
