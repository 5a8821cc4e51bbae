"""Two real nodes and a client on one link: who serves has the address, whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.switches.network import INTERFACE, LIMIT_S, VIP4, VIP6, Network, open_network

CONFIG = """
[cluster]
name = "orders"
keys = "{root}/keys"

[[node]]
name = "lyon"
addresses = ["10.77.0.1"]
state_dir = "{root}/lyon"

[[node]]
name = "paris"
addresses = ["10.77.0.2"]
state_dir = "{root}/paris"

[arbiter]
kind = "witness"
address = "10.77.0.3:9600"

[[volume]]
path = {{ lyon = "{root}/data-lyon", paris = "{root}/data-paris" }}
mount = false

[service]
start = ["/bin/true"]
stop = ["/bin/true"]

[heartbeat]
pulse = "100ms"
timeout = "1s"

[[switch]]
kind = "virtual_ip"
address = "{vip4}"
interface = "{interface}"

[[switch]]
kind = "virtual_ip"
address = "{vip6}"
interface = "{interface}"
when = "after_start"
"""
#: Of one step, on a machine that is busy with other things.
STEP_S = 60.0


@attrs.define
class Nodes:
    """The two nodes, in their namespaces; the witness is with the client."""

    network: Network
    root: Path
    ended: ExitStack
    processes: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict)

    def spawn(self, name: str, place: str, *words: str) -> None:
        log = self.ended.enter_context((self.root / f"{name}.log").open("ab"))
        argv = [sys.executable, "-m", "mirrorha.cli", *words]
        process = subprocess.Popen(self.network.command(place, *argv), stdout=log, stderr=log)
        self.ended.callback(process.wait, LIMIT_S)
        self.ended.callback(process.kill)
        self.processes[name] = process

    def run(self, node: str) -> None:
        self.spawn(node, node, "run", "-c", str(self.root / "c.toml"), "--node", node)

    def kill(self, node: str) -> None:
        self.processes[node].kill()
        self.processes[node].wait(LIMIT_S)

    def ask(self, node: str, *words: str) -> Any:
        options = ["-c", str(self.root / "c.toml"), "--node", node, "--json"]
        argv = [sys.executable, "-m", "mirrorha.cli", *words, *options]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=STEP_S, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def wait_until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + STEP_S
        while not holds():
            logs = [(self.root / f"{name}.log").read_text()[-3000:] for name in self.processes]
            assert time.monotonic() < end, "\n".join(logs)
            time.sleep(0.1)

    def wait_role(self, node: str, *roles: str) -> None:
        self.wait_until(lambda: self.ask(node, "status").get("role") in roles)

    def wait_moved(self, to: str) -> None:
        """Wait until `to` has both addresses; the client knows, and `to` is all who has them."""
        other = "paris" if to == "lyon" else "lyon"
        for address in (VIP4, VIP6):
            self.wait_until(lambda: self.network.has(to, address))  # noqa: B023
            self.wait_until(lambda: not self.network.has(other, address))  # noqa: B023
            self.wait_until(lambda: self.known(address) == self.network.mac(to))  # noqa: B023

    def known(self, address: str) -> str:
        """Whom the client sends to, who sends something now and then."""
        ping = "import socket,sys;s=socket.socket(int(sys.argv[2]),socket.SOCK_DGRAM);" + (
            "s.sendto(b'x',(sys.argv[1],9))"
        )
        family = "10" if ":" in address else "2"
        host = address.partition("/")[0]
        self.network.run("client", sys.executable, "-c", ping, host, family)
        return self.network.neighbour(address)


@contextmanager
def open_nodes(root: Path) -> Iterator[Nodes]:
    """A pair that mirrors; lyon serves. What was started ends with it."""
    with open_network() as network, ExitStack() as ended:
        nodes = Nodes(network, root, ended)
        text = CONFIG.format(root=root, vip4=VIP4, vip6=VIP6, interface=INTERFACE)
        (root / "c.toml").write_text(text)
        for name in ("data-lyon", "data-paris"):
            (root / name).mkdir()
        assert nodes.ask("lyon", "keys", "init")
        keys = root / "keys" / "orders-witness.keys"
        listen = ("--listen", "10.77.0.3:9600", "--keys", str(keys))
        nodes.spawn("witness", "client", "witness", "--state-dir", str(root / "witness"), *listen)
        for node in ("lyon", "paris"):
            nodes.run(node)
        nodes.wait_role("lyon", "PRIM")
        nodes.wait_role("paris", "SECOND")
        yield nodes


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_address_is_where_the_service_is(tmp_path: Path) -> None:
    with open_nodes(tmp_path) as nodes:
        nodes.wait_moved(to="lyon")
        states = [each["state"] for each in nodes.ask("lyon", "status")["switches"]]
        assert states == ["engaged", "engaged"]

        assert nodes.ask("lyon", "swap")
        nodes.wait_moved(to="paris")

        nodes.kill("paris")
        nodes.wait_moved(to="lyon")
        nodes.run("paris")
        nodes.wait_role("paris", "SECOND")
        nodes.wait_role("lyon", "PRIM")
        nodes.wait_moved(to="lyon")

        # Out of the bridge: its link is up, and nobody is there. It cannot be told to let go.
        link = nodes.network.names["link"]
        subprocess.run(["ip", "-n", link, "link", "set", "lyon", "nomaster"], check=True)
        nodes.wait_moved(to="paris")
        subprocess.run(["ip", "-n", link, "link", "set", "lyon", "master", "bridge"], check=True)
        nodes.wait_role("lyon", "SECOND")
        nodes.wait_moved(to="paris")
