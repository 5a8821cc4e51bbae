"""Places that keep the register.

Each arbiter is imported when it is first named: whoever uses one does not pay for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mirrorha.arbiters.local import LocalArbiter
    from mirrorha.arbiters.witness import WitnessArbiter

__all__ = ["LocalArbiter", "WitnessArbiter"]

_HOMES: Final = {
    "LocalArbiter": "mirrorha.arbiters.local",
    "WitnessArbiter": "mirrorha.arbiters.witness",
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
