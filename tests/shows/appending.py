"""A client of a node that goes on whatever it is answered, and keeps what it was told."""

from __future__ import annotations

import errno
import struct
from collections import Counter
from pathlib import Path
from typing import Any, Final, final

import trio

from mirrorha import Replicator
from mirrorha.errors import MirrorHAError

RECORDS_A_FILE: Final = 8
RECORD_BYTES: Final = 4096
PAUSE_S: Final = 0.02
PACE_S: Final = 0.002
END_S: Final = 5.0
_NUMBER: Final = struct.Struct(">Q")


@final
class Appender:
    """Writes records to one new file after the other: what was never written is always next.

    Args:
        record: where the numbers of those go that were acknowledged.
    """

    def __init__(self, data: Replicator, record: Path) -> None:
        self._data: Final = data
        self._record: Final = record
        self._number = 0
        self._acks = 0
        self._refused: Counter[str] = Counter()
        self._is_over = False
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    async def run(self, *, first: int = RECORDS_A_FILE, synced: bool = False) -> None:
        """Write until `end`, from `first` on, which begins a file; perhaps fsync each."""
        self._number, self._acks, self._refused = first - 1, 0, Counter()
        self._is_over, self._ended = False, trio.Event()
        with trio.CancelScope() as self._scope:
            while not self._is_over:
                self._number += 1
                try:
                    await self._write(self._number, synced=synced)
                except OSError as error:
                    await self._note(errno.errorcode.get(error.errno or 0, str(error)))
                except MirrorHAError as error:
                    await self._note(type(error).__name__)
                else:
                    self._acks += 1
                    with self._record.open("ab") as record:
                        record.write(_NUMBER.pack(self._number))
                    await trio.sleep(PACE_S)
        self._ended.set()

    async def _write(self, number: int, *, synced: bool) -> None:
        mode = "r+b" if number % RECORDS_A_FILE else "wb"
        async with self._data.open(f"records-{number // RECORDS_A_FILE}", mode) as file:
            content = _NUMBER.pack(number) * (RECORD_BYTES // _NUMBER.size)
            await file.pwrite(content, number % RECORDS_A_FILE * RECORD_BYTES)
            if synced:
                await file.fsync()

    async def _note(self, what: str) -> None:
        self._refused[what] += 1
        await trio.sleep(PAUSE_S)

    def seen(self) -> dict[str, Any]:
        return {"acks": self._acks, "last": self._number, "refused": dict(self._refused)}

    async def end(self) -> dict[str, Any]:
        """Let the last write end: one that is cancelled may still be made at any time."""
        self._is_over = True
        if self._scope is not None:
            with trio.move_on_after(END_S):
                await self._ended.wait()
            self._scope.cancel()
            await self._ended.wait()
        return self.seen()


def acknowledged(record: Path) -> set[int]:
    """What a client was told, by the record that it kept."""
    if not record.exists():
        return set()
    return {number for (number,) in _NUMBER.iter_unpack(record.read_bytes())}


def records_in(data: Path) -> set[int]:
    """The numbers of all records that are whole in a node's directory."""
    found = set()
    for path in data.glob("records-*"):
        content = path.read_bytes()
        for at in range(0, len(content), RECORD_BYTES):
            record = content[at : at + RECORD_BYTES]
            (number,) = _NUMBER.unpack_from(record)
            if record == _NUMBER.pack(number) * (RECORD_BYTES // _NUMBER.size):
                found.add(number)
    return found
