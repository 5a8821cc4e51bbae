"""The durable part of the touched log: a sqlite file in the state directory.

Every method but `load` returns once its change is on disk, and may be called from any thread.

sqlite takes a file whose write-ahead log is gone, or damaged, for one that was never changed since:
it cannot know better. So the changes are counted, in the file and then in one beside it, which may
lag behind after a crash of the system and is never ahead. If it is, changes are missing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import xxhash

from mirrorha.state.atomic import remove_leftovers, write_atomically
from mirrorha.state.reserve import FULL
from mirrorha.volume.disk import DiskError
from mirrorha.volume.local_disk.room import perform_with_room
from mirrorha.volume.touched import TouchedState, TouchKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_VERSION: Final = 2
# The reserve on a full disk has room for some WALs of this length: a megabyte.
_WAL_PAGES: Final = 256
_SCHEMA: Final = """
    BEGIN;
    CREATE TABLE touched (fid INTEGER, part INTEGER, PRIMARY KEY (fid, part)) WITHOUT ROWID;
    CREATE TABLE checkpoints (
        confirmed_epoch INTEGER, confirmed_seq INTEGER, retired_epoch INTEGER, retired_seq INTEGER
    );
    INSERT INTO checkpoints VALUES (0, 0, 0, 0);
    CREATE TABLE damage (what TEXT);
    INSERT INTO damage VALUES ('new');
    PRAGMA user_version = 1;
    COMMIT;
"""
# What an older node has written goes on.
_SINCE_VERSION_1: Final = """
    BEGIN;
    ALTER TABLE checkpoints ADD COLUMN filled_epoch INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE checkpoints ADD COLUMN filled_seq INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE checkpoints ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
    PRAGMA user_version = 2;
    COMMIT;
"""
_CONFIRM: Final = """
    UPDATE checkpoints SET confirmed_epoch = ?, confirmed_seq = ?
    WHERE (confirmed_epoch, confirmed_seq) < (?, ?)
"""
_FILL: Final = "UPDATE checkpoints SET filled_epoch = ?, filled_seq = ?"
_CHECKPOINTS: Final = """
    SELECT confirmed_epoch, confirmed_seq, retired_epoch, retired_seq, filled_epoch, filled_seq
    FROM checkpoints
