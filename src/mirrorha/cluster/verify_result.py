"""What came of comparing a volume's two copies: as it is shown, and as it is kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal, final

import msgspec

from mirrorha.cluster.status import rfc3339
from mirrorha.core.orders import VerifyEnded, VerifyFound, VerifyProgress
from mirrorha.state.atomic import read_bytes_or_none, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorha.cluster.at_rest import Document
    from mirrorha.core.orders import AnyVerifyReport

RESULT_NAME: Final = "verify.json"
#: So many differences are kept and shown; the others are counted.
FOUND_MAX: Final = 100
_BYTES_MAX: Final = 16 * 1024 * 1024

_log: Final = logging.getLogger(__name__)


@final
class Found(msgspec.Struct, frozen=True):
    """One difference. Of content, `mine` and `theirs` are hashes of the bytes told."""

    path: str
    what: str
    mine: str
    theirs: str
    offset: int = 0
    length: int = 0
    repaired: bool = False

    def text(self) -> str:
        """For people, in one line."""
        where = self.what
        if self.what == "content":
            where = f"content, bytes {self.offset} to {self.offset + self.length}:"
        repaired = ", repaired" if self.repaired else ""
        return f"{self.path or '.'}: {where} {self.mine} here, {self.theirs} there{repaired}"


@final
class Result(msgspec.Struct):
    """One comparison. Times are seconds since 1970, by the clock of the node that compared.

    `state`: "running"; "done", all was compared that was to be; or "stopped", and `why`.
    """

    began_s: float
    repair: bool
    state: Literal["running", "done", "stopped"] = "running"
    why: str = ""
    ended_s: float | None = None
    files: int = 0
    total_files: int = 0
    bytes: int = 0
    total_bytes: int = 0
    differences: int = 0
    repaired: int = 0
    found: list[Found] = []
    fids: list[int] = []

    @property
    def left(self) -> int:
        """Differences that were found, and not repaired."""
        return self.differences - self.repaired

    def take(self, report: AnyVerifyReport, *, now_s: float) -> None:
        """Take in what the volume tells."""
        match report:
            case VerifyProgress():
                self.files, self.total_files = report.done_files, report.total_files
                self.bytes, self.total_bytes = report.done_bytes, report.total_bytes
            case VerifyFound():
                self.differences += 1
                self.repaired += report.repaired
                if len(self.found) < FOUND_MAX:
                    self.found.append(_found(report))
            case VerifyEnded():
                self.end(report.why, now_s=now_s)
                self.files, self.bytes = report.files, report.bytes
                self.differences, self.repaired = report.differences, report.repaired
                self.fids = report.fids

    def end(self, why: str, *, now_s: float) -> None:
        """It is over; `why` is empty if it went to its end."""
        self.state, self.why, self.ended_s = "stopped" if why else "done", why, now_s

    def keep(self, before: Result) -> None:
        """This one did not get to its end: what the one before it had found stands."""
        told = {(each.path, each.what, each.offset) for each in self.found}
        kept = [
            each
            for each in before.found
            if not each.repaired and (each.path, each.what, each.offset) not in told
        ]
        self.differences += len(kept)
        self.found = [*self.found, *kept][:FOUND_MAX]
        self.fids = list(dict.fromkeys([*self.fids, *before.fids]))

    def text(self, path: str) -> str:
        """What came of it, for people."""
        took_s = (self.ended_s or self.began_s) - self.began_s
        done = f"{path}: {self.files} files, {self.bytes} bytes compared in {took_s:.0f} s"
        parts = [done if self.state == "done" else f"{done}, then stopped: {self.why}"]
        if not self.differences:
            return f"{parts[0]}; no difference"
        shown = "; ".join(each.text() for each in self.found[:5])
        more = f"; and {self.differences - 5} more" if self.differences > 5 else ""
        counted = f"{self.differences} differences, {self.repaired} repaired"
        return f"{parts[0]}; {counted}: {shown}{more}"

    def document(self, *, now_s: float, rate_bytes_per_s: int) -> Document:
        """As the status document shows it."""
        return {
            "state": self.state,
            "began": rfc3339(self.began_s),
            "ended": None if self.ended_s is None else rfc3339(self.ended_s),
            "why": self.why,
            "repair": self.repair,
            "files": self.files,
            "total_files": self.total_files,
            "bytes": self.bytes,
            "total_bytes": self.total_bytes,
            "rate_bytes_per_s": rate_bytes_per_s,
            "eta_s": self._eta_s(now_s),
            "differences": self.differences,
            "repaired": self.repaired,
            "found": [msgspec.to_builtins(each) for each in self.found],
        }

    def _eta_s(self, now_s: float) -> float | None:
        elapsed_s = now_s - self.began_s
        if self.state != "running" or self.bytes <= 0 or elapsed_s <= 0:
            return None
        return round((self.total_bytes - self.bytes) * elapsed_s / self.bytes, 1)


def load(path: Path) -> Result | None:
    """What the last comparison came to, as it was kept; None if there is none. Blocks."""
    try:
        raw = read_bytes_or_none(path, bytes_max=_BYTES_MAX)
        return None if raw is None else msgspec.json.decode(raw, type=Result)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        _log.warning("%s cannot be read, and is ignored: %s", path, error)
        return None


def save(path: Path, result: Result) -> None:
    """Keep it, for status and schedule after a restart. Blocks; a disk that is full is logged."""
    try:
        write_atomically(path, msgspec.json.encode(result))
    except OSError as error:
        _log.warning("%s cannot be written: %s", path, error)


def _found(report: VerifyFound) -> Found:
    return Found(
        path=report.path,
        what=report.what,
        mine=report.mine,
        theirs=report.theirs,
        offset=report.offset,
        length=report.length,
        repaired=report.repaired,
    )
