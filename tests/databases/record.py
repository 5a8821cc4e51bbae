"""What clients outside were told is done."""

from __future__ import annotations

import threading
from typing import Final, final

Transaction = tuple[int, int, int]  # round, client, number


@final
class Record:
    """The acknowledged transactions of all rounds. For several threads."""

    def __init__(self) -> None:
        self._acknowledged: Final[set[Transaction]] = set()
        self._turn: Final = threading.Lock()

    def add(self, *done: Transaction) -> None:
        """The client was told that these are done."""
        with self._turn:
            self._acknowledged.update(done)

    def forget(self, gone: set[Transaction]) -> None:
        """These are of no interest any more: they were looked at, and undone."""
        with self._turn:
            self._acknowledged -= gone

    def all(self) -> set[Transaction]:
        with self._turn:
            return set(self._acknowledged)

    def of(self, number: int) -> set[Transaction]:
        """Those of one round."""
        return {each for each in self.all() if each[0] == number}

    def missing_in(self, held: set[Transaction]) -> list[str]:
        """What is wrong with a database that holds these: a line, or none."""
        lost = sorted(self.all() - held)
        if not lost:
            return []
        return [f"{len(lost)} acknowledged transactions are missing, such as {lost[-1]}"]
