"""Real nodes whose register or directory is gone: no split, nothing deleted, and a way out."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.real_pair import Pair, open_pair

pytestmark = pytest.mark.slow

NODES = ("paris", "lyon")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with open_pair(tmp_path) as pair:
        (tmp_path / "data-paris" / "invoice").write_text("17 francs")
        pair.run_witness()
        yield pair


def start(pair: Pair) -> None:
    for name in NODES:
        pair.run(name)
    pair.wait("paris", "PRIM")
    pair.wait("lyon", "SECOND")


def lose_the_register(pair: Pair) -> None:
    assert pair.end("witness", signal.SIGTERM) == 0
    shutil.rmtree(pair.root / "witness")
    pair.run_witness()


def register_of(pair: Pair, node: str) -> dict[str, object] | None:
    register: dict[str, object] | None = pair.status(node)["arbiter"]["register"]
    return register


def check_whole(pair: Pair) -> None:
    for name in NODES:
        assert (pair.root / f"data-{name}" / "invoice").read_text() == "17 francs"


def test_the_register_is_lost_under_a_running_pair(pair: Pair) -> None:
    start(pair)
    before = register_of(pair, "paris")
    assert before is not None
    lose_the_register(pair)
    # A swap asks the register, which else is looked at every half a minute.
    swapped = pair.cli.run("swap", "--json")
    log = pair.log("paris") + pair.log("lyon")
    if swapped.exit_code:
        assert "register" in swapped.output + log

    def is_made_again() -> bool:
        found = register_of(pair, "paris")
        is_there = found is not None and not pair.status("paris")["arbiter"]["trouble"]
        return is_there and found != before and found["cluster_id"] == before["cluster_id"]

    pair.wait_until(is_made_again, limit_s=60)
    assert "is missing at the arbiter; both nodes connected make it again" in (
        pair.log("paris") + pair.log("lyon")
    )
    pair.wait_until(
        lambda: sorted(pair.status(name)["role"] for name in NODES) == ["PRIM", "SECOND"]
    )
    after = register_of(pair, "paris")
    assert after is not None
    assert after["in_sync"] == ["lyon", "paris"]
    check_whole(pair)


def test_the_register_is_lost_while_the_pair_is_down(pair: Pair) -> None:
    start(pair)
    for name in NODES:
        pair.end(name, signal.SIGKILL)
    lose_the_register(pair)
    why = "is missing at the arbiter; both nodes connected make it again"
    for name in NODES:
        # Alone, either of them waits: the other may hold more.
        pair.run(name)
        pair.wait_until(lambda name=name: why in pair.status(name)["why"])
        late = pair.ask(name, "wait", "--role", "ALONE", "--timeout", "3s", code=5)
        assert why in late["detail"]
        if name == "paris":
            pair.end(name, signal.SIGKILL)
    pair.run("paris")
    pair.wait_until(
        lambda: sorted(pair.status(name)["role"] for name in NODES) == ["PRIM", "SECOND"]
    )
    check_whole(pair)


@pytest.mark.parametrize("what", ["missing", "a file", "a link"])
def test_a_first_start_waits_for_a_directory_that_is_not_there(pair: Pair, what: str) -> None:
    """An empty node must not begin the cluster because the other's disk is not mounted."""
    data, aside = pair.root / "data-paris", pair.root / "aside"
    data.rename(aside)
    if what == "a file":
        data.write_text("no directory")
    if what == "a link":
        data.symlink_to(aside)
    for name in NODES:
        pair.run(name)
    problem = f"{data} " + ("does not exist" if what == "missing" else "is no directory")
    pair.wait_until(lambda: problem in pair.status("paris")["why"])
    assert pair.status("paris")["colour"] == "red"
    pair.wait_until(lambda: problem in pair.status("lyon")["why"])
    assert "mirrorha init --from lyon" in pair.status("lyon")["why"]
    pair.ask("lyon", "wait", "--role", "ALONE", "--timeout", "2s", code=5)
    assert problem in pair.log("paris")
    if what != "missing":
        data.unlink()
    aside.rename(data)
    pair.wait("paris", "PRIM")
    pair.wait("lyon", "SECOND")
    check_whole(pair)
