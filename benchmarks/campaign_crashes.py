"""Crashes of two real nodes, again and again: `kill -9` and power failures, of one or of both.

    python benchmarks/campaign_crashes.py [--rounds 300] [--seed N] [--first ROUND] [--sdk]

Each node has its volume and its state on an ext4 of its own; a power failure shuts that file system
down, so that nothing more reaches the disk, and mounts it again. Clients outside write to the
mount (or, with --sdk, through the file API of an application), and keep a record of what was
answered. After each round: the pair mirrors again by itself; what was acknowledged is there at the
level that was promised (an ordinary write, unless both have lost power; a synced one always); and
both disks hold the same, by a walk of its own that hashes everything. What happens in a round
follows from the seed and its number: `--seed S --first N --rounds 1` plays it again. Needs root
and, without --sdk, /dev/fuse. Ends with 1 if anything was wrong; then the directory with the logs
is kept.

`--steps` plays other rounds: at each durable step of a node (`mirrorha.testing.crash_points`) it
is killed, or loses its power, right before and right after.

`--eatmydata` takes the fsync away from the nodes (Debian's package eatmydata): acknowledged writes
must be lost then, which says that this campaign would notice.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.cluster.rig import free_ports
from tests.crashes.machines import eatmydata, enter_own_mounts
from tests.crashes.rounds import TIMEOUT_S, WAIT_PEER_S, Round, draw, play
from tests.crashes.steps import aims, play_steps
from tests.mounted.machine import MachineError
from tests.mounted.real_pair import NODES, Setup

SDK_NODE: Final = ROOT / "tests/crashes/sdk_node.py"
#: By whether the nodes were lied to.
AS_IT_MUST: Final = {
    False: "nothing acknowledged is missing, and the disks are the same",
    True: "acknowledged writes are missing, as it must be without fsync",
}


def show(played: Round) -> None:
    print(
        f"round {played.number}: {played.plan}; {played.primary} served, {played.answered:,} "
        f"answered, {played.synced:,} of them synced; mirrored {played.mirrored_s:.1f} s after the "
        f"crash; round {played.took_s:.1f} s, load {played.load:.2f}",
        flush=True,
    )
    if played.held:
        print(f"  {played.held}", flush=True)
    for fault in played.faults:
        print(f"  WRONG: {fault}", flush=True)


def run(options: argparse.Namespace, root: Path) -> list[Round]:
    ports = dict(zip(NODES, free_ports(len(NODES)), strict=True))
    program = (str(SDK_NODE), ",".join(f"{name}={port}" for name, port in ports.items()))
    setup = Setup(
        link=options.link,
        timeout_s=TIMEOUT_S,
        wait_peer_s=WAIT_PEER_S,
        witness=True,
        program=program if options.sdk else (),
        preload=eatmydata() if options.eatmydata else "",
    )
    rounds: list[Round] = []
    numbers = range(options.first, options.first + options.rounds)
    to_play = play(
        root,
        setup,
        plans=[(number, draw(options.seed, number)) for number in numbers],
        seed=options.seed,
        places={name: str(port) for name, port in ports.items()} if options.sdk else None,
    )
    if options.steps:
        to_play = play_steps(root, setup, aims(), seed=options.seed)
    for played in to_play:
        rounds.append(played)
        show(played)
        if played.faults and options.eatmydata:
            break
    return rounds


def summary(rounds: list[Round], took_s: float) -> str:
    mirrored_s = sorted(played.mirrored_s for played in rounds)
    return (
        f"{len(rounds)} rounds in {took_s / 60:.1f} minutes, "
        f"{sum(played.answered for played in rounds):,} changes acknowledged, "
        f"{sum(played.synced for played in rounds):,} synced; mirrored again after "
        f"{statistics.median(mirrored_s):.1f} s (median), {mirrored_s[-1]:.1f} s at most"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--steps", action="store_true", help="a round for each durable step")
    parser.add_argument("--sdk", action="store_true", help="through the file API, without a mount")
    parser.add_argument("--link", choices=("tls", "plain"), default="tls")
    parser.add_argument("--eatmydata", action="store_true", help="must lose what was acknowledged")
    options = parser.parse_args()
    if options.steps and options.sdk:
        parser.error("steps are those of a node with a mount")
    if options.eatmydata and not eatmydata():
        parser.error("install the Debian package eatmydata")
    print(f"seed {options.seed}", flush=True)
    enter_own_mounts()
    root = Path(tempfile.mkdtemp(prefix="mirrorha-crashes-"))
    began_s = time.monotonic()
    try:
        rounds = run(options, root)
    except MachineError as error:
        # Without fsync a node can lose what it needs to come back at all.
        print(f"{error}; logs are in {root}")
        return 0 if options.eatmydata else 1
    faults = sum(len(played.faults) for played in rounds)
    print(summary(rounds, time.monotonic() - began_s))
    if bool(faults) is options.eatmydata:
        shutil.rmtree(root)
        print(AS_IT_MUST[options.eatmydata])
        return 0
    print(f"{faults} faults; logs are in {root}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
