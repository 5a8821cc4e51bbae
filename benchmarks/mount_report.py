"""What was measured: as text, as Markdown, as a picture, and beside what is asked."""

from __future__ import annotations

import html
import math
import statistics
from typing import Final

import attrs
from benchmarks import mount_rows as rows
from benchmarks.mount_subjects import ALONE, GLUSTER, LINK_PLAIN, LINK_TLS

Taken = dict[str, dict[str, list[float]]]  # row -> subject -> one figure a round


@attrs.frozen
class Asked:
    """One thing that is asked of the figures: `subject` in `row`, in units of `of` if it is named.

    Attributes:
        goal: what would be better still; 0 if nothing was said.
    """

    row: str
    subject: str
    at_least: float
    of: str = ""
    goal: float = 0.0


def _asked() -> list[Asked]:
    found = [
        Asked(rows.RANDOM, ALONE, 15_000),
        Asked(rows.RANDOM_8, ALONE, 60_000),
        Asked(rows.SEQUENTIAL, ALONE, 1_000),
    ]
    for name in (rows.RANDOM, rows.RANDOM_8, rows.SEQUENTIAL):
        found.append(Asked(name, LINK_PLAIN, 0.33, ALONE, 0.5))
    for row in rows.ROWS.values():
        at_least, goal = (3.0, 5.0) if row.writes else (1.0, 0.0)
        at_least, goal = {rows.RANDOM: (4.0, 5.0), rows.RANDOM_8: (8.0, 10.0)}.get(
            row.name, (at_least, goal)
        )
        found.append(Asked(row.name, LINK_PLAIN, at_least, GLUSTER, goal))
        found.append(Asked(row.name, LINK_TLS, 0.6, LINK_PLAIN))
    return found


ASKED: Final = _asked()
HUES: Final = ("#8a8f98", "#4c9f70", "#2f6fb3", "#8d5fb8", "#c8553d", "#e0a458")


def medians(taken: Taken) -> dict[str, dict[str, float]]:
    return {
        row: {name: statistics.median(figures) for name, figures in each.items()}
        for row, each in taken.items()
    }


def judge(found: dict[str, dict[str, float]]) -> list[tuple[Asked, float]]:
    """What is asked, with what was found: as far as both were measured."""
    judged = []
    for asked in ASKED:
        each = found.get(asked.row, {})
        base = each.get(asked.of, 0.0) if asked.of else 1.0
        if asked.subject in each and base:
            judged.append((asked, each[asked.subject] / base))
    return judged


def _unit(row: str) -> str:
    return {**rows.FAR_ROWS, **rows.ROWS}[row].unit


def _names(found: dict[str, dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for each in found.values() for name in each))


def _figure(value: float | None) -> str:
    return "failed" if value == 0 else "–" if value is None else f"{value:,.0f}"


def table(found: dict[str, dict[str, float]]) -> list[list[str]]:
    """Header, then a line a row."""
    names = _names(found)
    lines = [["", "unit", *names]]
    lines += [
        [row, _unit(row), *(_figure(each.get(n)) for n in names)] for row, each in found.items()
    ]
    return lines


def verdicts(found: dict[str, dict[str, float]]) -> list[list[str]]:
    lines = [["row", "what", "found", "asked", "goal", ""]]
    for asked, value in judge(found):
        unit = "×" if asked.of else f" {_unit(asked.row)}"
        what = f"{asked.subject} / {asked.of}" if asked.of else asked.subject
        shown = f"{value:.2f}" if asked.of else f"{value:,.0f}"
        goal = f"{asked.goal:g}{unit}" if asked.goal else ""
        met = "yes" if value >= asked.at_least else "NO"
        lines.append([asked.row, what, f"{shown}{unit}", f"{asked.at_least:,g}{unit}", goal, met])
    return lines


def as_text(lines: list[list[str]]) -> str:
    """Columns side by side; the first one to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def as_markdown(lines: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def as_svg(found: dict[str, dict[str, float]], *, base: str) -> str:
    """Bars: how many times as much as `base` each subject does, on a logarithmic scale."""
    names = [name for name in _names(found) if name != base]
    drawn = {row: each for row, each in found.items() if each.get(base)}
    bar, gap, left, right, top = 11, 14, 150, 640, 16 + 18 * len(names)
    group = bar * len(names) + gap
    height = top + group * len(drawn) + 30
    least, most = 0.25, 64.0

    def across(ratio: float) -> float:
        share = math.log(max(least, min(most, ratio)) / least) / math.log(most / least)
        return left + share * (right - left)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="720" height="{height}" fill="white"/>',
    ]
    for i, name in enumerate(names):
        y = 8 + 18 * i
        parts.append(f'<rect x="{left}" y="{y}" width="12" height="12" fill="{HUES[i % 6]}"/>')
        parts.append(f'<text x="{left + 18}" y="{y + 10}">{html.escape(name)}</text>')
    for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64):
        x, dark = across(tick), "#333" if tick == 1 else "#ddd"
        parts.append(
            f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{height - 26}" stroke="{dark}"/>'
            f'<text x="{x:.1f}" y="{height - 12}" text-anchor="middle">{tick:g}×</text>'
        )
    for number, (row, each) in enumerate(drawn.items()):
        y = top + group * number + gap / 2
        middle = y + bar * len(names) / 2 + 4
        parts.append(f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">{row}</text>')
        for i, name in enumerate(names):
            if not each.get(name):
                continue
            ratio, at = each[name] / each[base], y + bar * i
            width = max(1.0, across(ratio) - left)
            parts.append(
                f'<rect x="{left}" y="{at:.1f}" width="{width:.1f}" height="{bar - 2}" '
                f'fill="{HUES[i % 6]}"/><text x="{left + width + 4:.1f}" y="{at + 8:.1f}" '
                f'font-size="9">{each[name]:,.0f} {_unit(row)}</text>'
            )
    caption = f"times as much as {base} does; to the right is better"
    parts.append(f'<text x="{right}" y="16" text-anchor="end">{html.escape(caption)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
