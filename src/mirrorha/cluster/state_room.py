"""Room for what this node must write down, on a disk that others may fill."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final, Never, final

import trio

from mirrorha.errors import StateError
from mirrorha.state.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log: Final = logging.getLogger("mirrorha")

MIB: Final = 1024 * 1024
RESERVE_NAME: Final = "reserve"
#: What the touched logs may grow by on a full disk, before the node hands over.
RESERVE_BYTES: Final = 4 * MIB
DECISIONS_NAME: Final = "reserve-for-decisions"
#: A decision is some kilobytes. Lent while one is written, and taken back at once.
DECISIONS_BYTES: Final = 256 * 1024
FREE_BYTES_MIN: Final = MIB
FREE_INODES_MIN: Final = 8
LOOK_EVERY_S: Final = 2.0
RULE: Final = "state-dir"


@final
class StateRoom:
    """The reserves in the directory `state_dir`, and what people are told of them.

    There are two: a touched log that grew into the one must not keep a decision from being
    written down.

    Args:
        told: told when there is too little room, and when there is enough again.
    """

    def __init__(self, state_dir: Path, *, told: Callable[[str, str], None]) -> None:
        self._state_dir: Final = state_dir
        self._told: Final = told
        self._for_logs: Final = Reserve(state_dir / RESERVE_NAME, size_bytes=RESERVE_BYTES)
        self._for_decisions: Final = Reserve(state_dir / DECISIONS_NAME, size_bytes=DECISIONS_BYTES)
        self.warning = ""

    # ---- in threads ----

    def give_up(self) -> bool:
        """Make room for a log, once. Whether there was any."""
        return self._for_logs.give_up()

    def lend(self) -> bool:
        """Make room for a decision; `take_back` follows."""
        return self._for_decisions.give_up()

    def take_back(self) -> None:
        """The decision is written, and took the room of the one before."""
        self._for_decisions.take_back()

    def begin(self) -> None:
        """Before anything is opened: a full disk has room for that, and what can be kept is.

        Raises:
            StateError: the directory cannot be used.
        """
        try:
            self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_short():
                self._for_logs.give_up()
            self.warning = self._look()
        except OSError as error:
            text = f"state_dir {self._state_dir} cannot be used: {error.strerror or error}"
            raise StateError(text) from error
        if self.warning:
            _log.warning("%s", self.warning)

    def _look(self) -> str:
        """Keep what can be kept. What is wrong, or ""."""
        is_kept = self._for_decisions.keep() and self._for_logs.keep()
        if is_kept and not self._is_short():
            return ""
        return (
            f"the disk of state_dir {self._state_dir} is full, and this node lives on its reserve: "
            f"free {2 * (RESERVE_BYTES + FREE_BYTES_MIN) // MIB} MiB and some inodes there. With "
            "nothing left it hands over"
        )

    def _is_short(self) -> bool:
        status = os.statvfs(self._state_dir)
        is_short = status.f_bavail * status.f_frsize < FREE_BYTES_MIN
        # Some file systems have no number of inodes.
        return is_short or (status.f_files > 0 and status.f_favail < FREE_INODES_MIN)

    # ---- a task ----

    async def run(self) -> Never:
        """Look now and then, until cancelled: room that is there again is taken."""
        limiter = trio.CapacityLimiter(1)
        while True:
            await trio.sleep(LOOK_EVERY_S)
            try:
                found = await trio.to_thread.run_sync(
                    self._look, abandon_on_cancel=True, limiter=limiter
                )
            except OSError as error:
                found = (
                    f"state_dir {self._state_dir} cannot be written: {error.strerror or error}. "
                    "Make its disk well: this node cannot decide anything more"
                )
            if found != self.warning:
                self.warning = found
                self._told(RULE, found or f"state_dir {self._state_dir} has its reserve again")
