"""Rates of bytes: text with a unit in a file, whole bytes a second in Python."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

# Largest first: a rate is shown in the largest unit that gives a whole number.
_UNITS_BYTES: Final = {
    "GB": 1_000_000_000,
    "MB": 1_000_000,
    "kB": 1_000,
    "GiB": 1 << 30,
    "MiB": 1 << 20,
    "KiB": 1 << 10,
    "B": 1,
}
_PATTERN: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([GMk]B|[GMK]iB|B)/s")


def parse_rate(text: str) -> int:
    """Read text such as "20MB/s" or "1.5GiB/s". Returns bytes a second.

    Raises:
        ValueError: it is not a number followed by one of B, kB, MB, GB, KiB, MiB, GiB, and /s.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"not a rate: {text!r}")
    number, unit = match.groups()
    return round(Decimal(number) * _UNITS_BYTES[unit])


def format_rate(bytes_per_s: int) -> str:
    """Return the text that `parse_rate` reads back."""
    for unit, unit_bytes in _UNITS_BYTES.items():
        if bytes_per_s and bytes_per_s % unit_bytes == 0:
            return f"{bytes_per_s // unit_bytes}{unit}/s"
    return "0B/s"
