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
_NUMBER: Final = struct.Struct(">Q")


@final
class Appender:
    """Writes records to one new file after the other: what was never written is always next."""

    def __init__(self, data: Replicator) -> None:
        self._data: Final = data
        self._number = 0
        self._acked: list[int] = []
        self._refused: Counter[str] = Counter()
        self._scope: trio.CancelScope | None = None

    async def run(self, *, first: int = RECORDS_A_FILE, synced: bool = False) -> None:
        """Write until `end`, from `first` on, which begins a file; perhaps fsync each."""
        self._number, self._acked, self._refused = first - 1, [], Counter()
        with trio.CancelScope() as self._scope:
            while True:
                self._number += 1
                try:
                    await self._write(self._number, synced=synced)
                except OSError as error:
                    await self._note(errno.errorcode.get(error.errno or 0, str(error)))
                except MirrorHAError as error:
                    await self._note(type(error).__name__)
                else:
                    self._acked.append(self._number)

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
        return {"acks": len(self._acked), "last": self._number, "refused": dict(self._refused)}

    def end(self) -> dict[str, Any]:
        if self._scope is not None:
            self._scope.cancel()
        return {**self.seen(), "acked": self._acked}


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
