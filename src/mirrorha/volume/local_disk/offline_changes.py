"""What was changed while nobody of ours ran, brought into the touched log when a disk is opened.

It rides on the walk that looks at every name anyway. What it finds is durable in the log before the
table of ids forgets what is gone, and before the stamp is renewed: cut off anywhere, the next
opening finds it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.errors import VolumeError
from mirrorha.volume.local_disk.stamp import StampFile
from mirrorha.volume.offline import Cause, Late, Stamp, entries_of, is_emptied, suspects
from mirrorha.volume.touched import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirrorha.volume.local_disk.ids import Row
    from mirrorha.volume.local_disk.missing import MissingNote
    from mirrorha.volume.local_disk.touched_store import TouchedStore
    from mirrorha.volume.touched import TouchKey

# Later than any file's ctime.
NEVER_NS: Final = 1 << 63
PUT_BACK: Final = "its directory was put back to an older day, and the node's own state was not"


@final
@attrs.frozen(kw_only=True)
class Walked:
    """What the walk found.

    Attributes:
        known: how many files the table of ids had, 0 if it was lost.
        new: those that it does not know.
        changed_in: directories that hold such, or what is not mirrored any more.
        gone: rows of those that are nowhere.
        now_local: rows of those that are excluded now. The other node may have them where they are
            mirrored: they were moved here, or there before the patterns changed.
        late: those whose ctime the stamp does not cover.
    """

    known: int
    new: Sequence[Row]
    changed_in: set[int]
    gone: Sequence[Row]
    now_local: Sequence[Row]
    late: Sequence[Late]


@final
class OfflineChanges:
    """Finds them, for one opening of one volume; then keeps the stamp for the next.

    Args:
        path: Of the stamp, in the state directory.
        touched: The volume's touched log.
        missing: Where a person is asked.
        gone_max: So many files may be gone, however many that are of all; a person said so.
        is_put_back_known: If the directory was put back to an older day, the node knows that.
    """

    def __init__(
        self,
        path: Path,
        touched: TouchedStore,
        missing: MissingNote,
        *,
        gone_max: int = 0,
        is_put_back_known: bool = False,
    ) -> None:
        self._path: Final = path
        self._touched: Final = touched
        self._missing: Final = missing
        self._gone_max: Final = gone_max
        self.is_put_back_known: Final = is_put_back_known
        self._before: Stamp | None = None
        self.stamp: StampFile | None = None  # since `load`: to be told of every change

    @property
    def first_late_ns(self) -> int:
        """The walk tells of files with such a ctime, or a later one."""
        return NEVER_NS if self._before is None else self._before.first_late_ns

    @property
    def is_put_back(self) -> bool:
        """Whether the directory is an older one than that of the time before. Since `load`."""
        return self.stamp is not None and self.stamp.is_put_back

    @property
    def was_cut_off(self) -> bool:
        """Whether there was a time before, and it is known to have ended in no good order."""
        return self._before is not None and not self._before.is_final

    def load(self, root_fd: int) -> None:
        """Read the stamp of the time before.

        Raises:
            OSError: the state directory cannot be used.
        """
        self.stamp = StampFile(self._path, root_fd)
        self._before = self.stamp.load()

    def settle(self, root: Path, walked: Walked, logged: Sequence[TouchKey]) -> int:
        """Bring what differs from what this node knew into the log, durably. Blocks.

        Args:
            root: The volume, for people.
            logged: The entries of the log.

        Returns:
            How many known files were changed or are gone, without those that are compared too
            since that costs nothing.

        Raises:
            VolumeError: a person must decide first; nothing was done.
            DiskError: the log cannot be written.
            OSError: nobody could be asked.
        """
        gone = len(walked.gone)
        if gone > self._gone_max and is_emptied(known=walked.known, gone=gone):
            self._ask(root, known=walked.known, gone=gone)
        if self._before is None and walked.known:
            why = "there is no stamp that says what was changed meanwhile"
            self._touched.distrust(PUT_BACK if self.is_put_back else why)
        changed: list[tuple[Late, Cause]] = []
        if self._before is not None:
            new = {row.fid for row in walked.new}
            late = [each for each in walked.late if each.fid not in new]
            changed = suspects(late, self._before, logged)
        keys = [(fid, NAMES) for fid in sorted(walked.changed_in)]
        for row in (*walked.new, *walked.gone, *walked.now_local):
            keys += entries_of(row.fid, row.kind)
        for each, _ in changed:
            keys += entries_of(each.fid, each.kind)
        if keys:
            self._touched.record(keys)
        return gone + sum(cause is not Cause.CHEAP for _, cause in changed)

    def _ask(self, root: Path, *, known: int, gone: int) -> None:
        text = (
            f"{root}: {gone} of {known} files and directories that it held are gone, and nothing "
            "is deleted anywhere for that. Put them back; or, if they are to be gone, say "
            "'mirrorha accept-missing' on this node"
        )
        self._missing.ask(text, known=known, gone=gone)
        raise VolumeError(text)

    def begin(self) -> None:
        """All that was found is durable: from now on changes are our own.

        Raises:
            OSError: the stamp cannot be written.
        """
        if self.stamp is not None:
            self.stamp.begin()

    def note(self) -> None:
        """Everything is synced: have the stamp cover what was changed so far. In any thread."""
        if self.stamp is not None:
            self.stamp.rise()
            self.stamp.note()

    def sync(self) -> None:
        """Have the stamp outlive a crash of the system, if that can be had. In any thread."""
        if self.stamp is not None:
            self.stamp.sync()

    def close(self, *, in_order: bool) -> None:
        """Let go of the stamp. Idempotent.

        Args:
            in_order: every change that was begun has ended.
        """
        if self.stamp is not None:
            if in_order:
                self.stamp.finish()
            self.stamp.close()
