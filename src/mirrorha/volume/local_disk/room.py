"""Room for a sqlite file of the state directory, where its disk is full."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def perform_with_room(
    connection: sqlite3.Connection,
    work: Callable[[], None],
    make_room: Callable[[], bool] | None,
) -> None:
    """Run `work`; where the disk is full, once more after each way to find room.

    The file's WAL grows to some megabytes before it is used again from its beginning. So what it
    takes is given back first, and only then `make_room` is called, which helps once.

    Args:
        connection: in WAL mode, and in no transaction of others.
        work: leaves nothing behind when it fails.
        make_room: True: there is more room now.

    Raises:
        sqlite3.Error: as `work`.
    """
    for find_room in (_as_it_is, make_room or _none):
        try:
            work()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not find_room():
                raise
        else:
            return
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    work()


def _as_it_is() -> bool:
    return True


def _none() -> bool:
    return False
