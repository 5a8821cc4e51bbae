"""Two real nodes that do not fit: both say what it is, and neither touches a file."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from mirrorha.cluster.spoken import CODEC
from mirrorha.errors import PeerRefusedError
from mirrorha.net.keys import load_keys
from mirrorha.net.session_dial import AddressPair, dial
from mirrorha.net.tls import PeerTls
from mirrorha.wire.hello import CONTROL, MAGIC, VERSION_MAX, Hello
from tests.cli.real_pair import Pair, open_pair
from tests.requirements import require_program, require_root

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with open_pair(tmp_path) as pair:
        for name in ("paris", "lyon"):
            (tmp_path / f"data-{name}" / f"of-{name}").write_text(name)
        yield pair


def keys_made_separately(pair: Pair) -> None:
    pair.edit("lyon", "/keys", "/other-keys")
    pair.cli.json("keys", "init", "--out", str(pair.root / "other-keys"))


def another_cluster(pair: Pair) -> None:
    pair.edit("lyon", 'name = "orders"', 'name = "bills"')
    pair.edit("lyon", "/keys", "/bills-keys")
    assert pair.cli.run("keys", "init", node="lyon").exit_code == 0


def a_plain_link(pair: Pair) -> None:
    pair.edit("lyon", "[cluster]", '[cluster]\nlink = "plain"\ntrusted_network = true')


def another_volume(pair: Pair) -> None:
    pair.edit("lyon", "/data-paris", "/data")


def another_arbiter(pair: Pair) -> None:
    pair.edit(
        "lyon",
        f'kind = "witness"\naddress = "127.0.0.1:{pair.ports[2]}"',
        f'kind = "local"\npath = "{pair.root}/register"',
    )


def no_arbiter(pair: Pair) -> None:
    table = f'[arbiter]\nkind = "witness"\naddress = "127.0.0.1:{pair.ports[2]}"\n'
    pair.edit("lyon", table, "")
    pair.edit("lyon", "[cluster]", '[cluster]\nsplit_brain = "consistent"')


def another_ack(pair: Pair) -> None:
    pair.edit("lyon", "mount = false", 'mount = false\nack = "durable"')


def other_addresses(pair: Pair) -> None:
    pair.edit("lyon", 'name = "paris"\naddresses = [', 'name = "paris"\naddresses = ["127.0.0.9", ')


def the_same_name(pair: Pair) -> None:
    """What is called lyon here runs as a second paris, on lyon's port."""
    for old, new in (("paris", "?"), ("lyon", "paris"), ("?", "lyon")):
        pair.edit("lyon", f'name = "{old}"', f'name = "{new}"')
        pair.edit("lyon", f"{old} = ", f"{new} = ")


MISFITS: dict[Callable[[Pair], None], tuple[str, str]] = {
    # What paris says, and what lyon.
    keys_made_separately: ("its keys were made separately", "keys once with `mirrorha keys init`"),
    another_cluster: ("its keys were made separately", "keys once with `mirrorha keys init`"),
    a_plain_link: ("'link' must agree and differs",) * 2,
    another_volume: ("'volumes' must agree and differs",) * 2,
    another_arbiter: ("'arbiter' must agree and differs",) * 2,
    no_arbiter: ("'split_brain' must agree and differs",) * 2,
    another_ack: ("'ack' must agree and differs",) * 2,
    other_addresses: ("'nodes' must agree and differs",) * 2,
}


def refusal(status: Any) -> str:
    """What a node says of its peer; "" while it says nothing of a person."""
    said: str = status["peer"]["refused"]
    if said:
        assert status["role"] == "WAIT"
        assert status["colour"] == "red"
        assert said in status["why"]
    return said


def check_both_say(pair: Pair, of_paris: str, of_lyon: str) -> None:
    for node, text in (("paris", of_paris), ("lyon", of_lyon)):
        pair.wait_until(lambda node=node, text=text: text in refusal(pair.status(node)))
        told = [line for line in pair.log(node).splitlines() if "(peer-refused)" in line]
        assert any(text in line for line in told), pair.log(node)
    for name in ("paris", "lyon"):
        files = [path.name for path in (pair.root / f"data-{name}").iterdir()]
        assert files == [f"of-{name}"], "nothing was deleted, or so much as marked"


