"""Ten mistakes of different kinds in one file: all are found in one pass, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorha.cluster.presence import absent
from mirrorha.config import ConfigFileError, load_toml, parse_toml
from mirrorha.net.keys import create_keys

TEN = """\
[cluster]
name = "orders"
keys = "{root}/keys"
split_brian = "available"
link = "plain"

[[node]]
name = "paris"
addresses = ["10.0.1.300"]

[[node]]
name = "lyon"
addresses = ["10.0.2.10"]
port = "9500"

[heartbeat]
timeout = "3 fortnights"

[arbiter]
kind = "local"
path = "{root}/register"

[[volume]]
path = "{root}/data"
ack = "durable-ish"

[service]
start = ["{root}/no-such-program"]

[[check]]
kind = "tcp"
port = 8080
name = "web"

[[check]]
kind = "disk"
path = "/srv"
name = "web"

[[notify]]
kind = "webhook"
url = "https://alerts.example/hook"
token_file = "{root}/no-such-token"

[wacthdog]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_keys(tmp_path / "keys", cluster="orders", nodes=["paris", "lyon"])
    (tmp_path / "data").mkdir()
    return tmp_path


def test_mistakes_of_every_kind_are_found_in_one_pass(root: Path) -> None:
    file = root / "orders.toml"
    file.write_text(TEN.format(root=root))
    with pytest.raises(ConfigFileError) as caught:
        load_toml(file, node="paris", look=absent)
    found = {(each.line, each.place): each.text for each in caught.value.mistakes}
    expected = {
        (4, "cluster.split_brian"): "unknown key (did you mean 'split_brain'?)",
        (5, "cluster.link"): "it needs trusted_network = true beside it",
        (9, "node[0].addresses[0]"): "expected an IP address of the node",
        (14, "node[1].port"): "expected a whole number from 1 to 65535, not '9500'",
        (17, "heartbeat.timeout"): "expected a duration from",
        (20, "arbiter.kind"): "a file is one place for both only on one machine",
        (25, "volume[0].ack"): "(did you mean 'durable'?)",
        (27, "service.stop"): "what is started must be stopped",
        (28, "service.start"): f"there is no program '{root}/no-such-program' that can be run",
        (38, "check[1].name"): "'web' is the name of another check, too",
        (43, "notify[0].token_file"): "no-such-token' cannot be read on this machine",
        (45, "wacthdog"): "unknown key",
    }
    assert found.keys() == expected.keys()
    for place, text in expected.items():
        assert text in found[place]
    assert list(found) == sorted(found)
    assert {each.file for each in caught.value.mistakes} == {str(file)}
    assert (
        caught.value.problems[0]
        == f"{file}:4: cluster.split_brian: " + found[4, "cluster.split_brian"]
    )


GOOD = """\
[cluster]
name = "orders"
keys = "{root}/keys"
split_brain = "consistent"

[[node]]
name = "paris"
addresses = ["10.0.1.10"]

[[node]]
name = "lyon"
addresses = ["10.0.2.10"]

[[volume]]
path = "{root}/data"
"""


@pytest.mark.parametrize(
    ("more", "place", "text"),
    [
        ("", "", ""),
        ('[service]\nstart = ["{root}/data/start"]\nstop = ["sh"]', "", ""),
        ('[[check]]\nkind = "process"\npid_file = "{root}/no-pid"', "", ""),
        ('[[check]]\nkind = "interface"\ninterface = "lo"', "", ""),
        ('[[check]]\nkind = "interface"\ninterface = "no0"', "check[0].interface", "interface"),
        ('[[switch]]\nkind = "command"\nengage = ["no-such"]\ndisengage = ["sh"]\nstatus = ["sh"]',
         "switch[0].engage", "there is no program 'no-such'"),
        ('[[fencer]]\nkind = "command"\ncommand = ["{root}/data"]', "", ""),
        ('[service]\nstart = ["sh"]\nstop = ["sh"]\nuser = "nobody-here"',
         "service.user", "there is no user 'nobody-here' on this machine"),
        ('[service]\nstart = ["sh"]\nstop = ["sh"]\nworking_directory = "{root}/none"',
         "service.working_directory", "there is no directory"),
        ('[[volume]]\npath = "{root}/none"', "volume[1].path", "there is no directory"),
    ],
)  # fmt: skip
def test_what_a_machine_lacks_is_said(root: Path, more: str, place: str, text: str) -> None:
    file = GOOD.format(root=root) + more.format(root=root)
    if not place:
        assert parse_toml(file, name="c.toml", node="paris", look=absent).node == "paris"
        return
    with pytest.raises(ConfigFileError) as caught:
        parse_toml(file, name="c.toml", node="paris", look=absent)
    (mistake,) = caught.value.mistakes
    assert mistake.place == place
    assert text in mistake.text


def test_keys_that_are_not_there_are_said(root: Path) -> None:
    (root / "keys" / "orders-paris.keys").unlink()
    with pytest.raises(ConfigFileError) as caught:
        parse_toml(GOOD.format(root=root), name="c.toml", node="paris", look=absent)
    assert [each.place for each in caught.value.mistakes] == ["cluster.keys"]
