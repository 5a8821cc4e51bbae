"""Configuration files: what is read, and how mistakes are reported."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import event, given
from hypothesis import strategies as st

from mirrorha.config import (
    ArbiterConfig,
    CheckConfig,
    ClusterConfig,
    FencerConfig,
    NodeConfig,
    NotifyConfig,
    ProbeConfig,
    ServiceConfig,
    SwitchConfig,
    TimingConfig,
    VolumeConfig,
    load_toml,
    parse_toml,
    to_toml,
)
from mirrorha.errors import ConfigError
from tests.config.documents import GOOD

EXAMPLE = Path(__file__).parent.parent.parent / "examples/cluster.toml"

NODES = (
    NodeConfig(
        name="paris",
        addresses=["10.0.1.10", "192.168.9.1"],
        state_dir="/var/lib/mirrorha/orders",
        port=9500,
        api="127.0.0.1:9501",
    ),
    NodeConfig(
        name="lyon",
        addresses=["10.0.2.10", "192.168.9.2"],
        state_dir="/var/lib/mirrorha/orders",
    ),
)


def read(text: str, **more: Any) -> ClusterConfig:
    return parse_toml(text, name="c.toml", **more)


def problems(text: str, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, **more)
    return list(caught.value.problems)


def test_the_whole_example_is_read() -> None:
    assert load_toml(EXAMPLE, node="lyon") == ClusterConfig(
        name="orders",
        node="lyon",
        keys="/etc/mirrorha/orders",
        split_policy="former_prim",
        after_power_loss="wait",
        link="tls",
        nodes=NODES,
        arbiter=ArbiterConfig(kind="witness", options={"address": "10.0.3.5:9600"}),
        volumes=[VolumeConfig(path="/srv/orders", ack="applied", mount=True)],
        service=ServiceConfig(start=["/opt/orders/start"], stop=["/opt/orders/stop"]),
        checks=[
            CheckConfig(kind="tcp", every_s=5, on_failure="restart", options={"port": 8080}),
        ],
        probe=ProbeConfig(port=9010),
        timing=TimingConfig(
            freeze_max_s=60,
            fence_delay_s=0.5,
            takeover_delay_s=0.5,
            wait_peer_s=30,
            peer_slow_max_s=3,
            disk_max_s=10,
        ),
        switches=[
            SwitchConfig(
                kind="virtual_ip", options={"address": "10.0.1.100/24", "interface": "eth0"}
            )
        ],
    )


def test_what_the_example_has_in_comments_is_right_too() -> None:
    text = EXAMPLE.read_text()
    for line in (
        'split_brain = "consistent"',
        'isolation = ["tcp://10.0.3.1:443"]',
        'preferred = "paris"',
        "[[fencer]]",
        'kind = "command"',
        'command = ["/opt/orders/fence"]',
        "[[notify]]",
        'kind = "webhook"',
        'url = "https://alerts.example/hook"',
        'on = ["role", "split", "degraded", "check", "switch"]',
    ):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line)
    arbiter = '[arbiter]\nkind = "witness"'
    assert arbiter in text
    (problem,) = problems(text, node="paris")
    assert "cluster.split_brain: 'consistent' beside an arbiter" in problem
    made = read(text.replace('split_brain = "consistent"', ""), node="paris")
    assert made.preferred == "paris"
    assert made.isolation == ("tcp://10.0.3.1:443",)
    assert made.fencers == (
        FencerConfig(kind="command", options={"command": ["/opt/orders/fence"]}),
    )
    assert made.notifications == (
        NotifyConfig(kind="webhook", options={"url": "https://alerts.example/hook"}),
    )


def test_defaults_that_follow_the_name() -> None:
    made = read(GOOD, node="paris")
    assert made.keys == "/etc/mirrorha/orders"
    assert made.peer.state_dir == "/var/lib/mirrorha/orders"


WRONG = """\
[cluster]
name = "Orders"
kesy = "/etc/x"
split_brian = "consistent"
link = "plain"
preferred = "rome"

[[node]]
name = "paris"
addresses = [
  "10.0.1.10",
  "10.0.1.300",  # no such address
]
port = 99999

[[node]]
name = "lyon"
adresses = ["10.0.1.10"]
state_dir = '''/var/../x'''

[heartbeat]
pulse = 5
timeout = "1s"

[timing]
freeze_max = "soon"
wait_peer = "500ms"

[[volume]]
path = { paris = "/srv/orders", lion = "/srv/b" }

[[volume]]
path = "/srv/bills"
ack = "aplied"
mount = "yes"

[volume.more]
x = 1

[[check]]
kind = "tpc"
port = 3

[[check]]
kind = "tcp"
host = "a"

[probe]
port = { paris = 80, lyon = 9501 }

