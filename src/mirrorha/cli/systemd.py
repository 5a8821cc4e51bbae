"""What systemd is told of a node that it runs as a service of `Type=notify`."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Any, Final, final

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirrorha.api import ManagedNode

#: Times that a node that is well says so before systemd would take it for hung.
BEATS_PER_LIMIT: Final = 3
#: Not everything that the status line shows comes with an event.
STATUS_EVERY_S: Final = 5.0
STATUS_CHARS_MAX: Final = 240
US_PER_S: Final = 1_000_000

_log: Final = logging.getLogger("mirrorha")


@final
class Systemd:
    """Says when the node is ready, how it is, that its loop turns, and how long its stop may take.

    Where systemd did not start this program, nothing is said. Nothing here blocks or raises: a
    line that systemd does not take is dropped.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Of a process with this environment."""
        self._address: Final = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s: Final = _watchdog_s(environment)

    def tell_ready(self) -> None:
        """The node runs; whether it serves is another matter, which its status tells."""
        self._tell("READY=1")

    def tell_stopping(self, limit_s: float) -> None:
        """The node is being stopped, which takes at most `limit_s` from now on."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(limit_s * US_PER_S)}")

    async def follow(self, node: ManagedNode) -> None:
        """Keep the status line as the node is, until its events end."""
        told = ""
        events = node.events()
        while True:
            text = status_line(node.status())
            if text != told:
                self._tell(f"STATUS={text}")
                told = text
            with trio.move_on_after(STATUS_EVERY_S):
                try:
                    await anext(events)
                except StopAsyncIteration:
                    return

    async def keep_watchdog(self) -> None:
        """Say again and again that this loop turns: the one that decides for the node."""
        if self.watchdog_s is None:
            return
        while True:
            self._tell("WATCHDOG=1")
            await trio.sleep(self.watchdog_s / BEATS_PER_LIMIT)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
                one.setblocking(False)
                one.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.debug("systemd was not told %s: %s", lines[0], error)


def status_line(status: Mapping[str, Any]) -> str:
    """One line on a node, for `systemctl status`."""
    text = f"{status['role']} ({status['colour']}), epoch {status['epoch']}: {status['why']}"
    return " ".join(text.split())[:STATUS_CHARS_MAX]


def _address(name: str) -> str:
    """Where systemd listens, as the socket module wants it; empty: nowhere that we can reach."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """After which silence systemd takes this process for hung, in seconds; None: never."""
    text = environment.get("WATCHDOG_USEC", "")
    is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(text) / US_PER_S if text.isdecimal() and int(text) and is_ours else None
