"""Opening a volume: its directory, and what this node knows of it. Everything here blocks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import attrs

from mirrorha.errors import VolumeError
from mirrorha.volume.disk import LoadTouched
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.local_disk.ids import IdTable
from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.touched import INODE, NAMES, TouchedState, TouchKey, tail

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

#: Files that the table of ids does not know get an id that no epoch gives out: these count from 1,
#: and the register would have to change four million times to get here.
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
) -> OpenVolume:
    """Open a directory and what this node knows of it. Blocks while every name is looked at.

    Args:
        rng: draws ids for the files that the table does not know.
        make_room: called when the disk of `state_dir` is full; True: try once more.
        raw: a descriptor of the directory, where its path leads to what is mounted over it.

    Raises:
        VolumeError: it, or its state, cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            ids = IdTable(state_dir / "ids.sqlite", make_room=make_room)
            stack.callback(ids.close)
            touched = TouchedStore(state_dir / "touched.sqlite", make_room=make_room)
            stack.callback(touched.close)
        except OSError as error:
            raise VolumeError(f"{state_dir} cannot be used: {error}") from error
        disk = RealDisk(
            root, ids, touched, draw=lambda: _DRAWN | rng.getrandbits(_DRAWN_BITS), raw=raw
        )
        stack.callback(disk.close)
        # What the table does not know may differ from the peer's, whatever the log says.
        keys = [key for fid in disk.found.unknown for key in _all_of(fid)]
        if keys:
            touched.record(keys)
        state = disk.perform(LoadTouched())
        if not isinstance(state, TouchedState):
            raise VolumeError(f"{state_dir}: the touched log cannot be read")
        return OpenVolume(disk=disk, touched=state, close=stack.pop_all().close)


def _all_of(fid: int) -> tuple[TouchKey, ...]:
    return (fid, INODE), (fid, NAMES), (fid, tail(0))
