"""Whether the loop itself makes a sync, instead of the thread that is there for it.

To hand a sync to a thread and hear of its end takes two wake-ups, which together take as long as a
good disk does. But while the loop syncs, it serves nobody. So it does it only for a caller who is
alone, and as long as that goes well: the sync is short, and nobody came meanwhile.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Of what takes longer the wake-ups are a small part.
SHORT_NS: Final = 1_000_000
#: So many syncs in a row are left to the thread, at most, before it is tried once more.
_LEFT_MAX: Final = 1024


@final
class ShortSyncs:
    """Decides by what became of the last ones.

    Args:
        clock_ns: counts nanoseconds; never backwards.
    """

    def __init__(self, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns: Final = clock_ns
        self._left = 0  # so many more are the thread's
        self._patience = 1

    def is_next(self) -> bool:
        """Whether the next sync, of a caller who is alone, is the loop's. To be asked once each."""
        if self._left:
            self._left -= 1
            return False
        return True

    def perform(self, sync: Callable[[], Any], *, has_somebody_come: Callable[[], bool]) -> Any:
        """Make it, and learn from it. Blocks as long as `sync`."""
        began_ns = self._clock_ns()
        result = sync()
        if self._clock_ns() - began_ns > SHORT_NS or has_somebody_come():
            self._patience = min(2 * self._patience, _LEFT_MAX)
            self._left = self._patience
        else:
            self._patience = max(self._patience // 2, 1)
        return result