@pytest.mark.parametrize("misfit", MISFITS, ids=lambda misfit: misfit.__name__)
def test_both_say_what_does_not_fit(pair: Pair, misfit: Callable[[Pair], None]) -> None:
    misfit(pair)
    pair.run_witness()
    pair.run("paris")
    pair.run("lyon")
    check_both_say(pair, *MISFITS[misfit])


def test_a_second_node_of_the_same_name_is_refused(pair: Pair) -> None:
    the_same_name(pair)
    pair.run_witness()
    pair.run("paris")
    pair.spawn("lyon", "run", "-c", str(pair.root / "lyon.toml"), "--node", "paris")
    said = "was --node given the same on both"
    pair.wait_until(lambda: said in refusal(pair.status("paris")))
    pair.wait_until(lambda: said in pair.log("lyon"))


def test_a_node_that_keeps_owners_and_one_that_does_not_refuse_each_other(pair: Pair) -> None:
    require_root()
    nobody = 65534
    as_nobody = [require_program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"]
    # pytest's directory is root's alone, and so may Python be.
    as_nobody += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    for name in ("data-lyon", "lyon"):
        (pair.root / name).mkdir(exist_ok=True)
        os.chown(pair.root / name, nobody, nobody)
    pair.run_witness()
    pair.run("paris")
    pair.spawn("lyon", "run", *pair.cli.options("lyon"), under=as_nobody)
    pair.wait_until(lambda: pair.is_running("lyon"))
    check_both_say(pair, *("'owners' must agree and differs",) * 2)


def test_another_protocol_version_is_refused_and_both_know(pair: Pair) -> None:
    pair.run_witness()
    pair.run("paris")
    pair.ask("paris", "wait", "--role", "WAIT", "--timeout", "20s")
    keys = load_keys(pair.root / "keys", node="lyon", cluster="orders")
    newer = Hello(
        magic=MAGIC,
        version_min=VERSION_MAX + 1,
        version_max=VERSION_MAX + 1,
        cluster="orders",
        cluster_id=None,
        node="lyon",
        peer="paris",
        kind=CONTROL,
        volume="",
        incarnation="1",
        boot_id="-",
        must_agree={},
        may_differ={},
    )

    async def call() -> None:
        async with trio.open_nursery() as nursery:
            await dial(
                [AddressPair("127.0.0.1", "127.0.0.1", pair.ports[0])],
                nursery=nursery,
                tls=PeerTls(keys, peer="paris"),
                hello=newer,
                codec=CODEC,
            )

    refused = pytest.RaisesExc(PeerRefusedError, match="no protocol version in common")
    with pytest.RaisesGroup(refused):
        trio.run(call)
    pair.wait_until(lambda: "no protocol version in common" in refusal(pair.status("paris")))
    assert "no protocol version in common" in pair.log("paris")


def test_two_clusters_of_one_name_refuse_each_other(pair: Pair) -> None:
    """Each was begun alone by an operator, and the witness has forgotten the first one."""
    for name in ("paris", "lyon"):
        shutil.rmtree(pair.root / "witness", ignore_errors=True)
        pair.run_witness()
        pair.run(name)
        pair.ask(name, "wait", "--role", "WAIT", "--timeout", "20s")
        pair.ask(name, "init", "--from", name, "--yes")
        pair.wait(name, "ALONE")
        assert pair.end(name, signal.SIGTERM) == 0
        assert pair.end("witness", signal.SIGTERM) == 0
    pair.run_witness()
    pair.run("paris")
    pair.run("lyon")
    for name in ("paris", "lyon"):
        pair.wait_until(lambda name=name: "the id differs" in pair.status(name)["peer"]["refused"])
    pair.wait("lyon", "ALONE")
    assert pair.status("paris")["role"] == "WAIT"
    pair.wait_until(lambda: "another cluster" in pair.status("paris")["why"])
    for name in ("paris", "lyon"):
        assert (pair.root / f"data-{name}" / f"of-{name}").read_text() == name
