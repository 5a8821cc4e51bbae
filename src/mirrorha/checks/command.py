"""A check that runs a command."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Final, final

import attrs

from mirrorha.abc import Check
from mirrorha.errors import CheckFailedError, LocalUsageError, describe
from mirrorha.process import Ended, run_alone

LINES_MAX: Final = 200
#: Between TERM and KILL for one that is out of time. Meanwhile no other is begun.
TERM_GRACE_S: Final = 0.5
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@final
@attrs.frozen
class Command(Check):
    """A command that exits with status 0 says that the service is well, any other that it is not.

    It runs in a process group of its own with an empty standard input, and as the user that this
    program is. What it leaves running in that group is killed when it exits; out of time, the
    whole group gets TERM, and KILL half a second later.

    Args:
        command: The program and its arguments. No shell reads them.
        environment: Variables set beside those of this program.

    Raises:
        LocalUsageError: the command is empty.
    """

    kind: ClassVar[str] = "command"

    command: Sequence[str] = attrs.field(converter=tuple)
    environment: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not self.command:
            raise LocalUsageError("a command has at least a program")

    def __str__(self) -> str:
        return f"command {' '.join(self.command)}"

    async def check(self) -> None:
        """Run the command.

        Raises:
            CheckFailedError: it cannot be run, or fails; the text has the last line it wrote.
        """
        ended, _ = await run_captured(self.command, environment=self.environment)
        if not ended.is_good:
            raise CheckFailedError(f"{self.command[0]} {ended}")


async def run_captured(
    command: Sequence[str], *, environment: Mapping[str, str] = _NOTHING
) -> tuple[Ended, Sequence[str]]:
    """Run a command with all that it starts, and return how it ended and its last lines.

    Cancelled, its process group is killed; that takes as long as `run_command` says.

    Raises:
        CheckFailedError: it cannot be run at all.
    """
    lines = deque[str](maxlen=LINES_MAX)
    try:
        ended = await run_alone(
            command,
            environment=environment,
            on_line=lines.append,
            term_grace_s=TERM_GRACE_S,
            leftovers="kill",
        )
    except (OSError, ValueError) as error:
        raise CheckFailedError(f"{command[0]} cannot be run: {describe(error)}") from error
    return ended, tuple(lines)
