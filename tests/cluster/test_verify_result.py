"""What is kept of a comparison, and shown of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirrorha.cluster.verify_result import FOUND_MAX, Result, load, save
from mirrorha.core.orders import VerifyEnded, VerifyFound, VerifyProgress

if TYPE_CHECKING:
    from pathlib import Path


def found(number: int, *, repaired: bool = False) -> VerifyFound:
    return VerifyFound(1, number, f"f{number}", "mode", "0o600", "0o644", repaired=repaired)


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    result = Result(began_s=1_000.0, repair=True)
    result.take(VerifyProgress(1, 2, 10, 100, 1_000), now_s=1_001.0)
    result.take(found(1), now_s=1_001.0)
    result.take(found(2, repaired=True), now_s=1_001.0)
    assert (result.state, result.left) == ("running", 1)
    result.take(VerifyEnded(1, "", 10, 1_000, 2, 1, [1]), now_s=1_060.0)
    save(tmp_path / "verify.json", result)
    assert load(tmp_path / "verify.json") == result
    assert result.text("/srv/a") == (
        "/srv/a: 10 files, 1000 bytes compared in 60 s; 2 differences, 1 repaired: "
        "f1: mode 0o600 here, 0o644 there; f2: mode 0o600 here, 0o644 there, repaired"
    )


@pytest.mark.parametrize("raw", [b"", b"{", b'{"state": "gone"}', b"[]", b"\xff"])
def test_what_cannot_be_read_is_no_result(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "verify.json").write_bytes(raw)
    assert load(tmp_path / "verify.json") is None
    assert load(tmp_path / "none") is None


def test_more_than_is_kept_is_counted() -> None:
    result = Result(began_s=0.0, repair=False)
    for number in range(FOUND_MAX + 20):
        result.take(found(number), now_s=1.0)
    assert (len(result.found), result.left) == (FOUND_MAX, FOUND_MAX + 20)
    assert "and 115 more" in result.text("/srv/a")


def test_how_long_it_will_take() -> None:
    result = Result(began_s=100.0, repair=False)
    shown = result.document(now_s=110.0, rate_bytes_per_s=5)
    assert shown["eta_s"] is None
    result.take(VerifyProgress(1, 2, 10, 250, 1_000), now_s=110.0)
    shown = result.document(now_s=110.0, rate_bytes_per_s=5)
    assert (shown["eta_s"], shown["began"]) == (30.0, "1970-01-01T00:01:40.000Z")
    result.take(VerifyEnded(1, "the stream broke", 2, 250, 0), now_s=111.0)
    shown = result.document(now_s=111.0, rate_bytes_per_s=5)
    assert (shown["state"], shown["eta_s"], shown["why"]) == ("stopped", None, "the stream broke")


def test_one_that_is_stopped_forgets_nothing() -> None:
    before = Result(began_s=0.0, repair=False)
    for number in (1, 2):
        before.take(found(number), now_s=1.0)
    before.take(VerifyEnded(1, "", 10, 1_000, 2, 0, [1, 2]), now_s=2.0)
    result = Result(began_s=3.0, repair=False)
    result.take(found(2), now_s=4.0)
    result.take(found(3), now_s=4.0)
    result.take(VerifyEnded(2, "the stream broke", 1, 10, 2, 0, [2, 3]), now_s=5.0)
    result.keep(before)
    assert (result.left, sorted(result.fids)) == (3, [1, 2, 3])
    assert [each.path for each in result.found] == ["f2", "f3", "f1"]
