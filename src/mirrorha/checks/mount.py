"""A check that something is mounted where it should be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, final

import attrs
import trio

from mirrorha.abc import Check
from mirrorha.errors import CheckFailedError, VolumeError
from mirrorha.mount_table import read_mount_table, real_path


@final
@attrs.frozen
class Mount(Check):
    """A file system is mounted at a directory, and answers.

    It is asked in a thread, which one that hangs holds up; that one is waited for, and no second
    one begun.

    Args:
        path: The directory. In TOML it may be left out: then this is a check for each volume that
            is mounted.
        filesystem: Its type as `findmnt` shows it, such as "ext4"; by default any.
    """

    kind: ClassVar[str] = "mount"

    path: str
    filesystem: str = attrs.field(default="", kw_only=True)
    _limiter: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(1), init=False, repr=False, eq=False
    )

    def __str__(self) -> str:
        return f"mount {self.path}"

    async def check(self) -> None:
        """Look for the mount, and ask it.

        Raises:
            CheckFailedError: there is none, another one, or it answers with an error.
        """
        await trio.to_thread.run_sync(self._look, abandon_on_cancel=True, limiter=self._limiter)

    def _look(self) -> None:
        try:
            spot = read_mount_table().spot(real_path(Path(self.path)))
        except VolumeError as error:
            raise CheckFailedError(str(error)) from error
        if not spot.stack:
            raise CheckFailedError(f"nothing is mounted at {self.path}")
        if self.filesystem not in ("", spot.seen.kind):
            raise CheckFailedError(
                f"{self.path} is a mount of the type {spot.seen.kind}, not {self.filesystem}"
            )
        try:
            os.statvfs(self.path)
        except OSError as error:
            raise CheckFailedError(f"{self.path} is mounted, and says: {error.strerror}") from error
