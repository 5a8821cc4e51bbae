"""The question whether it was meant that so many files are gone, and its answer, in `state_dir`.

A node that asks looks again and again. Between two looks at every name it repeats what it found.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final, final

import msgspec

from mirrorha.errors import VolumeError
from mirrorha.state.atomic import remove_leftovers, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

_NAME: Final = "missing.json"
# The files may have been put back meanwhile; to see it costs a look at every name.
LOOK_AGAIN_S: Final = 30.0


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Of `known` files and directories `gone` were gone. So many may be, somebody said: `accepted`.

    Else nobody has said anything.
    """

    known: int
    gone: int
    text: str
    accepted: int = 0

    @property
    def is_accepted(self) -> bool:
        """Whether a person has said that this was meant."""
        return self.accepted >= self.gone


@final
class MissingNote:
    """The question of one volume.

    Args:
        state_dir: What this node keeps of the volume.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path: Final = state_dir / _NAME

    def read(self) -> Missing | None:
        """The question; None if nothing is asked, or nobody can read it: then it is asked anew.

        Raises:
            OSError: it cannot be looked at.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Missing)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def repeat(self) -> int:
        """How many files may be gone. Repeats the question if it was asked just now.

        Raises:
            VolumeError: the question.
            OSError: it cannot be looked at.
        """
        asked = self.read()
        if asked is None:
            return 0
        if asked.is_accepted:
            return asked.accepted
        age_s = time.time() - self._path.stat().st_mtime
        if 0 <= age_s < LOOK_AGAIN_S:
            raise VolumeError(asked.text)
        return 0

    def ask(self, text: str, *, known: int, gone: int) -> None:
        """Ask, durably.

        Raises:
            OSError: it cannot be written.
        """
        self._write(Missing(known=known, gone=gone, text=text))

    def accept(self, asked: Missing) -> None:
        """Say that so many may be gone, durably.

        Raises:
            OSError: it cannot be written.
        """
        self._write(msgspec.structs.replace(asked, accepted=asked.gone))
        if hasattr(os, "chown") and os.geteuid() == 0:
            # Whoever runs the node must be able to read what root has answered.
            owner = self._path.parent.stat()
            os.chown(self._path, owner.st_uid, owner.st_gid)

    def withdraw(self) -> None:
        """Nothing is asked any more. What cannot be removed now says nothing wrong later.

        It names a number of files, and is asked anew if more are gone.
        """
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _write(self, question: Missing) -> None:
        remove_leftovers(self._path)
        write_atomically(self._path, msgspec.json.encode(question))
