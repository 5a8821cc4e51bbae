"""Durations: text with a unit in a file, float seconds in Python, integer milliseconds inside."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

# Largest first: a duration is shown in the largest unit that gives a whole number.
_UNITS_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
# Twelve digits of the smallest unit are 31 years; more is a slip, and a cost to parse.
_PATTERN: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(ms|[smhd])")


def parse_duration(text: str) -> float:
    """Read text such as "250ms", "3s", "1.5h" or "7d". Returns seconds.

    Raises:
        ValueError: it is not a number followed by one of ms, s, m, h, d.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"not a duration: {text!r}")
    number, unit = match.groups()
    return float(Decimal(number) * _UNITS_MS[unit] / 1000)


def format_duration(seconds: float) -> str:
    """Return the text that `parse_duration` reads back, to the millisecond."""
    if not math.isfinite(seconds):
        return str(seconds)  # no duration, but an error message has to show it
    whole_ms = to_ms(seconds)
    for unit, unit_ms in _UNITS_MS.items():
        if whole_ms and whole_ms % unit_ms == 0:
            return f"{whole_ms // unit_ms}{unit}"
    return "0s"


def to_ms(seconds: float) -> int:
    """Return seconds, as the configuration has them, in the milliseconds used inside."""
    return round(seconds * 1000)
