"""A process of the demonstration that speaks JSON lines."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import trio

STOP_S = 10.0


@final
class Speaker:
    """Runs `python -m MODULE ARGUMENTS`, keeps what it said last, and wakes who waits for more.

    Attributes:
        said: the newest value of each field it ever said.
        events: every line that had an "event", in order.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.said: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.log = log
        self._was_killed = False
        self._process: trio.Process | None = None
        self._changed = trio.lowlevel.ParkingLot()

    async def start(self, nursery: trio.Nursery, module: str, *arguments: str) -> None:
        with self.log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.said = {}
        self._was_killed = False
        nursery.start_soon(self._listen, self._process)

    async def _listen(self, process: trio.Process) -> None:
        pending = b""
        output = process.stdout
        if output is None:
            return
        async for received in output:
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
            self._changed.unpark_all()
        self._changed.unpark_all()

    def _take(self, line: dict[str, Any]) -> None:
        if "event" in line:
            self.events.append(line)
        self.said.update(line)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def has_failed(self) -> bool:
        """It ended, and nobody had asked for that."""
        process = self._process
        return process is not None and process.poll() is not None and not self._was_killed

    async def wait(self, wanted: Callable[[Speaker], bool]) -> None:
        """Until `wanted(self)`; looked at whenever it has said something."""
        while not wanted(self):
            await self._changed.park()

    async def command(self, text: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            await self._process.stdin.send_all(text.encode() + b"\n")

    def kill(self) -> None:
        """kill -9: nothing is flushed, nobody says goodbye."""
        if self._process is not None:
            self._was_killed = True
            self._process.send_signal(signal.SIGKILL)

    async def finish(self) -> None:
        """End its input and wait; kill it if it takes too long."""
        process = self._process
        if process is None:
            return
        self._was_killed = True
        if process.stdin is not None:
            await process.stdin.aclose()
        with trio.move_on_after(STOP_S):
            await process.wait()
        if process.poll() is None:
            process.kill()
            await process.wait()
