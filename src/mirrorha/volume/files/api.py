"""The file API that applications see, whatever carries it.

On an unmounted volume the library's own process does what the kernel does on a mounted one:
`mirrorha.volume.files.streamed`. `mirrorha.testing.check_files` is the suite that both pass.
Everything that is `async` here is a checkpoint and may block as long as a write may be frozen.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mirrorha.volume.disk import Attributes

Path = str | os.PathLike[str]
Buffer = bytes | bytearray | memoryview


class OpenFile(Protocol):
    """A file that was opened. Always binary. Several tasks may use it.

    Methods raise trio.ClosedResourceError once it is closed, OSError as the kernel would,
    `NotPrimaryError` if the node may not write, and `OutcomeUnknownError` if a change was pending
    when it lost its authority. A change that was cancelled may be done all the same.
    """

    async def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes from the position on; to the end of the file if negative."""
        ...

    async def write(self, data: Buffer) -> int:
        """Write all of `data` at the position, or at the end in append mode. Returns its length.

        A write of 1 MiB or less takes effect as one. After a failure the position tells how much
        was written.
        """
        ...

    async def pread(self, length: int, offset: int) -> bytes:
        """Read up to `length` bytes at `offset`, shorter only at the end. Moves no position."""
        ...

    async def pwrite(self, data: Buffer, offset: int) -> int:
        """Write all of `data` at `offset`, append mode or not. Moves no position."""
        ...

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, from the start, from where it is or from the end; the new one."""
        ...

    def tell(self) -> int:
        """The position."""
        ...

    async def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file, to the position by default. Moves no position."""
        ...

    async def fsync(self) -> None:
        """Return once everything that was written before is durable: on both nodes' disks."""
        ...

    async def fdatasync(self) -> None:
        """The same with content and size alone: times and attributes become durable later."""
        ...

    async def aclose(self) -> None:
        """Close it. Makes nothing durable. Idempotent."""
        ...

    async def __aenter__(self) -> OpenFile: ...
    async def __aexit__(self, *_: object) -> None: ...


class Opening(Awaitable[OpenFile], AbstractAsyncContextManager[OpenFile], Protocol):
    """What `open` gives: `await` it, or use it in `async with`. Nothing is opened before that."""


class FileApi(Protocol):
    """Files of one volume, by paths relative to its root, or absolute ones below it.

    Symlinks are followed as the kernel follows them, inside the volume. Methods raise
    `PathOutsideVolumeError` for every other path, OSError as the kernel would, `NotPrimaryError`
    and `OutcomeUnknownError` as `OpenFile` does.
    """

    def open(self, path: Path, mode: str = "rb", *, permissions: int = 0o644) -> Opening:
        """Open a file: "rb", "r+b", "wb", "w+b", "xb", "x+b", "ab" or "a+b".

        `permissions` are those of a new file, whatever the umask.
        """
        ...

    async def mkdir(
        self,
        path: Path,
        *,
        parents: bool = False,
        exist_ok: bool = False,
        permissions: int = 0o755,
    ) -> None:
        """Make a directory, with `parents` also those that lead to it."""
        ...

    async def rename(self, old: Path, new: Path) -> None:
        """Move a file or directory, atomically replacing what has the new name."""
        ...

    async def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        """Remove a name of a file."""
        ...

    async def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        ...

    async def listdir(self, path: Path = ".") -> list[str]:
        """The names in a directory, sorted."""
        ...

    async def stat(self, path: Path, *, follow_symlinks: bool = True) -> Attributes:
        """What there is to know about a file or directory."""
        ...

    async def exists(self, path: Path) -> bool:
        """Whether there is something; of a symlink, where it leads to."""
        ...

    async def symlink(self, target: str, path: Path) -> None:
        """Make a symlink. `target` may lead anywhere; it is followed only inside the volume."""
        ...

    async def readlink(self, path: Path) -> str:
        """Where a symlink leads to."""
        ...

    async def link(self, existing: Path, new: Path) -> None:
        """Give a file one more name. A symlink is not followed, and gets one itself."""
        ...

    async def truncate(self, path: Path, size: int) -> None:
        """Cut or extend a file."""
        ...

    async def chmod(self, path: Path, mode: int) -> None:
        """Change the permissions of a file or directory."""
        ...

    async def utime(
        self, path: Path, *, atime_ns: int, mtime_ns: int, follow_symlinks: bool = True
    ) -> None:
        """Set the times of last access and last change, in nanoseconds since 1970."""
        ...

    async def listxattr(self, path: Path) -> list[str]:
        """The names of a file's extended attributes, sorted."""
        ...

    async def getxattr(self, path: Path, name: str) -> bytes:
        """An extended attribute, such as "user.origin"."""
        ...

    async def setxattr(self, path: Path, name: str, value: Buffer) -> None:
        """Set an extended attribute: of `user.*`, or what else is mirrored and allowed."""
        ...

    async def removexattr(self, path: Path, name: str) -> None:
        """Remove an extended attribute."""
        ...

    async def read_bytes(self, path: Path) -> bytes:
        """All of a file."""
        ...

    async def write_bytes(self, path: Path, data: Buffer) -> None:
        """Make `data` a file's content. Not atomic, not durable: see `replace_atomically`."""
        ...

    async def replace_atomically(self, path: Path, data: Buffer) -> None:
        """Make `data` a file's content, durably; at no moment is it half of anything.

        An existing file's permissions are kept. A crash can leave a file `.mirrorha-*.tmp` beside
        it.
        """
        ...

    async def sync(self, path: Path) -> None:
        """Make a file, or the names in a directory, durable: on both nodes' disks."""
        ...
