"""What moves clients to the node that serves.

Each switch is imported when it is first named: whoever uses one does not pay for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mirrorha.switches.command import Command
    from mirrorha.switches.keeper import SwitchKeeper, SwitchReport, SwitchRule, SwitchState
    from mirrorha.switches.virtual_ip import VirtualIp

__all__ = ["Command", "SwitchKeeper", "SwitchReport", "SwitchRule", "SwitchState", "VirtualIp"]

_HOMES: Final = {
    "Command": "command",
    **dict.fromkeys(("SwitchKeeper", "SwitchReport", "SwitchRule", "SwitchState"), "keeper"),
    "VirtualIp": "virtual_ip",
}


if not TYPE_CHECKING:  # a type checker would take it for the home of any name

    def __getattr__(name: str) -> object:
        try:
            home = _HOMES[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        return getattr(importlib.import_module(f"mirrorha.switches.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
