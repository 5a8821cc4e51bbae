from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.config import format_duration, parse_duration, to_ms


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("3s", 3.0),
        ("2m", 120.0),
        ("24h", 86_400.0),
        ("7d", 604_800.0),
        ("1.5s", 1.5),
        ("0s", 0.0),
        ("10 s", 10.0),
        ("0.1s", 0.1),
    ],
)
def test_reads(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "3", "s", "3 sec", "-3s", "3S", "1e3s", "3s ", " 3s", "3  s", "1h30m", "٣s", "3s\n"],
)
def test_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(0, 10**10))
def test_round_trips_to_the_millisecond(whole_ms: int) -> None:
    text = format_duration(whole_ms / 1000)
    assert to_ms(parse_duration(text)) == whole_ms


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (90, "90s"), (120, "2m"), (86_400, "1d"), (float("inf"), "inf")],
)
def test_is_shown_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
