"""A few seeds in every run of the suite; CI and `nox -s sim` run many."""

from __future__ import annotations

import pytest

from mirrorha.testing.sim.run import run_seed
from mirrorha.testing.simulate import main


@pytest.mark.parametrize("seed", range(12))
def test_no_seed_violates_an_invariant(seed: int) -> None:
    outcome = run_seed(seed)
    assert not outcome.problem
    assert outcome.events >= 500


@pytest.mark.parametrize("seed", range(6))
def test_nor_with_the_production_volume_machines(seed: int) -> None:
    outcome = run_seed(seed, production=True)
    assert not outcome.problem
    assert outcome.acked > 0


def test_a_seed_replays_its_run() -> None:
    first, again = (run_seed(7, trace=True, faulty_ms=20_000) for _ in range(2))
    assert first.trace == again.trace
    assert first.events == again.events


def test_another_seed_is_another_run() -> None:
    assert run_seed(7, trace=True).trace != run_seed(8, trace=True).trace


def test_the_command_reports_what_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--jobs", "1", "--counts"]) == 0
    printed = capsys.readouterr().out
    assert "2 seeds from 0" in printed
    assert "0 violations" in printed
    assert "edge ALONE-joined-peer" in printed
