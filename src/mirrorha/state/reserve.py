"""Room on the state directory's disk that is given up when it is full.

A node whose state cannot be written must stop: it could not even note what it decides. The reserve
lets the decisions that lead there still be persisted. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar, final

from mirrorha.errors import ensure
from mirrorha.state.atomic import ReplacementUnknownError

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_CHUNK_BYTES: Final = 1 << 20


def give_up_room(path: Path) -> bool:
    """Make the room of the reserve `path` free. True if there was any."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


@final
class Reserve:
    """A file `path` of `size_bytes` that holds nothing but room. Threads may share it."""

    def __init__(self, path: Path, *, size_bytes: int) -> None:
        ensure(size_bytes > 0, "a reserve holds something")
        self._path: Final = path
        self._size_bytes: Final = size_bytes
        self._lock: Final = threading.Lock()

    @property
    def is_kept(self) -> bool:
        """Whether the room is there, to be given up."""
        try:
            return self._path.stat().st_size >= self._size_bytes
        except OSError:
            return False

    def keep(self) -> bool:
        """Make the reserve if it is missing; False if there is no room for it.

        After it was given up, only once there is twice the room: else it would take what was just
        made free.

        Raises:
            OSError: the directory cannot be used.
        """
        with self._lock:
            if self.is_kept:
                return True
            status = os.statvfs(self._path.parent)
            if status.f_bavail * status.f_frsize < 2 * self._size_bytes:
                return False
            try:
                self._allocate()
            except OSError as error:
                self._remove()
                if error.errno in FULL:
                    return False
                raise
            return True

    def take_back(self) -> bool:
        """Make the reserve again at once, of the very room that was given up for a moment."""
        with self._lock:
            try:
                if not self.is_kept:
                    self._allocate()
            except OSError:
                self._remove()
                return False
            return True

    def give_up(self) -> bool:
        """Make the room free. True if there was any: then try once more what failed."""
        with self._lock:
            return self._remove()

    def run(self, write: Callable[[], T]) -> T:
        """Run `write`; if the disk is full, give up the reserve and run it once more.

        `write` must leave nothing behind when it fails. One that failed after it had begun to
        replace a file is not tried again: the disk is to be treated as failing.

        Raises:
            OSError: as `write`.
        """
        try:
            return write()
        except ReplacementUnknownError:
            raise
        except OSError as error:
            if error.errno not in FULL or not self.give_up():
                raise
        return write()

    def _remove(self) -> bool:
        return give_up_room(self._path)

    def _allocate(self) -> None:
        self._remove()
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, self._size_bytes)
            else:
                # Of chance, for a file system that compresses has no room in zeros.
                left = self._size_bytes
                while left > 0:
                    left -= os.write(fd, os.urandom(min(left, _CHUNK_BYTES)))
            os.fsync(fd)
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)
