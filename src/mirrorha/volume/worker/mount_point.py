"""A volume's directory below its mount, and the mount itself."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import VolumeError
from mirrorha.volume.local_disk import identity
from mirrorha.volume.local_disk.handles import OPEN_DIRECTORY

if TYPE_CHECKING:
    from mirrorha.volume.fuse.mounting import Mounted
    from mirrorha.volume.local_disk.identity import VolumeIdentity
    from mirrorha.volume.worker.messages import MountWish

_log: Final = logging.getLogger(__name__)

#: The directory is this process's own working directory: named so, it is found below any mount.
_HERE: Final = Path(".")


@final
class MountPoint:
    """The directory of a volume, opened once, and what hides it. Everything here blocks.

    Args:
        wish: None: nothing is mounted.
    """

    def __init__(self, root: Path, *, volume: str, wish: MountWish | None) -> None:
        self._root: Final = root
        self._volume: Final = volume
        self._wish: Final = wish
        self._mounted: Mounted | None = None
        self.raw = -1

    @property
    def device(self) -> int:
        """The descriptor of /dev/fuse, or -1."""
        return self._mounted.device if self._mounted else -1

    @property
    def connection(self) -> int:
        """The number of the FUSE connection, or 0."""
        return self._mounted.connection if self._mounted else 0

    @property
    def excludes(self) -> bool:
        """Whether some of the volume stays on this node."""
        return self._wish is not None and bool(self._wish.exclude)

    def look(self) -> VolumeIdentity:
        """Open the directory anew, and see what stands in it. What a crash left is taken off.

        Raises:
            VolumeError: it cannot be opened, or somebody else's mount is in the way.
        """
        if self.raw >= 0:
            os.close(self.raw)
            self.raw = -1
        self.raw = self._open()
        os.fchdir(self.raw)
        return identity.inspect(_HERE, self._wish.exclude if self._wish is not None else ())

    def mark(self, volume_id: str) -> None:
        """Have the directory carry this id.

        Raises:
            VolumeError: it cannot be written, or carries another one.
        """
        if self.raw < 0:
            raise VolumeError(f"{self._root} was not looked at yet")
        try:
            identity.mark(_HERE, volume_id)
        except (OSError, VolumeError) as error:
            raise VolumeError(f"{self._root}: {error}") from error

    def check(self, *, freeze_max_ms: int) -> None:
        """See that nothing stands in the way of a mount, before anything is done.

        Raises:
            VolumeError: all that does.
        """
        if self._wish is None:
            return
        from mirrorha.volume.fuse import obstacles  # noqa: PLC0415 - not where nothing is mounted

        obstacles.refuse_obstacles(
            self._root,
            volume=self._volume,
            freeze_max_ms=freeze_max_ms,
            is_for_all=self._wish.allow_other,
        )

    def mount(self) -> None:
        """Mount over the directory. The kernel waits for whoever serves `device` from then on.

        Raises:
            VolumeError: it cannot be mounted; nothing is left behind.
        """
        if self._wish is None:
            return
        from mirrorha.volume.fuse import mounting  # noqa: PLC0415 - as above

        self._mounted = mounting.mount(
            self._root, self.raw, volume=self._volume, is_for_all=self._wish.allow_other
        )

    def abort(self) -> None:
        """End the connection to the kernel: who waits for an answer gets an error. Any thread."""
        if self._mounted is not None:
            from mirrorha.volume.fuse import connection  # noqa: PLC0415 - as above

            connection.abort(self._mounted.connection)

    def leave(self, *, unmount: bool) -> bool:
        """Serve no more: unmount, or leave the mount there, dead. Whether nothing covers the
        directory any more."""
        mounted = self._mounted
        if mounted is None:
            return True
        self.abort()
        is_off = False
        if unmount:
            from mirrorha.volume.fuse import mounting  # noqa: PLC0415 - as above

            try:
                mounting.unmount(mounted)
                is_off = True
            except VolumeError as error:
                _log.error("%s", error)
        os.close(mounted.device)
        self._mounted = None
        return is_off

    def _open(self) -> int:
        if self._wish is not None:
            from mirrorha.volume.fuse import mounting  # noqa: PLC0415 - as above

            return mounting.open_raw(self._root, volume=self._volume)
        try:
            return os.open(self._root, OPEN_DIRECTORY)
        except OSError as error:
            raise VolumeError(f"{self._root}: cannot be opened: {error.strerror}") from error
