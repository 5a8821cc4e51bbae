"""Before a volume serves: is this directory the one it is taken for? And who has it open?"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.volume.local_disk.identity import Standing
from mirrorha.volume.names import MARKER_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.local_disk.identity import VolumeIdentity
    from mirrorha.volume.opening import OpenVolume


@attrs.frozen(kw_only=True)
class Judgement:
    """Whether a directory may be what it is taken for.

    Attributes:
        has_files: it holds anything besides what is ours.
        ours: it carries the volume's id, or there is nothing in it that could be overwritten.
        problem: why it cannot be used at all, for people, or "".
    """

    has_files: bool
    ours: bool
    problem: str = ""


def judge_root(
    found: VolumeIdentity, *, volume_id: str | None, was_marked: bool, is_target: bool
) -> Judgement:
    """Judge a directory before anything is done to it.

    Args:
        volume_id: the id that it should carry; None while this node belongs to no cluster.
        was_marked: this node has made it a volume before.
        is_target: a resync into this node has begun and not ended: what it holds was given up.
    """
    standing = found.standing
    has_files = standing is not Standing.UNMARKED_EMPTY
    if standing not in (Standing.MARKED, Standing.UNMARKED_EMPTY, Standing.UNMARKED_WITH_FILES):
        return Judgement(has_files=False, ours=False, problem=found.description)
    if found.volume_id is not None and found.volume_id != volume_id:
        problem = (
            f"{found.root} carries the id of another volume or cluster: is it the right "
            "directory? If its files can be given up, empty it"
        )
        if volume_id is None:
            problem = (
                f"{found.root} carries the id of a volume, and this node belongs to no cluster "
                "yet: is it the right directory? If it is a copy with which this node is to begin, "
                f"remove {MARKER_NAME} from it, and whatever else in it is called .mirrorha-…"
            )
        return Judgement(has_files=True, ours=False, problem=problem)
    if found.volume_id is None and was_marked and volume_id is not None:
        problem = (
            f"{found.root} does not carry the volume's id as it did before: is its disk not "
            "mounted, or was the directory replaced? Nothing in it is touched"
        )
        return Judgement(has_files=has_files, ours=False, problem=problem)
    ours = found.volume_id is not None or is_target or not has_files
    return Judgement(has_files=has_files, ours=ours)


@final
class Opening:
    """Opens a volume in a thread that its caller may leave behind. Then it is closed again."""

    def __init__(self, open_: Callable[[], OpenVolume]) -> None:
        self._open: Final = open_
        self._lock: Final = threading.Lock()
        self._opened: OpenVolume | None = None
        self._is_abandoned = False

    def run(self) -> OpenVolume:
        """In the thread: open it, once. If nobody waits any more, close it as well."""
        opened = self._open()
        with self._lock:
            self._opened = opened
            is_abandoned = self._is_abandoned
        if is_abandoned:
            opened.close()
        return opened

    def abandon(self) -> OpenVolume | None:
        """Nobody waits for it any more. What was opened before that is the caller's to close."""
        with self._lock:
            self._is_abandoned = True
            return self._opened
