"""What a comparison has seen, and found: for progress, and for its end."""

from __future__ import annotations

from typing import Final, final

from mirrorha.core.orders import VerifyEnded, VerifyProgress

PROGRESS_EVERY_MS: Final = 500
# So many differences are told one by one, and so many files remembered; more are counted.
TOLD_MAX: Final = 1000
FILES_MAX: Final = 1000


@final
class Tally:
    """Counts of one comparison."""

    def __init__(self, session: int) -> None:
        self._session: Final = session
        self._total_files = 0
        self._total_bytes = 0
        self._done_files = 0
        self._done_bytes = 0
        self._differences = 0
        self._repaired = 0
        self._bad: Final[dict[int, None]] = {}  # files that still differ
        self._reported: VerifyProgress | None = None
        self._reported_ms = 0

    def expect(self, size_bytes: int) -> None:
        """A file is to be compared, with so much content."""
        self._total_files += 1
        self._total_bytes += size_bytes

    def compared(self, files: int, content_bytes: int) -> None:
        """So much is done."""
        self._done_files += files
        self._done_bytes += content_bytes

    def differs(self, fid: int, *, repaired: bool) -> bool:
        """Something was found. Whether it is to be told."""
        self._differences += 1
        self._repaired += repaired
        if not repaired and len(self._bad) < FILES_MAX:
            self._bad[fid] = None
        return self._differences <= TOLD_MAX

    def progress(self, now_ms: int) -> VerifyProgress | None:
        """What to report now, None if nothing has changed or only just was reported."""
        found = VerifyProgress(
            session=self._session,
            done_files=min(self._done_files, self._total_files),
            total_files=self._total_files,
            done_bytes=min(self._done_bytes, self._total_bytes),
            total_bytes=self._total_bytes,
        )
        is_early = now_ms - self._reported_ms < PROGRESS_EVERY_MS
        if found == self._reported or (is_early and self._reported is not None):
            return None
        self._reported, self._reported_ms = found, now_ms
        return found

    def ended(self, why: str) -> VerifyEnded:
        """The last report. `why` is empty if all was compared."""
        return VerifyEnded(
            session=self._session,
            why=why,
            files=self._done_files,
            bytes=self._done_bytes,
            differences=self._differences,
            repaired=self._repaired,
            fids=list(self._bad),
        )
