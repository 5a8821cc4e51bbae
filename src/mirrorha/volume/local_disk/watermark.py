"""How far a volume's directory has come, told by itself: so that an older one is known.

Where only the directory's disk is put back (a snapshot of its logical volume, an image) and not the
state directory, nothing in it shows that it is old: its files carry the times that they had, all of
them from before the stamp. So each checkpoint touches the marker in the root, and the stamp notes
its ctime once that is on the disk. A marker that is older than what was noted came from before.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.names import MARKER_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

# Some file systems keep whole seconds of a ctime, or every other, and first tell it more finely.
_SECOND_NS: Final = 1_000_000_000
_SLACK_NS: Final = 2 * _SECOND_NS


@final
class Watermark:
    """The marker's ctime. What cannot be known or done is left as it was.

    Args:
        root_fd: The volume's directory.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd: Final = root_fd
        #: What was noted, and is on the disk of the directory; 0: nothing.
        self.noted_ns = 0

    def is_behind(self) -> bool:
        """Whether the directory is older than what was noted of it."""
        with contextlib.suppress(OSError), self._opened() as fd:
            return is_older(os.fstat(fd).st_ctime_ns, noted_ns=self.noted_ns)
        return False

    def rise(self, now_ns: int) -> None:
        """The directory is in order as of now: have it carry that, durably. Blocks.

        Args:
            now_ns: By the clock of its file system. One that was set back raises nothing.
        """
        if now_ns <= self.noted_ns:
            return
        with contextlib.suppress(OSError), self._opened() as fd:
            os.utime(fd)
            os.fsync(fd)
            self.noted_ns = os.fstat(fd).st_ctime_ns

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        fd = os.open(MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root_fd)
        try:
            yield fd
        finally:
            os.close(fd)


def is_older(ctime_ns: int, *, noted_ns: int) -> bool:
    """Whether this ctime cannot be what was noted, as its file system keeps it."""
    slack_ns = 0 if ctime_ns % _SECOND_NS else _SLACK_NS
    return ctime_ns + slack_ns < noted_ns
