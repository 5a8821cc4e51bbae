"""What systemd is told, and the unit by which it runs a node."""

from __future__ import annotations

import configparser
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from mirrorha.cli.systemd import Systemd, status_line
from tests.api.fake_node import FakeNode
from tests.cli.cli_support import ENVIRONMENT, ROOT
from tests.requirements import require_program

UNIT = ROOT / "packaging" / "mirrorha@.service"


class Ear:
    """Where systemd would listen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inner = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inner.bind(str(path))
        self.inner.settimeout(30)

    def next(self) -> str:
        return self.inner.recv(4096).decode()

    def rest(self) -> list[str]:
        """What was said and not heard yet."""
        self.inner.setblocking(False)
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self.next())
        return found

    def skip_to(self, beginning: str) -> str:
        while not (text := self.next()).startswith(beginning):
            pass
        return text


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    made = Ear(tmp_path / "notify")
    yield made
    made.inner.close()


def test_a_node_says_when_it_is_ready_how_it_is_and_how_long_it_stops(
    tmp_path: Path, ear: Ear
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.node_of_a_test", str(tmp_path), "well"],
        cwd=ROOT,
        env={
            **ENVIRONMENT,
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "NOTIFY_SOCKET": str(ear.path),
            "WATCHDOG_USEC": "60000000",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert ear.next() == "READY=1"
        assert {ear.next().partition("=")[0] for _ in range(2)} == {"STATUS", "WATCHDOG"}
        process.send_signal(signal.SIGTERM)
        # Its stop has 30 s, and its end as long again.
        assert ear.skip_to("STOPPING") == "STOPPING=1\nEXTEND_TIMEOUT_USEC=60000000"
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


async def test_the_watchdog_hears_of_this_loop_in_time(
    ear: Ear, autojump_clock: trio.testing.MockClock
) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": str(ear.path), "WATCHDOG_USEC": "30000000"})
    with trio.move_on_after(95):
        await systemd.keep_watchdog()
    assert ear.rest() == ["WATCHDOG=1"] * 10


async def test_another_process_watchdog_is_not_ours() -> None:
    assert Systemd({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Systemd({"WATCHDOG_USEC": "soon"}).watchdog_s is None
    with trio.fail_after(1):
        await Systemd({}).keep_watchdog()


async def test_the_status_line_follows_the_node(
    ear: Ear, autojump_clock: trio.testing.MockClock
) -> None:
    node = FakeNode()
    with trio.move_on_after(60):
        await Systemd({"NOTIFY_SOCKET": str(ear.path)}).follow(node)
    assert ear.next() == f"STATUS={status_line(node.status())}"
    assert ear.rest() == [], "nothing has changed"


def test_the_status_is_one_line_of_bounded_length() -> None:
    status = {"role": "ALONE", "colour": "orange", "epoch": 7, "why": "a\nb " + "c" * 500}
    text = status_line(status)
    assert text.startswith("ALONE (orange), epoch 7: a b cc")
    assert len(text) == 240


def test_nobody_listens_and_nothing_happens(tmp_path: Path) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).tell_ready()
    Systemd({"NOTIFY_SOCKET": "vsock:2:1234"}).tell_ready()
    Systemd({}).tell_ready()


def test_an_abstract_address_is_understood(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + str(tmp_path))
        listener.settimeout(10)
        Systemd({"NOTIFY_SOCKET": f"@{tmp_path}"}).tell_ready()
        assert listener.recv(100) == b"READY=1"


# ---- the unit ----


def unit() -> configparser.RawConfigParser:
    read = configparser.RawConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string(UNIT.read_text())
    return read


def test_the_unit_is_accepted_by_systemd(tmp_path: Path) -> None:
    analyze = require_program("systemd-analyze")
    program = tmp_path / "mirrorha"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copied = tmp_path / "mirrorha@orders.service"
    text = UNIT.read_text()
    assert "ExecStart=/usr/local/bin/mirrorha run\n" in text
    copied.write_text(text.replace("/usr/local/bin/mirrorha", str(program)))
    command = [analyze, "verify", "--man=no", str(copied)]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")


def test_the_unit_runs_what_this_program_does(ear: Ear) -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main", "what the service says is not taken for ours"
    assert service["KillMode"] == "mixed", "only mirrorha is told to stop; it stops the service"
    words = service["ExecStart"].split()
    assert words[1:] == ["run"]


def test_the_unit_makes_no_mount_namespace() -> None:
    """What mirrorha mounts in one, nobody else would see; nor would the service."""
    service = unit()["Service"]
    makers = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "Bind", "Mount")
    assert not [key for key in service if key.startswith(makers)]


def test_the_package_brings_the_unit() -> None:

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {str(UNIT.relative_to(ROOT)): f"lib/systemd/system/{UNIT.name}"}
