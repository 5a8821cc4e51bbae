"""The table of ids: which file of this directory is which fid, across restarts.

A side table in the state directory, keyed by inode and birth time, for not every file can carry an
id itself: symlinks and some file systems have no user attributes, and others need root. A file
whose inode was given to another one has another birth time, and so another id.

Rows are written as files are made, which a crash of the process cannot undo, and are durable once
`flush` returns: at the latest with the next sync of the tree. A table that is lost, damaged or of
another tree is given up for a new one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from functools import partial
from typing import TYPE_CHECKING, Final, final

import msgspec

from mirrorha.volume.disk import DiskError, Kind
from mirrorha.volume.local_disk.room import perform_with_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mirrorha.volume.local_disk.syscalls import Identity

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS ids (
        fid INTEGER PRIMARY KEY, inode INTEGER NOT NULL, birth INTEGER NOT NULL,
        kind INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS tree (inode INTEGER NOT NULL, birth INTEGER NOT NULL);
    PRAGMA user_version = 1;
"""
_VERSION: Final = 1
_ADD: Final = "INSERT OR REPLACE INTO ids VALUES (?, ?, ?, ?)"
_REMOVE: Final = "DELETE FROM ids WHERE fid = ?"
_RELABEL: Final = "UPDATE ids SET fid = ? WHERE fid = ?"
# A create adds a page or two to the WAL; about this much is moved into the table at once.
_WAL_BYTES: Final = 1024 * 1024


class Row(msgspec.Struct, frozen=True, array_like=True):
    """The file `fid` is the one with this inode, born then."""

    fid: int
    inode: int
    birth_ns: int
    kind: Kind


@final
class IdTable:
    """The table of one volume, in the file `path`. Used by one process at a time.

    `flush` may run in another thread, beside the rest.

    Args:
        path: Of the table; two more files lie beside it.
        fsync: Makes a descriptor's file durable. Tests watch and fail it.
        make_room: Called when the disk is full; True: try once more.

    Raises:
        OSError: the state directory cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        fsync: Callable[[int], None] = os.fsync,
        make_room: Callable[[], bool] | None = None,
    ) -> None:
        self._path: Final = path
        self._make_room: Final = make_room
        self._fsync: Final = fsync
        self._lock: Final = threading.Lock()
        self._flushing: Final = threading.Lock()
        self._unwritten: list[tuple[str, tuple[int, ...]]] = []
        self._is_dirty = False
        self._connection, self._wal_fd = self._open()

    @property
    def is_known(self) -> bool:
        """Whether the table has been used for any tree before."""
        try:
            return self._connection.execute("SELECT 1 FROM tree").fetchone() is not None
        except sqlite3.DatabaseError:
            return True

    def load(self, root: Identity) -> list[Row] | None:
        """All rows; None if they are damaged, or not those of the tree with this root.

        Raises:
            OSError: they cannot be read.
        """
        try:
            if self._connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return None
            tree = self._connection.execute("SELECT inode, birth FROM tree").fetchall()
            if tree != [(root.inode, root.birth_ns)]:
                return None
            rows = self._connection.execute("SELECT fid, inode, birth, kind FROM ids").fetchall()
            return msgspec.convert(rows, list[Row])
        except sqlite3.OperationalError as error:
            raise OSError(f"the table of ids {self._path} cannot be read: {error}") from error
        except (sqlite3.DatabaseError, msgspec.ValidationError):
            return None

    def store(self, root: Identity, *, new: Iterable[Row], stale: Iterable[int]) -> None:
        """Bring the table up to the tree that was found, durably.

        Args:
            root: The tree's root.
            new: Rows to add.
            stale: Fids of files that are gone.

        Raises:
            DiskError: the table cannot be written.
        """
        changes = (root, list(new), list(stale))
        with self._translated(), self._lock:
            perform_with_room(self._connection, partial(self._store, *changes), self._make_room)
            self._is_dirty = True
        self.flush()

    def _store(self, root: Identity, new: list[Row], stale: list[int]) -> None:
        connection = self._connection
        connection.execute("BEGIN")
        try:
            connection.executemany(_REMOVE, ((fid,) for fid in stale))
            connection.executemany(_ADD, (_values(row) for row in new))
            connection.execute("DELETE FROM tree")
            connection.execute("INSERT INTO tree VALUES (?, ?)", (root.inode, root.birth_ns))
            connection.execute("COMMIT")
        except BaseException:
            # A full disk may have ended the transaction already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def start_anew(self) -> None:
        """Put the table aside, as `<name>.damaged`, and go on with an empty one.

        Raises:
            OSError: the state directory cannot be used.
        """
        self.close()
        self._put_aside()
        self._connection, self._wal_fd = self._open()

    def add(self, row: Row) -> None:
        """Note a new file. What cannot be written now is tried again by `flush`."""
        self._write(_ADD, _values(row))

    def remove(self, fid: int) -> None:
        """Note that a file is gone."""
        self._write(_REMOVE, (fid,))

    def relabel(self, fid: int, new_fid: int) -> None:
        """Note that the file `fid` is called `new_fid` from now on."""
        self._write(_RELABEL, (new_fid, fid))

    def flush(self) -> None:
        """Make everything noted so far durable. Blocks.

        Raises:
            DiskError: it could not be done.
        """
        with self._flushing, self._translated():
            if not self._is_dirty:
                return
            with self._lock:
                perform_with_room(self._connection, self._write_rest, self._make_room)
                self._is_dirty = False
            # The WAL alone: what is durable there survives, and the thread that changes the tree
            # does not wait for it.
            try:
                self._fsync(self._wal_fd)
            except OSError:
                self._is_dirty = True
                raise
            if os.fstat(self._wal_fd).st_size > _WAL_BYTES:
                with self._lock:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the table. Makes nothing durable."""
        with self._flushing, self._lock:
            os.close(self._wal_fd)
            self._wal_fd = -1
            self._connection.close()

    def _write(self, statement: str, values: tuple[int, ...]) -> None:
        with self._lock:
            self._unwritten.append((statement, values))
            self._is_dirty = True
            with contextlib.suppress(sqlite3.Error):
                self._write_rest()

    def _write_rest(self) -> None:
        while self._unwritten:
            self._connection.execute(*self._unwritten[0])
            del self._unwritten[0]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DiskError(f"the table of ids {self._path} cannot be written: {error}") from error

    def _open(self) -> tuple[sqlite3.Connection, int]:
        try:
            return self._connect()
        except sqlite3.OperationalError as error:
            # Of the disk, or of another process that uses the table: it is not damaged.
            raise OSError(f"the table of ids {self._path} cannot be used: {error}") from error
        except sqlite3.DatabaseError:
            # No table at all: the walk finds no row, and everything gets a new id.
            self._put_aside()
        try:
            return self._connect()
        except sqlite3.Error as error:
            raise OSError(f"the table of ids {self._path} cannot be made: {error}") from error

    def _connect(self) -> tuple[sqlite3.Connection, int]:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise OSError(f"{self._path.parent} is on a file system without shared memory")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in {0, _VERSION}:
                raise sqlite3.DatabaseError(f"the table of ids is of version {version}")
            connection.executescript(_SCHEMA)
            wal_fd = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            connection.close()
            raise
        directory_fd = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._fsync(directory_fd)
        finally:
            os.close(directory_fd)
        return connection, wal_fd

    def _put_aside(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            old = self._path.with_name(self._path.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                old.replace(self._path.with_name(f"{self._path.name}.damaged{suffix}"))


def _values(row: Row) -> tuple[int, ...]:
    return row.fid, row.inode, row.birth_ns, int(row.kind)
