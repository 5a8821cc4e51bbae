"""A check at work: made now and then, beside something real that a test breaks and mends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, final

import trio

from mirrorha.abc import Check
from mirrorha.checks import Checker, CheckReport, CheckRunner, CheckState, Situation

LIMIT_S: Final = 30.0


@final
class Trial:
    """What is reported of a check."""

    def __init__(self, runner: CheckRunner) -> None:
        self.runner: Final = runner
        self.reports: list[CheckReport] = []

    async def becomes(self, state: CheckState) -> CheckReport:
        """Wait until the check has `state` and return the report of it."""
        with trio.fail_after(LIMIT_S):
            while self.runner.latest.state is not state:  # noqa: ASYNC110 - real things change
                await trio.sleep(0.01)
        return self.runner.latest

    async def fails(self) -> str:
        """Wait until it has failed, which asks for the action, and return why."""
        await self.becomes(CheckState.FAILED)
        (report,) = [each for each in self.reports[-50:] if each.changed][-1:]
        assert (report.state, report.on_failure) == (CheckState.FAILED, "hand_over")
        return report.text

    async def is_well(self) -> None:
        """Wait until it is well."""
        await self.becomes(CheckState.WELL)


@asynccontextmanager
async def trial(check: Check, **options: Any) -> AsyncGenerator[Trial, None]:
    """Make `check` ten times a second, unless told otherwise, as where the service runs."""
    reports: list[CheckReport] = []
    options = {"every_s": 0.1, "timeout_s": 10, "on_failure": "hand_over", **options}
    runner = CheckRunner(Checker(check, **options), reports.append)
    made = Trial(runner)
    made.reports = reports
    runner.set_situation(Situation.SERVING)
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        yield made
        nursery.cancel_scope.cancel()
