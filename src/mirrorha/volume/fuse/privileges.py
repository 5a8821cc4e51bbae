"""Set-user-id bits, which a change of the content takes away.

The kernel leaves this to its server (HANDLE_KILLPRIV_V2), for else it would look for them before
every write. `security.capability`, the other such thing, goes with the change itself on every disk.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.ops import SetAttributes

if TYPE_CHECKING:
    from mirrorha.volume.fuse.interface import View


def without_set_id(mode: int) -> int:
    """The permission bits that are left. Set-group-id stays where no group may execute."""
    mode = stat.S_IMODE(mode) & ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


@final
class Privileges:
    """Knows files that have nothing to take away: `plain`, looked at once."""

    def __init__(self, view: View) -> None:
        self.plain: Final[set[int]] = set()
        self._view: Final = view

    def to_take(self, fid: int) -> SetAttributes | None:
        """The change that takes the bits away; None if there are none.

        Raises:
            OSError: the file is no more.
        """
        if fid in self.plain:
            return None
        mode = self._view.status(fid)[0].st_mode
        left = without_set_id(mode)
        if not stat.S_ISREG(mode) or left == stat.S_IMODE(mode):
            self.plain.add(fid)
            return None
        return SetAttributes(fid, left, None, None, None)

    def changed(self, fid: int) -> None:
        """Its mode is, or will be, another one."""
        self.plain.discard(fid)
