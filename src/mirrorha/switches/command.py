"""A switch that is made of commands, for whatever moves clients and is not known here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, final

from mirrorha import process
from mirrorha.abc import Switch
from mirrorha.errors import LocalUsageError, SwitchError

_log: Final = logging.getLogger(__name__)

#: What the status command's exit says.
ENGAGED: Final = 0
DISENGAGED: Final = 1


@final
class Command(Switch):
    """Three commands: to move clients here, to stop that, and to tell which it is.

    The first two end with status 0 once it is done, and may be run again when it was done
    already. The third ends with 0 if clients reach this node, with 1 if they do not; whatever
    else means that it is not known. A command that takes too long is ended (TERM, then KILL)
    with its process group.

    Args:
        engage, disengage, status: Each a list, the program first.
        environment: Set for them beside what this program has.

    Raises:
        LocalUsageError: a command is empty.
    """

    kind: ClassVar[str] = "command"

    def __init__(
        self,
        *,
        engage: Sequence[str],
        disengage: Sequence[str],
        status: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if not (engage and disengage and status):
            raise LocalUsageError("each of engage, disengage and status has at least a program")
        self._engage: Final = tuple(engage)
        self._disengage: Final = tuple(disengage)
        self._status: Final = tuple(status)
        self._environment: Final = dict(environment or {})

    def __str__(self) -> str:
        return f"command {self._engage[0]}"

    async def engage(self) -> None:
        """Run the command. Raises SwitchError: it did not end with status 0."""
        await self._run_well(self._engage)

    async def disengage(self) -> None:
        """Run the command. Raises SwitchError: it did not end with status 0."""
        await self._run_well(self._disengage)

    async def is_engaged(self) -> bool:
        """Run the command. Raises SwitchError: it ended with neither 0 nor 1."""
        ended = await self._run(self._status)
        if ended.status not in (ENGAGED, DISENGAGED):
            raise SwitchError(f"{self._status[0]} {ended}")
        return ended.status == ENGAGED

    async def _run_well(self, argv: Sequence[str]) -> None:
        ended = await self._run(argv)
        if not ended.is_good:
            raise SwitchError(f"{argv[0]} {ended}")

    async def _run(self, argv: Sequence[str]) -> process.Ended:
        return await process.run_logged(
            argv, environment=self._environment, log=_log, error=SwitchError
        )
