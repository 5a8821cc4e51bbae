"""Redis that syncs its log before every answer."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Final, final

from tests.databases.database import CLIENTS, Database, Host, clients, connect, wait
from tests.databases.record import Record, Transaction
from tests.mounted.machine import MachineError, Program


@final
class Redis(Database):
    """Debian's redis-server, `appendfsync always`."""

    def __init__(self, *, port: int) -> None:
        self.name = "redis"
        self._port: Final = port
        self._server: Program | None = None

    def _directory(self, host: Host) -> Path:
        return host.directory / "redis"

    def _log(self, host: Host) -> Path:
        return self._directory(host) / "appendonlydir/appendonly.aof.manifest"

    def create(self, host: Host) -> None:
        host.machine.run("mkdir", str(self._directory(host)))

    def serve(self, host: Host) -> None:
        if self._log(host).exists():
            # Redis 7.0 cuts a log that ends within a transaction after its MULTI, on any file
            # system, and will not start again once a rewrite has begun the next file. Its own tool
            # cuts before the MULTI.
            host.machine.run("sh", "-c", f"echo y | redis-check-aof --fix {self._log(host)}")
        server = self._server = host.machine.start(
            *("redis-server", "--port", str(self._port), "--bind", "127.0.0.1"),
            *("--dir", str(self._directory(host)), "--save", "", "--appendonly", "yes"),
            *("--appendfsync", "always", "--no-appendfsync-on-rewrite", "no"),
            # So that a rewrite of the log is under way now and then.
            *("--auto-aof-rewrite-min-size", "256kb", "--auto-aof-rewrite-percentage", "50"),
        )
        wait("Redis answers", lambda: not server.is_running or self._is_loaded())
        if not server.is_running:
            raise host.machine.failed(server)

    def _is_loaded(self) -> bool:
        try:
            with contextlib.closing(_Connection(self._port)) as connection:
                return connection.ask("PING") == "PONG"
        except (OSError, MachineError):
            return False

    def load(
        self, host: Host, record: Record, number: int
    ) -> contextlib.AbstractContextManager[None]:
        def write(client: int, ending: threading.Event) -> None:
            with contextlib.closing(_Connection(self._port)) as connection:
                done = 0
                while not ending.is_set():
                    connection.send("MULTI")
                    connection.send("SET", f"t:{number}:{client}:{done}", "x" * 200)
                    connection.send("INCR", "total")
                    connection.send("EXEC")
                    if [connection.answer() for _ in range(3)] != ["OK", "QUEUED", "QUEUED"]:
                        return
                    connection.answer()  # both were done
                    record.add((number, client, done))
                    done += 1

        return clients(write, count=CLIENTS)

    def check(self, host: Host, record: Record) -> list[str]:
        with contextlib.closing(_Connection(self._port)) as connection:
            keys = connection.ask("KEYS", "t:*")
            total = int(str(connection.ask("GET", "total") or 0))
        if not isinstance(keys, list):
            raise MachineError(f"Redis tells no keys: {keys}")
        held = {_transaction(str(key)) for key in keys}
        faults = record.missing_in(held)
        if total != len(held):
            faults.append(f"{len(held)} keys, but {total} were counted with them")
        return faults

    def stop(self, host: Host) -> list[str]:
        with contextlib.closing(_Connection(self._port)) as connection:
            connection.send("SHUTDOWN")
        if self._server is not None:
            self._server.wait(60)
        try:
            host.machine.run("redis-check-aof", str(self._log(host)))
        except MachineError as error:
            return [f"redis-check-aof: {error}"]
        return []


def _transaction(key: str) -> Transaction:
    _, number, client, done = key.split(":")
    return int(number), int(client), int(done)


class _Connection:
    """Redis' protocol, as much as is needed of it. Raises OSError once the server is gone."""

    def __init__(self, port: int) -> None:
        self._socket = connect(port)
        self._answers = self._socket.makefile("rb")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def send(self, *words: str) -> None:
        parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
        self._socket.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())

    def ask(self, *words: str) -> object:
        self.send(*words)
        return self.answer()

    def answer(self) -> object:
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the server is gone")
        kind, rest = line[:1], line[1:].strip().decode()
        if kind == b"-":
            raise MachineError(f"Redis: {rest}")
        if kind == b"$":
            return None if rest == "-1" else self._answers.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return rest
