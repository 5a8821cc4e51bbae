"""PostgreSQL with data checksums, under pgbench."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from tests.databases.database import CLIENTS, Database, Host, wait
from tests.databases.record import Record, Transaction
from tests.mounted.machine import MachineError, Program

USER: Final = "postgres"  # it refuses to run as root
DATABASE: Final = "bench"
END_S: Final = 60.0

_SETTINGS: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
synchronous_commit = on
full_page_writes = on
shared_buffers = 32MB
# Checkpoints under way, often.
checkpoint_timeout = 30s
max_wal_size = 48MB
"""
_LEDGER: Final = """\
\\set number :number + 1
BEGIN;
INSERT INTO ledger VALUES (:round, :client_id, :number, repeat('x', 200));
UPDATE total SET held = held + 1 WHERE client = :client_id;
COMMIT;
"""
_TABLES: Final = f"""
CREATE TABLE ledger(round int, client int, number int, pad text,
    PRIMARY KEY (round, client, number));
CREATE TABLE total(client int PRIMARY KEY, held int);
INSERT INTO total SELECT generate_series(0, {CLIENTS - 1}), 0;
CREATE EXTENSION amcheck;
"""
_SUMS: Final = """
SELECT
    (SELECT sum(abalance) FROM pgbench_accounts),
    (SELECT sum(bbalance) FROM pgbench_branches),
    (SELECT sum(tbalance) FROM pgbench_tellers),
    (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
"""


def programs() -> Path:
    """Where the newest server's programs are: Debian keeps them out of PATH.

    Raises:
        MachineError: there is none.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        raise MachineError("PostgreSQL is missing: apt-get install postgresql")
    return found[-1].parent


@final
class Postgres(Database):
    """Debian's server; `pgbench -c 4` writes TPC-B's tables, and a ledger.

    Args:
        scratch: a directory outside of the pair.
    """

    def __init__(self, *, port: int, scratch: Path) -> None:
        self.name = "postgresql"
        self._port: Final = port
        self._scratch: Final = scratch
        self._bin: Final = programs()
        self._server: Program | None = None

    def _directory(self, host: Host) -> Path:
        return host.directory / "postgresql"

    def _at(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self._port), "-U", USER)

    def create(self, host: Host) -> None:
        at = str(self._directory(host))
        host.machine.run("install", "-d", "-m", "700", "-o", USER, "-g", USER, at)
        options = (
            "--data-checksums",
            "--auth=trust",
            "--no-instructions",
            "--no-sync",
            "--locale=C",
        )
        host.machine.run(str(self._bin / "initdb"), "-D", at, *options, user=USER)
        extra = f"printf '%s\\n' \"$0\" >> {at}/postgresql.conf"
        host.machine.run("sh", "-c", extra, f"{_SETTINGS}\nport = {self._port}", user=USER)
        self.serve(host)
        self._run("createdb", *self._at(), DATABASE)
        self._query(_TABLES)
        self._run("pgbench", *self._at(), "--initialize", "--quiet", DATABASE)
        self.stop(host)

    def serve(self, host: Host) -> None:
        at = str(self._directory(host))
        # A copy of the directory of a killed server names its process; that was another machine.
        host.machine.run("rm", "-f", f"{at}/postmaster.pid")
        server = self._server = host.machine.start(str(self._bin / "postgres"), "-D", at, user=USER)
        ready = [str(self._bin / "pg_isready"), *self._at(), "-q"]

        def is_ready() -> bool:
            done = subprocess.run(ready, timeout=END_S, check=False)
            return not server.is_running or done.returncode == 0

        wait("PostgreSQL answers", is_ready)
        if not server.is_running:
            raise host.machine.failed(server)

    @contextlib.contextmanager
    def load(self, host: Host, record: Record, number: int) -> Iterator[None]:
        script, log = self._scratch / "ledger.sql", self._scratch / f"pgbench-{number}"
        script.write_text(_LEDGER)
        command = [str(self._bin / "pgbench"), *self._at(), "-n", "-c", str(CLIENTS), "-T", "600"]
        command += ["--log", f"--log-prefix={log}", "-D", "number=0", "-D", f"round={number}"]
        command += ["-b", "tpcb-like", "-f", str(script), DATABASE]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as pgbench:
            try:
                yield
                if self._server is not None and self._server.is_running:
                    pgbench.send_signal(signal.SIGINT)
                pgbench.wait(END_S)
            except subprocess.TimeoutExpired:
                raise MachineError("pgbench waits for an answer that never comes") from None
            finally:
                pgbench.kill()
        for part in self._scratch.glob(f"{log.name}.*"):
            record.add(*_acknowledged(part.read_text(), number))

    def done(self, record: Record, number: int) -> int:
        """pgbench keeps the record, and gives it away at its end."""
        return int(self._query(f"SELECT count(*) FROM ledger WHERE round = {number}"))

    def check(self, host: Host, record: Record) -> list[str]:
        rows = self._query("SELECT round, client, number FROM ledger").splitlines()
        held = {_transaction(row.split("|")) for row in rows}
        faults = record.missing_in(held)
        if (total := int(self._query("SELECT sum(held) FROM total"))) != len(held):
            faults.append(f"{len(held)} rows, but {total} were counted with them")
        if len(set((sums := self._query(_SUMS)).split("|"))) != 1:
            faults.append(f"TPC-B: accounts, branches, tellers and history differ: {sums}")
        done = subprocess.run(
            [str(self._bin / "pg_amcheck"), *self._at(), "--heapallindexed", DATABASE],
            capture_output=True,
            text=True,
            timeout=2 * END_S,
            check=False,
        )
        if done.returncode:
            faults.append(f"pg_amcheck: {(done.stdout + done.stderr)[-500:]}")
        return faults

    def stop(self, host: Host) -> list[str]:
        if self._server is not None and self._server.is_running:
            os.kill(self._server.pid, signal.SIGINT)  # "fast": whoever is connected is sent away
            self._server.wait(END_S)
        checked = (str(self._bin / "pg_checksums"), "--check", "-D", str(self._directory(host)))
        try:
            host.machine.run(*checked, user=USER)
        except MachineError as error:
            return [f"pg_checksums: {error}"]
        return []

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            capture_output=True,
            text=True,
            timeout=2 * END_S,
            check=False,
        )
        if done.returncode:
            raise MachineError(f"{program}: {done.stderr}")
        return done.stdout.strip()

    def _query(self, text: str) -> str:
        options = ("--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-AtX", "-c", text, DATABASE)
        return self._run("psql", *self._at(), *options)


def _acknowledged(log: str, number: int) -> list[Transaction]:
    """What pgbench's log says was committed: a line a transaction, in order for each client.

    The fields are: client, its transaction, microseconds, script, and when. The ledger is the
    second script; each client counts from 1, and the first failure ends the client.
    """
    done: dict[int, int] = {}
    for line in log.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[2].isdigit() and fields[3] == "1":
            done[int(fields[0])] = done.get(int(fields[0]), 0) + 1
    return [(number, client, n + 1) for client, count in done.items() for n in range(count)]


def _transaction(fields: list[str]) -> Transaction:
    number, client, done = map(int, fields)
    return number, client, done
