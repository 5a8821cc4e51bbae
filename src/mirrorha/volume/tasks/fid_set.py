"""A set of fids that stays small: a resync must remember which of many millions it has compared."""

from __future__ import annotations

from typing import Final, final

_SHIFT: Final = 10
_MASK: Final = (1 << _SHIFT) - 1


@final
class FidSet:
    """Fids are counted up, so they lie close together: about two bits for each."""

    def __init__(self) -> None:
        self._bits: Final[dict[int, int]] = {}

    def __contains__(self, fid: int) -> bool:
        return bool(self._bits.get(fid >> _SHIFT, 0) >> (fid & _MASK) & 1)

    def __bool__(self) -> bool:
        return any(self._bits.values())

    def add(self, fid: int) -> None:
        self._bits[fid >> _SHIFT] = self._bits.get(fid >> _SHIFT, 0) | 1 << (fid & _MASK)

    def discard(self, fid: int) -> None:
        self._bits[fid >> _SHIFT] = self._bits.get(fid >> _SHIFT, 0) & ~(1 << (fid & _MASK))

    def clear(self) -> None:
        self._bits.clear()
