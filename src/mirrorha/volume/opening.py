"""Opening a volume: its directory, and what this node knows of it. Everything here blocks."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

import attrs

from mirrorha.errors import VolumeError
from mirrorha.volume.disk import LoadTouched
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.local_disk.ids import IdTable
from mirrorha.volume.local_disk.missing import MissingNote
from mirrorha.volume.local_disk.offline_changes import OfflineChanges
from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.touched import TouchedState

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mirrorha.volume.disk import Found

_log: Final = logging.getLogger(__name__)

#: Files that the table of ids does not know get an id that no epoch gives out: these count from 1,
#: and the register would have to change a million times to get here.
_DRAWN: Final = 1 << 62
_DRAWN_BITS: Final = 62


@attrs.frozen(kw_only=True)
class OpenVolume:
    """A directory in use: what performs on it, and what its machine begins with."""

    disk: RealDisk
    touched: TouchedState
    close: Callable[[], None]


def open_volume(
    root: Path,
    state_dir: Path,
    *,
    rng: random.Random,
    make_room: Callable[[], bool] | None = None,
    raw: int | None = None,
    exclude: Sequence[str] = (),
    is_put_back_known: bool = False,
) -> OpenVolume:
    """Open a directory and what this node knows of it. Blocks while every name is looked at.

    What was changed in it since it was last open is in the touched log, durably.

    Args:
        rng: draws ids for the files that the table does not know.
        make_room: called when the disk of `state_dir` is full; True: try once more.
        raw: a descriptor of the directory, where its path leads to what is mounted over it.
        exclude: patterns of what stays on this node.
        is_put_back_known: whoever asks has been told of it by a `PutBackError`, and noted that.

    Raises:
        VolumeError: it, or its state, cannot be used; or so much of it is gone that a person is
            asked first, and nothing was done.
        PutBackError: the directory is an older one than that of the time before.
    """
    with contextlib.ExitStack() as stack:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            missing = MissingNote(state_dir)
            may_be_gone = missing.repeat()
            ids = IdTable(state_dir / "ids.sqlite", make_room=make_room)
            stack.callback(ids.close)
            touched = TouchedStore(state_dir / "touched.sqlite", make_room=make_room)
            stack.callback(touched.close)
        except OSError as error:
            raise VolumeError(f"{state_dir} cannot be used: {error}") from error
        offline = OfflineChanges(
            state_dir / "stamp",
            touched,
            missing,
            gone_max=may_be_gone,
            is_put_back_known=is_put_back_known,
        )
        disk = RealDisk(
            root,
            ids,
            touched,
            draw=lambda: _DRAWN | rng.getrandbits(_DRAWN_BITS),
            raw=raw,
            offline=offline,
            exclude=exclude,
        )
        stack.callback(disk.close)
        missing.withdraw()
        _tell(root, disk.found, was_cut_off=offline.was_cut_off)
        state = disk.perform(LoadTouched())
        if not isinstance(state, TouchedState):
            raise VolumeError(f"{state_dir}: the touched log cannot be read")
        return OpenVolume(disk=disk, touched=state, close=stack.pop_all().close)


def _tell(root: Path, found: Found, *, was_cut_off: bool) -> None:
    made = 0 if found.rebuilt else len(found.unknown)
    if not (found.changed or made):
        return
    # What a node that was cut off did in its last moments cannot always be told from an edit.
    when = (
        "right before this node was cut off, or since"
        if was_cut_off
        else "while this node did not run"
    )
    text = "%s: %s, %d files were changed or removed, and %d made; they are compared"
    _log.info(text, root, when, found.changed, made)
