from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.config import (
    ResyncConfig,
    VerifyConfig,
    format_rate,
    parse_rate,
    parse_toml,
    to_toml,
)
from mirrorha.errors import ConfigError
from tests.config.documents import GOOD, cluster


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("20MB/s", 20_000_000),
        ("1.5GB/s", 1_500_000_000),
        ("64 KiB/s", 65_536),
        ("2MiB/s", 2 << 20),
        ("1GiB/s", 1 << 30),
        ("9kB/s", 9_000),
        ("7B/s", 7),
    ],
)
def test_reads(text: str, bytes_per_s: int) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize(
    "text", ["", "20", "20MB", "MB/s", "20 mb/s", "-1MB/s", "1e3MB/s", "20MB/s ", "20Mb/s", "٣MB/s"]
)
def test_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        parse_rate(text)


@given(st.integers(0, 10**12 - 1))
def test_round_trips(bytes_per_s: int) -> None:
    assert parse_rate(format_rate(bytes_per_s)) == bytes_per_s


def test_a_file_says_how_often_and_how_fast_the_copies_are_compared() -> None:
    made = parse_toml(
        f'{GOOD}\n[verify]\nevery = "7d"\nrate = "50MB/s"\n', name="orders.toml", node="paris"
    )
    assert made.verify == VerifyConfig(every_s=604_800.0, rate_bytes_per_s=50_000_000)
    assert parse_toml(to_toml(made), name="orders.toml", node="paris").verify == made.verify
    plain = parse_toml(GOOD, name="orders.toml", node="paris")
    assert plain.verify == VerifyConfig(every_s=None, rate_bytes_per_s=20_000_000)
    assert "verify" not in to_toml(plain)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('every = "5m"', 'a duration from "1h" to "365d"'),
        ("every = 7", "a duration"),
        ('rate = "5kB/s"', 'a rate from "1MiB/s"'),
        ("rate = 20", "a rate"),
        ('often = "7d"', "unknown key"),
    ],
)
def test_what_cannot_be_meant_is_refused(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_toml(f"{GOOD}\n[verify]\n{line}\n", name="orders.toml", node="paris")


def test_a_file_says_how_fast_a_resync_may_be() -> None:
    made = parse_toml(f'{GOOD}\n[resync]\nrate = "20MB/s"\n', name="orders.toml", node="paris")
    assert made.resync == ResyncConfig(rate_bytes_per_s=20_000_000)
    assert parse_toml(to_toml(made), name="orders.toml", node="paris").resync == made.resync
    plain = parse_toml(GOOD, name="orders.toml", node="paris")
    assert plain.resync.rate_bytes_per_s is None
    assert "resync" not in to_toml(plain)
    with pytest.raises(ConfigError, match='a rate from "1MiB/s"'):
        parse_toml(f'{GOOD}\n[resync]\nrate = "9kB/s"\n', name="orders.toml", node="paris")


def test_a_program_is_told_the_same() -> None:
    with pytest.raises(ConfigError, match="a rate from"):
        cluster(verify=VerifyConfig(rate_bytes_per_s=0))
