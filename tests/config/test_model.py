"""Configurations made in Python: what is accepted, and each thing that cannot be true together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from mirrorha import config
from mirrorha.config import (
    ArbiterConfig,
    CheckConfig,
    ClusterConfig,
    FencerConfig,
    HeartbeatConfig,
    NodeConfig,
    ProbeConfig,
    ServiceConfig,
    SwitchConfig,
    TimingConfig,
    VolumeConfig,
    check_authority,
)
from mirrorha.config.layout import OPTIONS, SETTING
from mirrorha.errors import ConfigError, LocalUsageError
from tests.config.documents import cluster, local, lyon, paris


def problems(make: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        make()
    return caught.value.problems


def test_the_form_of_the_readme_works() -> None:
    made = ClusterConfig(
        name="orders",
        node="paris",
        keys="/etc/mirrorha/orders",
        nodes=[
            NodeConfig(name="paris", addresses=["10.0.1.10"], state_dir="/var/lib/mirrorha/orders"),
            NodeConfig(name="lyon", addresses=["10.0.2.10"], state_dir="/var/lib/mirrorha/orders"),
        ],
    )
    assert made.me.addresses == ("10.0.1.10",)
    assert made.peer.name == "lyon"
    assert made.heartbeat == HeartbeatConfig(pulse_s=0.25, timeout_s=3)
    assert made.volumes == ()


def test_is_frozen_and_keyword_only() -> None:
    made = cluster()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        HeartbeatConfig(0.25, 3)  # type: ignore[call-arg]


def test_adding_a_volume_is_checked_again() -> None:
    made = cluster()
    more = attrs.evolve(made, volumes=[*made.volumes, VolumeConfig(path="/srv/bills")])
    assert [volume.path for volume in more.volumes] == ["/srv/orders", "/srv/bills"]
    nested = VolumeConfig(path="/srv/orders/new")
    (problem,) = problems(lambda: attrs.evolve(made, volumes=[*made.volumes, nested]))
    assert problem.endswith(
        "'/srv/orders/new' lies inside the volume '/srv/orders'; keep them apart"
    )


def test_without_a_node_it_says_which_there_are() -> None:
    made = cluster(node=None)
    with pytest.raises(LocalUsageError, match="--node paris or --node lyon"):
        made.me  # noqa: B018
    assert made.node_named("lyon").name == "lyon"
    with pytest.raises(LocalUsageError, match="no node 'rome'; the nodes are 'paris' and 'lyon'"):
        made.node_named("rome")


def test_a_volume_may_lie_elsewhere_on_the_peer() -> None:
    assert VolumeConfig(path="/a").path_at_peer == "/a"
    assert VolumeConfig(path="/a", peer_path="/b").path_at_peer == "/b"


def test_both_nodes_can_be_on_this_machine() -> None:
    made = local(
        arbiter=ArbiterConfig(kind="witness", options={"address": "127.0.0.1:9600"}),
    )
    assert config.on_one_machine(made)
    assert not config.on_one_machine(cluster())
    assert config.on_one_machine(local(arbiter=ArbiterConfig(kind="local", options={"path": "/r"})))


def test_every_kind_has_an_example_that_is_accepted() -> None:
    cluster(
        checks=[
            CheckConfig(kind="tcp", options={"port": 8080, "host": "localhost"}),
            CheckConfig(kind="http", options={"url": "http://127.0.0.1:80/x", "status": 204}),
            CheckConfig(kind="process", options={"program": "orders"}),
            CheckConfig(kind="process", options={"pid_file": "/run/orders.pid"}),
            CheckConfig(kind="command", options={"command": ["/bin/true"]}),
            CheckConfig(kind="disk", options={"path": "/srv/orders", "free_percent_min": 5}),
            CheckConfig(kind="interface", options={"interface": "eth0"}),
            CheckConfig(kind="ping", options={"address": "10.0.3.1"}),
            CheckConfig(kind="mount"),
        ],
        switches=[
            SwitchConfig(
                kind="virtual_ip", options={"address": "10.0.1.9/24", "interface": "eth0"}
            ),
            SwitchConfig(
                kind="aws_route",
                options={"route_tables": ["rtb-1"], "destination": "10.9.0.1/32"},
            ),
            SwitchConfig(kind="aws_address", options={"address": "10.0.1.9"}),
            SwitchConfig(kind="aws_elastic_ip", options={"allocation_id": "eipalloc-1"}),
            SwitchConfig(
                kind="aws_route53",
                options={"zone_id": "Z1", "name": "a.example", "address": "10.0.1.9", "ttl_s": 60},
            ),
            SwitchConfig(
                kind="command", options={"engage": ["/e"], "disengage": ["/d"], "status": ["/s"]}
            ),
        ],
        fencers=[
            FencerConfig(kind="command", options={"command": ["/f"]}),
            FencerConfig(kind="aws", options={"instances": {"paris": "i-0a", "lyon": "i-0b"}}),
        ],
    )
    for arbiter, options in {
        "witness": {"address": "10.0.3.5:9600"},
        "s3": {"bucket": "orders-ha", "region": "eu-west-3"},
        "dynamodb": {"table": "orders"},
        "etcd": {"endpoints": ["https://10.0.3.5:2379"]},
    }.items():
        cluster(arbiter=ArbiterConfig(kind=arbiter, options=options))


@pytest.mark.parametrize("cls", [ArbiterConfig, CheckConfig, SwitchConfig, FencerConfig])
def test_no_option_of_a_kind_has_the_name_of_a_key_that_all_kinds_have(cls: Any) -> None:
    """In a file both stand in one table."""
    fields = attrs.fields_dict(cls)
    common = {field.metadata[SETTING].key for field in fields.values() if SETTING in field.metadata}
    for kind, known in fields["options"].metadata[OPTIONS].items():
        assert not common & known.keys(), kind


# One line each: what is given, and what the only problem says.
WRONG_TOGETHER: dict[str, tuple[dict[str, Any], str]] = {
    "one node": (
        {"nodes": [paris()], "volumes": []},
        "node: expected exactly two [[node]] tables, not 1",
    ),
    "three nodes": (
        {"nodes": [paris(), lyon(), lyon(name="rome", addresses=["10.0.3.10"])]},
        "node: expected exactly two [[node]] tables, not 3",
    ),
    "the same name": (
        {"nodes": [paris(), lyon(name="paris")]},
        "node[1].name: 'paris' is the other node's name",
    ),
    "who are we": (
        {"node": "pariss"},
        "node: there is no node 'pariss' (did you mean 'paris'?); the nodes: 'paris' and 'lyon'",
    ),
    "preferred is nobody": (
        {"preferred": "rome"},
        "cluster.preferred: there is no node 'rome'",
    ),
    "the same address": (
        {"nodes": [paris(), lyon(addresses=["10.0.1.10"])]},
        "node[1].addresses: '10.0.1.10' is also an address of paris",
    ),
    "the same address in other words": (
        {"nodes": [paris(), lyon(addresses=["::ffff:10.0.1.10"])]},
        "node[1].addresses: '::ffff:10.0.1.10' is also an address of paris",
    ),
    "an address twice": (
        {"nodes": [paris(addresses=["10.0.1.10", "10.0.1.10"]), lyon()]},
        "node[0].addresses[1]: '10.0.1.10' is listed twice",
    ),
    "one node on loopback": (
        {"nodes": [paris(), lyon(addresses=["127.0.0.1"])]},
        "node[1].addresses: lyon has 127.0.0.1 and paris 10.0.1.10: from a loopback address",
    ),
    "the api where sessions listen": (
        {"nodes": [paris(api="10.0.1.10:9500"), lyon()]},
        "node[0].api: '10.0.1.10:9500' is where the node's sessions listen (port = 9500)",
    ),
    "the probe where sessions listen": (
        {"probe": ProbeConfig(port=9500)},
        "probe.port: 9500 is also used by paris's port",
    ),
    "the probe where the api listens": (
        {"probe": ProbeConfig(port=9501)},
        "probe.port: 9501 is also used by paris's api",
    ),
    "a short timeout": (
        {"heartbeat": HeartbeatConfig(pulse_s=0.5, timeout_s=1.4)},
        "heartbeat.timeout: '1400ms' is less than '1500ms', 3 times pulse (500ms)",
    ),
    "a short wait for the peer": (
        {"timing": TimingConfig(wait_peer_s=2)},
        "timing.wait_peer: '2s' is less than '3s', heartbeat.timeout",
    ),
    "a freeze shorter than a takeover": (
        {"timing": TimingConfig(freeze_max_s=3.9)},
        "timing.freeze_max: '3900ms' is less than '4s', heartbeat.timeout + takeover_delay",
    ),
    "a freeze shorter than the isolation checks take": (
        {
            "arbiter": None,
            "split_brain": "available",
            "isolation": ("tcp://10.0.9.1:443",),
            "timing": TimingConfig(freeze_max_s=13.8),
        },
        "timing.freeze_max: '13800ms' is less than '13900ms', heartbeat.timeout + takeover_delay + "
        "fence_delay + 9900ms for the isolation checks",
    ),
    "a freeze shorter than a slow peer": (
        {"timing": TimingConfig(freeze_max_s=20, peer_slow_max_s=21)},
        "timing.freeze_max: '20s' is less than '21s', peer_slow_max",
    ),
    "a check longer than its period": (
        {"checks": [CheckConfig(kind="mount", every_s=1, timeout_s=2)]},
        "check[0].timeout: '2s' is more than every = '1s'",
    ),
    "a process found by nothing": (
        {"checks": [CheckConfig(kind="process")]},
        "check[0]: a process is found by 'program' or by 'pid_file'; 0 of them are given",
    ),
    "plain without trust": (
        {"link": "plain"},
        "cluster.link: 'plain' lets whoever is on the way between the nodes read and change",
    ),
    "available without isolation": (
        {"split_brain": "available"},
        "cluster.isolation: expected at least one isolation check",
    ),
    "preferred, but never moves": (
        {"preferred": "paris", "failover": False},
        "cluster.preferred: 'paris' with failover = false",
    ),
    "start without stop": (
        {"service": ServiceConfig(start=["/opt/start"])},
        "service.stop: expected a command, for start has one",
    ),
    "stop without start": (
        {"service": ServiceConfig(stop=["/opt/stop"])},
        "service.start: expected a command, for stop has one",
    ),
    "isolation by the peer": (
        {"isolation": ["icmp://10.0.3.1", "tcp://10.0.2.10:22"]},
        "cluster.isolation[1]: 'tcp://10.0.2.10:22' is an address of lyon",
    ),
    "a local arbiter on two machines": (
        {"arbiter": ArbiterConfig(kind="local", options={"path": "/r"})},
        "arbiter.kind: 'local' with nodes at 10.0.1.10, 10.0.2.10",
    ),
    "a witness on a node": (
        {"arbiter": ArbiterConfig(kind="witness", options={"address": "10.0.2.10:9600"})},
        "arbiter.address: '10.0.2.10:9600' is an address of lyon",
    ),
    "a witness on each node": (
        {"arbiter": ArbiterConfig(kind="witness", options={"address": "localhost:9600"})},
        "arbiter.address: 'localhost:9600' is a loopback address",
    ),
    "an arbiter without its place": (
        {"arbiter": ArbiterConfig(kind="s3")},
        "arbiter.bucket: expected the name of a bucket; it is missing",
    ),
    "an option of another kind": (
        {"checks": [CheckConfig(kind="tcp", options={"port": 1, "url": "http://a/"})]},
        "check[0].url: unknown key for kind 'tcp'; it takes port, host",
    ),
    "the node's own address as the moving one": (
        {
            "switches": [
                SwitchConfig(
                    kind="virtual_ip", options={"address": "10.0.1.10/24", "interface": "eth0"}
                )
            ]
        },
        "switch[0].address: '10.0.1.10/24' is paris's own address",
    ),
    "a fencer that knows one instance": (
        {"fencers": [FencerConfig(kind="aws", options={"instances": {"paris": "i-0a"}})]},
        "fencer[0].instances: expected one instance for each of lyon, paris, not for paris",
    ),
    "state inside a volume": (
        {"nodes": [paris(state_dir="/srv/orders/.state"), lyon()]},
        "node[0].state_dir: '/srv/orders/.state' lies inside the volume '/srv/orders' on paris",
    ),
    "state inside the peer's volume": (
        {
            "nodes": [paris(), lyon(state_dir="/b/state")],
            "volumes": [VolumeConfig(path="/a", peer_path="/b")],
        },
        "node[1].state_dir: '/b/state' lies inside the volume '/b' on lyon",
    ),
    "a volume inside the state": (
        {"volumes": [VolumeConfig(path="/var/p/data", peer_path="/srv/x")]},
        "node[0].state_dir: '/var/p' holds the volume '/var/p/data' on paris",
    ),
}


@pytest.mark.parametrize("case", WRONG_TOGETHER)
def test_a_contradiction_is_the_only_problem_and_says_why(case: str) -> None:
    changes, expected = WRONG_TOGETHER[case]
    (problem,) = problems(lambda: cluster(**changes))
    assert problem.startswith(expected)


WRONG_ON_ONE_MACHINE: dict[str, tuple[dict[str, Any], str]] = {
    "the same port": (
        {
            "nodes": [
                paris(addresses=["127.0.0.1"]),
                lyon(addresses=["127.0.0.1"], api="127.0.0.1:9511"),
            ]
        },
        "node[1].port: paris and lyon share '127.0.0.1', and both have port 9500",
    ),
    "the same api": (
        {"nodes": [paris(addresses=["127.0.0.1"]), lyon(addresses=["127.0.0.2"])]},
        "node[1].api: '127.0.0.1:9501' is also the api of paris",
    ),
    "the same state": (
        {
            "nodes": [
                paris(addresses=["127.0.0.1"], state_dir="/var/s"),
                lyon(addresses=["127.0.0.2"], state_dir="/var/s", api="127.0.0.1:9511"),
            ]
        },
        "node[1].state_dir: '/var/s' is the same as the state_dir '/var/s' of the other",
    ),
    "the same volume": (
        {"volumes": [VolumeConfig(path="/srv/p")]},
        "volume[0].path: '/srv/p' is the same as the volume '/srv/p' of the other",
    ),
    "the keys in a volume": (
        {"keys": "/srv/p/keys"},
        "cluster.keys: '/srv/p/keys' lies inside the volume '/srv/p' on paris; keep them apart",
    ),
    "a witness where a node listens": (
        {"arbiter": ArbiterConfig(kind="witness", options={"address": "127.0.0.1:9510"})},
        "arbiter.address: '127.0.0.1:9510' is where node lyon listens",
    ),
}


@pytest.mark.parametrize("case", WRONG_ON_ONE_MACHINE)
def test_two_nodes_of_one_machine_need_places_of_their_own(case: str) -> None:
    changes, expected = WRONG_ON_ONE_MACHINE[case]
    (problem,) = problems(lambda: local(**changes))
    assert problem.startswith(expected)


WRONG_ALONE: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "Orders"}, "cluster.name: expected a name of lower-case"),
    "long name": ({"name": "a" * 33}, "cluster.name: "),
    "name with a line end": ({"name": "orders\n"}, "cluster.name: "),
    "keys": ({"keys": "keys"}, "cluster.keys: expected an absolute path"),
    "path upwards": ({"keys": "/etc/../x"}, "cluster.keys: "),
    "path with two meanings": ({"keys": "//etc/keys"}, "cluster.keys: "),
    "path of two lines": ({"keys": "/etc/a\nb"}, "cluster.keys: "),
    "root as a volume": ({"volumes": [VolumeConfig(path="/")]}, "volume[0].path: "),
    "volume with a slash": ({"volumes": [VolumeConfig(path="/srv/")]}, "volume[0].path: "),
    "peer's volume": (
        {"volumes": [VolumeConfig(path="/srv", peer_path="srv")]},
        "volume[0].path: expected an absolute path other than",
    ),
    "exclude upwards": (
        {"volumes": [VolumeConfig(path="/srv", exclude=["a", "../b"])]},
        "volume[0].exclude[1]: expected a pattern relative to the volume",
    ),
    "exclude of another tool": (
        {"volumes": [VolumeConfig(path="/srv", exclude=["tmp/"])]},
        "volume[0].exclude[0]: expected a pattern relative to the volume, such as 'tmp/**', "
        "not 'tmp/': it ends with a '/': leave that out",
    ),
    "no address": ({"nodes": [paris(addresses=[]), lyon()]}, "node[0].addresses: expected a list"),
    "a name as address": (
        {"nodes": [paris(addresses=["paris.example"]), lyon()]},
        "node[0].addresses[0]: expected an IP address of the node",
    ),
    "any address": ({"nodes": [paris(addresses=["0.0.0.0"]), lyon()]}, "node[0].addresses[0]: "),
    "text for a list": (
        {"nodes": [paris(addresses="10.0.1.10"), lyon()]},
        "node[0].addresses: expected a list of IP addresses, at least one, not '10.0.1.10'",
    ),
    "port 0": ({"nodes": [paris(port=0), lyon()]}, "node[0].port: expected a whole number from 1"),
    "true for a port": ({"nodes": [paris(port=True), lyon()]}, "node[0].port: "),
    "api": ({"nodes": [paris(api="127.0.0.1"), lyon()]}, "node[0].api: expected a host and a port"),
    "infinite timeout": (
        {"heartbeat": HeartbeatConfig(timeout_s=float("inf"))},
        'heartbeat.timeout: expected a duration from "30ms" to "5m", not inf',
    ),
    "no number": ({"heartbeat": HeartbeatConfig(pulse_s=float("nan"))}, "heartbeat.pulse: "),
    "text for seconds": (
        {"heartbeat": HeartbeatConfig(pulse_s="250ms")},  # type: ignore[arg-type]
        "heartbeat.pulse: expected a duration",
    ),
    "isolation": (
        {"isolation": ["10.0.3.1"]},
        "cluster.isolation[0]: expected 'icmp://HOST' or 'tcp://HOST:PORT', not '10.0.3.1'",
    ),
    "a word": (
        {"split_policy": "newst"},
        "cluster.split_policy: expected one of 'former_prim', 'newest', 'refuse', not 'newst' "
        "(did you mean 'newest'?)",
    ),
    "an empty command": ({"service": ServiceConfig(start=[""], stop=["/x"])}, "service.start: "),
    "a kind": ({"checks": [CheckConfig(kind="udp")]}, "check[0].kind: expected one of 'tcp'"),
    "a class": ({"checks": [ProbeConfig(port=1)]}, "check[0]: expected CheckConfig, not Probe"),
    "no list at all": ({"nodes": 7}, "node: expected NodeConfig, not 7"),
}


@pytest.mark.parametrize("case", WRONG_ALONE)
def test_a_wrong_value_is_the_only_problem(case: str) -> None:
    changes, expected = WRONG_ALONE[case]
    (problem,) = problems(lambda: cluster(**changes))
    assert problem.startswith(expected)


def test_limits_themselves_are_accepted() -> None:
    cluster(
        heartbeat=HeartbeatConfig(pulse_s=0.5, timeout_s=1.5),
        timing=TimingConfig(freeze_max_s=2.5, wait_peer_s=1.5, peer_slow_max_s=2.5),
        checks=[CheckConfig(kind="mount", every_s=2, timeout_s=2)],
    )


def test_all_problems_come_at_once() -> None:
    found = problems(
        lambda: cluster(
            name="Orders",
            link="plain",
            heartbeat=HeartbeatConfig(pulse_s=1, timeout_s=2),
            nodes=[paris(port=70_000), lyon(addresses=["10.0.1.10"])],
            preferred="rome",
        )
    )
    assert len(found) == 6
    assert str(ConfigError(found)).count("\n") == 5


@pytest.mark.parametrize(
    ("split_brain", "has_arbiter", "text"),
    [
        (None, False, "cluster.split_brain: expected 'consistent' or 'available', for there is no"),
        ("consistent", True, "cluster.split_brain: 'consistent' beside an arbiter"),
    ],
)
def test_one_thing_decides_who_may_write(split_brain: Any, has_arbiter: bool, text: str) -> None:
    made = cluster(split_brain=split_brain)
    (problem,) = problems(lambda: check_authority(made, has_arbiter))
    assert problem.startswith(text)
    check_authority(made, not has_arbiter)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("10.0.3.5:9600", ("10.0.3.5", 9600)),
        ("[::1]:80", ("::1", 80)),
        ("witness.example:1", ("witness.example", 1)),
    ],
)
def test_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert config.parse_host_port(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        *["", ":", "10.0.3.5", "10.0.3.5:", ":80", "::1:80", "[::1]", "[::1]80", "[10.0.3.5]:80"],
        *["10.0.3.5:0", "10.0.3.5:65536", "10.0.3.5:x", "10.0.3.500:80", "-a:80", "a b:80", "a:٣"],
    ],
)
def test_no_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="not a host and a port"):
        config.parse_host_port(text)


def test_isolation_checks() -> None:
    assert config.parse_isolation("tcp://[fe80::1]:443") == ("tcp", "fe80::1", 443)
    assert config.parse_isolation("icmp://[::1]") == ("icmp", "::1", None)
    assert config.parse_isolation("icmp://gateway") == ("icmp", "gateway", None)
    for wrong in ("icmp://", "tcp://10.0.0.1", "udp://10.0.0.1:1", "icmp://a:1", "10.0.0.1"):
        with pytest.raises(ValueError, match="not a"):
            config.parse_isolation(wrong)
