"""What a database has to be able to do to be tried on a pair."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import attrs

from tests.databases.record import Record
from tests.mounted.machine import Machine, MachineError

CLIENTS: Final = 4
START_S: Final = 90.0
ANSWER_S: Final = 30.0


@attrs.frozen
class Host:
    """Where a database is: the machine that it runs on, and the mirrored directory there."""

    machine: Machine
    directory: Path


class Database(Protocol):
    """One database, wherever it is served at the moment. Blocking.

    Methods raise MachineError if the database refuses, or does not answer in time.
    """

    name: str

    def create(self, host: Host) -> None:
        """Make it, empty, on a machine that serves for the first time. Nothing runs after."""

    def serve(self, host: Host) -> None:
        """Start it, after whatever crash; return when it answers."""

    def load(
        self, host: Host, record: Record, number: int
    ) -> contextlib.AbstractContextManager[None]:
        """While the block lasts clients write transactions, and record what was acknowledged.

        They stop by themselves when the database dies; leaving the block waits for them.
        """

    def done(self, record: Record, number: int) -> int:
        """How many transactions of this round are done by now: whether it is under load."""
        return len(record.of(number))

    def check(self, host: Host, record: Record) -> list[str]:
        """What is wrong with it, while it is served: its own integrity check, what is missing."""

    def stop(self, host: Host) -> list[str]:
        """Stop it in good order. What its check of files at rest finds."""


def wait(what: str, holds: Callable[[], bool], *, limit_s: float = START_S) -> None:
    ends = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > ends:
            raise MachineError(f"{what}: not within {limit_s:g} s")
        time.sleep(0.05)


def connect(port: int) -> socket.socket:
    """A connection to a database of this machine."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answers(port: int) -> bool:
    try:
        connect(port).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def clients(one: Callable[[int, threading.Event], None], *, count: int) -> Iterator[None]:
    """Run `one(client, ending)` in threads while the block lasts. They end by OSError too.

    Raises:
        MachineError: one is still there long after it should have ended.
    """
    ending = threading.Event()
    errors: list[BaseException] = []

    def run(client: int) -> None:
        try:
            with contextlib.suppress(OSError):
                one(client, ending)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join(2 * ANSWER_S)
    if any(thread.is_alive() for thread in threads):
        raise MachineError("a client waits for an answer that never comes")
    if errors:
        raise errors[0]
