"""What an operator forces, as commands: what it costs is shown first."""

from __future__ import annotations

import pytest

from mirrorha.cli import exits
from tests.api.fake_node import document
from tests.cli.cli_support import Running


@pytest.mark.parametrize(("typed", "asked"), [("y\n", ["force_primary"]), ("n\n", [])])
def test_who_forces_is_shown_what_it_costs(running: Running, typed: str, asked: list[str]) -> None:
    last = {"role": "ALONE", "epoch": 9, "why": ""}
    peer = {**document()["peer"], "role": None, "link": "down", "last": last}
    override = {"command": "mirrorha force-primary", "primary_loses": "all since epoch 9"}
    running.node.shown = document("WAIT", colour="red", peer=peer, override=override)
    words = ("force-primary", "--without-arbiter")
    _, error = running.cli.run_on_terminal(*words, typed=typed)
    for text in (
        "paris is WAIT (red) since 2026",
        "data up_to_date, epoch 7",
        "it was ALONE in epoch 9",
        "what would be lost: all since epoch 9",
        "nothing keeps the other node from serving as well",
    ):
        assert text in error
    assert running.node.asked == asked


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ((), {"without_arbiter": False, "inconsistent_data": False}),
        (("--without-arbiter",), {"without_arbiter": True, "inconsistent_data": False}),
        (("--inconsistent-data",), {"without_arbiter": False, "inconsistent_data": True}),
    ],
)
def test_what_a_force_allows_besides_is_said_by_a_flag_each(
    running: Running, flags: tuple[str, ...], options: dict[str, bool]
) -> None:
    assert running.cli.run("force-primary", "--yes", *flags).exit_code == exits.DONE
    assert running.node.options == [options]


def test_status_shows_what_was_forced_and_since_when_a_node_waits(running: Running) -> None:
    forced = {"generations": ["forced-1f"], "epochs": [8], "unconfirmed": False}
    running.node.shown = document("WAIT", why_since="2026-11-22T18:00:00.000Z", forced=forced)
    text = running.cli.run("status").stdout
    assert "lyon was admitted (since 2026-11-22T18:00:00.000Z)" in text
    assert "by operators, in generation forced-1f" in text