"""
_COUNT: Final = struct.Struct("<8sQ")
_SUM: Final = struct.Struct("<Q")
_MAGIC: Final = b"mhcount1"
_Change = tuple[str, Sequence[tuple[object, ...]]]


@final
class TouchedStore:
    """The file `path`. Used by one process at a time.

    A file that is damaged, or not ours, is put aside as `<name>.damaged`. A new one says that
    entries may be missing until a checkpoint is retired, or `begin` says that none can be.

    Args:
        path: The file; more lie beside it.
        make_room: Called when the disk is full; True: try once more.

    Raises:
        OSError: the state directory cannot be used.
    """

    def __init__(self, path: Path, *, make_room: Callable[[], bool] | None = None) -> None:
        self._path: Final = path
        self._make_room: Final = make_room
        self._lock: Final = threading.Lock()
        try:
            self._connection = self._connect()
            damage = ""
        except sqlite3.DatabaseError as error:
            self._put_aside()
            self._connection = self._connect()
            damage = str(error)
        self._count_fd = -1
        self._changes: int = self._one("SELECT changes FROM checkpoints")[0]
        if not damage and self._are_missing():
            damage = "changes of it are missing"
        if damage:
            self.distrust(damage)
        self._begin_count()

    def load(self) -> TouchedState:
        """All there is.

        Raises:
            DiskError: it cannot be read.
        """
        with self._lock, self._translated("read"):
            keys = self._connection.execute("SELECT fid, part FROM touched").fetchall()
            row = self._one(_CHECKPOINTS)
            damage = self._one("SELECT what FROM damage")
        return TouchedState(
            keys=keys,
            confirmed=(row[0], row[1]),
            retired=(row[2], row[3]),
            filled=(row[4], row[5]),
            damaged=damage is not None,
        )

    def record(self, keys: Sequence[TouchKey]) -> None:
        """Add entries. One that is there already stays.

        Raises:
            DiskError: they are not surely on disk.
        """
        self._perform(("INSERT OR IGNORE INTO touched VALUES (?, ?)", keys))

    def retire(self, keys: Sequence[TouchKey], *, epoch: int, seq: int) -> None:
        """Take entries out, and note that this checkpoint was retired and, if it is the latest,
        confirmed. Both nodes are the same up to it, so what damage took away is not missing more.

        Raises:
            DiskError: nothing of that is surely on disk.
        """
        checkpoint = (epoch, seq)
        self._perform(
            ("DELETE FROM touched WHERE fid = ? AND part = ?", keys),
            ("UPDATE checkpoints SET retired_epoch = ?, retired_seq = ?", [checkpoint]),
            (_CONFIRM, [checkpoint * 2]),
            ("DELETE FROM damage", [()]),
        )

    def confirm(self, *, epoch: int, seq: int, is_filled: bool = False) -> None:
        """Note that this node holds everything up to a checkpoint, if it is the latest.

        `is_filled`: a resync has brought it; of these the latest is the last one.

        Raises:
            DiskError: that is not surely on disk.
        """
        fill: list[_Change] = [(_FILL, [(epoch, seq)])] if is_filled else []
        self._perform((_CONFIRM, [(epoch, seq) * 2]), *fill)

    def begin(self) -> None:
        """Note that the volume is as new as this log: nothing was ever changed without it.

        Does not help a log that is new because the one before was damaged.

        Raises:
            DiskError: that is not surely on disk.
        """
        self._perform(("DELETE FROM damage WHERE what = 'new'", [()]))

    def distrust(self, why: str) -> None:
        """Note that entries may be missing, until a checkpoint is retired.

        Raises:
            DiskError: that is not surely on disk.
        """
        self._perform(("INSERT INTO damage VALUES (?)", [(why,)]))

    def close(self) -> None:
        """Close the file. Everything in it is durable already."""
        with self._lock:
            self._connection.close()
            if self._count_fd >= 0:
                os.close(self._count_fd)
                self._count_fd = -1

    def _perform(self, *changes: _Change) -> None:
        with self._lock, self._translated("written"):
            counted: _Change = ("UPDATE checkpoints SET changes = ?", [(self._changes + 1,)])
            work = partial(self._commit, (*changes, counted))
            perform_with_room(self._connection, work, self._make_room)
            self._changes += 1
            self._count()

    def _commit(self, changes: Sequence[_Change]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, rows in changes:
                self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk may have ended the transaction already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _one(self, query: str) -> Any:
        return self._connection.execute(query).fetchone()

    @property
    def _count_path(self) -> Path:
        return self._path.with_suffix(".count")

    def _are_missing(self) -> bool:
        """Whether the file has fewer changes than were made durable in it."""
        try:
            counted = _counted(self._count_path.read_bytes())
        except FileNotFoundError:
            return self._changes > 0
        return counted is None or counted > self._changes

    def _begin_count(self) -> None:
        remove_leftovers(self._count_path)
        raw = _count_of(self._changes)
        try:
            write_atomically(self._count_path, raw)
        except OSError as error:
            if error.errno not in FULL:
                raise
            if not self._count_path.exists():
                return  # what is not counted is not relied on by the next opening
        self._count_fd = os.open(self._count_path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        self._count()

    def _count(self) -> None:
        """After a change is durable. What cannot be written lags behind."""
        if self._count_fd >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(self._count_fd, _count_of(self._changes), 0)

    @contextlib.contextmanager
    def _translated(self, done: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DiskError(f"the touched log {self._path} cannot be {done}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.executescript(_SCHEMA)
            if version < _VERSION:
                connection.executescript(_SINCE_VERSION_1)
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"it is of version {version}")
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
        except sqlite3.OperationalError as error:
            connection.close()
            raise OSError(f"the touched log {self._path} cannot be used: {error}") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            old = self._path.with_name(self._path.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                old.replace(self._path.with_name(f"{self._path.name}.damaged{suffix}"))


def _count_of(changes: int) -> bytes:
    """The content of the file that counts."""
    raw = _COUNT.pack(_MAGIC, changes)
    return raw + _SUM.pack(xxhash.xxh3_64_intdigest(raw))


def _counted(raw: bytes) -> int | None:
    """What it counts, None if it is damaged."""
    if len(raw) != _COUNT.size + _SUM.size:
        return None
    magic, changes = _COUNT.unpack_from(raw)
    (sum_,) = _SUM.unpack_from(raw, _COUNT.size)
    is_ours = magic == _MAGIC and sum_ == xxhash.xxh3_64_intdigest(raw[: _COUNT.size])
    return changes if is_ours else None
