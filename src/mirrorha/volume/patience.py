"""How often something is tried that goes well mostly, and where it does not, for a long time not.

Each failure in a row makes the next pause twice as long, each success half as long.
"""

from __future__ import annotations

from typing import Final, final

#: So many times in a row it is left alone, at most, before it is tried once more.
_LEFT_MAX: Final = 1024


@final
class Patience:
    """Counts, and asks no clock: where nothing happens, nothing is to be tried."""

    def __init__(self) -> None:
        self._left = 0  # so many more times it is not tried
        self._pause = 1

    def is_next(self) -> bool:
        """Whether it is to be tried now. To be asked once each time."""
        if self._left:
            self._left -= 1
            return False
        return True

    def note(self, *, went_well: bool) -> None:
        """It was tried."""
        if went_well:
            self._pause = max(self._pause // 2, 1)
        else:
            self._left = self._pause = min(2 * self._pause, _LEFT_MAX)
