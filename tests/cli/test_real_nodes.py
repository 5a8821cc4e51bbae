"""Two `mirrorha run` and a witness on loopback: what a person does, by commands alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorha.cli import exits
from tests.api.fake_node import document
from tests.cli.real_pair import LIMIT, Pair, open_pair

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with open_pair(tmp_path) as pair:
        pair.run_witness()
        yield pair


def check_fake(fake: Any, real: Any) -> None:
    """The fake node's document has no key that the real one has not, at any depth."""
    if isinstance(fake, dict) and isinstance(real, dict):
        assert set(fake) <= set(real)
        for key in fake:
            check_fake(fake[key], real[key])
    elif isinstance(fake, list) and isinstance(real, list) and fake and real:
        check_fake(fake[0], real[0])


def test_the_life_of_a_pair(pair: Pair) -> None:
    (pair.cli.root / "data-paris" / "invoice").write_text("17 francs")
    pair.run("paris")
    pair.run("lyon")
    pair.wait("paris", "PRIM")
    pair.wait("lyon", "SECOND")
    assert (pair.cli.root / "data-lyon" / "invoice").read_text() == "17 francs"
    status = pair.ask("paris", "status")
    assert (status["role"], status["colour"], status["data"]) == ("PRIM", "green", "up_to_date")
    assert status["peer"]["name"] == "lyon"
    check_fake(document(), status)
    assert status["arbiter"]["register"]["in_sync"] == ["lyon", "paris"]
    assert pair.ask("paris", "health")["state"] == "OK"
    # What was just filled follows a moment after the record names it.
    pair.wait_until(lambda: pair.status("paris")["peer"]["role"] == "SECOND")

    assert "lyon" in pair.ask("paris", "swap")["text"]
    pair.wait("lyon", "PRIM")
    assert pair.ask("paris", "is-primary", code=exits.FAILED)["role"] == "SECOND"
    refused = pair.ask("paris", "restart", code=exits.FAILED)
    assert "SECOND" in refused["detail"]
    pair.ask("lyon", "restart")  # while its first start there is still under way
    assert pair.ask("lyon", "status")["service"]["state"] == "started"
    assert pair.started() == ["paris", "lyon"], "a service that is being started is not restarted"
    pair.ask("lyon", "restart")
    assert pair.started() == ["paris", "lyon", "lyon"]

    assert pair.end("lyon", signal.SIGKILL) == -signal.SIGKILL
    pair.wait("paris", "ALONE")
    pair.ask("lyon", "status", code=exits.NOT_RUNNING)
    assert pair.ask("paris", "health", code=1)["state"] == "WARNING"
    pair.run("lyon")
    pair.wait("lyon", "SECOND")
    pair.wait("paris", "PRIM")

    pair.ask("paris", "stop")
    assert pair.ask("paris", "status")["role"] == "STOP"
    pair.wait("lyon", "ALONE")
    pair.ask("paris", "start")
    pair.wait("paris", "SECOND")
    rules = [event["rule"] for event in pair.ask("paris", "history")["events"]]
    assert "won-alone" in rules

    assert pair.end("paris", signal.SIGTERM) == 0
    assert pair.end("lyon", signal.SIGTERM) == 0
    assert pair.end("witness", signal.SIGTERM) == 0
    for name in ("paris", "lyon", "witness"):
        assert "Traceback" not in pair.log(name)


def test_a_byte_that_a_disk_changed_is_found_and_repaired_by_commands(pair: Pair) -> None:
    (pair.cli.root / "data-paris" / "invoice").write_text("17 francs")
    pair.run("paris")
    pair.run("lyon")
    pair.wait("paris", "PRIM")
    pair.wait("lyon", "SECOND")
    copy = pair.cli.root / "data-lyon" / "invoice"
    before = copy.stat()
    copy.write_text("11 francs")
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "paris serves" in pair.ask("lyon", "verify", code=exits.FAILED)["detail"]
    assert "invoice: content" in pair.ask("paris", "verify", code=exits.FAILED)["detail"]
    assert pair.ask("paris", "health", code=1)["state"] == "WARNING"
    (found,) = pair.ask("paris", "status")["volumes"][0]["verify"]["found"]
    assert (found["path"], found["offset"], found["repaired"]) == ("invoice", 0, False)
    assert "1 repaired" in pair.ask("paris", "verify", "--repair", "--found")["text"]
    assert copy.read_text() == "17 francs"
    assert pair.ask("paris", "health")["state"] == "OK"
    alarms = [each["rule"] for each in pair.ask("paris", "history")["events"]]
    assert "copies-differ" in alarms


def test_two_that_both_hold_files_wait_for_a_person(pair: Pair) -> None:
    (pair.cli.root / "data-paris" / "invoice").write_text("17 francs")
    (pair.cli.root / "data-lyon" / "letter").write_text("dear all")
    pair.run("paris")
    pair.run("lyon")
    pair.wait_until(lambda: "both nodes hold files" in pair.status("paris")["why"])
    late = pair.ask("paris", "wait", "--role", "ALONE", "--timeout", "3s", code=exits.TIMED_OUT)
    assert "mirrorha init" in late["detail"]
    pair.ask("paris", "init", "--from", "paris", "--yes")
    pair.wait("paris", "ALONE")
    assert (pair.cli.root / "data-lyon" / "letter").exists(), "deleted without being asked"
    pair.ask("lyon", "resync", "lyon", "--full", "--yes")
    pair.wait("lyon", "SECOND")
    held = {path.name for path in (pair.cli.root / "data-lyon").glob("[!.]*")}
    assert held == {"invoice"}


def test_a_node_without_keys_says_what_to_do(pair: Pair) -> None:
    (pair.cli.root / "keys" / "orders-paris.keys").unlink()
    process = pair.cli.spawn("run")
    try:
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == exits.FAILED
    assert "mirrorha keys init" in log
    assert "Traceback" not in log


def test_a_second_run_of_a_node_is_refused(pair: Pair) -> None:
    pair.run("paris")
    pair.ask("paris", "wait", "--role", "WAIT", "--timeout", LIMIT)
    process = pair.cli.spawn("run")
    try:
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == exits.FAILED
    assert "another process" in log
    assert pair.ask("paris", "status")["role"] == "WAIT"
