"""Tells by a command."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final, final

from mirrorha import process
from mirrorha.errors import LocalUsageError, NotifyError

if TYPE_CHECKING:
    from mirrorha.notify.notice import Notice

_log: Final = logging.getLogger(__name__)


@final
class Command:
    """Runs a command for each notice, which finds in its environment what there is to tell.

    `MIRRORHA_TITLE` is all of it in a line; `MIRRORHA_SUBJECT`, `_OVER`, `_TEXT`, `_CLUSTER`,
    `_NODE`, `_ROLE` and `_EPOCH` are its parts. It ends with status 0 once it is told.

    Args:
        command: A list, the program first.

    Raises:
        LocalUsageError: it is empty.
    """

    kind: ClassVar[str] = "command"

    def __init__(self, command: Sequence[str]) -> None:
        if not command:
            raise LocalUsageError("a command that notifies has at least a program")
        self._command: Final = tuple(command)

    def __str__(self) -> str:
        return f"command {self._command[0]}"

    async def tell(self, notice: Notice) -> None:
        """Run it. Raises NotifyError: it did not end with status 0."""
        ended = await process.run_logged(
            self._command, environment=notice.environment(), log=_log, error=NotifyError
        )
        if not ended.is_good:
            raise NotifyError(f"{self._command[0]} {ended}")
