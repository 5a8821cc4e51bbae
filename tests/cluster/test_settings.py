"""The configuration, reduced to what the parts need."""

from __future__ import annotations

from mirrorha.cluster.settings import dial_addresses
from mirrorha.config import ClusterConfig, NodeConfig, VolumeConfig


def test_two_networks_are_dialled_before_what_lies_across_them() -> None:
    nodes = [
        NodeConfig(
            name=name, addresses=[f"10.0.1.{i}", f"10.0.2.{i}"], state_dir="/var/lib/mirrorha/x"
        )
        for i, name in enumerate(("lyon", "paris"), start=1)
    ]
    config = ClusterConfig(
        name="orders",
        node="lyon",
        keys="/etc/mirrorha/orders",
        nodes=nodes,
        split_brain="consistent",
        volumes=[VolumeConfig(path="/srv/orders")],
    )
    ways = [(each.source, each.host) for each in dial_addresses(config)]
    assert ways == [
        ("10.0.1.1", "10.0.1.2"),
        ("10.0.2.1", "10.0.2.2"),
        ("10.0.1.1", "10.0.2.2"),
        ("10.0.2.1", "10.0.1.2"),
    ]
