"""A check that a process runs."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, ClassVar, Final, final

import attrs
import trio

from mirrorha.abc import Check
from mirrorha.checks import process_table
from mirrorha.checks.command import run_captured
from mirrorha.errors import CheckFailedError, LocalUsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.checks.process_table import Running

PID_FILE_BYTES_MAX: Final = 64
#: An empty one may be about to be written anew.
EMPTY_LOOKS: Final = 5
PAUSE_S: Final = 0.2
#: Of many that are found, so many are watched between two looks.
WATCHED_MAX: Final = 16
_UNIT_STATES: Final = frozenset({"active", "reloading", "refreshing"})
_UNIT_PROPERTIES: Final = "LoadState,ActiveState,SubState,MainPID"


@final
@attrs.frozen(kw_only=True)
class Process(Check):
    """A process runs. Its end is noticed at once, through a descriptor of it, not at the next look.

    It is found in exactly one of four ways.

    Args:
        pid_file: A file that holds its number, and may hold another one after a restart.
        program: Its program: the name of the file, or its whole path. Of several processes one
            that runs is enough; of those that others of them have begun, these are watched.
        command_line: Text that its command line contains, with one blank between two words. Choose
            what no editor, shell or `grep` would have in theirs.
        unit: A unit of systemd, which must be active; its main process is watched.

    Raises:
        LocalUsageError: not exactly one of them is given.
    """

    kind: ClassVar[str] = "process"
    fall: ClassVar[int] = 1

    pid_file: str | None = None
    program: str | None = None
    command_line: str | None = None
    unit: str | None = None
    _seen: list[Running] = attrs.field(factory=list, init=False, repr=False, eq=False)
    _limiter: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(1), init=False, repr=False, eq=False
    )

    def __attrs_post_init__(self) -> None:
        ways = (self.pid_file, self.program, self.command_line, self.unit)
        if sum(map(bool, ways)) != 1:
            raise LocalUsageError(
                "a process is found by one of pid_file, program, command_line and unit"
            )

    def __str__(self) -> str:
        return f"process {self.unit or self.program or self.pid_file or repr(self.command_line)}"

    async def check(self) -> None:
        """Look for it.

        Raises:
            CheckFailedError: it does not run, or nobody can tell.
        """
        self._seen.clear()
        if self.unit is not None:
            main = await _main_pid(self.unit)
            found = await self._in_thread(lambda: _unit_process(main))
        else:
            found = await self._in_thread(self._find)
        self._seen[:] = found[:WATCHED_MAX]

    async def wait_unwell(self) -> None:
        """Return once one of those that were found has ended."""
        async with trio.open_nursery() as nursery:
            for process in self._seen:
                nursery.start_soon(_wait_end, process, nursery.cancel_scope)
            await trio.sleep_forever()

    def _find(self) -> list[Running]:
        if self.pid_file is not None:
            return [_read_pid_file(self.pid_file)]
        if self.program is not None:
            fits = process_table.runs_program(self.program)
            text = f"no process runs the program {self.program}"
        else:
            wanted = self.command_line or ""
            fits = process_table.has_in_command_line(wanted)
            text = f"no process has {wanted!r} in its command line"
        found = process_table.find(fits)
        if not found:  # while one becomes another program, it has no command line
            time.sleep(PAUSE_S)
            found = process_table.find(fits)
        if not found:
            raise CheckFailedError(text)
        return found

    async def _in_thread(self, find: Callable[[], list[Running]]) -> list[Running]:
        """A file may lie on a disk that hangs, and a process may be stuck in the kernel."""
        return await trio.to_thread.run_sync(find, abandon_on_cancel=True, limiter=self._limiter)


def _read_pid_file(path: str) -> Running:
    content = b""
    for _ in range(EMPTY_LOOKS):
        try:
            with open(path, "rb") as stream:
                content = stream.read(PID_FILE_BYTES_MAX)
        except OSError as error:
            raise CheckFailedError(f"{path}: {error.strerror}") from error
        if content:
            break
        time.sleep(PAUSE_S)
    first = content.split(b"\n", 1)[0].strip()
    if not first.isdigit() or int(first) == 0:
        raise CheckFailedError(f"{path} does not begin with the number of a process")
    process = process_table.look_at(int(first))
    if process is None:
        raise CheckFailedError(f"process {int(first)}, which {path} names, does not run")
    return process


async def _main_pid(unit: str) -> int:
    """Ask systemd whether a unit is active, and for its main process; 0 if it has none."""
    command = ("systemctl", "show", f"--property={_UNIT_PROPERTIES}", "--", unit)
    ended, lines = await run_captured(command)
    if not ended.is_good:
        raise CheckFailedError(f"systemctl {ended}")
    told = dict(line.partition("=")[::2] for line in lines)
    if told.get("LoadState") == "not-found":
        raise CheckFailedError(f"systemd knows no unit {unit}")
    state = told.get("ActiveState", "unknown")
    if state not in _UNIT_STATES:
        raise CheckFailedError(f"unit {unit} is {state} ({told.get('SubState', 'unknown')})")
    main = told.get("MainPID", "")
    return int(main) if main.isdigit() else 0


def _unit_process(main: int) -> list[Running]:
    process = process_table.look_at(main) if main else None
    return [process] if process is not None else []


async def _wait_end(process: Running, done: trio.CancelScope) -> None:
    """Wait for the end of a process, also if it has come already; then cancel `done`."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            # What has the number now may be another one. Asked after the descriptor was opened,
            # so that it is this one's if the answer is.
            now = process_table.look_at(process.pid)
            if now is not None and now.born == process.born:
                await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
    done.cancel()
