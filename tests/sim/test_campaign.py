"""The campaign: its rows are all there are, and a row that stays low fails it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mirrorha.core
from mirrorha.core import watching
from mirrorha.testing.sim.campaign import COUNT_MIN, FULL_SEEDS, PARTS, Report
from mirrorha.testing.sim.rows import IMPOSSIBLE, MODES, NOTES, rows
from mirrorha.testing.simulate import main

CORE = Path(mirrorha.core.__file__).parent


def noted_in_core() -> set[str]:
    """The first argument of every `turn.note("…")`, and the rules that a table names."""
    found = {rule for rule, _text in watching._TEXTS.values()}
    for path in CORE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                first = node.args[0] if node.args else None
                if node.func.attr == "note" and isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found


def test_every_note_of_the_core_has_a_row() -> None:
    assert set(NOTES) == noted_in_core()


def test_rows_are_named_once() -> None:
    named = rows()
    repeated = {row for row in named if named.count(row) > 1}
    assert not repeated


def test_what_is_said_to_be_impossible_is_a_row_with_a_reason() -> None:
    assert set(IMPOSSIBLE) <= set(rows())
    for impossible in IMPOSSIBLE.values():
        assert impossible.why
        assert set(impossible.modes) <= set(MODES)


def test_the_parts_are_a_hundred_and_cover_every_mode() -> None:
    assert sum(part.share for part in PARTS) == 100
    for mode in MODES:
        assert {part.production for part in PARTS if part.mode == mode} == {False, True}
        assert {part.wide for part in PARTS if part.mode == mode} == {False, True}


def full_report(row: str, **counts: int) -> Report:
    report = Report()
    report.seeds[PARTS[0]] = FULL_SEEDS
    for mode, count in counts.items():
        report.counts[mode][row] = count
    return report


def test_a_row_that_stays_low_fails_a_full_campaign() -> None:
    third = COUNT_MIN // 3
    low = full_report("fault cut", arbiter=third, consistent=third, available=third)
    assert low.wrong_with("fault cut") == f"fewer than {COUNT_MIN}"
    low.seeds[PARTS[0]] -= 1
    assert not low.wrong_with("fault cut")


def test_a_row_that_one_mode_sees_often_enough_is_right() -> None:
    assert not full_report("cas won", arbiter=COUNT_MIN).wrong_with("cas won")


def test_what_no_mode_can_see_is_not_missed() -> None:
    assert not full_report("cas won").wrong_with("edge STOP-stopped")


@pytest.mark.parametrize(("row", "mode"), [("cas won", "consistent"), ("promised", "arbiter")])
def test_what_cannot_happen_and_did_fails(row: str, mode: str) -> None:
    assert "cannot happen" in full_report(row, **{mode: 1}).wrong_with(row)


def test_the_command_runs_the_mix_and_prints_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--campaign", "--seeds", "10", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "10 seeds, " in printed
    assert "0 violations, 0 rows fail" in printed
    for row in rows():
        assert f"  {row}" in printed
