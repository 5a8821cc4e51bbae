"""`python -m mirrorha.testing.simulate --seeds N`: run seeds, report what was exercised.

Exit code 1 and the first trace if any seed violates an invariant. A seed alone replays its run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

from mirrorha.testing.sim.breakages import BREAKAGES, broken
from mirrorha.testing.sim.run import Outcome, run_seed

MODES: Final = ("arbiter", "consistent", "available")


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds asked for on all cores."""
    parser = argparse.ArgumentParser(prog="python -m mirrorha.testing.simulate")
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--trace", type=int, metavar="SEED", help="one seed, with its trace")
    parser.add_argument(
        "--production",
        action="store_true",
        help="the production volume machines on memory disks, in place of the model volume",
    )
    parser.add_argument("--counts", action="store_true", help="what was exercised, and how often")
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="who keeps the register")
    parser.add_argument("--breakage", choices=sorted(BREAKAGES), help="take out this rule")
    parser.add_argument("--breakages", action="store_true", help="take out each rule in turn")
    options = parser.parse_args(arguments)
    if options.breakages:
        return _all_breakages(options)
    if options.breakage is not None:
        with broken(options.breakage):
            return _one(options) if options.trace is not None else _hunt(options)
    return _many(options) if options.trace is None else _one(options)


def _one(options: argparse.Namespace) -> int:
    outcome = run_seed(options.trace, trace=True, mode=options.mode, production=options.production)
    print("\n".join(outcome.trace))
    print(f"seed {outcome.seed}: {outcome.problem or 'clean'}, {outcome.events} events")
    return 1 if outcome.problem else 0


def _hunt(options: argparse.Namespace) -> int:
    """Seeds until the missing rule shows."""
    print(_seeds_until_caught(options.breakage, options.first, options.seeds))
    return 0


def _seeds_until_caught(name: str, first: int, count: int) -> str:
    with broken(name):
        for seed in range(first, first + count):
            problem = run_seed(seed).problem
            if problem:
                return f"{name:<20} seed {seed}: {problem}"
    return f"{name:<20} not caught by {count} seeds from {first}"


def _all_breakages(options: argparse.Namespace) -> int:
    """A table: each rule, and the first seed that is red without it."""
    names = sorted(BREAKAGES)
    with ProcessPoolExecutor(options.jobs) as pool:
        firsts, counts = [options.first] * len(names), [options.seeds] * len(names)
        for line in pool.map(_seeds_until_caught, names, firsts, counts):
            print(line, flush=True)
    return 0


def _many(options: argparse.Namespace) -> int:
    began = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    counts: Counter[str] = Counter()
    failed: list[Outcome] = []
    events: list[int] = []
    play = partial(run_seed, mode=options.mode, production=options.production)
    with ProcessPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(play, seeds, chunksize=8):
            counts.update(outcome.counts)
            events.append(outcome.events)
            if outcome.problem:
                failed.append(outcome)
                print(f"seed {outcome.seed}: {outcome.problem}", file=sys.stderr)
    if options.counts:
        for name, number in sorted(counts.items()):
            print(f"{number:>9}  {name}")
    took_s = time.monotonic() - began
    print(
        f"{len(seeds)} seeds from {options.first}, {sum(events)} events "
        f"(fewest {min(events)}), {len(failed)} violations, {took_s:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
