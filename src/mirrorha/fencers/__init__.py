"""What confirms that the peer is stopped. Each is imported when it is first named."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mirrorha.fencers.command import Command

__all__ = ["Command"]

_HOMES: Final = {"Command": "mirrorha.fencers.command"}


if not TYPE_CHECKING:  # a type checker would take it for the home of any name

    def __getattr__(name: str) -> object:
        try:
            home = _HOMES[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
