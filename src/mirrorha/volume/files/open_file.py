"""An open file, whatever carries it: position, modes and turns are the same everywhere."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from mirrorha.errors import ensure
from mirrorha.wire.limits import WRITE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from mirrorha.volume.files.api import Buffer, Path
    from mirrorha.volume.files.modes import FileMode


class FileHandle(Protocol):
    """What carries an open file. Raises OSError as the kernel would. Several tasks may use it."""

    async def pread(self, length: int, offset: int) -> bytes:
        """Read up to `length` bytes at `offset`; to the end of the file if `length` is negative.

        Shorter only at the end.
        """
        ...

    async def pwrite(self, data: bytes, offset: int) -> int:
        """Write some of `data`, WRITE_BYTES_MAX at most: how much. Nothing only of nothing."""
        ...

    async def append(self, data: bytes) -> tuple[int, int]:
        """Write some of `data` at the end, as one: how much, and where the end was then."""
        ...

    async def truncate(self, size: int) -> None:
        """Cut or extend it."""
        ...

    async def size(self) -> int:
        """How long it is."""
        ...

    async def sync(self) -> None:
        """Make it durable."""
        ...

    async def sync_data(self) -> None:
        """Make its content and size durable."""
        ...

    async def close(self) -> None:
        """Called once. Calls under way may still end."""
        ...


@final
class MirroredFile:
    """An open file of a volume. See `mirrorha.volume.files.api.OpenFile`."""

    def __init__(self, handle: FileHandle, mode: FileMode, path: Path) -> None:
        self._handle: Final = handle
        self._mode: Final = mode
        self._path: Final = path
        self._position = 0
        self._moving: Final = trio.Lock()  # whoever moves the position
        self._is_closed = False

    async def read(self, size: int = -1) -> bytes:
        self._check_readable()
        async with self._moving:
            data = await self._handle.pread(size, self._position)
            self._position += len(data)
            return data

    async def write(self, data: Buffer) -> int:
        self._check_writable()
        whole = _copied(data)
        async with self._moving:
            if self._mode.appends:
                return await self._append(whole)
            return await self._write(whole, self._position, moves=True)

    async def pread(self, length: int, offset: int) -> bytes:
        self._check_readable()
        if length < 0 or offset < 0:
            raise self._error(errno.EINVAL)
        return await self._handle.pread(length, offset)

    async def pwrite(self, data: Buffer, offset: int) -> int:
        self._check_writable()
        if offset < 0:
            raise self._error(errno.EINVAL)
        return await self._write(_copied(data), offset, moves=False)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        if whence not in {os.SEEK_SET, os.SEEK_CUR, os.SEEK_END}:
            raise self._error(errno.EINVAL)
        async with self._moving:
            start = self._position if whence == os.SEEK_CUR else 0
            if whence == os.SEEK_END:
                start = await self._handle.size()
            if start + offset < 0:
                raise self._error(errno.EINVAL)
            self._position = start + offset
            return self._position

    def tell(self) -> int:
        self._check_open()
        return self._position

    async def truncate(self, size: int | None = None) -> int:
        self._check_writable()
        size_bytes = self._position if size is None else size
        await self._handle.truncate(size_bytes)
        return size_bytes

    async def fsync(self) -> None:
        self._check_open()
        await self._handle.sync()

    async def fdatasync(self) -> None:
        self._check_open()
        await self._handle.sync_data()

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._handle.close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> MirroredFile:
        self._check_open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _write(self, whole: bytes, offset: int, *, moves: bool) -> int:
        written = 0
        while True:
            part = whole[written : written + WRITE_BYTES_MAX]
            took = await self._handle.pwrite(part, offset + written)
            ensure(took > 0 or not part, "a write that is not refused takes something")
            written += took
            if moves:
                self._position = offset + written
            if written == len(whole):
                return written

    async def _append(self, whole: bytes) -> int:
        written = 0
        while True:
            part = whole[written : written + WRITE_BYTES_MAX]
            took, end = await self._handle.append(part)
            ensure(took > 0 or not part, "a write that is not refused takes something")
            written += took
            self._position = end
            if written == len(whole):
                return written

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError(f"{os.fspath(self._path)} is closed")

    def _check_readable(self) -> None:
        self._check_open()
        if not self._mode.reads:
            raise io.UnsupportedOperation(f"{os.fspath(self._path)} is not open for reading")

    def _check_writable(self) -> None:
        self._check_open()
        if not self._mode.writes:
            raise io.UnsupportedOperation(f"{os.fspath(self._path)} is not open for writing")

    def _error(self, number: int) -> OSError:
        return OSError(number, os.strerror(number), os.fspath(self._path))


@final
class Opening:
    """What `open` gives. Nothing is opened before it is awaited or entered."""

    def __init__(self, do_open: Callable[[], Awaitable[MirroredFile]]) -> None:
        self._do_open: Final = do_open
        self._file: MirroredFile | None = None

    def __await__(self) -> Generator[object, object, MirroredFile]:
        return self._do_open().__await__()

    async def __aenter__(self) -> MirroredFile:
        self._file = await self._do_open()
        return self._file

    async def __aexit__(self, *_: object) -> None:
        if self._file is not None:
            await self._file.aclose()


def _copied(data: Buffer) -> bytes:
    """Of what may change while it waits, a copy; of bytes there is none."""
    return data if isinstance(data, bytes) else bytes(data)
