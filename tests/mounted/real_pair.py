"""Two `mirrorha run` on loopback that mirror one mounted directory, as machines that can be killed.

Black boxes: started, asked and killed as an operator would, so that whatever is measured or tried
on the directory is tried on the program that users run.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, final

import attrs

from mirrorha.cli import client, place
from mirrorha.cli.exits import CommandError
from mirrorha.net.keys import create_keys
from tests.cluster.rig import free_ports
from tests.mounted.machine import CHECKOUT, Machine, MachineError, environment
from tests.mounted.mounts import detach

NODES: Final = ("paris", "lyon")
WITNESS: Final = "witness"
HOST: Final = "127.0.0.1"
WAIT_S: Final = 60.0
LOOK_S: Final = 20.0

_CONFIG: Final = """\
[cluster]
name = "orders"
keys = "{root}/keys"
{link}

[[node]]
name = "paris"
addresses = ["{host}"]
port = {ports[0]}
state_dir = "{root}/paris/state"
api = "{host}:{ports[2]}"

[[node]]
name = "lyon"
addresses = ["{host}"]
port = {ports[1]}
state_dir = "{root}/lyon/state"
api = "{host}:{ports[3]}"

[heartbeat]
pulse = "250ms"
timeout = "{timeout_s:g}s"

[timing]
wait_peer = "{wait_peer_s:g}s"

[arbiter]
{arbiter}

