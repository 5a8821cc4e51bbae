"""Whether the loop itself makes a sync, instead of the thread that is there for it.

To hand a sync to a thread and hear of its end takes two wake-ups, which together take as long as a
good disk does. But while the loop syncs, it serves nobody. So it does it only for a caller who is
alone, and as long as that goes well: the sync is short, and nobody came meanwhile.

How long it will take nobody knows before. So it is the thread's, unless the same file's last one
was short, a moment ago, and hardly anything was changed since. Whoever made that one: a disk that
has become slow is looked at from the thread until it is fast again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from mirrorha.volume.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable

#: Of what takes longer the wake-ups are a small part.
SHORT_NS: Final = 1_000_000
#: What a sync may find new on its volume. A change writes a megabyte at most.
CHANGES_MAX: Final = 16
#: For so long a disk, and what others ask of it, is taken for what it was.
MOMENT_NS: Final = 1_000_000_000
_FILES_MAX: Final = 64


class _Sync(NamedTuple):
    fid: int
    seq: int  # of the volume's last change when it began
    at_ns: int


@final
class ShortSyncs:
    """Decides by what became of the last ones.

    Args:
        clock_ns: counts nanoseconds; never backwards.
    """

    def __init__(self, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns: Final = clock_ns
        self._patience: Final = Patience()
        self._begun: _Sync | None = None
        self._short: Final[dict[int, _Sync]] = {}  # with when they ended, oldest first

    def begin(self, fid: int, seq: int) -> bool:
        """A file is to be synced for a caller who is alone. Whether that is the loop's.

        Whoever makes it: if that is the thread, `end` is called when it has ended.

        Args:
            seq: how many changes were made to the volume.
        """
        last = self._short.pop(fid, None)
        self._begun = now = _Sync(fid, seq, self._clock_ns())
        is_known = (
            last is not None
            and seq - last.seq <= CHANGES_MAX
            and now.at_ns - last.at_ns <= MOMENT_NS
        )
        return is_known and self._patience.is_next()

    def end(self) -> bool:
        """The one that began has ended, if any: learn from that. Whether it was short."""
        begun, self._begun = self._begun, None
        if begun is None:
            return False
        now_ns = self._clock_ns()
        if now_ns - begun.at_ns > SHORT_NS:
            return False
        self._short[begun.fid] = begun._replace(at_ns=now_ns)
        if len(self._short) > _FILES_MAX:
            del self._short[next(iter(self._short))]
        return True

    def perform(self, sync: Callable[[], Any], *, has_somebody_come: Callable[[], bool]) -> Any:
        """Make the one that began, in the loop, and learn from it. Blocks as long as `sync`."""
        result = sync()
        self._patience.note(went_well=self.end() and not has_somebody_come())
        return result

    def forget(self) -> None:
        """Changes are counted anew, or were made that are not counted: nothing is known."""
        self._begun = None
        self._short.clear()
