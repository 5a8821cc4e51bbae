"""Who may own files on this node: anybody if it runs as root, nobody but its own user else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.op_checks import OWN_USER

if TYPE_CHECKING:
    from mirrorha.volume.ops import Birth


def owners_text() -> str:
    """Whether this node keeps owners, for people. Two nodes that differ cannot be equal."""
    if Owners().are_kept:
        return "kept, for it runs as root"
    return "not kept, for it runs as an ordinary user"


@final
class Owners:
    """What an op's owners mean here. The user of this process is looked up once."""

    def __init__(self) -> None:
        self._user: Final = os.geteuid()
        self._group: Final = os.getegid()
        self.are_kept: Final = self._user == 0

    def resolve(self, uid: int | None, gid: int | None) -> tuple[int | None, int | None]:
        """The owners that a file really gets; None stays None."""
        return self._resolve(uid, self._user), self._resolve(gid, self._group)

    def of(self, op: Birth) -> tuple[int, int]:
        """The owners that a new file really gets."""
        if not self.are_kept:
            return OWN_USER, OWN_USER
        uid = self._user if op.uid == OWN_USER else op.uid
        gid = self._group if op.gid == OWN_USER else op.gid
        return uid, gid

    def seen(self, uid: int, gid: int) -> tuple[int, int]:
        """The owners to report for a file that has these."""
        return (uid, gid) if self.are_kept else (OWN_USER, OWN_USER)

    def _resolve(self, owner: int | None, own: int) -> int | None:
        if owner is None:
            return None
        if not self.are_kept:
            return OWN_USER
        return own if owner == OWN_USER else owner
