"""What must happen even if the loop hangs in a disk request: a thread with a clock of its own.

The loop itself answers changes that are held too long, and ends when the application is gone. This
looks whether it turns at all.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final, final

from mirrorha.core.orders import StopReason, Trouble
from mirrorha.errors import MirrorHAError
from mirrorha.volume.worker.messages import Told

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.worker.control import Control
    from mirrorha.volume.worker.loop import Loop

_log: Final = logging.getLogger(__name__)

#: The application is gone, and everything must be over within a second of that.
LOOK_S: Final = 0.2
ORPHAN_S: Final = 0.5
EXIT_STATUS: Final = 70


@final
class Watchdog:
    """Looks every LOOK_S, until the process ends.

    Args:
        abort: ends the connection to the kernel: whoever waits for an answer gets an error. Must
            not need the loop.
        leave: ends the process. Tests replace it.
        starts: whether it looks by itself, in a thread. Tests look.
    """

    def __init__(
        self,
        loop: Loop,
        control: Control,
        *,
        disk_max_ms: int,
        freeze_max_ms: int,
        abort: Callable[[], None],
        leave: Callable[[int], object] = os._exit,
        starts: bool = True,
    ) -> None:
        self._loop: Final = loop
        self._control: Final = control
        self._descriptor: Final = control.fileno()
        self._disk_max_ms: Final = disk_max_ms
        self._freeze_max_ms: Final = freeze_max_ms
        self._abort: Final = abort
        self._leave: Final = leave
        self._reported_ms = 0  # the turn that was told of, by its beginning
        self._aborted_ms = 0
        self._alone_since_ms = 0
        #: Whether the loop is to be judged: opening a volume takes as long as it takes.
        self.watches_turns = False
        self._poll: Final = select.poll()
        self._poll.register(self._descriptor, 0)  # a hang-up is told of in any case
        if starts:
            threading.Thread(target=self._run, name="mirrorha-watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Look once. For the thread, and for tests."""
        now_ms = self._loop.clock_ms()
        if self._poll.poll(0):
            self._alone_since_ms = self._alone_since_ms or now_ms
            if now_ms - self._alone_since_ms >= ORPHAN_S * 1000:
                self._abort()
                self._leave(EXIT_STATUS)
        since_ms = self._loop.turn_since_ms
        if not since_ms or not self.watches_turns:
            return
        busy_ms = now_ms - since_ms
        if busy_ms > self._disk_max_ms and self._reported_ms != since_ms:
            self._reported_ms = since_ms
            self._tell(f"a request to this node's disk has taken {busy_ms} ms")
        if busy_ms > self._freeze_max_ms and self._aborted_ms != since_ms:
            self._aborted_ms = since_ms
            _log.error("the loop hangs for %d ms: whoever waits gets an error now", busy_ms)
            self._abort()

    def _tell(self, text: str) -> None:
        try:
            self._control.send(Told(Trouble(StopReason.DISK_SLOW, text)))
        except MirrorHAError as error:
            _log.warning("nobody can be told: %s", error)
