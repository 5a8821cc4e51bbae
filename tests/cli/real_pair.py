"""Two `mirrorha run` and a witness, as processes on loopback, and commands that ask them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.cli.cli_support import ENVIRONMENT, Cli, free_ports

CONFIG = """
[cluster]
name = "orders"
keys = "{root}/keys"

[[node]]
name = "paris"
addresses = ["127.0.0.1"]
port = {ports[0]}
state_dir = "{root}/paris"

[[node]]
name = "lyon"
addresses = ["127.0.0.1"]
port = {ports[1]}
state_dir = "{root}/lyon"
api = "127.0.0.1:{ports[3]}"

[arbiter]
kind = "witness"
address = "127.0.0.1:{ports[2]}"

[[volume]]
path = {{ paris = "{root}/data-paris", lyon = "{root}/data-lyon" }}
mount = false

[service]
start = ["/bin/sh", "-c", "sleep 0.5; echo $MIRRORHA_NODE >> {root}/started"]
stop = ["/bin/true"]

[heartbeat]
pulse = "100ms"
timeout = "1s"
"""
LIMIT = "40s"


class Pair:
    """Two nodes and a witness; what was started ends with the test."""

    def __init__(self, root: Path, ended: ExitStack) -> None:
        self.cli = Cli(root)
        self.root = root
        self.ports = free_ports(5)
        self._ended = ended
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, name: str, *words: str, under: Sequence[str] = ()) -> None:
        """Start `mirrorha` with these words, as `name`; `under` a program that starts programs."""
        # Into a file: a pipe that nobody reads would stop the node.
        log = self._ended.enter_context((self.cli.root / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            [*under, sys.executable, "-m", "mirrorha.cli", *words],
            env=ENVIRONMENT,
            stdout=log,
            stderr=log,
        )
        self._ended.callback(process.wait, 10)
        self._ended.callback(process.kill)
        self._processes[name] = process

    def run(self, node: str) -> None:
        """Start a node, and wait until it can be asked."""
        self.spawn(node, "run", *self.cli.options(node))
        self.wait_until(lambda: self.is_running(node))

    def is_running(self, node: str) -> bool:
        """It answers, and has begun: before that it says so."""
        result = self.cli.run("status", "--json", node=node)
        return result.exit_code == 0 and json.loads(result.stdout)["running"]

    def run_witness(self) -> None:
        self.spawn(
            "witness",
            *("witness", "--state-dir", str(self.root / "witness")),
            *("--listen", f"127.0.0.1:{self.ports[2]}"),
            *("--keys", str(self.root / "keys" / "orders-witness.keys")),
        )

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def edit(self, node: str, old: str, new: str) -> None:
        """Give `node` a configuration of its own, where `new` stands for `old`."""
        path = self.root / f"{node}.toml"
        text = (path if path.exists() else self.cli.config).read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def status(self, node: str) -> Any:
        return self.ask(node, "status")

    def wait_until(self, holds: Callable[[], object], *, limit_s: float = 40.0) -> None:
        """Wait for what no command waits for."""
        ends = time.monotonic() + limit_s
        while not holds():
            logs = {name: self.log(name) for name in self._processes}
            assert time.monotonic() < ends, logs
            time.sleep(0.1)

    def end(self, name: str, number: int) -> int:
        self._processes[name].send_signal(number)
        return self._processes[name].wait(40)

    def ask(self, node: str, *words: str, code: int = 0) -> Any:
        result = self.cli.run(*words, "--json", node=node)
        assert result.exit_code == code, f"{words}: {result.output}\n{self.log(node)}"
        return json.loads(result.stdout)

    def wait(self, node: str, role: str) -> None:
        self.ask(node, "wait", "--role", role, "--timeout", LIMIT)

    def log(self, name: str) -> str:
        return (self.cli.root / f"{name}.log").read_text()

    def started(self) -> list[str]:
        """Where the service was started, in order."""
        return (self.cli.root / "started").read_text().splitlines()


@contextmanager
def open_pair(root: Path) -> Iterator[Pair]:
    """Keys, directories and a configuration; nothing runs yet. What was started ends with it."""
    with ExitStack() as ended:
        pair = Pair(root, ended)
        pair.cli.config.write_text(CONFIG.format(root=root, ports=pair.ports))
        for name in ("data-paris", "data-lyon"):
            (root / name).mkdir()
        pair.cli.json("keys", "init")
        yield pair
