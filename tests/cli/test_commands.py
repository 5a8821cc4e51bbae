"""Every command, given to a node that a test controls, over its real socket."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import pytest
import trio
from click.testing import CliRunner

from mirrorha.api import SOCKET_NAME
from mirrorha.cli import client, exits, place
from mirrorha.cli.app import COMMANDS, mirrorha
from mirrorha.cli.looking import verdict
from mirrorha.cli.shown import status_text
from mirrorha.cluster.at_rest import not_running
from mirrorha.config import load_toml
from tests.api.fake_node import FakeEvent, FakeGap, document
from tests.cli.cli_support import ENVIRONMENT, ROOT, Cli, Running

RESCUED = {"node": "lyon", "volume": "a", "directory": "d", "files": 2, "bytes": 3}
PLAIN = ("start", "stop", "restart", "swap", "pause", "resume", "acknowledge")


def every_command() -> list[tuple[str, ...]]:
    context = click.Context(mirrorha)
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        command = mirrorha.get_command(context, name)
        if isinstance(command, click.Group):
            found += [(name, each) for each in command.list_commands(context)]
        else:
            found.append((name,))
    return found


#: What a command needs beside `-c` and `--node`, to get as far as asking the node.
NEEDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("wait",): ("--role", "PRIM", "--timeout", "200ms"),
    ("init",): ("--from", "paris", "--yes"),
    ("resync",): ("paris", "--full", "--yes"),
    ("force-primary",): ("--yes",),
    ("force-secondary",): ("--yes",),
}
FORCING = ("force-primary", "force-secondary")
#: What asks a node, and how it ends where there is none. `health` is a Nagios plugin.
ASKING = [
    *((name,) for name in PLAIN),
    *((name,) for name in FORCING),
    *(
        (name,)
        for name in ("status", "init", "resync", "is-primary", "events", "history", "verify")
    ),
]


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
class TestEveryCommand:
    def test_has_help_like_a_manual(self, cli: Cli, words: tuple[str, ...]) -> None:
        result = cli.run(*words, "--help")
        assert result.exit_code == 0
        assert re.search(r"Examples?:\n +mirrorha ", result.output)
        assert "Exit codes: 0 done, 1 refused or failed, 2 usage" in result.output
        assert len(result.output.splitlines()) > 12

    def test_takes_the_common_options(self, cli: Cli, words: tuple[str, ...]) -> None:
        text = cli.run(*words, "--help").output
        for option in ("-c, --config", "--node", "--json", "--color", "MIRRORHA_CONFIG"):
            assert option in text

    def test_refuses_an_unknown_option_with_2(self, cli: Cli, words: tuple[str, ...]) -> None:
        assert cli.run(*words, "--no-such-thing").exit_code == exits.USAGE


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
class TestWhereNoNodeRuns:
    def test_ends_with_3(self, cli: Cli, words: tuple[str, ...]) -> None:
        result = cli.run(*words, *NEEDS.get(words, ()))
        assert result.exit_code == exits.NOT_RUNNING
        assert "node paris does not run" in result.stderr
        assert f"mirrorha run -c {cli.config} --node paris" in result.stderr
        assert result.stdout == ""

    def test_says_so_in_json(self, cli: Cli, words: tuple[str, ...]) -> None:
        found = cli.json(*words, *NEEDS.get(words, ()), code=exits.NOT_RUNNING)
        assert (found["done"], found["exit_code"]) == (False, 3)
        assert found["detail"]
        assert found["hint"]


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_without_a_configuration_it_is_usage(cli: Cli, words: tuple[str, ...]) -> None:
    rest = NEEDS.get(words, ())
    cli.config.unlink()
    assert cli.run(*words, *rest).exit_code == exits.USAGE
    bare = subprocess.run(
        [sys.executable, "-m", "mirrorha.cli", *words, *rest],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert bare.returncode == exits.USAGE
    assert "MIRRORHA_CONFIG" in bare.stderr
    assert "Traceback" not in bare.stderr


@pytest.mark.parametrize(
    "words", [(name,) for name in (*PLAIN, "init", "resync", "verify", *FORCING)], ids=" ".join
)
class TestCommandsThatChange:
    def asked(self, words: tuple[str, ...]) -> str:
        return "accept" if words == ("resync",) else words[0].replace("-", "_")

    def test_done_is_0(self, running: Running, words: tuple[str, ...]) -> None:
        asked = self.asked(words)
        result = running.cli.run(*words, *NEEDS.get(words, ()))
        assert result.exit_code == exits.DONE
        assert f"{asked} was done" in result.stdout
        assert running.node.asked == [asked]

    def test_json_has_the_operation(self, running: Running, words: tuple[str, ...]) -> None:
        found = running.cli.json(*words, *NEEDS.get(words, ()))
        assert found["done"] is True
        assert found["operation"].startswith(words[0])

    def test_refused_is_1_with_the_reason(self, running: Running, words: tuple[str, ...]) -> None:
        running.node.refusing[self.asked(words)] = "lyon is not up to date"
        result = running.cli.run(*words, *NEEDS.get(words, ()))
        assert result.exit_code == exits.FAILED
        assert "lyon is not up to date" in result.stderr
        assert "mirrorha status" in result.stderr
        found = running.cli.json(*words, *NEEDS.get(words, ()), code=exits.FAILED)
        assert found["detail"] == "lyon is not up to date"

    def test_too_slow_is_5_and_it_goes_on(self, running: Running, words: tuple[str, ...]) -> None:
        running.node.gates[self.asked(words)] = trio.Event()
        result = running.cli.run(*words, *NEEDS.get(words, ()), "--timeout", "100ms")
        assert result.exit_code == exits.TIMED_OUT
        assert "it goes on" in result.stderr

    def test_no_wait_is_0_at_once(self, running: Running, words: tuple[str, ...]) -> None:
        running.node.gates[self.asked(words)] = trio.Event()
        found = running.cli.json(*words, *NEEDS.get(words, ()), "--no-wait")
        assert (found["done"], found["state"]) == (False, "running")


def test_a_command_is_waited_for_until_its_outcome(running: Running) -> None:
    """Also over more than one request, and a refusal that comes late is a refusal."""
    gate = running.node.gates["swap"] = trio.Event()
    running.node.refusing["swap"] = "lyon could not start the service"
    process = running.cli.spawn("swap")
    try:
        while not running.node.asked:
            time.sleep(0.01)
        running.call(gate.set)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == exits.FAILED
    assert "lyon could not start the service" in error


def test_a_refusal_that_comes_late_is_a_refusal(running: Running) -> None:
    """Later than one request waits, so that the operation is asked for it."""
    gate = running.node.gates["swap"] = trio.Event()
    running.node.refusing["swap"] = "lyon could not start the service"
    timer = threading.Timer(0.3, running.call, [gate.set])
    timer.start()
    where = place.find(str(running.cli.config), "paris")
    with pytest.raises(exits.CommandError, match="lyon could not start") as caught:
        client.command(where, "swap", {}, timeout_s=None, wait=True, step_s=0.05)
    timer.join()
    assert caught.value.code == exits.FAILED


# ---- consent ----


@pytest.mark.parametrize(
    "words",
    [("init", "--from", "paris"), ("resync", "paris", "--full"), *((name,) for name in FORCING)],
)
def test_without_a_terminal_consent_needs_yes(running: Running, words: tuple[str, ...]) -> None:
    result = running.cli.run(*words)
    assert result.exit_code == exits.FAILED
    assert "--yes" in result.stderr
    assert not running.node.asked


@pytest.mark.parametrize(("typed", "asked"), [("y\n", ["init"]), ("n\n", []), ("\n", [])])
def test_on_a_terminal_a_person_decides(running: Running, typed: str, asked: list[str]) -> None:
    (running.cli.root / "data-paris" / "invoice").write_bytes(b"x" * 2048)
    code, error = running.cli.run_on_terminal("init", "--from", "paris", typed=typed)
    assert "1 files, 2.0 KiB, newest change 20" in error
    assert "lyon will be made equal to it" in error
    assert running.node.asked == asked
    assert code == (exits.DONE if asked else exits.FAILED)


def test_init_shows_that_a_distant_peer_is_unknown(running: Running) -> None:
    text = running.cli.config.read_text()
    text = text.replace('"127.0.0.1"]', '"10.0.1.10"]').replace('"127.0.0.2"]', '"10.0.2.10"]')
    text = text.replace('kind = "local"', 'kind = "witness"')
    text = re.sub(r'path = ".*register.json"', 'address = "10.0.3.5:9600"', text)
    running.cli.config.write_text(text)
    result = running.cli.run("init", "--from", "paris", "--yes")
    assert "unknown from here" in result.stderr
    assert running.node.asked == ["init"]


def test_where_init_and_resync_act_is_said_before_a_person_is_asked(cli: Cli) -> None:
    """And before the node: there is none here."""
    for words in (("init", "--from", "lyon"), ("resync", "lyon", "--full")):
        result = cli.run(*words)
        assert result.exit_code == exits.FAILED
        assert "only lyon itself" in result.stderr


def test_init_and_resync_must_be_run_where_they_act(running: Running) -> None:
    for words in (("init", "--from", "lyon", "--yes"), ("resync", "lyon", "--full", "--yes")):
        result = running.cli.run(*words)
        assert result.exit_code == exits.FAILED
        assert "only lyon itself" in result.stderr
    assert running.cli.run("init", "--from", "rome", "--yes").exit_code == exits.USAGE
    assert running.cli.run("resync", "paris", "--yes").exit_code == exits.USAGE
    assert not running.node.asked


# ---- looking ----


def test_status_is_the_document_or_a_page(running: Running) -> None:
    assert running.cli.json("status") == document()
    text = running.cli.run("status").stdout
    assert "orders/paris: PRIM (green), data up_to_date, epoch 7" in text
    assert "lyon SECOND (green)" in text
    assert "/srv/orders MIRROR" in text


def test_a_resync_is_given_another_rate(running: Running) -> None:
    assert running.cli.run("resync", "--rate", "20MB/s").exit_code == exits.DONE
    assert running.cli.run("resync", "--rate", "unlimited").exit_code == exits.DONE
    assert running.node.rates == [20_000_000, 0]
    for words in (("paris", "--rate", "20MB/s"), ("--full", "--rate", "20MB/s"), (), ("--full",)):
        assert running.cli.run("resync", *words).exit_code == exits.USAGE
    assert running.node.asked == ["set_resync_rate"] * 2


def test_status_shows_a_resync_and_trouble(running: Running) -> None:
    resync = {
        "done_bytes": 170 << 20,
        "total_bytes": 400 << 20,
        "files_left": 3,
        "eta_s": 11.4,
    }
    volume = {**document()["volumes"][0], "mode": "LOG", "resync": resync, "mounted": True}
    running.node.shown = document(
        "ALONE",
        colour="orange",
        volumes=[volume],
        paused=True,
        warnings=["timing differs"],
        link="plain",
    )
    text = running.cli.run("status").stdout
    assert "resync 42.5 % 170.0 MiB/400.0 MiB, 3 files left, 11 s left" in text
    resync |= {"rate_bytes_per_s": 19 << 20, "limit_bytes_per_s": 20 << 20}
    text = running.cli.run("status").stdout
    assert "3 files left, 19.0 MiB/s (limited to 20.0 MiB/s), 11 s left" in text
    assert "PAUSED" in text
    assert ", mounted" in text
    assert "travels unencrypted" in text
    assert "timing differs" in text
    assert "ALONE (orange)" in text


def test_status_bears_a_node_that_knows_nothing_yet(running: Running) -> None:
    volume = {**document()["volumes"][0], "mode": None, "seq": 0, "peer_seq": None}
    running.node.shown = document(
        "STOP", since=None, peer=None, arbiter=None, heartbeats=[], volumes=[volume], checks=[]
    )
    result = running.cli.run("status")
    assert result.exit_code == exits.DONE
    assert "STOP" in result.stdout


def test_a_nodes_own_document_of_not_running_is_borne(running: Running) -> None:
    """It answers so before it runs, and after it has ended."""
    running.node.shown = not_running(
        cluster="orders", node="paris", link="tls", volumes=["/srv/orders"]
    )
    assert "orders/paris: STOP (red)" in running.cli.run("status").stdout
    assert running.cli.run("health").exit_code == 2
    assert running.cli.run("is-primary").exit_code == 1


@pytest.mark.parametrize(
    ("color", "env", "has"),
    [
        ("always", {}, True),
        ("auto", {}, False),
        ("never", {}, False),
        ("always", {"NO_COLOR": "1"}, True),
    ],
)
def test_colour_is_asked_for(running: Running, color: str, env: dict[str, str], has: bool) -> None:
    result = running.cli.run("status", "--color", color, env=env)
    assert ("\x1b[" in result.stdout) is has
    assert "PRIM (green)" in click.unstyle(result.stdout), "the word is always there"


def test_status_is_answered_while_the_file_is_being_edited(running: Running) -> None:
    with running.cli.config.open("a") as file:
        file.write('\n[timing]\nfreeze_max = "soon"\n')
    assert running.cli.run("status").exit_code == exits.DONE
    assert running.cli.run("init", "--from", "paris", "--yes").exit_code == exits.USAGE


@pytest.mark.parametrize("as_json", [True, False])
def test_watch_shows_every_change_and_ends_with_the_node(running: Running, as_json: bool) -> None:
    process = running.cli.spawn("status", "--watch", *(["--json"] if as_json else []))
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert "PRIM" in first
        if as_json:
            assert json.loads(first)["role"] == "PRIM"
        running.node.shown = document("ALONE", colour="orange")
        running.call(running.node.tell, FakeEvent())
        while "ALONE" not in process.stdout.readline():
            assert process.poll() is None
        running.call(running.node.end)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == exits.DONE, error


def test_wait_ends_when_the_role_is_there(running: Running) -> None:
    running.node.shown = document("WAIT", colour="orange")

    def become() -> None:
        running.node.shown = document("ALONE", colour="orange")

    timer = threading.Timer(0.3, become)
    timer.start()
    found = running.cli.json("wait", "--role", "PRIM", "--role", "alone", "--timeout", "20s")
    timer.join()
    assert found["role"] == "ALONE"


def test_wait_that_is_over_is_5_and_says_why(running: Running) -> None:
    running.node.shown = document("WAIT", colour="red", why="both nodes hold files")
    result = running.cli.run("wait", "--role", "PRIM", "--timeout", "100ms")
    assert result.exit_code == exits.TIMED_OUT
    assert "paris is WAIT after 0.1 s: both nodes hold files" in result.stderr


def test_wait_for_a_node_that_never_runs_is_5(cli: Cli) -> None:
    result = cli.run("wait", "--role", "PRIM", "--timeout", "100ms")
    assert result.exit_code == exits.TIMED_OUT
    assert "does not run" in result.stderr


@pytest.mark.parametrize(
    ("role", "code"), [("PRIM", 0), ("ALONE", 0), ("SECOND", 1), ("WAIT", 1), ("STOP", 1)]
)
def test_is_primary_is_told_by_the_exit_code(running: Running, role: str, code: int) -> None:
    running.node.shown = document(role)
    assert running.cli.run("is-primary").exit_code == code
    assert running.cli.json("is-primary", code=code)["primary"] is (code == 0)


def test_events_are_shown_as_they_happen(running: Running) -> None:
    process = running.cli.spawn("events", "--json", "--count", "3")
    assert process.stdout is not None
    try:
        while not running.node._readers:
            time.sleep(0.01)
        for event in (FakeEvent(epoch=8), FakeGap(2), FakeEvent(epoch=9)):
            running.call(running.node.tell, event)
        output, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == exits.DONE, error
    found = [json.loads(line) for line in output.splitlines()]
    assert [each["kind"] for each in found] == ["note", "gap", "note"]
    assert all(each["schema"] == 1 for each in found)


def test_history_is_shown(running: Running) -> None:
    running.node.past = [FakeEvent(epoch=1), FakeEvent(epoch=2, kind="alarm")]
    text = running.cli.run("history", "--limit", "1").stdout
    assert text == "2023-11-14T22:13:20.000Z paris e2 PRIM (won-alone) ALARM: for a test\n"


def test_health_where_no_node_runs_is_unknown(cli: Cli) -> None:
    result = cli.run("health")
    assert (result.exit_code, result.stdout[:9]) == (3, "UNKNOWN -")


def test_health_is_a_plugin(running: Running) -> None:
    result = running.cli.run("health")
    assert result.exit_code == 0
    assert result.stdout == (
        "OK - orders/paris is PRIM (green), protected | epoch=7 serves=1 resync_left=0B\n"
    )


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        (0, {}),
        (0, {"role": "SECOND", "peer": {"role": "PRIM"}}),
        (1, {"role": "ALONE", "colour": "orange"}),
        (1, {"paused": True}),
        (1, {"rescued": [RESCUED]}),
        (1, {"checks": [{"name": "tcp", "state": "failed"}]}),
        (1, {"role": "WAIT", "colour": "red", "peer": {"role": "ALONE"}}),
        (2, {"role": "WAIT", "colour": "orange", "peer": {"role": "WAIT"}}),
        (2, {"role": "STOP", "colour": "red", "peer": None}),
        (2, {"service": {"state": "stopped", "text": "the restart limit is used up"}}),
        (0, {"service": {"state": "started", "text": "ran before"}}),
    ],
)
def test_health_judges(code: int, changes: dict[str, Any]) -> None:
    assert verdict({**document(), **changes})[0] == code


def test_what_was_kept_of_a_split_is_shown_until_it_was_seen() -> None:
    text = status_text({**document(), "rescued": [RESCUED]})
    assert "RESCUED" in text
    assert "2 files (3 B) that lyon alone had" in text
    assert "`mirrorha acknowledge` on lyon" in text
    assert "RESCUED" not in status_text(document())


# ---- a node that is there and does not answer ----


def test_a_stuck_node_is_4(cli: Cli) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(cli.root / "paris" / SOCKET_NAME))
        listener.listen()
        with pytest.raises(exits.CommandError, match="does not answer") as caught:
            client.get(place.find(str(cli.config), "paris"), "/status", timeout_s=0.1)
    assert caught.value.code == exits.UNKNOWN


def test_a_socket_of_something_else_is_4(cli: Cli) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(cli.root / "paris" / SOCKET_NAME))
        listener.listen()

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        result = cli.run("status")
        thread.join(10)
    assert result.exit_code == exits.UNKNOWN


# ---- where the node is ----


def test_the_quick_look_agrees_with_the_full_one(cli: Cli) -> None:
    for path in (cli.config, ROOT / "examples/cluster.toml"):
        for node in ("paris", "lyon"):
            found = place.find(str(path), node)
            config = load_toml(path, node=node)
            assert (found.cluster, found.node) == (config.name, config.me.name)
            assert found.socket == f"{config.me.state_dir}/{SOCKET_NAME}"


def test_an_unknown_node_is_usage_and_named(cli: Cli) -> None:
    result = cli.run("status", node="lion")
    assert result.exit_code == exits.USAGE
    assert "did you mean 'lyon'" in result.stderr


def test_a_file_that_is_none_is_usage_with_its_line(cli: Cli) -> None:
    cli.config.write_text("[cluster\n")
    result = cli.run("status")
    assert result.exit_code == exits.USAGE
    assert f"{cli.config}:1:" in result.stderr


def test_the_environment_names_file_and_node(running: Running) -> None:
    environment = {
        **ENVIRONMENT,
        "MIRRORHA_CONFIG": str(running.cli.config),
        "MIRRORHA_NODE": "paris",
    }
    result = subprocess.run(
        [sys.executable, "-m", "mirrorha.cli", "is-primary"],
        env=environment,
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert result.returncode == exits.DONE


def test_status_loads_nothing_heavy(running: Running) -> None:
    """This, not a clock, is what holds `status` to its 150 ms on any machine."""
    program = (
        "import sys; from mirrorha.cli.app import mirrorha\n"
        f"mirrorha(['status', *{running.cli.options()!r}], standalone_mode=False)\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "PRIM" in result.stdout
    loaded = {name.partition(".")[0] for name in result.stderr.split()}
    ours = {name for name in result.stderr.split() if name.startswith("mirrorha")}
    assert not loaded & {"trio", "rich", "attr", "msgspec", "cryptography", "h11", "http"}
    assert "mirrorha.config" not in ours


# ---- configuration, keys, demonstration ----


def test_config_check_lists_everything(cli: Cli) -> None:
    assert cli.run("config", "check").exit_code == exits.DONE
    assert cli.json("config", "check")["problems"] == []
    text = cli.config.read_text().replace("mount = false", 'mount = "no"\nacks = 1')
    cli.config.write_text(text)
    result = cli.run("config", "check")
    assert result.exit_code == exits.FAILED
    assert result.stderr.count(f"{cli.config}:") >= 2
    assert len(cli.json("config", "check", code=exits.FAILED)["problems"]) == 2


def test_config_show_is_what_was_read(cli: Cli, tmp_path: Path) -> None:
    shown = tmp_path / "shown.toml"
    shown.write_text(cli.run("config", "show").stdout)
    assert load_toml(shown, node="paris") == load_toml(cli.config, node="paris")
    tables = cli.json("config", "show")["config"]
    assert [node["name"] for node in tables["node"]] == ["paris", "lyon"]
    assert tables["cluster"]["name"] == "orders"


def test_no_line_of_the_overview_is_cut_short() -> None:
    text = CliRunner().invoke(mirrorha, ["--help"]).output
    assert "..." not in text.partition("Commands:")[2]


def test_a_typo_is_usage_with_what_was_meant(cli: Cli) -> None:
    result = cli.run("statsu")
    assert result.exit_code == exits.USAGE
    assert "No such command 'statsu'" in result.stderr
    assert "'status'" in result.stderr


def test_ctrl_c_while_waiting_is_no_traceback(running: Running) -> None:
    running.node.gates["swap"] = trio.Event()
    process = running.cli.spawn("swap")
    try:
        while not running.node.asked:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == exits.FAILED
    assert "Traceback" not in error
