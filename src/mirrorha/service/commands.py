"""A service that is started and stopped by commands."""

from __future__ import annotations

import logging
import math
import os
import secrets
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar, final

import trio

from mirrorha import process
from mirrorha.errors import LocalUsageError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mirrorha.core.change import RoleChange
    from mirrorha.service.cgroup import ControlGroup

T = TypeVar("T")

#: What the service's processes have in their environment.
MARK: Final = "MIRRORHA_RUN"

_log: Final = logging.getLogger(__name__)


@final
class Commands:
    """Two commands. The first starts the service and returns; the second stops it.

    What the first has started and the second left running gets TERM, and at the stop's deadline
    KILL. Without a second, that is the stop.
    """

    start_name: ClassVar[str] = "the start command"
    stop_name: ClassVar[str] = "the stop command"
    may_be_left_over: ClassVar[bool] = True

    def __init__(
        self,
        *,
        start: Sequence[str],
        stop: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        user: str = "",
        directory: str = "",
        group: ControlGroup | None = None,
        mark: str = "",
        term_grace_s: float = process.TERM_GRACE_S,
    ) -> None:
        """Of commands that are run when their time has come.

        Args:
            variables: set in the environment of both, beside what this program has.
            user, directory: as whom, and where, both are run; see `process.Stand`.
            group: the service's own, by which its processes are found for certain.
            mark: stands in their environment, by which those are found that are in no group, or
                in that of a former life of this program. The same in all its lives, and nobody
                else's; without one, each life has its own.
            term_grace_s: seconds between TERM and KILL where no deadline of a phase says more.
        """
        if not start:
            raise LocalUsageError("a start command has at least a program")
        self._start: Final = tuple(start)
        self._stop: Final = tuple(stop)
        self._variables: Final = dict(variables or {})
        self.group: Final = group
        self._inside: Final = process.Stand(
            user=user, directory=directory, open_door=group.open_door if group else None
        )
        self._outside: Final = process.Stand(user=user, directory=directory)
        self._term_grace_s: Final = term_grace_s
        self._output: process.OutputReader | None = None
        # What the start command leaves running carries this, wherever it moves to.
        is_ours = bool(mark) and os.environ.get(MARK) == mark  # begun by the service, of all things
        self._mark: Final = secrets.token_hex(8) if is_ours or not mark else mark
        marked = process.Marked(f"{MARK}={self._mark}")
        # The group first: to look into the environment of others can hang.
        self._families: Final[tuple[process.Family, ...]] = (group, marked) if group else (marked,)

    def attach(self, nursery: trio.Nursery, on_end: Callable[[str], None]) -> None:
        self._output = process.OutputReader(nursery, process.LineLog(_log, "service"))

    async def end_left_over(self) -> None:
        """End what a program that was killed has left running: its stop command never ran."""
        if await self._in_thread(self._is_any_there):
            _log.warning("the service runs still, from before this program did: it is ended")
            await self._end_all(self._term_grace_s)

    def abandon(self) -> bool:
        return False  # all our waits are bounded

    async def start(self, why: RoleChange) -> None:
        if self._output is not None:
            self._output.close()
        variables = {**environment(why), MARK: self._mark}
        await self._run(self._start, variables, self._inside)

    async def stop(self, why: RoleChange) -> None:
        if self._stop:
            await self._run(self._stop, environment(why), self._outside)
        # Some of it may take its time to end in good order: it has until the stop's deadline.
        await self._end_all(math.inf)

    async def enforce_stop(self) -> None:
        if not await self._end_all(self._term_grace_s):
            _log.error("some of the service's processes could not be killed")

    async def _end_all(self, term_grace_s: float) -> bool:
        is_over = await process.end_families(self._families, term_grace_s=term_grace_s)
        if self.group is not None:
            await self._in_thread(self.group.remove)
        return is_over

    def _is_any_there(self) -> bool:
        return any(family.pids() for family in self._families)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(
            function, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )

    async def _run(
        self, argv: Sequence[str], variables: Mapping[str, str], stand: process.Stand
    ) -> None:
        if self._output is None:
            raise LocalUsageError("the service does not run; call Service.run first")
        ended = await process.run_command(
            argv,
            environment={**self._variables, **variables},
            output=self._output,
            stand=stand,
            term_grace_s=self._term_grace_s,
        )
        if not ended.is_good:
            raise ServiceError(f"{argv[0]} {ended}")


def environment(why: RoleChange) -> dict[str, str]:
    """What a command is told of the change that it is run for."""
    return {
        "MIRRORHA_CLUSTER": why.cluster,
        "MIRRORHA_NODE": why.node,
        "MIRRORHA_EPOCH": str(why.epoch),
        "MIRRORHA_FROM": why.from_role.value,
        "MIRRORHA_TO": why.to_role.value,
        "MIRRORHA_WHY": why.why.replace("\0", ""),
    }