[tming]
"""

NAME = "expected a name of lower-case letters, digits and '-', at most 32, not starting with '-'"
CHECKS = "'tcp', 'http', 'process', 'command', 'disk', 'interface', 'ping', 'mount'"
PATH = "expected an absolute path other than '/', without '..', '//' or a '/' at its end"


def test_every_mistake_of_a_file_is_reported_in_one_pass_with_its_line() -> None:
    assert problems(WRONG, node="pari") == [
        f"c.toml:2: cluster.name: {NAME}, not 'Orders'",
        "c.toml:3: cluster.kesy: unknown key (did you mean 'keys'?)",
        "c.toml:4: cluster.split_brian: unknown key (did you mean 'split_brain'?)",
        "c.toml:5: cluster.link: 'plain' lets whoever is on the way between the nodes read and "
        "change the data; it needs trusted_network = true beside it",
        "c.toml:6: cluster.preferred: there is no node 'rome'; the nodes: 'paris' and 'lyon'",
        "c.toml:8: node: there is no node 'pari' (did you mean 'paris'?); "
        "the nodes: 'paris' and 'lyon'",
        "c.toml:12: node[0].addresses[1]: expected an IP address of the node (no name, for "
        "resolving one can block), not '10.0.1.300'",
        "c.toml:14: node[0].port: expected a whole number from 1 to 65535, not 99999",
        "c.toml:18: node[1].adresses: unknown key (did you mean 'addresses'?)",
        f"c.toml:19: node[1].state_dir: {PATH}, not '/var/../x'",
        'c.toml:22: heartbeat.pulse: expected a duration from "10ms" to "10s", not 5 '
        '(with its unit: "5s"?)',
        'c.toml:26: timing.freeze_max: expected a duration from "1s" to "1h", not \'soon\'',
        "c.toml:27: timing.wait_peer: '500ms' is less than '1s', heartbeat.timeout: a starting "
        "node must listen at least as long as it takes to call a silent peer lost",
        "c.toml:30: volume[0].path.lion: 'lion' names no node (did you mean 'lyon'?)",
        "c.toml:30: volume[0].path: expected a value for every node; 'lyon' is missing",
        "c.toml:34: volume[1].ack: expected one of 'applied', 'durable', not 'aplied' "
        "(did you mean 'applied'?)",
        "c.toml:35: volume[1].mount: expected true or false, not 'yes'",
        "c.toml:37: volume[1].more: unknown key",
        f"c.toml:41: check[0].kind: expected one of {CHECKS}, not 'tpc' (did you mean 'tcp'?)",
        "c.toml:44: check[1].port: expected a whole number from 1 to 65535; it is missing",
        "c.toml:49: probe.port: 9501 is also used by lyon's api; the probe needs a port of its own",
        "c.toml:51: tming: unknown key (did you mean 'timing'?)",
    ]


def test_an_empty_file_says_what_it_needs() -> None:
    assert problems("") == [
        f"c.toml: cluster.name: {NAME}; it is missing",
        "c.toml: cluster.split_brain: expected 'consistent' or 'available', for there is no "
        "[arbiter]; it is missing. 'consistent' freezes when the peer is lost, 'available' goes "
        "on and can split",
        "c.toml: node: expected exactly two [[node]] tables, not 0",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name = "orders"', "", f"c.toml:1: cluster.name: {NAME}; it is missing"),
        ('name = "orders"', "name = 7", f"c.toml:2: cluster.name: {NAME}, not 7"),
        (
            'name = "orders"',
            'name = { paris = "a", lyon = "b" }',
            f"c.toml:2: cluster.name: {NAME}, the same for both nodes, not a table by node",
        ),
        (
            '[cluster]\nname = "orders"\nsplit_brain = "consistent"\n',
            'cluster = "orders"\n',
            "c.toml:1: cluster: expected a table, not 'orders'",
        ),
        (
            "[[node]]",
            "[probe]\nport = 80\n[probe.port2]\n[[node]]",
            "c.toml:7: probe.port2: unknown key",
        ),
        (
            "[[node]]",
            "[[probe]]\nport = 80\n[[node]]",
            "c.toml:5: probe: expected one table, [probe], not an array of them",
        ),
        (
            "[[node]]",
            "[check]\nkind = 'mount'\n[[node]]",
            "c.toml:5: check: expected an array of tables, [[check]], not a table",
        ),
        (
            "[[node]]",
            "[[check]]\nevery = '1s'\n[[node]]",
            f"c.toml:5: check[0].kind: expected one of {CHECKS}; it is missing",
        ),
        (
            "[[node]]",
            "[[check]]\nkind = 'tcp'\nport = 1\nevry = '1s'\n[[node]]",
            "c.toml:8: check[0].evry: unknown key for kind 'tcp' (did you mean 'every'?)",
        ),
        (
            "[[node]]",
            "[[check]]\nkind = 'tcp'\nprot = 1\n[[node]]",
            "c.toml:7: check[0].prot: unknown key for kind 'tcp' (did you mean 'port'?)",
        ),
        (
            "[[node]]",
            "[[fencer]]\nkind = 'aws'\ninstances = 'i-0a'\n[[node]]",
            "c.toml:7: fencer[0].instances: expected a table, not 'i-0a'",
        ),
        (
            'split_brain = "consistent"',
            "",
            "c.toml:1: cluster.split_brain: expected 'consistent' or 'available', for there is",
        ),
        (
            "[[node]]",
            "[arbiter]\nkind = 's3'\nbucket = 'b-1'\n[[node]]",
            "c.toml:3: cluster.split_brain: 'consistent' beside an arbiter",
        ),
        (
            "[[node]]",
            "[[volume]]\npath = { paris = '/a', lyon = '/var/lib' }\n[[node]]",
            "c.toml:11: node[1].state_dir: '/var/lib/mirrorha/orders' lies inside the volume",
        ),
        (
            "[[node]]",
            "[[check]]\nkind = 'mount'\nevery = { paris = '1s', lyon = '2x' }\n[[node]]",
            "c.toml:7: check[0].every.lyon: expected a duration from",
        ),
        (
            "[[node]]",
            "[[check]]\nkind = 'mount'\ntimeout = '3s'\nevery = { paris = '3s', lyon = '2s' }\n"
            "[[node]]",
            "c.toml:7: check[0].timeout: '3s' is more than every = '2s'",
        ),
        (
            "[[node]]",
            "[heartbeat]\npulse = true\n[[node]]",
            'c.toml:6: heartbeat.pulse: expected a duration from "10ms" to "10s", not true',
        ),
    ],
)
def test_a_mistake_is_the_only_problem(old: str, new: str, expected: str) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    (problem,) = problems(text)
    assert problem.startswith(expected)


def test_a_program_may_bring_its_own_arbiter() -> None:
    text = GOOD.replace('split_brain = "consistent"', "")
    assert read(text, has_own_arbiter=True).arbiter is None
    (problem,) = problems(GOOD, has_own_arbiter=True)
    assert "beside an arbiter" in problem
    text = text.replace("[[node]]", "[arbiter]\nkind = 's3'\nbucket = 'b-1'\n[[node]]", 1)
    (problem,) = problems(text, has_own_arbiter=True)
    assert problem.startswith("c.toml:5: arbiter: the program brings its own arbiter")


def test_a_syntax_error_has_its_line() -> None:
    assert problems(GOOD + "\n[heartbeat\n") == [
        "c.toml:13: expected ']' at the end of a table declaration (column 11)"
    ]
    (problem,) = problems('[cluster]\nname = """')
    assert problem.startswith("c.toml:2: ")
    (problem,) = problems("x = " + "[" * 100_000)
    assert problem == "c.toml: is nested too deeply"


