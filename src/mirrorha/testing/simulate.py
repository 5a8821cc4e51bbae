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

from mirrorha.testing.sim.breakages import BREAKAGES, NOT_TAKEN_OUT, broken, run_without
from mirrorha.testing.sim.campaign import run_campaign, table
from mirrorha.testing.sim.rows import MODES, rows
from mirrorha.testing.sim.run import Outcome, run_seed

SHOW_EVERY: Final = 1_000


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
    parser.add_argument("--wide", action="store_true", help="more settings, more kinds of faults")
    parser.add_argument("--counts", action="store_true", help="what was exercised, and how often")
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="who keeps the register")
    parser.add_argument("--breakage", choices=sorted(BREAKAGES), help="take out this rule")
    parser.add_argument("--breakages", action="store_true", help="take out each rule in turn")
    parser.add_argument(
        "--campaign",
        action="store_true",
        help="the whole mix of modes, volumes and mixtures, and a table of all it exercised",
    )
    options = parser.parse_args(arguments)
    if options.campaign:
        return _campaign(options)
    if options.breakages:
        return _all_breakages(options)
    if options.breakage is not None:
        with broken(options.breakage):
            return _one(options) if options.trace is not None else _hunt(options)
    return _many(options) if options.trace is None else _one(options)


def _campaign(options: argparse.Namespace) -> int:
    """Exit code 1 if a seed violates an invariant, or a row of the table fails."""
    report = None
    ran = run_campaign(first=options.first, count=options.seeds, jobs=options.jobs)
    for number, (report, _part, outcome) in enumerate(ran, 1):
        if outcome.problem:
            print(report.failed[-1], flush=True)
        if number % SHOW_EVERY == 0:
            print(f"{number} seeds, {report.took_s:.0f} s", flush=True)
    if report is None:
        return 0
    print("\n".join(table(report)))
    for part, count in report.seeds.items():
        print(f"{count:>9} seeds from {options.first}: {part.flags()}")
    for failed in report.failed:
        print(f"FAILS: {failed}")
    wrong = [row for row in rows() if report.wrong_with(row)]
    print(
        f"{sum(report.seeds.values())} seeds, {report.events} events (fewest {report.events_min}), "
        f"{len(report.failed)} violations, {len(wrong)} rows fail, "
        f"MIRROR again in all others, in {report.asked} after a person chose, "
        f"{report.took_s:.0f} s, "
        f"{sum(report.seeds.values()) / report.took_s:.1f} seeds/s"
    )
    return 1 if report.failed or wrong else 0


def _one(options: argparse.Namespace) -> int:
    outcome = run_seed(
        options.trace,
        trace=True,
        mode=options.mode,
        production=options.production,
        wide=options.wide,
    )
    print("\n".join(outcome.trace))
    print(f"seed {outcome.seed}: {outcome.problem or 'clean'}, {outcome.events} events")
    return 1 if outcome.problem else 0


def _hunt(options: argparse.Namespace) -> int:
    """Seeds until the missing rule shows."""
    print(_seeds_until_caught(options.breakage, options.first, options.seeds))
    return 0


def _seeds_until_caught(name: str, first: int, count: int) -> str:
    rule = BREAKAGES[name].rule
    for seed in range(first, first + count):
        problem = run_without(name, seed).problem
        if problem:
            return f"{seed - first + 1:>5}  {name:<24} {rule}\n{'':>31} {problem}"
    otherwise = BREAKAGES[name].directed
    if name in {each.also for each in BREAKAGES.values()}:
        otherwise = "with its other half, above or below"
    by = f"; by {otherwise}" if otherwise else ""
    return f"    -  {name:<24} {rule}\n{'':>31} not caught by {count} seeds from {first}{by}"


def _all_breakages(options: argparse.Namespace) -> int:
    """A table: each rule, and the first seed that is red without it."""
    names = sorted(BREAKAGES)
    with ProcessPoolExecutor(options.jobs) as pool:
        firsts, counts = [options.first] * len(names), [options.seeds] * len(names)
        for line in pool.map(_seeds_until_caught, names, firsts, counts):
            print(line, flush=True)
    for rule, why in NOT_TAKEN_OUT.items():
        print(f"    -  {rule}\n{'':>31} cannot be taken out: {why}")
    return 0


def _many(options: argparse.Namespace) -> int:
    began = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    counts: Counter[str] = Counter()
    failed: list[Outcome] = []
    events: list[int] = []
    play = partial(run_seed, mode=options.mode, production=options.production, wide=options.wide)
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
