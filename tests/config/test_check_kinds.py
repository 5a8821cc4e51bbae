"""Each kind of check in a TOML file: what it becomes, and what is said of mistakes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import pytest

from mirrorha.abc import Check
from mirrorha.checks import Command, Disk, Http, Interface, Mount, Ping, Process, Tcp
from mirrorha.cluster import making
from mirrorha.config import ClusterConfig, load_toml
from mirrorha.config.reader import parse_toml
from mirrorha.errors import ConfigError, LocalUsageError

EXAMPLE: Final = Path(__file__).parents[2] / "examples/cluster.toml"


def read(*lines: str) -> ClusterConfig:
    """The example, with one more check at its end, and this is node paris."""
    text = EXAMPLE.read_text()
    return parse_toml(text + "\n".join(["", "[[check]]", *lines]), name="c.toml", node="paris")


def made(*lines: str) -> Check:
    return [*making.make_checkers(read(*lines))][-1].check


TOLD: Final = {"MIRRORHA_CLUSTER": "orders", "MIRRORHA_NODE": "paris"}
GOOD: Final[list[tuple[list[str], Check]]] = [
    (["kind = 'tcp'", "port = 80", "host = 'a'"], Tcp(80, host="a")),
    (["kind = 'http'", "url = 'http://a/'"], Http("http://a/")),
    (
        [
            "kind = 'http'",
            "url = 'https://a/'",
            "status = 204",
            "contains = 'well'",
            "connect_to = '127.0.0.1'",
            "ca_file = '/a.pem'",
        ],
        Http("https://a/", status=204, contains="well", connect_to="127.0.0.1", ca_file="/a.pem"),
    ),
    (
        ["kind = 'http'", "url = 'https://a/'", "verify = false"],
        Http("https://a/", verify=False),
    ),
    (["kind = 'process'", "pid_file = '/run/a.pid'"], Process(pid_file="/run/a.pid")),
    (["kind = 'process'", "program = 'orders'"], Process(program="orders")),
    (["kind = 'process'", "command_line = '-jar a.jar'"], Process(command_line="-jar a.jar")),
    (["kind = 'process'", "unit = 'a@b-c.service'"], Process(unit="a@b-c.service")),
    (["kind = 'command'", "command = ['/a', 'b']"], Command(["/a", "b"], environment=TOLD)),
    (["kind = 'disk'", "path = '/a'"], Disk("/a")),
    (
        ["kind = 'disk'", "path = '/a'", "free_percent_min = 20", "write = false"],
        Disk("/a", free_percent_min=20, write=False),
    ),
    (["kind = 'interface'", "interface = { paris = 'a', lyon = 'b' }"], Interface("a")),
    (["kind = 'ping'", "address = '10.0.3.1'"], Ping("10.0.3.1")),
    (["kind = 'mount'", "path = '/a'", "filesystem = 'nfs4'"], Mount("/a", filesystem="nfs4")),
    (["kind = 'mount'"], Mount("/srv/orders", filesystem="fuse.mirrorha")),
]


@pytest.mark.parametrize(("lines", "check"), GOOD, ids=str)
def test_a_table_becomes_a_check(lines: list[str], check: Check) -> None:
    assert made(*lines) == check


def test_a_mount_check_without_a_path_is_one_for_each_volume() -> None:
    volumes = ["[[volume]]", "path = '/b'", "[[volume]]", "path = '/c'", "mount = false"]
    config = read("kind = 'mount'", "name = 'seen'", *volumes)
    checkers = [*making.make_checkers(config)][-2:]
    assert [str(each.check) for each in checkers] == ["mount /srv/orders", "mount /b"]
    assert [each.title for each in checkers] == ["seen /srv/orders", "seen /b"]


def test_a_mount_check_needs_a_mount() -> None:
    config = attrs.evolve(read("kind = 'mount'"), volumes=[])
    with pytest.raises(LocalUsageError, match="no volume is mounted"):
        [*making.make_checkers(config)]


def test_how_often_a_failure_counts_is_the_kinds_own_unless_it_is_said() -> None:
    port, process = ["kind = 'tcp'", "port = 80"], ["kind = 'process'", "program = 'a'"]

    def fall(*lines: str) -> int:
        return [*making.make_checkers(read(*lines))][-1].fall

    assert (fall(*port), fall(*process)) == (2, 1)
    assert (fall(*port, "fall = 3"), fall(*process, "fall = 3")) == (3, 3)


#: What stands in the table, where in it the mistake is, and how what is said of it begins.
WRONG: Final[list[tuple[list[str], int, str]]] = [
    (["kind = 'htp'"], 1, "kind: expected one of 'tcp', 'http', "),
    (["kind = 'http'"], 0, "url: expected a URL of http or https; it is missing"),
    (["kind = 'http'", "url = 'a:80'"], 2, "url: expected a URL of http or https, not 'a:80'"),
    (
        ["kind = 'http'", "url = 'http://a/'", "status = 20"],
        3,
        "status: expected a whole number from 100 to 599, not 20",
    ),
    (
        ["kind = 'http'", "url = 'http://a/'", "contain = 'x'"],
        3,
        "contain: unknown key for kind 'http' (did you mean 'contains'?)",
    ),
    (
        ["kind = 'http'", "url = 'http://a/'", "ca_file = '/a'"],
        0,
        " ca_file is given, but http://a/ shows no certificate",
    ),
    (
        ["kind = 'process'", "program = 'a'", "unit = 'b'"],
        0,
        " a process is found by exactly one of pid_file, program, command_line and unit; 2 of",
    ),
    (
        ["kind = 'process'", "unit = '../x'"],
        2,
        "unit: expected the name of a systemd unit, such as 'postgresql', not '../x'",
    ),
    (
        ["kind = 'command'", "command = '/a b'"],
        2,
        'command: expected a command as a list, such as ["/opt/orders/start"',
    ),
    (
        ["kind = 'disk'", "path = '/a'", "free_percent_min = 100"],
        3,
        "free_percent_min: expected a whole number from 0 to 99, not 100",
    ),
    (
        ["kind = 'interface'", "interface = 'a name that is too long'"],
        2,
        "interface: expected a network interface, such as 'eth0', not",
    ),
    (["kind = 'ping'", "address = 'gateway'"], 2, "address: expected an IP address, not 'gateway'"),
    (
        ["kind = 'mount'", "filesystem = 'ext4'"],
        0,
        " filesystem is given without the path of what is of that type",
    ),
    (
        ["kind = 'tcp'", "port = 80", "when = 'serves'"],
        3,
        "when: expected one of 'serving', 'second', 'always', not 'serves' (did you mean 'serving'",
    ),
    (["kind = 'tcp'", "port = 80", "fall = 0"], 3, "fall: expected a whole number from 1 to 1000"),
]


@pytest.mark.parametrize(("lines", "at", "text"), WRONG, ids=str)
def test_a_mistake_is_told_with_its_line(lines: list[str], at: int, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*lines)
    (problem,) = caught.value.problems
    line = EXAMPLE.read_text().count("\n") + 2 + at
    dot = "" if text.startswith(" ") else "."
    dot = ":" if text.startswith(" ") else dot
    assert problem.startswith(f"c.toml:{line}: check[1]{dot}{text}"), problem


def test_the_example_names_a_check() -> None:
    """Which those of the tests above come after."""
    assert len(load_toml(EXAMPLE, node="paris").checks) == 1
