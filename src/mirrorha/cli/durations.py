"""Durations as options: text with a unit, as in the configuration."""

from __future__ import annotations

from typing import Any, Final, final

import click


@final
class Duration(click.ParamType[float]):
    """Text such as "500ms", "60s" or "2m"; seconds in Python."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it. Fails as click's types do."""
        if isinstance(value, float):
            return value
        from mirrorha.config.durations import parse_duration

        try:
            return parse_duration(str(value))
        except ValueError:
            self.fail(f"expected a duration such as 500ms, 60s or 2m, not {value!r}", param, ctx)


DURATION: Final = Duration()
