"""Many rounds with two real nodes: `python benchmarks/campaign_pair.py --rounds 20 --kind cut`,
or of every kind if none is named: half an hour. With `--mount` on mounted volumes.

Prints every round, then the median and the maximum of each figure, and what was lost. Needs root,
`ip` and `nft`. Ends with 1 if an acknowledged transaction was lost, a node acknowledged while it
might not, or a round failed; then the directory with the logs is kept, and named.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import attrs
from rich.console import Console
from rich.table import Table

CHECKOUT: Final = Path(__file__).parents[1]
FIGURES: Final = (
    "resumed_s",
    "silence_s",
    "mirrored_s",
    "took_s",
    "late",
    "lost",
    "acknowledged",
    "load",
)
#: Notes of rounds that tell what nobody may have acknowledged.
NEVER: Final = (
    "acknowledged_while_isolated",
    "acknowledged_while_cut",
    "acknowledged_by_the_other",
    "answered",
)


def load_harness() -> Any:
    """The tests' harness, which is no part of the installed package."""
    sys.path.insert(0, str(CHECKOUT))
    return importlib.import_module("tests.pair.harness")


def cell(figure: object) -> str:
    return f"{figure:.3f}" if isinstance(figure, float) else str(figure)


def report(rows: list[dict[str, Any]], console: Console) -> None:
    """Every round, and below them the medians and the maxima."""
    table = Table()
    notes = list(dict.fromkeys(name for row in rows for name in row["notes"]))
    for column in ("round", "primary", "served by", *FIGURES, *notes):
        table.add_column(column, justify="right")
    for number, row in enumerate(rows, start=1):
        figures = [row[name] for name in FIGURES] + [row["notes"].get(name, "") for name in notes]
        table.add_row(str(number), row["primary"], row["served_by"], *map(cell, figures))
    table.add_section()
    for name, fold in (("median", statistics.median), ("maximum", max)):
        columns = [[row[figure] for row in rows] for figure in FIGURES]
        columns += [[row["notes"].get(note) for row in rows] for note in notes]
        folded = [
            cell(fold(column)) if all(isinstance(x, int | float) for x in column) else ""
            for column in columns
        ]
        table.add_row(name, "", "", *folded)
    console.print(table)


def play_kind(
    harness: Any, kind: str, *, rounds: int, workers: int, mount: bool, console: Console
) -> bool:
    """Play the rounds of one kind and report them; whether all went well."""
    root = Path(tempfile.mkdtemp(prefix="mirrorha-campaign-"))
    rows: list[dict[str, Any]] = []
    failure = ""
    console.rule(kind)
    try:
        for played in harness.play(kind, root=root, rounds=rounds, workers=workers, mount=mount):
            rows.append(attrs.asdict(played))
    except harness.PairError as error:
        failure = str(error)
    if rows:
        report(rows, console)
    lost = max((row["lost"] for row in rows), default=0)
    late = sum(row["late"] + sum(row["notes"].get(note, 0) for note in NEVER) for row in rows)
    if failure or lost or late:
        wrong = f"{lost} acknowledged transactions were lost, {late} acknowledged by who might not"
        console.print(failure or f"{wrong}; logs: {root}")
        return False
    shutil.rmtree(root)
    console.print(f"{len(rows)} rounds of {kind}: no acknowledged transaction was lost.")
    return True


def main() -> int:
    harness = load_harness()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    kinds = sorted(harness.KINDS)
    parser.add_argument("--kind", choices=kinds, action="append", help="all, if none is named")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4, help="connections that write at once")
    parser.add_argument("--mount", action="store_true", help="on mounted volumes")
    options = parser.parse_args()
    console = Console(highlight=False, width=200 if not sys.stdout.isatty() else None)
    well = [
        play_kind(
            harness,
            kind,
            rounds=options.rounds,
            workers=options.workers,
            mount=options.mount,
            console=console,
        )
        for kind in options.kind or kinds
        if not options.mount or harness.KINDS[kind].mountable
    ]
    return 0 if all(well) else 1


if __name__ == "__main__":
    raise SystemExit(main())
