"""A fencer that is a command, for whatever can stop a machine and is not known here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, final

from mirrorha import process
from mirrorha.abc import Fencer
from mirrorha.errors import FencerError, LocalUsageError

_log: Final = logging.getLogger(__name__)


@final
class Command(Fencer):
    """A command that stops the peer, and ends with status 0 once it *is* stopped.

    Any other end, and none, confirm nothing. It may be run again. One that takes too long is
    ended (TERM, then KILL) with its process group. It is told which node by `MIRRORHA_PEER`.

    Args:
        command: A list, the program first.

    Raises:
        LocalUsageError: it is empty.
    """

    kind: ClassVar[str] = "command"

    def __init__(self, command: Sequence[str]) -> None:
        if not command:
            raise LocalUsageError("a fencer's command has at least a program")
        self._command: Final = tuple(command)

    def __str__(self) -> str:
        return f"command {self._command[0]}"

    async def fence(self, peer: str, *, environment: Mapping[str, str]) -> bool:
        """Run the command. True: it ended with status 0.

        Raises:
            FencerError: it ended otherwise, or cannot be run. That confirms nothing.
        """
        told = {**environment, "MIRRORHA_PEER": peer}
        ended = await process.run_logged(
            self._command, environment=told, log=_log, error=FencerError
        )
        if not ended.is_good:
            raise FencerError(f"{self._command[0]} {ended}")
        return True
