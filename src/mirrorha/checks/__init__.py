"""Is the service well? What can be checked, how often, and what follows.

Each kind of check is imported when it is first named: whoever uses one does not pay for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from mirrorha.checks.runner import Checker, CheckReport, CheckRunner, CheckState, Situation

if TYPE_CHECKING:
    from mirrorha.checks.command import Command
    from mirrorha.checks.custom import Custom
    from mirrorha.checks.disk import Disk
    from mirrorha.checks.http import Http
    from mirrorha.checks.interface import Interface
    from mirrorha.checks.mount import Mount
    from mirrorha.checks.ping import Ping
    from mirrorha.checks.process import Process
    from mirrorha.checks.tcp import Tcp

__all__ = [
    "CheckReport",
    "CheckRunner",
    "CheckState",
    "Checker",
    "Command",
    "Custom",
    "Disk",
    "Http",
    "Interface",
    "Mount",
    "Ping",
    "Process",
    "Situation",
    "Tcp",
]

_HOMES: Final = {
    "Command": "mirrorha.checks.command",
    "Custom": "mirrorha.checks.custom",
    "Disk": "mirrorha.checks.disk",
    "Http": "mirrorha.checks.http",
    "Interface": "mirrorha.checks.interface",
    "Mount": "mirrorha.checks.mount",
    "Ping": "mirrorha.checks.ping",
    "Process": "mirrorha.checks.process",
    "Tcp": "mirrorha.checks.tcp",
}


if not TYPE_CHECKING:  # a type checker would take it for the home of any name

    def __getattr__(name: str) -> object:
        try:
            home = _HOMES[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