def test_line_ends_of_windows_do_not_shift_lines() -> None:
    text = GOOD.replace('name = "lyon"', 'nmae = "lyon"')
    assert problems(text) == problems(text.replace("\n", "\r\n"))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_toml(missing)
    broken = tmp_path / "latin.toml"
    broken.write_bytes(b'[cluster]\nname = "\xe9t\xe9"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml:2: is not UTF-8 text"):
        load_toml(broken)
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError, match="is longer than"):
        load_toml(huge)


BY_NODE = (
    GOOD
    + """
[[volume]]
path = { paris = "/a", lyon = "/b" }
exclude = ["tmp/**"]

[[check]]
kind = "interface"
interface = { paris = "eth0", lyon = "ens5" }
every = { paris = "1s", lyon = "2s" }

[probe]
port = { paris = 80, lyon = 81 }

[[fencer]]
kind = "aws"
instances = { paris = "i-0a", lyon = "i-0b" }
"""
)


def test_a_value_may_differ_by_node() -> None:
    paris, lyon = read(BY_NODE, node="paris"), read(BY_NODE, node="lyon")
    assert paris.volumes == (VolumeConfig(path="/a", peer_path="/b", exclude=["tmp/**"]),)
    assert lyon.volumes == (VolumeConfig(path="/b", peer_path="/a", exclude=["tmp/**"]),)
    assert paris.checks[0].options == {"interface": "eth0"}
    assert lyon.checks[0].options == {"interface": "ens5"}
    assert (paris.checks[0].every_s, lyon.checks[0].every_s) == (1, 2)
    assert paris.probe == ProbeConfig(port=80)
    assert lyon.probe == ProbeConfig(port=81)
    assert lyon.fencers[0].options["instances"] == {"paris": "i-0a", "lyon": "i-0b"}
    assert paris.differing == lyon.differing
    assert read(BY_NODE).probe == ProbeConfig(port=80), "without a node: as the first one sees it"


