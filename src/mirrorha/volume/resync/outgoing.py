"""What a resync's source sends: how much of it may be under way, and how far it is."""

from __future__ import annotations

from collections import deque
from typing import Final, final

from mirrorha.core.orders import Progress
from mirrorha.errors import PeerProtocolError
from mirrorha.volume.resync.messages import (
    BYTES_WINDOW,
    ENTRIES_WINDOW,
    Done,
)
from mirrorha.volume.tasks.task import Pool, Steps, Take, Tasks

PROGRESS_EVERY_MS: Final = 200
# The rate that is told is that of the last so long.
RATE_OVER_MS: Final = 5_000


@final
class Outgoing:
    """The windows of what the target has yet to confirm."""

    def __init__(self, tasks: Tasks) -> None:
        self._entries: Final = Pool(tasks, ENTRIES_WINDOW)
        self._bytes: Final = Pool(tasks, BYTES_WINDOW)
        self._owed_entries = 0
        self._owed_bytes = 0

    def take_entries(self, count: int) -> Steps[None]:
        """Wait until `count` entries may be sent."""
        yield Take(self._entries, count)
        self._owed_entries += count

    def take_bytes(self, count: int) -> Steps[None]:
        """Wait until `count` bytes of content may be sent."""
        yield Take(self._bytes, count)
        self._owed_bytes += count

    def give_back(self, count: int) -> None:
        """Of what was taken, so many bytes are not sent."""
        self._owed_bytes -= count
        self._bytes.put(count)

    def take_back(self, done: Done) -> None:
        """The target is done with something.

        Raises:
            PeerProtocolError: with more than it was sent.
        """
        if done.entries > self._owed_entries or done.sent_bytes > self._owed_bytes:
            raise PeerProtocolError("the target did more than it was asked to")
        self._owed_entries -= done.entries
        self._owed_bytes -= done.sent_bytes
        self._entries.put(done.entries)
        self._bytes.put(done.sent_bytes)


@final
class Counts:
    """How far a resync is, in files and bytes."""

    def __init__(self, session: int) -> None:
        self._session: Final = session
        self._total_bytes = 0
        self._total_files = 0
        self._done_bytes = 0
        self._done_files = 0
        self._sent_bytes = 0
        self._gone_bytes = 0  # gone through, whatever of that was done again or came to nothing
        self._lately: Final[deque[tuple[int, int]]] = deque()
        self._rate_bytes_per_s = 0
        self.limit_bytes_per_s = 0
        self._reported: Progress | None = None
        self._reported_ms = 0

    def found(self, size_bytes: int) -> None:
        """A file of which so much is to be compared."""
        self._total_files += 1
        self._total_bytes += size_bytes

    def compared(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        self._gone_bytes += size_bytes

    def skipped(self, size_bytes: int) -> None:
        """So much was equal already, and neither compared nor sent."""
        self._done_bytes += size_bytes

    def sent(self, size_bytes: int) -> None:
        self._sent_bytes += size_bytes

    def finished(self, files: int) -> None:
        self._done_files += files

    def end_pass(self) -> None:
        """All that was found is done, whatever became of it."""
        self._done_bytes = self._total_bytes
        self._done_files = self._total_files

    def progress(self) -> Progress:
        """All figures."""
        return Progress(
            session=self._session,
            done_bytes=min(self._done_bytes, self._total_bytes),
            total_bytes=self._total_bytes,
            files_left=max(0, self._total_files - self._done_files),
            sent_bytes=self._sent_bytes,
            rate_bytes_per_s=self._rate_bytes_per_s,
            limit_bytes_per_s=self.limit_bytes_per_s,
        )

    def report(self, now_ms: int, *, at_once: bool) -> Progress | None:
        """What to report now, None if nothing has changed or, unless `at_once`, only just."""
        is_due = (
            at_once or self._reported is None or now_ms - self._reported_ms >= PROGRESS_EVERY_MS
        )
        if not is_due:
            return None
        self._reported_ms = now_ms
        self._measure(now_ms)
        progress, before = self.progress(), self._reported
        self._reported = progress
        return progress if progress != before else None

    def _measure(self, now_ms: int) -> None:
        lately = self._lately
        lately.append((now_ms, self._gone_bytes))
        while len(lately) > 2 and now_ms - lately[1][0] >= RATE_OVER_MS:
            lately.popleft()
        since_ms, before_bytes = lately[0]
        if now_ms > since_ms:
            gone_bytes = self._gone_bytes - before_bytes
            self._rate_bytes_per_s = gone_bytes * 1000 // (now_ms - since_ms)
