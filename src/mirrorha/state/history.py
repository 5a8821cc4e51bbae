"""What happened on this node, kept across crashes: a sqlite file in the state directory.

One thread writes. Whatever is waiting becomes durable together, so that many events cost little
more than one. The history follows decisions, it is never one: what cannot be written is counted
and left out, and the node goes on.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, final

import msgspec
import trio

from mirrorha.core.words import Role
from mirrorha.errors import MirrorHAError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

KEPT_MAX: Final = 10_000
QUEUE_MAX: Final = 1024
# How long the end may take: what is not written by then is lost, and the node ends all the same.
CLOSE_S: Final = 5.0
# Nobody else writes; whoever looks into the file with a tool may lock it for a moment.
_BUSY_S: Final = 1.0
# A megabyte, and not four: a full disk has to do with a reserve.
_WAL_PAGES: Final = 256
#: In the state directory.
HISTORY_NAME: Final = "history.sqlite"
OVERFLOW_RULE: Final = "history-overflow"

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, event BLOB NOT NULL);
"""
_READ: Final = "SELECT seq, event FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
_NEWEST: Final = "SELECT seq, event FROM events ORDER BY seq DESC LIMIT ?"


class HistoryError(MirrorHAError):
    """The history cannot be written or read. Look at the disk that `state_dir` is on."""


class HistoryEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. Fields are only ever appended, with a default.

    `seq` rises from one event to the next, and is given by the history.
    """

    kind: str
    at_ms: int  # since 1970, by this node's clock
    node: str
    epoch: int
    role: Role  # what the node was from then on
    rule: str
    text: str
    from_role: Role | None = None  # what it was before, for a change of role
    seq: int = 0

    @property
    def at_s(self) -> float:
        """When, in seconds since 1970."""
        return self.at_ms / 1000


@final
class History:
    """The history in one file. Made by `open_history`."""

    def __init__(
        self,
        path: Path,
        *,
        kept_max: int,
        queue_max: int,
        make_room: Callable[[], bool] | None,
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self._path: Final = path
        self._kept_max: Final = kept_max
        self._queue_max: Final = queue_max
        self._make_room: Final = make_room
        self._token: Final = token
        self._limiter: Final = trio.CapacityLimiter(1)
        self._queue: deque[tuple[HistoryEvent, _Ticket | None]] = deque()
        self._changed: Final = threading.Condition()
        self._is_ending = False
        self._overflow = 0
        self._last_left_out: HistoryEvent | None = None
        #: Whether the file was damaged, and put aside as `<name>.damaged`.
        self.was_damaged = False
        #: How many events were left out, since the start.
        self.left_out = 0
        #: How often something was made durable: less often than there were events.
        self.commits = 0
        #: Why the last write failed, "" if it did not.
        self.failure = ""

    def record(self, event: HistoryEvent) -> None:
        """Keep an event, durably before long. Never blocks; may be called from any thread.

        With too many waiting for the disk it is left out, and an event of its own tells how many.
        """
        with self._changed:
            if len(self._queue) >= self._queue_max or self._is_ending:
                self._leave_out([event])
            else:
                self._queue.append((event, None))
                self._changed.notify()

    async def append(self, event: HistoryEvent) -> None:
        """Keep an event; it is durable on return. Cancelled, it is kept all the same.

        Raises:
            HistoryError: it was not written.
        """
        ticket = _Ticket()
        with self._changed:
            if self._is_ending:
                raise HistoryError(f"{self._path}: the history is closed")
            self._queue.append((event, ticket))
            self._changed.notify()
        await ticket.done.wait()
        if ticket.failure:
            raise HistoryError(f"{self._path}: cannot be written: {ticket.failure}")

    async def read(self, *, since: int = 0, limit: int) -> list[HistoryEvent]:
        """The first `limit` events after the one with seq `since`, oldest first.

        Raises:
            HistoryError: the file cannot be read.
        """
        return await self._in_thread(_READ, (since, limit))

    async def newest(self, *, limit: int) -> list[HistoryEvent]:
        """The last `limit` events, oldest first.

        Raises:
            HistoryError: the file cannot be read.
        """
        return (await self._in_thread(_NEWEST, (limit,)))[::-1]

    async def _in_thread(self, query: str, values: tuple[int, ...]) -> list[HistoryEvent]:
        return await trio.to_thread.run_sync(
            _select, self._path, query, values, limiter=self._limiter
        )

    # The writer's thread.

    def _run(self, connection: sqlite3.Connection) -> None:
        with contextlib.closing(connection):
            while True:
                with self._changed:
                    while not self._queue and not self._is_ending:
                        self._changed.wait()
                    batch, self._queue = list(self._queue), deque()
                    overflow, self._overflow = self._overflow, 0
                if batch or overflow:
                    self._write(connection, batch, overflow)
                if not batch:
                    return

    def _write(
        self,
        connection: sqlite3.Connection,
        batch: list[tuple[HistoryEvent, _Ticket | None]],
        overflow: int,
    ) -> None:
        events = [event for event, _ in batch]
        last = self._last_left_out
        notice = [_overflow_event(last, overflow)] if overflow and last is not None else []
        failure = self._commit(connection, notice + events)
        self.failure = failure
        if failure:
            with self._changed:
                self._overflow += overflow
                self._leave_out(events)
        tickets = [ticket for _, ticket in batch if ticket is not None]
        for ticket in tickets:
            ticket.failure = failure
        # The loop may have ended: then nobody waits.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(_tell, tickets)

    def _leave_out(self, events: list[HistoryEvent]) -> None:
        if events:
            self._overflow += len(events)
            self.left_out += len(events)
            self._last_left_out = events[-1]

    def _commit(self, connection: sqlite3.Connection, events: list[HistoryEvent]) -> str:
        """Make events durable; why not, if that failed."""
        try:
            self._insert(connection, events)
        except sqlite3.Error as error:
            is_full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
            if not is_full or self._make_room is None or not self._make_room():
                return str(error)
        else:
            return ""
        try:
            self._insert(connection, events)
        except sqlite3.Error as error:
            return str(error)
        return ""

    def _insert(self, connection: sqlite3.Connection, events: list[HistoryEvent]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows = [(msgspec.json.encode(event),) for event in events]
            connection.executemany("INSERT INTO events (event) VALUES (?)", rows)
            connection.execute(
                "DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?",
                (self._kept_max,),
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.commits += 1

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self._path)
        except sqlite3.OperationalError:
            raise  # of the disk, or of another process that uses it: no damage
        except sqlite3.DatabaseError:
            self.was_damaged = True
        for suffix in ("", "-wal", "-shm"):
            old = self._path.with_name(self._path.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                old.replace(self._path.with_name(f"{self._path.name}.damaged{suffix}"))
        return _connect(self._path)

    def _end(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify()


@contextlib.asynccontextmanager
async def open_history(
    path: Path,
    *,
    kept_max: int = KEPT_MAX,
    queue_max: int = QUEUE_MAX,
    make_room: Callable[[], bool] | None = None,
) -> AsyncGenerator[History]:
    """Keep a history for as long as the block lasts; leaving it writes what waits.

    Args:
        path: The file; more lie beside it.
        kept_max: So many events are kept; of more, the oldest are forgotten.
        queue_max: So many may wait for the disk.
        make_room: Called when the disk is full; True: try once more.

    Raises:
        HistoryError: the state directory cannot be used.
    """
    token = trio.lowlevel.current_trio_token()
    history = History(
        path, kept_max=kept_max, queue_max=queue_max, make_room=make_room, token=token
    )
    try:
        connection = await trio.to_thread.run_sync(history._open, limiter=history._limiter)
    except (sqlite3.Error, OSError) as error:
        raise HistoryError(f"{path}: cannot be used: {error}") from error
    # A daemon: a disk that hangs must not keep the process from ending.
    thread = threading.Thread(
        target=history._run, args=(connection,), name="mirrorha history", daemon=True
    )
    thread.start()
    try:
        yield history
    finally:
        history._end()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join, CLOSE_S, limiter=history._limiter)


def read_newest(path: Path, *, limit: int) -> list[HistoryEvent]:
    """The last `limit` events in the file of a node that need not run, oldest first. Blocks.

    Raises:
        HistoryError: there is no such file, or it cannot be read.
    """
    return _select(path, _NEWEST, (limit,))[::-1]


def _select(path: Path, query: str, values: tuple[int, ...]) -> list[HistoryEvent]:
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S
        )
        with contextlib.closing(connection):
            rows = connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise HistoryError(f"{path}: cannot be read: {error}") from error
    events = ((seq, _decoded(raw)) for seq, raw in rows)
    return [msgspec.structs.replace(event, seq=seq) for seq, event in events if event]


@final
class _Ticket:
    """What an `append` waits for."""

    def __init__(self) -> None:
        self.done: Final = trio.Event()
        self.failure = ""


def _tell(tickets: list[_Ticket]) -> None:
    for ticket in tickets:
        ticket.done.set()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        connection.executescript(_SCHEMA)
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
    except BaseException:
        connection.close()
        raise
    return connection


def _decoded(raw: Any) -> HistoryEvent | None:
    try:
        return msgspec.json.decode(raw, type=HistoryEvent)
    except (msgspec.MsgspecError, TypeError):
        return None  # of a newer version


def _overflow_event(last: HistoryEvent, count: int) -> HistoryEvent:
    return HistoryEvent(
        kind="alarm",
        at_ms=last.at_ms,
        node=last.node,
        epoch=last.epoch,
        role=last.role,
        rule=OVERFLOW_RULE,
        text=f"{count} events were left out: the disk that state_dir is on was too slow, or full",
    )