@pytest.mark.parametrize("with_defaults", [False, True])
@pytest.mark.parametrize("node", [None, "paris", "lyon"])
@pytest.mark.parametrize("text", [GOOD, BY_NODE, EXAMPLE.read_text()], ids=["good", "by", "all"])
def test_what_is_written_is_read_back(text: str, node: str | None, with_defaults: bool) -> None:
    made = read(text, node=node)
    written = to_toml(made, with_defaults=with_defaults)
    assert read(written, node=node) == made
    for other in ("paris", "lyon"):
        assert read(written, node=other) == read(text, node=other)
    assert to_toml(read(written, node=node), with_defaults=with_defaults) == written


def test_an_empty_table_can_mean_something() -> None:
    made = read(GOOD + "\n[probe]\n")
    assert made.probe == ProbeConfig(port=9010)
    assert read(to_toml(made)) == made
    assert read(GOOD).probe is None


def test_only_what_is_not_the_default_is_written() -> None:
    written = tomllib.loads(to_toml(read(GOOD, node="paris")))
    assert set(written) == {"cluster", "node"}
    assert set(written["node"][0]) == {"name", "addresses", "state_dir"}
    assert tomllib.loads(to_toml(read(GOOD), with_defaults=True))["timing"]["disk_max"] == "10s"


# Any printable text has to survive: quotes, backslashes, emoji, letters beyond the first plane.
LINES = st.text(
    st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" \\\"'#[]{}="),
    min_size=1,
    max_size=12,
)


@given(
    st.lists(LINES, max_size=4), st.lists(st.text(max_size=8).map(lambda t: t.replace("\0", "")))
)
def test_any_text_is_written_and_read_back(patterns: list[str], arguments: list[str]) -> None:
    variables = [f"A{index}={text}" for index, text in enumerate(arguments)]
    patterns = [f"x{text}y".translate({ord(each): "-" for each in "/\\[]{}"}) for text in patterns]
    made = ClusterConfig(
        name="orders",
        node="paris",
        keys="/k",
        split_brain="consistent",
        nodes=NODES,
        volumes=[VolumeConfig(path="/srv", exclude=patterns)],
        service=ServiceConfig(start=["/a", *arguments[:9]], stop=["/b"], environment=variables),
    )
    assert read(to_toml(made), node="paris") == made


# A mistake anywhere in a file must be a ConfigError, never another exception.
ANYTHING = st.recursive(
    st.none().map(lambda _: "x")
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["paris", "lyon", "/a", "1s", "10.0.1.10", "witness", "tcp", "aws"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["paris", "lyon", "kind", "path", "name", "addresses", "port"]),
            children,
            max_size=3,
        )
    ),
    max_leaves=6,
)
GOOD_ANYWHERE = st.sampled_from(
    [
        "1s",
        "4s",
        80,
        9000,
        "/a",
        "/srv/b",
        ["/a"],
        "paris",
        "10.0.1.20",
        ["tcp://a:1"],
        "tls",
        False,
    ]
)
PLACES = [
    (table, key)
    for table, keys in {
        "cluster": ["name", "keys", "split_brain", "isolation", "link", "preferred", "failover"],
        "node": ["name", "addresses", "port", "state_dir", "api"],
        "heartbeat": ["pulse", "timeout"],
        "arbiter": ["kind", "address", "endpoints", "path"],
        "volume": ["path", "ack", "mount", "exclude"],
        "service": ["start", "stop", "stop_timeout", "restart_limit"],
        "check": ["kind", "port", "every", "timeout", "command"],
        "probe": ["port", "host"],
        "timing": ["freeze_max"],
        "switch": ["kind", "address", "interface"],
        "fencer": ["kind", "instances", "timeout"],
        "notify": ["kind", "url", "on", "timeout"],
    }.items()
    for key in [*keys, None]
]


@given(st.dictionaries(st.sampled_from(PLACES), GOOD_ANYWHERE | ANYTHING, max_size=3))
def test_whatever_stands_in_a_file_is_read_or_refused(
    changes: dict[tuple[str, str | None], Any],
) -> None:
    document = tomllib.loads(EXAMPLE.read_text())
    for (table, key), value in changes.items():
        if key is None:
            document[table] = value
            continue
        held = document.setdefault(table, {})
        held = held[0] if isinstance(held, list) and held else held
        if isinstance(held, dict):
            held[key] = value
    text = tomlkit.dumps(document)
    try:
        made = read(text, node="paris")
    except ConfigError:
        event("refused")
    else:
        event("read")
        assert read(to_toml(made), node="paris") == made
