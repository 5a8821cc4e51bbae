"""Where a run lives: a directory, keys, ports, and one configuration for both nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from mirrorha.cli.demo.place import CLUSTER, NODES, free_port
from mirrorha.net.keys import create_keys

#: Each node's address in the first network and in the second one.
HOSTS: Final = {"paris": ("127.0.0.1", "127.0.1.1"), "lyon": ("127.0.0.2", "127.0.1.2")}
#: The group that each node's process runs as, for cuts that concern one of them alone.
GROUPS: Final = {"paris": 40_001, "lyon": 40_002}
WITNESS_HOST: Final = "127.0.0.3"
ISOLATION_HOST: Final = "127.0.0.4"
TIMEOUT_S: Final = 1.0
PEER_SLOW_MAX_S: Final = 3.0


@attrs.frozen(kw_only=True)
class Setup:
    """What the pair of one kind of rounds is.

    Attributes:
        split_brain: "" has a witness; else there is none, and this says what its lack means.
        networks: 1 or 2: over how many the nodes reach each other.
        block_s: for how long SIGUSR1 blocks a node's event loop.
        mount: the volume is mounted, and an ordinary program writes to it.
        freeze_max_s: how long changes wait for a decision.
    """

    split_brain: str = ""
    networks: int = 1
    block_s: float = 10.0
    mount: bool = False
    freeze_max_s: float = 60.0


@attrs.frozen
class Place:
    """Paths and ports of one run."""

    root: Path
    setup: Setup
    node_port: int
    witness_port: int
    isolation_port: int
    api_port: int
    service_ports: dict[str, int]
    probe_ports: dict[str, int]

    @property
    def config(self) -> Path:
        return self.root / "cluster.toml"

    @property
    def record(self) -> Path:
        return self.root / "acknowledged"

    def data(self, node: str) -> Path:
        return self.root / node / "data"

    def hosts(self, node: str) -> tuple[str, ...]:
        return HOSTS[node][: self.setup.networks]


def prepare(root: Path, setup: Setup) -> Place:
    """Make the directories, the keys and the configuration file."""
    create_keys(root / "keys", cluster=CLUSTER, nodes=NODES)
    for node in NODES:
        (root / node / "data").mkdir(parents=True)
    place = Place(
        root=root,
        setup=setup,
        node_port=free_port(),
        witness_port=free_port(WITNESS_HOST),
        isolation_port=free_port(ISOLATION_HOST),
        api_port=free_port(),
        service_ports={node: free_port() for node in NODES},
        probe_ports={node: free_port() for node in NODES},
    )
    place.config.write_text(_config(place))
    return place


def _config(place: Place) -> str:
    setup, root = place.setup, place.root
    cluster = [f'name = "{CLUSTER}"', f'keys = "{root}/keys"']
    if setup.split_brain:
        cluster.append(f'split_brain = "{setup.split_brain}"')
    if setup.split_brain == "available":
        cluster.append(f'isolation = ["tcp://{ISOLATION_HOST}:{place.isolation_port}"]')
    parts = [_table("[cluster]", *cluster)]
    parts += [
        _table(
            "[[node]]",
            f'name = "{node}"',
            f"addresses = {[*place.hosts(node)]}",
            f"port = {place.node_port}",
            f'state_dir = "{root}/{node}/state"',
            f'api = "{place.hosts(node)[0]}:{place.api_port}"',
        )
        for node in NODES
    ]
    parts.append(_table("[heartbeat]", 'pulse = "100ms"', f'timeout = "{TIMEOUT_S:g}s"'))
    freeze = f'freeze_max = "{setup.freeze_max_s:g}s"'
    parts.append(_table("[timing]", f'peer_slow_max = "{PEER_SLOW_MAX_S:g}s"', freeze))
    if not setup.split_brain:
        witness = f'address = "{WITNESS_HOST}:{place.witness_port}"'
        parts.append(_table("[arbiter]", 'kind = "witness"', witness))
    data = ", ".join(f'{node} = "{place.data(node)}"' for node in NODES)
    parts.append(
        _table("[[volume]]", f"path = {{ {data} }}", f"mount = {str(setup.mount).lower()}")
    )
    return "\n".join(parts)


def _table(*lines: str) -> str:
    return "\n".join(lines) + "\n"
