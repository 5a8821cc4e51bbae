"""What `mirrorha run` does with signals, failures and its log, in processes of their own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.cli_support import ENVIRONMENT, ROOT


class Process:
    """A node's process; `end` returns its exit code, its output and its log."""

    def __init__(self, directory: Path, behaviour: str, *log_format: str) -> None:
        self.directory = directory
        words = ("-m", "tests.cli.node_of_a_test", str(directory), behaviour, *log_format)
        self.inner = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_log(self, text: str) -> None:
        assert self.inner.stderr is not None
        while text not in (line := self.inner.stderr.readline()):
            assert line, f"ended without {text!r}"

    def end(self, *signals: int) -> tuple[int, str, str]:
        for each in signals:
            self.inner.send_signal(each)
        try:
            output, log = self.inner.communicate(timeout=30)
        finally:
            self.inner.kill()
        return self.inner.returncode, output.strip(), log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_node_in_order(tmp_path: Path, number: int) -> None:
    process = Process(tmp_path, "well")
    process.wait_log("runs; it is asked at")
    assert (tmp_path / "mirrorha.sock").is_socket()
    code, output, log = process.end(number)
    assert (code, output) == (0, "in order")
    assert "lyon takes over" in log
    assert "Traceback" not in log
    assert not (tmp_path / "mirrorha.sock").exists()


def test_a_refused_stop_is_asked_again(tmp_path: Path) -> None:
    process = Process(tmp_path, "busy")
    process.wait_log("runs; it is asked at")
    code, output, log = process.end(signal.SIGTERM)
    assert (code, output) == (0, "in order")
    assert log.count("this node is being stopped already") == 2


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    process = Process(tmp_path, "slow")
    process.wait_log("runs; it is asked at")
    process.inner.send_signal(signal.SIGTERM)
    process.wait_log("once more ends at once")
    began = time.monotonic()
    code, output, _ = process.end(signal.SIGTERM)
    assert (code, output) == (0, "not in order")
    assert time.monotonic() - began < 10, "it waited for the stop"


def test_a_stop_is_bounded(tmp_path: Path) -> None:
    process = Process(tmp_path, "impatient")
    process.wait_log("runs; it is asked at")
    code, output, log = process.end(signal.SIGTERM)
    assert (code, output) == (0, "not in order")
    assert "not stopped within 0.2 s" in log


def test_a_node_that_must_not_go_on_says_why_alone(tmp_path: Path) -> None:
    code, _, log = Process(tmp_path, "broken").end()
    assert code == 1
    assert log.rstrip().endswith("mirrorha.errors.VolumeError: /srv/orders is not mounted")
    assert "ExceptionGroup" not in log.splitlines()[-1]


def test_a_line_of_the_log_says_when_where_epoch_and_role(tmp_path: Path) -> None:
    process = Process(tmp_path, "well")
    assert process.inner.stderr is not None
    line = process.inner.stderr.readline()
    process.end(signal.SIGTERM)
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"{stamp} INFO paris e9 ALONE: paris runs; .*\n", line), line


def test_a_line_of_the_log_can_be_a_document(tmp_path: Path) -> None:
    process = Process(tmp_path, "well", "json")
    process.wait_log("runs; it is asked at")
    _, _, log = process.end(signal.SIGTERM)
    found = [json.loads(line) for line in log.splitlines()]
    assert found
    for each in found:
        assert (each["node"], each["epoch"], each["role"]) == ("paris", 9, "ALONE")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each["at"])
        assert each["level"] == "info"
        assert set(each) >= {"rule", "text", "from_role", "logger", "traceback"}
    assert any(each["text"] == "stopped: lyon takes over" for each in found)
