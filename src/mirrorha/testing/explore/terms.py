"""Values as terms: bytes without names, and the names that occur in them, in order.

Nonces, generations, tokens, rounds and sessions are drawn. Which draw it was means nothing, only
where the same one occurs again. So a value is kept as a *term*: a number for its bytes, in which
each drawn name is replaced by the place where it first occurs, and the list of the names. Two
states with equal futures then differ in their lists alone, and renaming is a matter of integers.

A name is an integer: twice the number of the draw, plus one for a token (an int) as against a
nonce or generation (a str).
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Final, final

from mirrorha.core.settings import Settings
from mirrorha.testing.explore.scene import NONCE_PREFIX, TOKEN_BASE, settings_of

Term = tuple[int, ...]  # the number of the bytes, then the names
_NONCE_CHARS: Final = 16


def nonce_text(name: int) -> str:
    return f"{NONCE_PREFIX}{name >> 1:012x}"


@final
class _Freezer(pickle.Pickler):
    """Pickles by value: equal values give equal bytes, whoever shares what with whom."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.fast = True  # no memo: identity is no part of a value
        self.names: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is str:
            if len(obj) != _NONCE_CHARS or not obj.startswith(NONCE_PREFIX):
                return None
            name = 2 * int(obj[len(NONCE_PREFIX) :], 16)
        elif kind is int:
            if obj < TOKEN_BASE:
                return None
            name = 2 * (obj - TOKEN_BASE) + 1
        elif kind is Settings:
            return obj.node, len(obj.volumes)
        else:
            return None
        return self.names.setdefault(name, len(self.names))


@final
class _Thawer(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, names: tuple[int, ...]) -> None:
        super().__init__(file)
        self.names = names

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple):
            return settings_of(*pid)
        name = self.names[pid]
        return TOKEN_BASE + (name >> 1) if name & 1 else nonce_text(name)


@final
class Terms:
    """All bytes that occur, each once."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[bytes, int], int] = {}
        self._bytes: list[bytes] = []
        self.strong: list[int] = []

    def __len__(self) -> int:
        return len(self._bytes)

    def freeze(self, value: Any, weak: Any = ()) -> Term:
        """The term of `value` and `weak`.

        Names that occur in `weak` only keep nothing alive: where they occur nowhere else in a
        state, what `weak` says of them can be forgotten.
        """
        file = io.BytesIO()
        freezer = _Freezer(file)
        freezer.dump(value)
        strong = len(freezer.names)
        freezer.dump(weak)
        raw = file.getvalue()
        number = self._numbers.get((raw, strong))
        if number is None:
            number = self._numbers[raw, strong] = len(self._bytes)
            self._bytes.append(raw)
            self.strong.append(strong)
        return (number, *freezer.names)

    def thaw(self, term: Term) -> tuple[Any, Any]:
        thawer = _Thawer(io.BytesIO(self._bytes[term[0]]), term[1:])
        return thawer.load(), thawer.load()
