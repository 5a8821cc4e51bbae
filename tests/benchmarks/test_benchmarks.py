"""The benchmarks run to their end and find something. What they find is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_sdk_is_measured_beside_the_bare_wire_and_through_a_relay() -> None:
    program = [sys.executable, str(ROOT / "benchmarks/bench_sdk.py"), "--rounds", "1"]
    done = subprocess.run(
        [*program, "--seconds", "0.2", "--delay-ms", "5", "--json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(value > 0 for value in (*found["near"].values(), *found["far"].values()))
    assert found["far"]["round trip us"] > 10_000  # the relay did make it late
    assert found["far"]["one writer us"] > found["far"]["round trip us"]
