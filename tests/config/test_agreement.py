"""What two nodes compare when they meet."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from mirrorha.config import (
    ArbiterConfig,
    ClusterConfig,
    HeartbeatConfig,
    ResyncConfig,
    ServiceConfig,
    TimingConfig,
    VerifyConfig,
    VolumeConfig,
    may_differ,
    must_agree,
    parse_toml,
)
from tests.config.documents import GOOD, cluster, lyon, paris

BY_NODE = (
    GOOD
    + """
[[volume]]
path = { paris = "/a", lyon = "/b" }

[probe]
port = { paris = 80, lyon = 81 }
"""
)


def both(text: str) -> tuple[ClusterConfig, ClusterConfig]:
    return (
        parse_toml(text, name="c.toml", node="paris"),
        parse_toml(text, name="c.toml", node="lyon"),
    )


def test_two_nodes_with_one_file_agree_in_everything() -> None:
    mine, theirs = both(BY_NODE)
    assert mine.volumes != theirs.volumes
    assert must_agree(mine) == must_agree(theirs)
    assert may_differ(mine) == may_differ(theirs)


def test_the_texts_are_for_people() -> None:
    mine, _ = both(BY_NODE)
    assert must_agree(mine) == {
        "cluster": "orders",
        "nodes": "paris at 10.0.1.10 port 9500; lyon at 10.0.2.10 port 9500",
        "volumes": "paris /a, lyon /b",
        "arbiter": "none",
        "split_brain": "consistent",
        "ack": "applied",
        "link": "tls",
    }


WITNESS = ArbiterConfig(kind="witness", options={"address": "10.0.3.5:9600"})
OTHER = ArbiterConfig(kind="witness", options={"address": "10.0.3.6:9600"})


@pytest.mark.parametrize(
    ("mine", "theirs", "named"),
    [
        ({"name": "orders"}, {"name": "bills"}, {"cluster"}),
        ({}, {"nodes": [paris(), lyon(addresses=["10.0.2.11"])]}, {"nodes"}),
        ({}, {"nodes": [lyon(), paris()]}, {"nodes"}),
        ({}, {"nodes": [paris(port=9600), lyon()]}, {"nodes"}),
        ({}, {"volumes": []}, {"volumes", "ack"}),
        ({}, {"volumes": [VolumeConfig(path="/srv/bills")]}, {"volumes"}),
        ({}, {"volumes": [VolumeConfig(path="/srv/orders", ack="durable")]}, {"ack"}),
        ({"arbiter": WITNESS}, {"arbiter": OTHER}, {"arbiter"}),
        ({"split_brain": "consistent"}, {}, {"split_brain"}),
        ({}, {"link": "plain", "trusted_network": True}, {"link"}),
        (
            {"volumes": [VolumeConfig(path="/srv/orders", exclude=["tmp/**"])]},
            {"volumes": [VolumeConfig(path="/srv/orders", exclude=["tmp/**", "*.lock"])]},
            {"exclude"},
        ),
    ],
)
def test_what_must_agree(mine: dict[str, Any], theirs: dict[str, Any], named: set[str]) -> None:
    one, other = must_agree(cluster(**mine)), must_agree(cluster(**theirs))
    assert {key for key in one if one[key] != other[key]} == named
    assert one.keys() == other.keys()


def test_what_stays_local_is_compared_where_there_is_any() -> None:
    assert "exclude" not in must_agree(cluster(volumes=[VolumeConfig(path="/srv")]))

    def text(*patterns: str) -> str:
        return must_agree(cluster(volumes=[VolumeConfig(path="/srv", exclude=patterns)]))["exclude"]

    assert text("tmp/**", "*.lock") == text("*.lock", "tmp/**") == '"*.lock", "tmp/**" in /srv'
    assert text("a, b") != text("a", "b")
    assert text('a", "b') != text("a", "b")
    many = [f"{'x' * 900}{number}" for number in range(60)]
    assert len(text(*many)) < 1000
    assert text(*many) != text(*many, "one more")


def test_the_order_of_volumes_is_no_difference() -> None:
    volumes = [VolumeConfig(path="/srv/a"), VolumeConfig(path="/srv/b", ack="durable")]
    assert must_agree(cluster(volumes=volumes)) == must_agree(cluster(volumes=volumes[::-1]))


def test_a_program_names_its_own_arbiter() -> None:
    assert must_agree(cluster(), arbiter="s3 orders-ha")["arbiter"] == "s3 orders-ha"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"heartbeat": HeartbeatConfig(timeout_s=4)}, {"heartbeat.timeout"}),
        ({"timing": TimingConfig(disk_max_s=11)}, {"timing.disk_max"}),
        ({"after_power_loss": "serve"}, {"cluster.after_power_loss"}),
        ({"preferred": "lyon"}, {"cluster.preferred"}),
        ({"verify": VerifyConfig(rate_bytes_per_s=50_000_000)}, {"verify.rate"}),
        ({"resync": ResyncConfig(rate_bytes_per_s=50_000_000)}, {"resync.rate"}),
        ({"verify": VerifyConfig(every_s=86_400)}, {"verify.every"}),
        ({"volumes": [VolumeConfig(path="/srv/orders", mount=False)]}, {"volume[0].mount"}),
        ({"nodes": [paris(state_dir="/elsewhere"), lyon()]}, set()),
        ({"split_brain": "consistent"}, set()),
    ],
)
def test_what_may_differ(change: dict[str, Any], named: set[str]) -> None:
    one = may_differ(cluster())
    other = may_differ(attrs.evolve(cluster(), **change))
    assert {key for key in one | other if one.get(key) != other.get(key)} == named


def test_what_may_be_a_secret_is_compared_and_not_shown() -> None:
    def told(password: str) -> str:
        variables = [f"PASSWORD={password}"]
        service = ServiceConfig(start=["/start"], stop=["/stop"], environment=variables)
        return may_differ(cluster(service=service))["service.environment"]

    assert told("gold") == told("gold") != told("tin")
    assert "gold" not in told("gold")


def test_every_value_is_compared_or_this_nodes_own() -> None:
    """A new key must not be forgotten: what is written to a file is in one of the two."""
    made, _ = both(BY_NODE)
    compared = {key.rpartition(".")[2] for key in may_differ(made)}
    from_classes = {
        field.name.removesuffix("_s")
        for part in (HeartbeatConfig, TimingConfig, VolumeConfig)
        for field in attrs.fields(part)
    }
    assert from_classes - compared == {"path", "peer_path", "ack", "exclude", "mount"}
