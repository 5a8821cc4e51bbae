"""Where the demonstration lives: a temporary directory, free ports, keys, one configuration."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

import attrs

from mirrorha.net.keys import create_keys

CLUSTER: Final = "demo"
NODES: Final = ("paris", "lyon")
HOSTS: Final = {"paris": "127.0.0.1", "lyon": "127.0.0.2"}

_CONFIG: Final = """\
[cluster]
name = "{cluster}"
keys = "{root}/keys"

[[node]]
name = "paris"
addresses = ["127.0.0.1"]
port = {port}
state_dir = "{root}/paris/state"
api = "127.0.0.1:{api_port}"

[[node]]
name = "lyon"
addresses = ["127.0.0.2"]
port = {port}
state_dir = "{root}/lyon/state"
api = "127.0.0.2:{api_port}"

[heartbeat]
pulse = "100ms"
timeout = "1s"

[arbiter]
kind = "witness"
address = "127.0.0.3:{witness_port}"

[[volume]]
path = {{ paris = "{root}/paris/data", lyon = "{root}/lyon/data" }}
mount = false
"""


@attrs.frozen
class Place:
    """Paths and ports of one demonstration."""

    root: Path
    config: Path
    witness_port: int
    service_ports: dict[str, int]

    def data(self, node: str) -> Path:
        return self.root / node / "data"

    @property
    def record(self) -> Path:
        return self.root / "acknowledged"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def prepare(root: Path) -> Place:
    """Make the directories, the keys and the configuration file."""
    create_keys(root / "keys", cluster=CLUSTER, nodes=NODES)
    for node in NODES:
        (root / node / "data").mkdir(parents=True)
    witness_port = free_port("127.0.0.3")
    config = root / "cluster.toml"
    text = _CONFIG.format(
        cluster=CLUSTER,
        root=root,
        port=free_port(),
        api_port=free_port(),
        witness_port=witness_port,
    )
    config.write_text(text)
    ports = {node: free_port() for node in NODES}
    return Place(root=root, config=config, witness_port=witness_port, service_ports=ports)
