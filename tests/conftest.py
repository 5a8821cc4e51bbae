"""Settings of the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# So that what an `assert` of a module that tests share compares is shown as one of a test's own is.
pytest.register_assert_rewrite(*(f"tests.{one.stem}" for one in Path(__file__).parent.iterdir()))

# CI's machines are slow and shared: a deadline would measure the neighbours.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# A shell starts what it runs in the background with SIGINT ignored, and children inherit that:
# the programs that tests start, and interrupt, would never hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let who ends a run, as timeout(1) does, interrupt it: what tests have made goes away."""

    def end(*_: object) -> None:
        session.shouldstop = "asked to end"  # trio makes a failed test of an interrupt, no more
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, end)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Let a skipped test of trio say why, which pytest-trio leaves out (0.8 and before)."""
    try:
        yield
    except pytest.skip.Exception as skipped:
        why = skipped.__context__
        while isinstance(why, BaseExceptionGroup):
            why = why.exceptions[0]  # of many, pytest-trio would not have made a skip
        if skipped.msg or not isinstance(why, pytest.skip.Exception):
            raise
        raise why from None
