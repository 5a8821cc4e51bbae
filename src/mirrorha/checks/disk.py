"""A check that looks after a file system."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import ClassVar, Final, final

import attrs
import trio

from mirrorha.abc import Check
from mirrorha.errors import CheckFailedError, LocalUsageError, VolumeError
from mirrorha.mount_table import read_mount_table

#: What a probe writes: a block, so that the medium has to take it.
PROBE: Final = bytes(4096)
#: Options of a mount, as the kernel shows them. The last two are ext4's after an error.
_READ_ONLY: Final = frozenset({"ro", "emergency_ro", "shutdown"})
_NO_UNNAMED: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


@final
@attrs.frozen
class Disk(Check):
    """A file system has room, has not become read-only, and takes what is written to it.

    In each attempt a block is written to a file in the directory, and synced: to one without a
    name where the file system can do that, else to one called `.mirrorha-probe-…`, which is
    removed again. All that happens in a thread, which a disk that hangs holds up; that one is
    waited for, and no second one begun.

    Args:
        path: A directory of the file system.
        free_percent_min: The least part of its space and of its inodes, in percent, that must be
            free for ordinary users; 0: what there is will do.
        write: False: nothing is written, so that a disk is not noticed which only refuses that.
            For a directory that is mirrored, which a SECOND may not write to.

    Raises:
        LocalUsageError: `free_percent_min` is no percentage.
    """

    kind: ClassVar[str] = "disk"

    path: str
    free_percent_min: int = attrs.field(default=5, kw_only=True)
    write: bool = attrs.field(default=True, kw_only=True)
    _limiter: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(1), init=False, repr=False, eq=False
    )

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.free_percent_min < 100:
            raise LocalUsageError(
                f"free_percent_min is 0 to 99 percent, not {self.free_percent_min}"
            )

    def __str__(self) -> str:
        return f"disk {self.path}"

    async def check(self) -> None:
        """Look, and write.

        Raises:
            CheckFailedError: it is full, read-only, not there, or refuses to be written to.
        """
        await trio.to_thread.run_sync(self._look, abandon_on_cancel=True, limiter=self._limiter)

    def _look(self) -> None:
        try:
            self._judge_mount()
            seen = os.statvfs(self.path)
            # As df counts: what only root may use is neither free nor there.
            usable = seen.f_blocks - seen.f_bfree + seen.f_bavail
            self._judge("of its space", seen.f_bavail, usable)
            self._judge("of its inodes", seen.f_favail, seen.f_files)
            if self.write:
                self._probe()
        except OSError as error:
            raise CheckFailedError(f"{self.path}: {error.strerror}") from error

    def _judge_mount(self) -> None:
        # statvfs() does not tell of an ext4 that an error has made read-only, as of Linux 6.18.
        try:
            mount = read_mount_table().spot(os.path.realpath(self.path)).seen
        except VolumeError as error:
            raise CheckFailedError(str(error)) from error
        if mount.options & _READ_ONLY:
            raise CheckFailedError(f"{self.path} is on a file system that is read-only")

    def _judge(self, what: str, free: int, total: int) -> None:
        if total > 0 and free * 100 < self.free_percent_min * total:
            raise CheckFailedError(
                f"{self.path}: {free * 100 / total:.1f}% {what} is free, less than "
                f"{self.free_percent_min}%"
            )

    def _probe(self) -> None:
        name = os.path.join(self.path, f".mirrorha-probe-{secrets.token_hex(4)}")
        try:
            file = os.open(self.path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            name = ""
        except OSError as error:
            if error.errno not in _NO_UNNAMED:
                raise
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(name, flags, 0o600)
        try:
            os.write(file, PROBE)
            os.fsync(file)
        finally:
            os.close(file)
            if name:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
