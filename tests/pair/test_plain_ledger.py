"""The ledger that knows nothing of mirrorha: a torn last line hides nothing that follows it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from mirrorha.cli.demo.ledger import read_journal
from tests.cluster.rig import free_ports

WAIT_S = 10


def test_a_torn_last_line_is_taken_off(tmp_path: Path) -> None:
    journal, (port,) = tmp_path / "journal", free_ports(1)
    journal.write_bytes(b"1 100\n10")
    command = [sys.executable, "-m", "tests.pair.plain_ledger", str(journal), str(port)]
    ledger = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert ledger.stdout is not None
        assert ledger.stdout.readline() == b"ready\n"
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            client.sendall(b"1038 100\n")
            assert client.recv(100) == b"ok 1038\n"
        assert read_journal(journal.read_bytes()) == {1, 1038}
    finally:
        ledger.communicate(timeout=WAIT_S)
