"""Configurations that the tests start from."""

from __future__ import annotations

from typing import Any, Final

from mirrorha.config import ClusterConfig, NodeConfig, VolumeConfig

GOOD: Final = """\
[cluster]
name = "orders"
split_brain = "consistent"

[[node]]
name = "paris"
addresses = ["10.0.1.10"]

[[node]]
name = "lyon"
addresses = ["10.0.2.10"]
"""


def paris(**changes: Any) -> NodeConfig:
    values: dict[str, Any] = {"name": "paris", "addresses": ["10.0.1.10"], "state_dir": "/var/p"}
    return NodeConfig(**values | changes)


def lyon(**changes: Any) -> NodeConfig:
    values: dict[str, Any] = {"name": "lyon", "addresses": ["10.0.2.10"], "state_dir": "/var/l"}
    return NodeConfig(**values | changes)


def cluster(**changes: Any) -> ClusterConfig:
    """A good configuration, with some of its values replaced."""
    values: dict[str, Any] = {
        "name": "orders",
        "node": "paris",
        "keys": "/etc/mirrorha/orders",
        "nodes": [paris(), lyon()],
        "volumes": [VolumeConfig(path="/srv/orders")],
    }
    return ClusterConfig(**values | changes)


def local(**changes: Any) -> ClusterConfig:
    """Both nodes on this machine."""
    nodes = [
        paris(addresses=["127.0.0.1"], port=9500, api="127.0.0.1:9501"),
        lyon(addresses=["127.0.0.1"], port=9510, api="127.0.0.1:9511"),
    ]
    volumes = [VolumeConfig(path="/srv/p", peer_path="/srv/l")]
    values: dict[str, Any] = {"nodes": nodes, "volumes": volumes}
    return cluster(**values | changes)
