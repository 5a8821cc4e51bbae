"""`mirrorha keys init` and `mirrorha witness`, as processes."""

from __future__ import annotations

import json
import signal
import socket
import stat
from pathlib import Path

import pytest

from mirrorha.cli import exits
from tests.cli.cli_support import Cli, free_ports


@pytest.fixture
def keys(cli: Cli) -> Path:
    """The directory where the configuration has its keys, with keys."""
    cli.json("keys", "init")
    return cli.root / "keys"


def test_keys_are_made_once_for_their_owner_alone(cli: Cli) -> None:
    made = cli.json("keys", "init", "--days", "30")
    assert set(made["bundles"]) == {"paris", "lyon", "witness"}
    for path in (*made["bundles"].values(), made["authority_key"]):
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        assert Path(path).parent == cli.root / "keys"
    result = cli.run("keys", "init")
    assert result.exit_code == exits.FAILED
    assert "exist already" in result.stderr


def test_keys_go_where_they_are_told(cli: Cli) -> None:
    text = cli.run("keys", "init", "--out", str(cli.root / "elsewhere")).stdout
    assert str(cli.root / "elsewhere" / "orders-lyon.keys") in text
    assert "offline" in text
    assert not (cli.root / "keys").exists()


def witness_words(cli: Cli, *files: Path, listen: str = "") -> list[str]:
    (port,) = free_ports(1)
    where = listen or f"127.0.0.1:{port}"
    words = ["witness", "--state-dir", str(cli.root / "witness"), "--listen", where]
    for file in files:
        words += ["--keys", str(file)]
    return words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_witness_listens_until_a_signal(cli: Cli, keys: Path, number: int) -> None:
    process = cli.spawn(*witness_words(cli, keys / "orders-witness.keys"), "--json")
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert (told["schema"], told["clusters"]) == (1, ["orders"])
        with socket.create_connection(("127.0.0.1", told["port"]), timeout=5):
            pass
        process.send_signal(number)
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == exits.DONE
    assert "Traceback" not in log


def test_a_witness_takes_no_nodes_keys(cli: Cli, keys: Path) -> None:
    result = cli.run(*witness_words(cli, keys / "orders-paris.keys"))
    assert result.exit_code == exits.FAILED
    assert "holds the keys of 'paris'" in result.stderr


def test_a_witness_takes_a_cluster_once(cli: Cli, keys: Path) -> None:
    file = keys / "orders-witness.keys"
    result = cli.run(*witness_words(cli, file, file))
    assert result.exit_code == exits.FAILED
    assert "'orders' is given twice" in result.stderr


def test_a_witness_is_told_where_to_listen(cli: Cli, keys: Path) -> None:
    file = keys / "orders-witness.keys"
    result = cli.run(*witness_words(cli, file, listen="127.0.0.1"))
    assert result.exit_code == exits.USAGE
    assert "HOST:PORT" in result.stderr


def test_a_witness_says_that_a_port_is_taken(cli: Cli, keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        result = cli.run(*witness_words(cli, keys / "orders-witness.keys", listen=listen))
    assert result.exit_code == exits.FAILED
    assert "cannot listen" in result.stderr
