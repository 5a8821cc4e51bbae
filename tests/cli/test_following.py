"""`mirrorha events --follow`: over the end of a node's process, and its next start."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import trio

from mirrorha.cli import exits, following
from mirrorha.cli.place import find
from mirrorha.core.words import Role
from mirrorha.state.history import HISTORY_NAME, HistoryEvent, open_history
from tests.api.fake_node import FakeEvent
from tests.cli.cli_support import Cli, Running, running_node


class Reader:
    """Follows in a thread; `seen` has the epoch of each event."""

    def __init__(self, cli: Cli, wanted: int) -> None:
        self.seen: list[int] = []
        self._wanted = wanted
        self._cli = cli
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for event in following.follow(find(str(self._cli.config), "paris"), every_s=0.02):
            self.seen.append(event["epoch"])
            if len(self.seen) == self._wanted:
                return

    def end(self) -> list[int]:
        self._thread.join(30)
        assert not self._thread.is_alive(), self.seen
        return self.seen


def wait(holds: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(3_000):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come about")


def tell(running: Running, epoch: int, at_s: float) -> None:
    event = FakeEvent(epoch=epoch, at_s=at_s)
    wait(lambda: running.node._readers)
    running.call(running.node.tell, event)


def test_it_goes_on_after_the_next_start_without_a_gap(cli: Cli) -> None:
    reader = Reader(cli, 4)  # before the node runs
    with running_node(cli) as running:
        tell(running, 1, 100.0)
        wait(lambda: reader.seen == [1])
        running.call(running.node.end)
    with running_node(cli) as running:
        running.node.past = [FakeEvent(epoch=each, at_s=99.0 + each) for each in (0, 1, 2, 3)]
        wait(lambda: reader.seen == [1, 2, 3])
        # Told as it happened, while the history was read: not twice.
        tell(running, 3, 102.0004)
        tell(running, 4, 103.0)
        assert reader.end() == [1, 2, 3, 4]


def test_without_it_the_end_of_the_node_is_the_end(running: Running) -> None:
    process = running.cli.spawn("events", "--json")
    try:
        tell(running, 5, 100.0)
        running.call(running.node.end)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert [json.loads(line)["epoch"] for line in output.splitlines()] == [5]


def test_the_history_of_a_node_that_does_not_run_is_shown(cli: Cli) -> None:
    assert cli.run("history").exit_code == exits.NOT_RUNNING
    trio.run(keep_one, cli.root / "paris" / HISTORY_NAME)
    found = cli.json("history")
    assert [(each["epoch"], each["rule"]) for each in found["events"]] == [(3, "won-alone")]
    assert "won-alone" in cli.run("history").stdout


async def keep_one(path: Path) -> None:
    event = HistoryEvent(
        kind="note", at_ms=5, node="paris", epoch=3, role=Role.PRIM, rule="won-alone", text="why"
    )
    async with open_history(path) as history:
        await history.append(event)
