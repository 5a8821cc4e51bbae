"""The demonstration, as a user runs it: it counts losses, and it can count them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest


def _demo(*options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "mirrorha.cli", "demo", "--json", *options],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr
    return done.returncode, json.loads(lines[0])


@pytest.mark.slow
def test_a_killed_primary_loses_nothing() -> None:
    code, result = _demo("--transactions", "300")
    assert code == 0, result
    assert result["acknowledged_before_kill"] >= 300
    assert result["acknowledged"] > result["acknowledged_before_kill"]
    assert result["lost"] == {"paris": 0, "lyon": 0}
    assert result["takeover_s"] is not None
    assert result["first_acknowledgement_s"] is not None
    assert result["swap_s"] is not None


@pytest.mark.slow
def test_an_application_that_answers_too_early_is_found_out() -> None:
    code, result = _demo("--transactions", "300", "--broken")
    assert code == 1
    assert result["lost_in_all"] > 0