[[volume]]
path = {{ paris = "{root}/paris/data", lyon = "{root}/lyon/data" }}
mount = {mount}
ack = "{ack}"
"""
_LOCAL: Final = 'kind = "local"\npath = "{root}/register.json"'
_WITNESS: Final = 'kind = "witness"\naddress = "{host}:{port}"'
_LINKS: Final = {"tls": "", "plain": 'link = "plain"\ntrusted_network = true'}


@attrs.frozen(kw_only=True)
class Setup:
    """What the pair is.

    Attributes:
        link: "tls" or "plain".
        timeout_s: of the heartbeats. Long where nobody dies and the machine is busy.
        relay_ms: so late is every byte between the nodes, each way; 0: as the loopback is.
        witness: the register is kept by a witness, which runs outside of both machines.
        program: what is run in place of `mirrorha run`, given the configuration and the node's
            name; then the volume is not mounted.
        preload: a library that is loaded into every process of the nodes.
    """

    link: str = "tls"
    ack: str = "applied"
    timeout_s: float = 3.0
    relay_ms: float = 0.0
    wait_peer_s: float = 30.0
    witness: bool = False
    program: tuple[str, ...] = ()
    preload: str = ""


@final
class RealPair:
    """Made by `open_real_pair`. Blocking. Nothing runs yet."""

    def __init__(self, root: Path, setup: Setup) -> None:
        self.root: Final = root
        self.setup: Final = setup
        self.machines: Final[dict[str, Machine]] = {}
        self._ports: Final = free_ports(7)
        self._late = self._ports[4:6] if setup.relay_ms else []
        create_keys(root / "keys", cluster="orders", nodes=list(NODES))
        for name in NODES:
            self.directory(name).mkdir(parents=True)
        arbiter = _WITNESS if setup.witness else _LOCAL
        text = _CONFIG.format(
            root=root,
            ports=self._ports,
            link=_LINKS[setup.link],
            host=HOST,
            ack=setup.ack,
            timeout_s=setup.timeout_s,
            wait_peer_s=setup.wait_peer_s,
            mount=str(not setup.program).lower(),
            arbiter=arbiter.format(root=root, host=HOST, port=self._ports[6]),
        )
        self.config.write_text(text)

    @property
    def config(self) -> Path:
        return self.root / "cluster.toml"

    def directory(self, node: str) -> Path:
        """Where the volume is on this node; what a program on it would use."""
        return self.root / node / "data"

    @property
    def relay_ports(self) -> list[int]:
        """(listening, target) of each node, flat: what `benchmarks/relay.py` takes."""
        return [port for pair in zip(self._late, self._ports, strict=False) for port in pair]

    def start(self, *names: str, env: dict[str, str] | None = None) -> None:
        """Start these nodes, or both; return when they can be asked."""
        self.launch(*names, env=env)
        for name in names or NODES:
            self.wait(f"{name} runs", lambda name=name: self.status(name).get("running"))

    def launch(self, *names: str, env: dict[str, str] | None = None) -> None:
        """Start these nodes, or both; `env` is added to what their processes find."""
        for name in names or NODES:
            machine = self.machines[name] = Machine(name, self.root / "logs")
            loaded = {"LD_PRELOAD": self.setup.preload} if self.setup.preload else {}
            machine.start(sys.executable, *self._program(name), env={**loaded, **(env or {})})

    def _program(self, name: str) -> list[str]:
        if self.setup.program:
            return [*self.setup.program, str(self.config), name]
        peer = 1 - NODES.index(name)
        detour = [f"{self._ports[peer]}:{self._late[peer]}"] if self._late else []
        script = str(Path(__file__).with_name("node.py"))
        return [
            *(script, *detour, "run"),
            *("-c", str(self.config), "--node", name, "--log-level", "info"),
        ]

    def start_witness(self) -> None:
        """Start the process that keeps the register."""
        witness = self.machines[WITNESS] = Machine(WITNESS, self.root / "logs")
        keys = self.root / "keys" / "orders-witness.keys"
        address = f"{HOST}:{self._ports[6]}"
        run = ["-m", "mirrorha.cli", "witness", "--listen", address, "--keys", str(keys)]
        witness.start(sys.executable, *run, "--state-dir", str(self.root / "witness"))

    def begin_alone(self, name: str) -> None:
        """This node runs without ever having met the other one, and serves."""
        self.start(name)
        self._command(name, "init", "--from", name, "--yes")
        self.wait_alone(name)

    def wait_alone(self, name: str) -> None:
        """Block until it serves without the other, and programs may write to its directory.

        The role alone says too little: a worker hears of it a moment later.
        """
        self.wait(f"{name} serves alone", lambda: self._is_alone(name))

    def _is_alone(self, name: str) -> bool:
        seen = self.status(name)
        return seen.get("role") == "ALONE" and seen["service"]["state"] == "started"

    def wait_mirrored(self, *, limit_s: float = WAIT_S) -> str:
        """Block until one node serves and the other stands by, up to date; who serves."""
        self.wait("the two nodes mirror", self._is_mirrored, limit_s=limit_s)
        return self.primary()

    def _is_mirrored(self) -> bool:
        seen = [self.status(name) for name in NODES]
        roles = sorted(str(each.get("role")) for each in seen)
        return roles == ["PRIM", "SECOND"] and all(each.get("colour") == "green" for each in seen)

    def primary(self) -> str:
        """Who serves now, if one does."""
        return next((name for name in NODES if self.role(name) in ("PRIM", "ALONE")), "")

    def other(self, name: str) -> str:
        return NODES[1 - NODES.index(name)]

    def role(self, name: str) -> str:
        return str(self.status(name).get("role"))

    def status(self, name: str) -> dict[str, Any]:
        """What the node says of itself; nothing if it does not answer."""
        if name not in self.machines:
            return {}
        # As the command does it, without the time that it takes to start one.
        try:
            return dict(client.get(place.find(str(self.config), name), "/status"))
        except CommandError:
            return {}

    def wire_bytes(self) -> int:
        """What the connections that there are between the nodes have carried, both ways."""
        ports = " or ".join(f"sport = :{port} or dport = :{port}" for port in self._ports[:2])
        command = ["ss", "--tcp", "--info", "--numeric", "--no-header", f"( {ports} )"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LOOK_S)
        return sum(int(count) for count in re.findall(r"\bbytes_sent:(\d+)", done.stdout))

    def kill(self, name: str) -> None:
        """kill -9 of every process of the node's machine, at one instant."""
        machine = self.machines.pop(name)
        machine.kill()
        machine.close()

    def stop(self, name: str) -> None:
        """Stop a node in good order, and end its machine."""
        self.ask_to_stop(name)
        self.machines.pop(name).close()

    def ask_to_stop(self, name: str) -> None:
        """Return when it has stopped, or has refused to."""
        with contextlib.suppress(MachineError):
            self._command(name, "stop")

    def limit_resync(self, name: str, rate_bytes_per_s: int) -> None:
        """Have this node fill the other one at most so fast, 0: as fast as it can."""
        rate = f"{rate_bytes_per_s}B/s" if rate_bytes_per_s else "unlimited"
        self._command(name, "resync", "--rate", rate)

    def wait(self, what: str, holds: Callable[[], Any], *, limit_s: float = WAIT_S) -> None:
        """Block until it holds.

        Raises:
            MachineError: not within `limit_s` seconds.
        """
        ends = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > ends:
                told = {name: self.status(name) for name in NODES}
                whys = {
                    name: f"{each.get('role')}: {each.get('why')}" for name, each in told.items()
                }
                raise MachineError(f"{what}: not within {limit_s:g} s; {whys}; {self.root}/logs")
            time.sleep(0.1)

    def close(self) -> None:
        """End both nodes, and unmount what they leave behind."""
        for name in list(self.machines):
            self.machines.pop(name).close()
        for name in NODES:
            detach(self.directory(name))

    def _command(self, name: str, *words: str) -> None:
        done = self._ask(name, *words)
        if done.returncode:
            raise MachineError(f"{' '.join(words)} on {name}: {done.stderr}{done.stdout}")

    def _ask(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(sys.executable, "-m", "mirrorha.cli", *words, "--json"),
                *("-c", str(self.config), "--node", name),
            ],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=LOOK_S,
            check=False,
        )


@contextlib.contextmanager
def open_real_pair(root: Path, setup: Setup | None = None) -> Iterator[RealPair]:
    """A pair that is not started. Its processes and mounts are gone when the block is left."""
    pair = RealPair(root, setup or Setup())
    try:
        with _relay(pair):
            yield pair
    finally:
        pair.close()


@contextlib.contextmanager
def _relay(pair: RealPair) -> Iterator[None]:
    if not pair.relay_ports:
        yield
        return
    program = [sys.executable, str(CHECKOUT / "benchmarks/relay.py"), str(pair.setup.relay_ms)]
    with subprocess.Popen(
        [*program, *map(str, pair.relay_ports)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if process.stdout is not None:
            process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
