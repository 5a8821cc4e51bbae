"""SQLite with synchronous=FULL, behind a small service."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from pathlib import Path
from typing import Final, final

from tests.databases.database import CLIENTS, Database, Host, answers, clients, connect, wait
from tests.databases.record import Record
from tests.mounted.machine import Program

SERVICE: Final = str(Path(__file__).with_name("sqlite_service.py"))


@final
class Sqlite(Database):
    """One file, several connections that write.

    Args:
        journal: "wal" or "delete".
        scratch: a directory outside of the pair.
    """

    def __init__(self, journal: str, *, port: int, scratch: Path) -> None:
        self.name = f"sqlite-{journal}"
        self._journal: Final = journal
        self._port: Final = port
        self._scratch: Final = scratch
        self._service: Program | None = None

    def create(self, host: Host) -> None:
        self.serve(host)
        self.stop(host)

    def serve(self, host: Host) -> None:
        path = str(host.directory / "ledger.db")
        arguments = (SERVICE, path, self._journal, str(self._port))
        service = self._service = host.machine.start(sys.executable, *arguments)
        wait("SQLite's service answers", lambda: not service.is_running or answers(self._port))
        if not service.is_running:
            raise host.machine.failed(service)

    def load(
        self, host: Host, record: Record, number: int
    ) -> contextlib.AbstractContextManager[None]:
        def write(client: int, ending: threading.Event) -> None:
            with connect(self._port) as connection, connection.makefile("rb") as answered:
                done = 0
                while not ending.is_set():
                    connection.sendall(b"%d %d %d\n" % (number, client, done))
                    if answered.readline() != b"ok\n":
                        return
                    record.add((number, client, done))
                    done += 1

        return clients(write, count=CLIENTS)

    def check(self, host: Host, record: Record) -> list[str]:
        out = self._scratch / "sqlite.json"
        path = str(host.directory / "ledger.db")
        host.machine.run(sys.executable, SERVICE, "--check", path, str(out))
        found = json.loads(out.read_text())
        held = {(each[0], each[1], each[2]) for each in found["held"]}
        faults = record.missing_in(held)
        if found["integrity"] != [["ok"]]:
            faults.append(f"integrity_check: {found['integrity'][:3]}")
        if found["total"] != len(held):
            faults.append(f"{len(held)} rows, but {found['total']} were counted with them")
        return faults

    def stop(self, host: Host) -> list[str]:
        with connect(self._port) as connection:
            connection.sendall(b"end\n")
            connection.recv(1)
        if self._service is not None:
            self._service.wait(60)
        return []
