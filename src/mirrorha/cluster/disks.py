"""Which mount of its file system each volume is on.

A disk can lose its power, or its cable, while the operating system goes on: it is mounted again,
and what was only in the page cache is gone, as after a crash of the system. The number of a mount
does not tell (the kernel gives it out again); the file system's own entry in /sys is made anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mirrorha.errors import VolumeError
from mirrorha.mount_table import read_mount_table, real_path
from mirrorha.volume.fuse.mounting import is_ours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrorha.mount_table import MountEntry, Spot

_SYS: Final = Path("/sys")
#: Those whose entries have the name of their device.
_KINDS: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "f2fs"})


def read_disks(roots: Sequence[Path], *, sys: Path = _SYS) -> tuple[tuple[str, str], ...]:
    """(path, which mount) of each volume of which that can be known. Asks no file system.

    Beneath mounts of ours, which a crash may have left dead. Of other kinds of file systems
    nothing is known, nor where there is no /sys.
    """
    found = ((os.fspath(root), _mount_of(root, sys)) for root in roots)
    return tuple((path, mount) for path, mount in found if mount)


def _mount_of(root: Path, sys: Path) -> str:
    try:
        entry = _beneath_ours(read_mount_table().spot(real_path(root)))
        if entry.kind not in _KINDS:
            return ""
        name = os.path.basename(os.readlink(sys / "dev" / "block" / entry.device))
        kind = "ext4" if entry.kind.startswith("ext") else entry.kind  # one driver has all three
        # The number is the entry's own: the kernel counts them up.
        return f"{name} {(sys / 'fs' / kind / name).stat().st_ino}"
    except (OSError, VolumeError):
        return ""


def _beneath_ours(spot: Spot) -> MountEntry:
    entries = (spot.holder, *(one for one in spot.stack if not is_ours(one)))
    return entries[-1]
