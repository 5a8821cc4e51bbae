"""What a new user gets wrong: each is told what is wrong, where, and what to do; no traceback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest

from mirrorha.cli import exits
from mirrorha.net.keys import create_keys
from tests.cli.real_pair import Pair, open_pair
from tests.requirements import require_device, require_root

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with open_pair(tmp_path) as pair:
        yield pair


def edited(old: str, new: str) -> Callable[[Pair, ExitStack], None]:
    return lambda pair, _: pair.edit("paris", old.format(root=pair.root), new)


def no_file(pair: Pair, _: ExitStack) -> None:
    pair.cli.config.unlink()


def no_text(pair: Pair, _: ExitStack) -> None:
    pair.cli.config.write_bytes(b"\0\1\xff")


def keys_of_paris(pair: Pair) -> Path:
    return pair.root / "keys" / "orders-paris.keys"


def no_keys(pair: Pair, _: ExitStack) -> None:
    keys_of_paris(pair).unlink()


def open_keys(pair: Pair, _: ExitStack) -> None:
    keys_of_paris(pair).chmod(0o644)


def cut_keys(pair: Pair, _: ExitStack) -> None:
    os.truncate(keys_of_paris(pair), 900)


def swapped_keys(pair: Pair, _: ExitStack) -> None:
    shutil.copy(pair.root / "keys" / "orders-lyon.keys", keys_of_paris(pair))


def made(not_before_s: float, days: int) -> Callable[[Pair, ExitStack], None]:
    def make(pair: Pair, _: ExitStack) -> None:
        shutil.rmtree(pair.root / "keys")
        create_keys(
            pair.root / "keys",
            cluster="orders",
            nodes=["paris", "lyon"],
            days=days,
            clock=lambda: not_before_s,
        )

    return make


def taken_port(pair: Pair, held: ExitStack) -> None:
    taken = held.enter_context(socket.socket())
    taken.bind(("127.0.0.1", pair.ports[0]))
    taken.listen()


def state_is_a_file(pair: Pair, _: ExitStack) -> None:
    (pair.root / "paris").write_text("no directory")


def state_is_read_only(pair: Pair, _: ExitStack) -> None:
    # There root, whom no mode stops, can make no directory either.
    pair.edit("paris", f'state_dir = "{pair.root}/paris"', 'state_dir = "/proc/mirrorha"')


def damaged_state(pair: Pair, _: ExitStack) -> None:
    (pair.root / "paris").mkdir()
    (pair.root / "paris" / "node.json").write_text('{"format": 1')


@attrs.frozen
class Mistake:
    """`words` are given after `make` has gone wrong; `said` must all be in the answer."""

    make: Callable[[Pair, ExitStack], None]
    said: tuple[str, ...]
    code: int = exits.USAGE
    words: tuple[str, ...] = ("run",)


def nothing(pair: Pair, _: ExitStack) -> None:
    """The mistake is in the command."""


START = "start it with `mirrorha run -c "
MISTAKES = {
    "no file": Mistake(no_file, ("orders.toml: cannot be read: No such file", "config check")),
    "no text": Mistake(no_text, ("orders.toml:1:", "config check")),
    "no TOML": Mistake(edited('"orders"', "orders"), ("paris.toml:3: invalid value",)),
    "unknown key": Mistake(edited("keys =", "keyz ="), ("paris.toml:4:", "did you mean 'keys'?")),
    "no port": Mistake(edited("port = ", "port = 9"), ("whole number from 1 to 65535",)),
    "a name": Mistake(edited("127.0.0.1", "paris.example"), ("expected an IP address",)),
    "no time": Mistake(edited('"1s"', '"soon"'), ("heartbeat.timeout: expected a duration",)),
    "too quick": Mistake(edited('"1s"', '"100ms"'), ("heartbeat.timeout",)),
    "no such kind": Mistake(edited('"witness"', '"witnes"'), ("did you mean 'witness'?",)),
    "no keys": Mistake(no_keys, ("there are no keys at", "mirrorha keys init"), exits.FAILED),
    "open keys": Mistake(open_keys, ("has mode 0644", "run `chmod 600 "), exits.FAILED),
    "cut keys": Mistake(cut_keys, ("no complete file of keys", "carry it here"), exits.FAILED),
    "swapped keys": Mistake(
        swapped_keys, ("the keys of 'lyon', but this is 'paris'",), exits.FAILED
    ),
    "old keys": Mistake(made(1.6e9, 30), ("expired on 2020-10-", "keys init`"), exits.FAILED),
    "a wrong clock": Mistake(made(4e9, 30), ("is this machine's clock right?",), exits.FAILED),
    "taken port": Mistake(taken_port, ("Address already in use", "no other node"), exits.FAILED),
    "no state": Mistake(state_is_a_file, ("is no directory; name another",), exits.FAILED),
    "read-only": Mistake(state_is_read_only, ("state directory /proc/mirrorha",), exits.FAILED),
    "bad state": Mistake(damaged_state, ("damaged",), exits.FAILED),
    "keys twice": Mistake(
        nothing, ("nothing was made", "move them away"), exits.FAILED, ("keys", "init")
    ),
    **{
        word: Mistake(nothing, ("does not run here", START), exits.NOT_RUNNING, (word,))
        for word in ("status", "swap", "stop", "start", "restart", "pause", "events", "history")
    },
    "no role": Mistake(nothing, ("'MASTER' is not one of",), words=("wait", "--role", "MASTER")),
    "no duration": Mistake(
        nothing,
        ("expected a duration such as",),
        words=("wait", "--role", "PRIM", "--timeout", "soon"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained(pair: Pair, name: str) -> None:
    mistake = MISTAKES[name]
    with ExitStack() as held:
        mistake.make(pair, held)
        process = pair.cli.spawn(*mistake.words)
        try:
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    said = output + errors
    assert "Traceback" not in said
    for text in mistake.said:
        assert text in said, said
    assert process.returncode == mistake.code, said


def test_a_pair_says_why_it_refuses_a_swap(pair: Pair) -> None:
    """While it waits, without its witness, and with no peer; each time the service stays."""
    pair.run("paris")
    pair.wait_until(lambda: "arbiter does not answer" in pair.status("paris")["why"])
    assert not pair.status("paris")["arbiter"]["reachable"]
    assert "Connection refused" in pair.status("paris")["arbiter"]["trouble"]
    refused = pair.ask("paris", "swap", code=exits.FAILED)
    assert "WAIT" in refused["detail"]
    pair.run_witness()
    pair.wait_until(lambda: "waiting for lyon" in pair.status("paris")["why"])
    (path,) = pair.status("paris")["heartbeats"]
    assert "does mirrorha run there?" in path["error"]
    pair.run("lyon")
    pair.wait("paris", "PRIM")
    pair.wait("lyon", "SECOND")
    pair.end("lyon", signal.SIGKILL)
    pair.wait("paris", "ALONE")
    refused = pair.ask("paris", "swap", code=exits.FAILED)
    assert "only a PRIM with an up-to-date SECOND can swap" in refused["detail"]
    assert pair.status("paris")["role"] == "ALONE"


def test_a_mount_that_is_asked_for_and_cannot_be_made_is_waited_for(pair: Pair) -> None:
    """Else a service would be thought mirrored while what it writes stays on one node."""
    require_root()
    require_device("/dev/fuse")
    pair.edit("paris", "mount = false", "mount = true")
    with subprocess.Popen(["sleep", "60"], cwd=pair.root / "data-paris") as somebody:
        try:
            pair.run("paris")
            pair.wait_until(lambda: f"process {somebody.pid} " in pair.status("paris")["why"])
            status = pair.status("paris")
            assert (status["role"], status["colour"]) == ("WAIT", "red")
            assert not status["volumes"][0]["mounted"]
        finally:
            somebody.kill()
    pair.wait_until(lambda: pair.status("paris")["volumes"][0]["mounted"])
    pair.end("paris", signal.SIGINT)  # a killed node would leave its mount behind
