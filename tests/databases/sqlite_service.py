"""A service on SQLite: `sqlite_service.py PATH JOURNAL PORT`, or `… --check PATH OUT`.

A client sends "ROUND CLIENT NUMBER", a line; once that is committed it is answered "ok".
"""

from __future__ import annotations

import json
import socketserver
import sqlite3
import sys
import threading

BUSY_S = 20.0
SCHEMA = """
create table if not exists ledger(round, client, number, pad, primary key (round, client, number));
create table if not exists total(held);
insert into total select 0 where not exists (select 1 from total);
"""


def connected(path: str, journal: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    connection.execute(f"pragma journal_mode={journal}")
    connection.execute("pragma synchronous=full")
    connection.execute("pragma wal_autocheckpoint=50")  # so that checkpoints are under way, too
    return connection


class Service(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, path: str, journal: str, port: int) -> None:
        self.place = path, journal
        with connected(path, journal) as connection:
            connection.executescript(SCHEMA)
        super().__init__(("127.0.0.1", port), Client)


class Client(socketserver.StreamRequestHandler):
    server: Service

    def handle(self) -> None:
        connection = connected(*self.server.place)
        for line in self.rfile:
            asked = line.decode()
            if asked.strip() == "end":
                connection.close()
                threading.Thread(target=self.server.shutdown).start()
                return
            connection.execute("begin immediate")
            connection.execute(
                "insert into ledger values (?, ?, ?, ?)", (*map(int, asked.split()), "x" * 300)
            )
            connection.execute("update total set held = held + 1")
            connection.execute("commit")
            self.wfile.write(b"ok\n")


def check(path: str, out: str) -> None:
    """Write what the database holds, and what SQLite finds wrong with it."""
    connection = sqlite3.connect(path, timeout=BUSY_S)
    found = {
        "integrity": connection.execute("pragma integrity_check").fetchall(),
        "held": connection.execute("select round, client, number from ledger").fetchall(),
        "total": connection.execute("select held from total").fetchone()[0],
    }
    with open(out, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(*sys.argv[2:])
    else:
        with Service(sys.argv[1], sys.argv[2], int(sys.argv[3])) as service:
            service.serve_forever(0.05)
