"""The measurements of this directory in their short form. The full one is in `benchmarks/`.

No bound on a time or a share here is as tight as what is asked: this machine may be busy.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shows.idle import measure_idle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def test_an_idle_node_is_idle(tmp_path: Path) -> None:
    """See `benchmarks/bench_idle.py`. Wake-ups are counted: they do not depend on the load."""
    found = await measure_idle(tmp_path, seconds=3)
    for role, figures in found.items():
        assert figures["paths"] == 4, role
        assert figures["wakes_per_s"] < 60, (role, figures)
        assert figures["cpu_percent"] < 10, (role, figures)
        assert figures["rss_mb"] < 60, (role, figures)
        assert figures["grown_mb"] < 1, (role, figures)
