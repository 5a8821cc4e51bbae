"""What a round measured, and what the client was told, from the client's own record."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import attrs


@attrs.frozen
class Acknowledgement:
    number: int
    at_s: float
    port: int


@attrs.define(kw_only=True)
class Round:
    """What one round measured. Times in seconds since the fault, or since the command.

    Attributes:
        resumed_s: when the first transaction after the longest silence was acknowledged.
        silence_s: the longest time without any acknowledgement.
        late: acknowledgements by the former primary after the first one by the new one.
        mirrored_s: from the end of the fault until both nodes mirror again.
        lost: acknowledged transactions that a node's journal lacks in the end; the worse one.
        took_s: how long the round took, from a settled pair to a settled pair.
        notes: what only this kind of round has to say.
    """

    kind: str
    primary: str
    served_by: str = ""
    resumed_s: float = 0.0
    silence_s: float = 0.0
    mirrored_s: float = 0.0
    late: int = 0
    lost: int = 0
    acknowledged: int = 0
    took_s: float = 0.0
    load: float = 0.0
    notes: dict[str, Any] = attrs.Factory(dict)


@final
class Record:
    """The client's record, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.rows: list[Acknowledgement] = []

    def read(self) -> list[Acknowledgement]:
        if self._path.exists():
            with self._path.open("rb") as record:
                record.seek(self._offset)
                whole = record.read().rpartition(b"\n")[0]
            if whole:
                self._offset += len(whole) + 1
                for line in whole.split(b"\n"):
                    number, at_s, port = line.split()
                    self.rows.append(Acknowledgement(int(number), float(at_s), int(port)))
        return self.rows

    def since(self, at_s: float) -> list[Acknowledgement]:
        later = []
        for row in reversed(self.read()):
            if row.at_s <= at_s:
                break
            later.append(row)
        return later[::-1]
