"""`mirrorha config check` and `show`, and what makes a shell complete commands."""

from __future__ import annotations

import subprocess

import pytest
from click.testing import CliRunner

from mirrorha.cli import exits
from mirrorha.cli.app import COMMANDS, mirrorha
from mirrorha.cli.completing import VARIABLE
from tests.cli.cli_support import Cli

MORE = """
[service]
start = ["/opt/start", "--password", "S3CRET"]
stop = ["/opt/stop"]
environment = ["A=S3CRET"]

[[notify]]
kind = "webhook"
url = "https://alerts.example/S3CRET"
timeout = "4s"
"""


def test_each_mistake_is_told_in_its_parts(cli: Cli) -> None:
    text = cli.config.read_text().replace("mount = false", 'mount = "no"\nacks = 1')
    cli.config.write_text(text)
    line = text.splitlines().index('mount = "no"') + 1
    found = cli.json("config", "check", code=exits.FAILED)
    assert found["mistakes"] == [
        {
            "file": str(cli.config),
            "line": line,
            "place": "volume[0].mount",
            "text": "expected true or false, not 'no'",
        },
        {
            "file": str(cli.config),
            "line": line + 1,
            "place": "volume[0].acks",
            "text": "unknown key (did you mean 'ack'?)",
        },
    ]


def test_what_this_machine_lacks_is_looked_for_when_asked(cli: Cli) -> None:
    assert cli.run("config", "check").exit_code == exits.DONE
    found = cli.json("config", "check", "--files", code=exits.FAILED)
    assert [each["place"] for each in found["mistakes"]] == ["cluster.keys"]
    assert cli.run("keys", "init").exit_code == exits.DONE
    assert cli.run("config", "check", "--files").exit_code == exits.DONE
    result = CliRunner().invoke(
        mirrorha, ["config", "check", "--files", "-c", str(cli.config)], env={"MIRRORHA_NODE": None}
    )
    assert result.exit_code == exits.USAGE


def test_show_says_where_each_value_comes_from(cli: Cli) -> None:
    cli.config.write_text(cli.config.read_text() + MORE)
    found = cli.json("config", "show")
    lines = cli.config.read_text().splitlines()
    name = lines.index('name = "orders"') + 1
    assert found["origins"]["cluster.name"] == f"{cli.config}:{name}"
    timeout = lines.index('timeout = "4s"') + 1
    assert found["origins"]["notify[0].timeout"] == f"{cli.config}:{timeout}"
    assert found["origins"]["timing.freeze_max"] == "default"
    assert found["config"]["timing"]["freeze_max"] == "1m"
    text = cli.run("config", "show").stdout
    assert f'timeout = "4s"  # line {timeout}\n' in text
    assert 'timeout = "3s"  # default\n' in text
    assert "default" not in cli.run("config", "show", "--given").stdout


def test_show_hides_secrets(cli: Cli) -> None:
    cli.config.write_text(cli.config.read_text() + MORE)
    assert "S3CRET" not in cli.run("config", "show").output
    assert "S3CRET" not in cli.run("config", "show", "--json").output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(cli: Cli, shell: str) -> None:
    script = cli.json("completion", shell)["script"]
    assert f"{VARIABLE}={shell}_complete" in script
    assert cli.run("completion", shell).stdout.rstrip() == script.rstrip()


def test_what_a_shell_asks_is_answered() -> None:
    words = {VARIABLE: "bash_complete", "COMP_WORDS": "mirrorha re", "COMP_CWORD": "1"}
    result = CliRunner().invoke(mirrorha, [], env=words, prog_name="mirrorha")
    found = [line.partition(",")[2] for line in result.output.splitlines()]
    assert found == [name for name in COMMANDS if name.startswith("re")]


def test_bash_takes_the_script(cli: Cli) -> None:
    script = cli.run("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=30)
