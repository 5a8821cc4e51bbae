"""A campaign: one mix of all modes and volumes, and a report of all that it exercised."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Final

import attrs

from mirrorha.testing.sim.rows import IMPOSSIBLE, MODES, SELDOM, rows
from mirrorha.testing.sim.run import Outcome, run_seed

# With fewer seeds a row may well stay low by chance.
FULL_SEEDS: Final = 10_000
COUNT_MIN: Final = 100
# What needs so many is asked for in a campaign of that size.
MANY_SEEDS: Final = 50_000
EVENTS_MIN: Final = 500


@attrs.frozen
class Part:
    """One kind of runs, and how many of a hundred seeds it gets."""

    mode: str
    share: int
    production: bool = False
    wide: bool = False

    def flags(self) -> str:
        """What replays a seed of it, beside `--trace SEED`."""
        flags = [f"--mode {self.mode}"]
        flags += ["--production"] * self.production + ["--wide"] * self.wide
        return " ".join(flags)


PARTS: Final = (
    Part("arbiter", 10),
    Part("arbiter", 24, wide=True),
    Part("arbiter", 7, production=True),
    Part("arbiter", 13, production=True, wide=True),
    Part("consistent", 4),
    Part("consistent", 12, wide=True),
    Part("consistent", 5, production=True, wide=True),
    Part("available", 4),
    Part("available", 16, wide=True),
    Part("available", 5, production=True, wide=True),
)


@attrs.define
class Report:
    """What a campaign has seen."""

    counts: dict[str, Counter[str]] = attrs.Factory(lambda: {mode: Counter() for mode in MODES})
    seeds: Counter[Part] = attrs.Factory(Counter)
    events: int = 0
    events_min: int = 1 << 62
    failed: list[str] = attrs.Factory(list)
    asked: int = 0  # seeds in which a person had to choose
    took_s: float = 0.0

    def add(self, part: Part, outcome: Outcome) -> None:
        self.seeds[part] += 1
        self.counts[part.mode].update(outcome.counts)
        self.events += outcome.events
        self.events_min = min(self.events_min, outcome.events)
        self.asked += outcome.counts["needs the operator"]
        if outcome.problem:
            self.failed.append(f"--trace {outcome.seed} {part.flags()}: {outcome.problem}")
        elif outcome.events < EVENTS_MIN:
            self.failed.append(f"--trace {outcome.seed} {part.flags()}: only {outcome.events}")

    def total(self, row: str) -> int:
        return sum(counts[row] for counts in self.counts.values())

    def wrong_with(self, row: str) -> str:
        """Why this row fails the campaign, or ""."""
        impossible = IMPOSSIBLE.get(row)
        modes = impossible.modes if impossible is not None else ()
        seen = [mode for mode in modes if self.counts[mode][row]]
        if seen:
            return f"cannot happen with {' and '.join(seen)}, and did"
        seeds_min = MANY_SEEDS if row in SELDOM else FULL_SEEDS
        if sum(self.seeds.values()) < seeds_min or set(modes) == set(MODES):
            return ""
        return f"fewer than {COUNT_MIN}" if self.total(row) < COUNT_MIN else ""


def run_campaign(*, first: int, count: int, jobs: int) -> Iterator[tuple[Report, Part, Outcome]]:
    """Run so many seeds, `jobs` at a time; yields after each what is known so far."""
    began = time.monotonic()
    report = Report()
    with ProcessPoolExecutor(jobs) as pool:
        runs = list(_runs(first, count))
        for part, outcome in pool.map(_run, runs, chunksize=16):
            report.add(part, outcome)
            report.took_s = time.monotonic() - began
            yield report, part, outcome


def _runs(first: int, count: int) -> Iterable[tuple[Part, int]]:
    """The parts take turns, so that a campaign that is cut short has seen all of them."""
    owed = dict.fromkeys(PARTS, 0)
    seeds = dict.fromkeys(PARTS, first)
    for _ in range(count):
        for part in PARTS:
            owed[part] += part.share
        part = max(PARTS, key=lambda each: owed[each])
        owed[part] -= sum(each.share for each in PARTS)
        yield part, seeds[part]
        seeds[part] += 1


def _run(what: tuple[Part, int]) -> tuple[Part, Outcome]:
    part, seed = what
    outcome = run_seed(seed, mode=part.mode, production=part.production, wide=part.wide)
    return part, outcome


def table(report: Report) -> list[str]:
    """A line for each row: the total, each mode, and what is wrong with it or cannot be."""
    lines = [f"{'total':>9} {'arbiter':>9} {'consist.':>9} {'available':>9}"]
    for row in rows():
        impossible = IMPOSSIBLE.get(row)
        cells = []
        for mode in MODES:
            number = report.counts[mode][row]
            never = impossible is not None and mode in impossible.modes and not number
            cells.append(f"{'-' if never else number:>9}")
        wrong = report.wrong_with(row)
        note = f"   FAILS: {wrong}" if wrong else f"   ({impossible.why})" if impossible else ""
        lines.append(f"{report.total(row):>9} {' '.join(cells)}  {row}{note}")
    return lines
