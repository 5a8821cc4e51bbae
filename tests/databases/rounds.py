"""A database under load, its machine killed, and what the other machine has of it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs

from tests.cluster.rig import free_ports
from tests.databases.database import Database, wait
from tests.databases.git import Git
from tests.databases.pair import VolumePair
from tests.databases.postgres import Postgres
from tests.databases.record import Record
from tests.databases.redis import Redis
from tests.databases.sqlite import Sqlite

#: Not killed before so many of a round were acknowledged: it must be under load.
ACKNOWLEDGED_MIN: Final = {"git": 2}
ACKNOWLEDGED_S: Final = 60.0


@attrs.define
class Round:
    """One round. `faults` is empty if the pair kept its promise.

    Attributes:
        acknowledged: transactions in this round, before the kill.
        failover_s: from the kill until the other node serves.
        opened_s: from then until the database answers.
    """

    database: str
    primary: str
    served_by: str
    acknowledged: int
    failover_s: float
    opened_s: float
    took_s: float
    load: float
    faults: list[str]


def _sqlite(journal: str) -> Callable[[Path], Database]:
    return lambda scratch: Sqlite(journal, port=free_ports(1)[0], scratch=scratch)


#: How each is made, given a directory outside of the pair.
DATABASES: Final[dict[str, Callable[[Path], Database]]] = {
    "sqlite-wal": _sqlite("wal"),
    "sqlite-delete": _sqlite("delete"),
    "postgresql": lambda scratch: Postgres(port=free_ports(1)[0], scratch=scratch),
    "redis": lambda scratch: Redis(port=free_ports(1)[0]),
    "git": lambda scratch: Git(scratch=scratch),
}


def play(
    name: str, pair: VolumePair, *, scratch: Path, rounds: int, load_s: float, rng: random.Random
) -> Iterator[Round]:
    """Play rounds with one database, which moves from node to node; yield each as it ends.

    Args:
        scratch: a directory outside of the pair that any user may enter.
        load_s: a round is under load for up to twice as long.
    """
    database, record = DATABASES[name](scratch), Record()
    database.create(pair.host(pair.primary()))
    for number in range(rounds):
        yield _round(database, pair, record, number, load_s=2 * load_s * rng.random())


def _round(
    database: Database, pair: VolumePair, record: Record, number: int, *, load_s: float
) -> Round:
    began_s = time.monotonic()
    primary = pair.primary()
    host = pair.host(primary)
    database.serve(host)
    with database.load(host, record, number):
        time.sleep(load_s)  # a moment nobody has chosen
        _wait_loaded(database, record, number)
        killed_s = time.monotonic()
        survivor = pair.fail_over()
        served_s = time.monotonic()
    acknowledged = len(record.of(number))
    there = pair.host(survivor)
    opening_s = time.monotonic()
    database.serve(there)
    opened_s = time.monotonic()
    faults = database.check(there, record)
    faults += database.stop(there)
    pair.restore()
    return Round(
        database=database.name,
        primary=primary,
        served_by=survivor,
        acknowledged=acknowledged,
        failover_s=served_s - killed_s,
        opened_s=opened_s - opening_s,
        took_s=time.monotonic() - began_s,
        load=os.getloadavg()[0],
        faults=faults,
    )


def _wait_loaded(database: Database, record: Record, number: int) -> None:
    wanted = ACKNOWLEDGED_MIN.get(database.name, 50)
    wait(
        f"{wanted} transactions of {database.name} are acknowledged",
        lambda: database.done(record, number) >= wanted,
        limit_s=ACKNOWLEDGED_S,
    )
