"""A service that is a systemd unit."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, ClassVar, Final, final

import attrs
import trio

from mirrorha import process
from mirrorha.errors import LocalUsageError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.core.change import RoleChange

#: How often a unit is looked at. Its main process's end is noticed at once, where it has one.
LOOK_EVERY_S: Final = 5.0
#: How long systemd may take to say how a unit is.
LOOK_LIMIT_S: Final = 5.0
#: Between the end of a main process and a look: systemd has to hear of it, too.
SETTLE_S: Final = 0.1

_PROPERTIES: Final = ("ActiveState", "SubState", "Result", "MainPID", "UnitFileState")

_log: Final = logging.getLogger(__name__)


@final
@attrs.frozen
class UnitState:
    """What systemd says of a unit, in its words."""

    active: str
    sub: str = ""
    result: str = ""
    main_pid: int = 0
    unit_file: str = ""

    @classmethod
    def parse(cls, shown: str) -> UnitState:
        """Read what `systemctl show` wrote; what it left out is empty."""
        found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        pid = found.get("MainPID", "")
        return cls(
            active=found.get("ActiveState", ""),
            sub=found.get("SubState", ""),
            result=found.get("Result", ""),
            main_pid=int(pid) if pid.isdecimal() else 0,
            unit_file=found.get("UnitFileState", ""),
        )

    @property
    def is_down(self) -> bool:
        return self.active in ("inactive", "failed")

    @property
    def is_up(self) -> bool:
        return self.active in ("active", "reloading", "refreshing")

    def __str__(self) -> str:
        why = f", result {self.result}" if self.result not in ("", "success") else ""
        return f"{self.active} ({self.sub}{why})"


@final
class SystemdUnit:
    """A unit that is started and stopped with `systemctl`, and watched in between.

    systemd keeps its processes together, logs what they write, and knows as whom and where they
    run: all that is the unit's. The unit must not be enabled, or systemd starts it on both nodes.
    """

    start_name: ClassVar[str] = "systemctl start"
    stop_name: ClassVar[str] = "systemctl stop"
    may_be_left_over: ClassVar[bool] = True

    def __init__(self, unit: str, *, look_every_s: float = LOOK_EVERY_S) -> None:
        """Of a unit by its name, with or without its suffix."""
        self._unit: Final = unit
        self._look_every_s: Final = look_every_s
        self._nursery: trio.Nursery | None = None
        self._output: process.OutputReader | None = None
        self._on_end: Callable[[str], None] = lambda _: None
        self._watching: trio.CancelScope | None = None

    def attach(self, nursery: trio.Nursery, on_end: Callable[[str], None]) -> None:
        self._nursery, self._on_end = nursery, on_end
        self._output = process.OutputReader(nursery, process.LineLog(_log, "systemctl"))

    async def end_left_over(self) -> None:
        """Stop the unit if it runs: it is not for systemd to say where it does."""
        state = await self._look()
        if state is not None and state.unit_file.startswith("enabled"):
            _log.error(
                "%s is enabled, so systemd starts it on both nodes: 'systemctl disable %s'",
                self._unit,
                self._unit,
            )
        if state is None or state.is_down:
            return
        _log.warning("%s is %s, from before this program ran: it is stopped", self._unit, state)
        await self._require("stop", self._unit)

    def abandon(self) -> bool:
        return False  # all our waits are bounded

    async def start(self, why: RoleChange) -> None:
        # Whatever failed before, this is another attempt: systemd counts them, too.
        await self._run("reset-failed", self._unit)
        await self._require("start", self._unit)
        state = await self._look()
        if state is None:
            raise ServiceError(f"systemd does not say how {self._unit} is")
        if not state.is_up:
            raise ServiceError(f"{self._unit} is {state} though it was started")
        if self._nursery is None:
            raise LocalUsageError("the service does not run; call Service.run first")
        self._watching = trio.CancelScope()
        self._nursery.start_soon(self._watch, self._watching)

    async def stop(self, why: RoleChange) -> None:
        self._unwatch()
        await self._require("stop", self._unit)

    async def enforce_stop(self) -> None:
        """Have systemd kill whatever is left of the unit."""
        self._unwatch()
        with trio.move_on_after(process.TERM_GRACE_S):
            await self._run("kill", "--signal=SIGKILL", self._unit)
            await self._run("stop", self._unit)  # or it would be restarted, where its file says so
            return
        _log.error("%s could not be killed", self._unit)

    def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Say once that the unit has ended. Its restarts by systemd are systemd's business."""
        with scope:
            while True:
                state = await self._look()
                if state is not None and state.is_down:
                    self._on_end(f"{self._unit} is {state}")
                    return
                with trio.move_on_after(self._look_every_s):
                    await _wait_exit(state.main_pid if state is not None else 0)
                await trio.sleep(SETTLE_S)

    async def _look(self) -> UnitState | None:
        """Ask how the unit is; None: there is no answer, which is neither up nor down."""
        argv = ["systemctl", "show", f"--property={','.join(_PROPERTIES)}", self._unit]
        told = list[str]()
        try:
            with trio.fail_after(LOOK_LIMIT_S):
                ended = await process.run_alone(
                    argv, environment={}, on_line=told.append, leftovers="kill"
                )
        except trio.TooSlowError:
            _log.warning("systemctl show %s: no answer within %g s", self._unit, LOOK_LIMIT_S)
            return None
        except OSError as error:
            _log.warning("systemctl show %s: %s", self._unit, error)
            return None
        if not ended.is_good:
            _log.warning("systemctl show %s %s", self._unit, ended)
            return None
        state = UnitState.parse("\n".join(told))
        return state if state.active else None

    async def _require(self, *arguments: str) -> None:
        ended = await self._run(*arguments)
        if not ended.is_good:
            raise ServiceError(f"systemctl {' '.join(arguments)} {ended}")

    async def _run(self, *arguments: str) -> process.Ended:
        if self._output is None:
            raise LocalUsageError("the service does not run; call Service.run first")
        argv = ("systemctl", "--no-ask-password", *arguments)
        return await process.run_command(argv, environment={}, output=self._output)


async def _wait_exit(pid: int) -> None:
    """Wait until a process has ended; for ever if it is unknown which."""
    if pid == 0:
        await trio.sleep_forever()
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # gone already
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
