"""`mirrorha verify`, given to a node that a test controls."""

from __future__ import annotations

import pytest

from mirrorha.cli import exits
from tests.api.fake_node import document
from tests.cli.cli_support import Running


def test_what_is_compared_and_how_reaches_the_node(running: Running) -> None:
    nothing = {"repair": False, "rate_bytes_per_s": None, "source": None, "found": False}
    asked = [
        ((), (None, nothing)),
        (("--repair", "--from", "paris"), (None, {**nothing, "repair": True, "source": "paris"})),
        (("--volume", "/srv/a", "--found"), ("/srv/a", {**nothing, "found": True})),
        (("--rate", "50MB/s"), (None, {**nothing, "rate_bytes_per_s": 50_000_000})),
        (("--rate", "unlimited"), (None, {**nothing, "rate_bytes_per_s": 0})),
    ]
    for words, _ in asked:
        assert running.cli.run("verify", *words).exit_code == exits.DONE
    assert running.node.wishes == [wish for _, wish in asked]
    assert running.cli.run("verify", "--stop").exit_code == exits.DONE
    assert running.node.asked[-1] == "stop_verify"


@pytest.mark.parametrize(
    "words", [("--stop", "--repair"), ("--from", "lyon"), ("--rate", "fast"), ("--rate", "5")]
)
def test_wishes_that_contradict_each_other_are_usage(
    running: Running, words: tuple[str, ...]
) -> None:
    assert running.cli.run("verify", *words).exit_code == exits.USAGE
    assert not running.node.asked


def test_status_shows_a_comparison(running: Running) -> None:
    verify = {
        "state": "running",
        "why": "",
        "ended": None,
        "files": 2,
        "total_files": 10,
        "bytes": 1 << 20,
        "total_bytes": 4 << 20,
        "eta_s": 3.2,
        "differences": 1,
        "repaired": 0,
    }
    volume = {**document()["volumes"][0], "verify": verify}
    running.node.shown = document(volumes=[volume])
    text = running.cli.run("status").stdout
    assert "verify 1.0 MiB/4.0 MiB, 8 files left, 3 s left, 1 differences so far" in text
    verify |= {"state": "done", "ended": "2026-11-22T17:14:33.000Z", "repaired": 1}
    text = running.cli.run("status").stdout
    assert "verified 2026-11-22T17:14:33.000Z: no difference in 2 files" in text
