"""A fake node in a thread of its own, and commands that are given to it over its real socket."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from click.testing import CliRunner, Result

from mirrorha.api import ManagementApi, socket_path
from mirrorha.cli.app import mirrorha
from tests.api.fake_node import FakeNode

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("MIRRORHA_")},
    "PYTHONPATH": str(ROOT / "src"),
    "NO_COLOR": "",
}

CONFIG = """
[cluster]
name = "orders"
keys = "{root}/keys"
link = "plain"
trusted_network = true

[[node]]
name = "paris"
addresses = ["127.0.0.1"]
port = 19500
state_dir = "{root}/paris"
api = "127.0.0.1:19501"

[[node]]
name = "lyon"
addresses = ["127.0.0.2"]
port = 19502
state_dir = "{root}/lyon"
api = "127.0.0.1:19503"

[arbiter]
kind = "local"
path = "{root}/register.json"

[[volume]]
path = {{ paris = "{root}/data-paris", lyon = "{root}/data-lyon" }}
mount = false
"""


@attrs.frozen
class Cli:
    """Gives commands about node paris of a configuration in `root`."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "orders.toml"

    def options(self, node: str = "paris") -> list[str]:
        own = self.root / f"{node}.toml"  # where a test has given the node one
        return ["-c", str(own if own.exists() else self.config), "--node", node]

    def run(self, *words: str, node: str = "paris", env: dict[str, str] | None = None) -> Result:
        """In this process. `words` is the command with what belongs to it."""
        runner = CliRunner(env={"MIRRORHA_CONFIG": None, "MIRRORHA_NODE": None, **(env or {})})
        result = runner.invoke(mirrorha, [*words, *self.options(node)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *words: str, code: int = 0) -> Any:
        """The one document that a command answers with `--json`."""
        result = self.run(*words, "--json")
        assert result.exit_code == code, result.output
        (line,) = result.stdout.splitlines()
        found = json.loads(line)
        assert found["schema"] == 1
        return found

    def spawn(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """In a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "mirrorha.cli", *words, *self.options()],
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def run_on_terminal(self, *words: str, typed: str) -> tuple[int, str]:
        """In a process whose input is a terminal, where a person types this: (code, errors)."""
        ours, theirs = pty.openpty()
        process = self.spawn(*words, stdin=theirs)
        try:
            os.write(ours, typed.encode())
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)
        return process.returncode, error


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses; all are held until all are chosen, so they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_cli(root: Path) -> Cli:
    cli = Cli(root)
    cli.config.write_text(CONFIG.format(root=root))
    for name in ("paris", "lyon", "data-paris", "data-lyon"):
        (root / name).mkdir()
    return cli


@attrs.frozen
class Running:
    """A fake node that is asked from other threads."""

    cli: Cli
    node: FakeNode
    token: trio.lowlevel.TrioToken

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """In the node's own loop."""
        return trio.from_thread.run_sync(function, *arguments, trio_token=self.token)


@contextmanager
def running_node(cli: Cli) -> Iterator[Running]:
    """Node paris runs, in a thread, until the block is left."""
    ready, box = threading.Event(), list[Any]()

    async def serve() -> None:
        node, stop = FakeNode(), trio.Event()
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(ManagementApi(node, path=socket_path(cli.root / "paris")).serve)
                box.extend((Running(cli, node, trio.lowlevel.current_trio_token()), stop))
                ready.set()
                await stop.wait()
                nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(serve,), daemon=True)
    thread.start()
    assert ready.wait(10)
    running, stop = box
    try:
        yield running
    finally:
        running.call(stop.set)
        thread.join(10)
    assert not thread.is_alive()
