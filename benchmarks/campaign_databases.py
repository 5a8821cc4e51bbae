"""Databases on a mirrored directory whose primary is killed under load, again and again.

    python benchmarks/campaign_databases.py [--database sqlite-wal] [--rounds 20] [--link plain]

Each round: the database is served on the primary, clients outside record what was acknowledged;
every process of that node, the database's too, is killed with -9 at one instant; the database opens
on the other node; its own integrity check must pass and nothing acknowledged may be missing; the
killed node comes back, and the next round begins there. Needs root, /dev/fuse, and Debian's
postgresql, redis-server and git. Ends with 1 if anything was wrong; then the directory with the
logs is kept, and named.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.databases.pair import RealVolumePair
from tests.databases.rounds import DATABASES, Round, play
from tests.mounted.machine import MachineError
from tests.mounted.real_pair import Setup, open_real_pair


def show(number: int, played: Round) -> None:
    print(
        f"{played.database} {number}: killed {played.primary} after {played.acknowledged:,} "
        f"acknowledged; {played.served_by} served after {played.failover_s:.2f} s, the database "
        f"{played.opened_s:.2f} s later; round {played.took_s:.1f} s, load {played.load:.2f}",
        flush=True,
    )
    for fault in played.faults:
        print(f"  WRONG: {fault}", flush=True)


def play_one(name: str, options: argparse.Namespace) -> bool:
    """Play the rounds of one database; whether all went well."""
    root = Path(tempfile.mkdtemp(prefix="mirrorha-databases-"))
    root.chmod(0o755)  # some databases run as a user of their own
    scratch = root / "scratch"
    scratch.mkdir()
    rounds: list[Round] = []
    failure = ""
    try:
        with open_real_pair(root, Setup(link=options.link, timeout_s=options.timeout_s)) as pair:
            pair.start()
            for played in play(
                name,
                RealVolumePair(pair),
                scratch=scratch,
                rounds=options.rounds,
                load_s=options.load_s,
                rng=random.Random(options.seed),
            ):
                rounds.append(played)
                show(len(rounds), played)
    except MachineError as error:
        failure = str(error)
    faults = sum(len(played.faults) for played in rounds)
    if failure or faults:
        print(f"{name}: {failure or f'{faults} faults'}; logs are in {root}")
        return False
    shutil.rmtree(root)
    acknowledged = sum(played.acknowledged for played in rounds)
    failover_s = statistics.median(played.failover_s for played in rounds)
    print(
        f"{name}: {len(rounds)} rounds, {acknowledged:,} acknowledged, none missing; "
        f"the other node served after {failover_s:.2f} s (median)"
    )
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--database", choices=sorted(DATABASES), action="append")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--load-s", type=float, default=2.0, help="under load for up to twice that")
    parser.add_argument("--link", choices=("tls", "plain"), default="tls")
    parser.add_argument("--timeout-s", type=float, default=3.0, help="of the heartbeats")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    well = [play_one(name, options) for name in options.database or DATABASES]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
