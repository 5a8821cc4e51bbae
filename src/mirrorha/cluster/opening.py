"""Before a volume serves: is this directory the one it is taken for, and what does it hold?

Everything that touches the disk here blocks: it runs in a thread. The judgement does not.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import attrs

from mirrorha.errors import VolumeError
from mirrorha.volume.disk import LoadTouched
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.local_disk.identity import Standing, VolumeIdentity
from mirrorha.volume.local_disk.ids import IdTable
from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.touched import INODE, NAMES, TouchedState, TouchKey, tail

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from mirrorha.volume.disk import Disk

#: Files that the table of ids does not know get an id that no epoch gives out: these count from 1,
#: and the register would have to change four million times to get here.
_DRAWN: Final = 1 << 62
_DRAWN_BITS: Final = 62


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
        return Judgement(has_files=True, ours=False, problem=problem)
    if found.volume_id is None and was_marked and volume_id is not None:
        problem = (
            f"{found.root} does not carry the volume's id as it did before: is its disk not "
            "mounted, or was the directory replaced? Nothing in it is touched"
        )
        return Judgement(has_files=has_files, ours=False, problem=problem)
    ours = found.volume_id is not None or is_target or not has_files
    return Judgement(has_files=has_files, ours=ours)


@attrs.frozen(kw_only=True)
class OpenVolume:
    """A directory in use: what performs on it, and what its machine begins with."""

    disk: Disk
    touched: TouchedState
    close: Callable[[], None]


def open_volume(
    root: Path,
    state_dir: Path,
    *,
    rng: random.Random,
    make_room: Callable[[], bool] | None = None,
) -> OpenVolume:
    """Open a directory and what this node knows of it. Blocks while every name is looked at.

    Raises:
        VolumeError: it, or its state, cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            ids = IdTable(state_dir / "ids.sqlite")
            stack.callback(ids.close)
            touched = TouchedStore(state_dir / "touched.sqlite", make_room=make_room)
            stack.callback(touched.close)
        except OSError as error:
            raise VolumeError(f"{state_dir} cannot be used: {error}") from error
        disk = RealDisk(root, ids, touched, draw=lambda: _DRAWN | rng.getrandbits(_DRAWN_BITS))
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
