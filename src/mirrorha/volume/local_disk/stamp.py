"""The stamp of a volume's directory, in the state directory; see `mirrorha.volume.offline`.

Its times are those that the volume's own file system gives: a file without a name is kept open on
it, and asked. A stamp that is older than it could be makes more files suspect, never fewer, so
nothing waits for one to be on disk, and one that cannot be written is left as it was.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from typing import TYPE_CHECKING, Final, final

import xxhash

from mirrorha.state.atomic import remove_leftovers, write_atomically
from mirrorha.state.reserve import FULL
from mirrorha.volume.local_disk.watermark import Watermark
from mirrorha.volume.offline import AHEAD_NS, RENEW_NS, Stamp

if TYPE_CHECKING:
    from pathlib import Path

_TIMES: Final = struct.Struct("<8sqqq")
_TIMES_OF_1: Final = struct.Struct("<8sqq")
_SUM: Final = struct.Struct("<Q")
_MAGIC: Final = b"mhstamp2"
_MAGIC_OF_1: Final = b"mhstamp1"
# The slowest tick of a kernel's clock. Where the file system cannot be asked for the time, a file
# changed now can carry one that is older by so much.
_TICK_NS: Final = 10_000_000
# How long the end waits for the next tick of the file system's clock: some tick only each second.
_TICKS_MAX: Final = 5


@final
class FileSystemClock:
    """What time a file would get that is changed now. Never fails.

    Args:
        root_fd: A directory of the file system.
    """

    def __init__(self, root_fd: int) -> None:
        self._fd = -1
        flags = getattr(os, "O_TMPFILE", 0)
        if flags:
            # Neither the directory nor its times show a file without a name.
            with contextlib.suppress(OSError):
                self._fd = os.open(f"/proc/self/fd/{root_fd}", flags | os.O_RDWR | os.O_CLOEXEC)

    def now_ns(self) -> int:
        """The time; or one a little before, where the file system does not tell."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.utime(self._fd)
                return os.fstat(self._fd).st_ctime_ns
        return time.time_ns() - _TICK_NS

    def close(self) -> None:
        """Let go of the file system. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@final
class StampFile:
    """The stamp in `path`, for one run of a node. `sync` may be called from another thread.

    Args:
        path: Of the stamp.
        root_fd: The volume's directory.

    Raises:
        OSError: the state directory cannot be used.
    """

    def __init__(self, path: Path, root_fd: int) -> None:
        self._path: Final = path
        self._clock: Final = FileSystemClock(root_fd)
        self._watermark: Final = Watermark(root_fd)
        #: The directory was put back to an older day since the run before.
        self.is_put_back = False
        self._fd = -1
        # All by the monotonic clock.
        self._renew_at_ns = 0
        self._changed_ns = 0
        self._risen_ns = 0
        self._is_unsynced = False

    def load(self) -> Stamp | None:
        """The stamp that the run before has left.

        None: there is none, or it cannot be read, or the clock is behind it, or the directory is.
        Then nothing is known about what was changed.

        Raises:
            OSError: it cannot be looked at.
        """
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        stamp = decode(raw)
        if stamp is None:
            return None
        self._watermark.noted_ns = stamp.marker_ns
        self.is_put_back = self._watermark.is_behind()
        is_late = self._clock.now_ns() < stamp.noted_ns
        return None if is_late or self.is_put_back else stamp

    def begin(self) -> None:
        """From now on changes are our own. What was changed before is in the log, durably. Blocks.

        Raises:
            OSError: the stamp cannot be written.
        """
        if self.is_put_back:
            self._watermark.noted_ns = 0  # what was noted is of days that this directory never saw
        remove_leftovers(self._path)
        raw = encode(self._running())
        try:
            write_atomically(self._path, raw, mode=0o600)
        except OSError as error:
            if error.errno not in FULL or not self._path.exists():
                raise
            # Over the old one: torn by a crash, it is none, and everything is compared.
            with self._path.open("r+b") as file:
                file.write(raw)
                os.fsync(file.fileno())
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._changed_ns = time.monotonic_ns()
        self._renew_at_ns = self._changed_ns + RENEW_NS

    def renew(self) -> None:
        """We are about to change something. Costs next to nothing, most times."""
        if time.monotonic_ns() >= self._renew_at_ns:
            self._note()

    def note(self) -> None:
        """Say that all until now was ours, if anything was changed since that was said last.

        What the touched log forgets is told by the stamp alone: after a kill a file of the last
        moments would be compared for nothing, however long ago these were.
        """
        if self._changed_ns > self._renew_at_ns - RENEW_NS:
            self._note()

    def rise(self) -> None:
        """All changes until now are on the disk: let the directory carry that as well. Blocks."""
        if self._fd >= 0 and self._changed_ns >= self._risen_ns:
            self._risen_ns = time.monotonic_ns()
            self._watermark.rise(self._clock.now_ns())

    def _note(self) -> None:
        if self._fd < 0:
            return
        self._renew_at_ns = time.monotonic_ns() + RENEW_NS
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, encode(self._running()), 0)
            self._is_unsynced = True

    def changed(self) -> None:
        """We have changed something. Costs as little."""
        self._changed_ns = time.monotonic_ns()

    def sync(self) -> None:
        """Have the stamp outlive a crash of the system too, if that can be had. Blocks."""
        if self._is_unsynced and self._fd >= 0:
            self._is_unsynced = False
            with contextlib.suppress(OSError):
                os.fdatasync(self._fd)

    def finish(self) -> None:
        """Nothing will be changed any more by this run. Blocks."""
        if self._fd < 0:
            return
        last_ns = self._last_ns()
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, encode(Stamp(last_ns, last_ns, self._watermark.noted_ns)), 0)
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; the stamp stays as it is. Idempotent."""
        self._clock.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _last_ns(self) -> int:
        """When we changed something for the last time, or a little later.

        Not simply now: a node that is told to stop is seen to have stopped before it gets here.
        """
        now_ns = self._clock.now_ns()
        last_ns = now_ns - (time.monotonic_ns() - self._changed_ns) + _TICK_NS
        if last_ns < now_ns:
            return last_ns
        for _ in range(_TICKS_MAX):
            # Whatever anybody else changes from now on must carry a later time than all of ours.
            if self._clock.now_ns() > now_ns:
                return now_ns
            time.sleep(_TICK_NS / 1e9)
        return now_ns - 1

    def _running(self) -> Stamp:
        now_ns = self._clock.now_ns()
        return Stamp(now_ns, now_ns + AHEAD_NS, self._watermark.noted_ns)


def encode(stamp: Stamp) -> bytes:
    """The content of the file."""
    times = _TIMES.pack(_MAGIC, stamp.noted_ns, stamp.until_ns, stamp.marker_ns)
    return times + _SUM.pack(xxhash.xxh3_64_intdigest(times))


def decode(raw: bytes) -> Stamp | None:
    """The stamp in the file's content, None if that is damaged. An older node's is read, too."""
    kinds = {_MAGIC: _TIMES, _MAGIC_OF_1: _TIMES_OF_1}
    kind = kinds.get(raw[: len(_MAGIC)])
    if kind is None or len(raw) != kind.size + _SUM.size:
        return None
    times = raw[: kind.size]
    (sum_,) = _SUM.unpack_from(raw, kind.size)
    if sum_ != xxhash.xxh3_64_intdigest(times):
        return None
    return Stamp(*kind.unpack(times)[1:])
