"""Rates as options: text with a unit, as in the configuration."""

from __future__ import annotations

from typing import Any, Final, final

import click


@final
class Rate(click.ParamType[int]):
    """Text such as "20MB/s"; bytes a second in Python, 0 for "unlimited"."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it. Fails as click's types do."""
        if isinstance(value, int):
            return value
        if value == "unlimited":
            return 0
        from mirrorha.config.rates import parse_rate

        try:
            return parse_rate(str(value))
        except ValueError:
            self.fail(f"expected a rate such as 20MB/s, or unlimited, not {value!r}", param, ctx)


RATE: Final = Rate()
