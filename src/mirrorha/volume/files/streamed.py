"""The file API of an unmounted volume: it drives the volume's stream itself.

Paths become ids, calls become ops with explicit offsets and times, and an op is done when the
engine says so: on both nodes, where there are two.
"""

from __future__ import annotations

import errno
import os
import weakref
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol, final

import msgspec
import trio

from mirrorha.errors import MirrorHAError, ensure
from mirrorha.volume.disk import Attributes, Entry, Kind, ListDirectory, ReadAttributes, ReadBytes
from mirrorha.volume.files.modes import FileMode
from mirrorha.volume.files.open_file import MirroredFile, Opening
from mirrorha.volume.files.paths import PathFinder, Spot, temporary_name
from mirrorha.volume.names import from_python, to_python
from mirrorha.volume.op_checks import OWN_USER
from mirrorha.volume.ops import (
    Create,
    Link,
    Mkdir,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.wire.limits import WRITE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest
    from mirrorha.volume.files.api import Buffer, Path
    from mirrorha.volume.ops import AnyOp

READ_BYTES_MAX: Final = WRITE_BYTES_MAX
# How often a name may come or go while a file is opened by it.
OPEN_ATTEMPTS_MAX: Final = 16
# What a failed replacement may take to remove its temporary file.
CLEANUP_S: Final = 5.0


class Engine(Protocol):
    """What the file API drives: a volume, or in tests a disk alone."""

    async def change(self, op: AnyOp) -> AnyOp | None:
        """Make a change. In ops that create, the fid is 0: it is drawn.

        Returns the op as it was done (of a `Write`, perhaps a beginning of its bytes), None if
        there was nothing to do.

        Raises:
            OSError: it was refused, with this errno; nothing has changed.
            NotPrimaryError: this node may not write; nothing has changed.
            OutcomeUnknownError: it may have been done, and may survive.
        """
        ...

    async def flush(self, fid: int, *, data_only: bool = False) -> None:
        """Make everything done to a file or directory durable, or a file's content and size.

        Raises as `change`.
        """
        ...

    async def query(self, request: AnyRequest) -> object:
        """Ask the disk for something that changes nothing.

        Raises:
            OSError: it cannot be read.
        """
        ...


@final
class Files:
    """The files of one volume. See `mirrorha.volume.files.api.FileApi`.

    Args:
        root: Of the volume, absolute; where paths may begin with it.
        engine: What is driven.
        clock_ns: The time that files get, in nanoseconds since 1970.
    """

    def __init__(self, root: Path, engine: Engine, *, clock_ns: Callable[[], int]) -> None:
        pure = PurePosixPath(os.fspath(root))
        ensure(pure.is_absolute(), "the root of a volume is absolute")
        self._engine: Final = engine
        self._clock_ns: Final = clock_ns
        self._paths: Final = PathFinder(pure, engine.query)
        self._appending: Final = weakref.WeakValueDictionary[int, _Appending]()
        self._temporaries = 0

    def open(self, path: Path, mode: str = "rb", *, permissions: int = 0o644) -> Opening:
        wanted = FileMode(mode)
        return Opening(lambda: self._open(path, wanted, permissions))

    async def mkdir(
        self,
        path: Path,
        *,
        parents: bool = False,
        exist_ok: bool = False,
        permissions: int = 0o755,
    ) -> None:
        if parents:
            names = self._paths.parts(path)
            for depth in range(1, len(names)):
                await self._mkdir("/".join(names[:depth]), exist_ok=True, permissions=permissions)
        await self._mkdir(path, exist_ok=exist_ok, permissions=permissions)

    async def rename(self, old: Path, new: Path) -> None:
        source = await self._paths.find(old, follow=False)
        target = await self._paths.find(new, follow=False)
        if not source.name or not target.name:
            raise _error(errno.EBUSY, old)
        now_ns = self._clock_ns()
        rename = Rename(0, source.parent, source.name, target.parent, target.name, 0, now_ns)
        await self._change(rename, old)

    async def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        try:
            spot = await self._paths.find(path, follow=False)
            if not spot.name:
                raise _error(errno.EISDIR, path)
            await self._change(Unlink(0, spot.parent, spot.name, self._clock_ns()), path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    async def rmdir(self, path: Path) -> None:
        spot = await self._paths.find(path, follow=False)
        if not spot.name:
            raise _error(errno.EBUSY, path)
        await self._change(Rmdir(0, spot.parent, spot.name, self._clock_ns()), path)

    async def listdir(self, path: Path = ".") -> list[str]:
        attributes = await self._paths.existing(path)
        entries = await self._engine.query(ListDirectory(attributes.fid, with_local=True))
        if not isinstance(entries, list):
            is_directory = attributes.kind is Kind.DIRECTORY
            raise _error(errno.ENOENT if is_directory else errno.ENOTDIR, path)
        return sorted(to_python(entry.name) for entry in entries if isinstance(entry, Entry))

    async def stat(self, path: Path, *, follow_symlinks: bool = True) -> Attributes:
        attributes = await self._paths.existing(path, follow=follow_symlinks)
        return msgspec.structs.replace(attributes, target=to_python(attributes.target))

    async def exists(self, path: Path) -> bool:
        try:
            await self._paths.existing(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def symlink(self, target: str, path: Path) -> None:
        spot = await self._paths.find(path, follow=False)
        if spot.attributes is not None:
            raise _error(errno.EEXIST, path)
        now_ns = self._clock_ns()
        text = from_python(target)
        link = Symlink(0, spot.parent, spot.name, text, OWN_USER, OWN_USER, now_ns)
        await self._change(link, path)

    async def readlink(self, path: Path) -> str:
        attributes = await self._paths.existing(path, follow=False)
        if attributes.kind is not Kind.SYMLINK:
            raise _error(errno.EINVAL, path)
        return to_python(attributes.target)

    async def link(self, existing: Path, new: Path) -> None:
        attributes = await self._paths.existing(existing, follow=False)
        spot = await self._paths.find(new, follow=False)
        if not spot.name:
            raise _error(errno.EEXIST, new)
        link = Link(attributes.fid, spot.parent, spot.name, self._clock_ns())
        await self._change(link, existing)

    async def truncate(self, path: Path, size: int) -> None:
        attributes = await self._paths.existing(path)
        await self._change(Truncate(attributes.fid, size, self._clock_ns()), path)

    async def chmod(self, path: Path, mode: int) -> None:
        attributes = await self._paths.existing(path)
        await self._change(SetAttributes(attributes.fid, mode, None, None, None), path)

    async def utime(
        self, path: Path, *, atime_ns: int, mtime_ns: int, follow_symlinks: bool = True
    ) -> None:
        attributes = await self._paths.existing(path, follow=follow_symlinks)
        times = SetAttributes(attributes.fid, None, None, None, mtime_ns, atime_ns)
        await self._change(times, path)

    async def listxattr(self, path: Path) -> list[str]:
        attributes = await self._paths.existing(path)
        return sorted(to_python(name) for name in attributes.xattrs)

    async def getxattr(self, path: Path, name: str) -> bytes:
        attributes = await self._paths.existing(path)
        value = attributes.xattrs.get(from_python(name))
        if value is None:
            raise _error(errno.ENODATA, path)
        return value

    async def setxattr(self, path: Path, name: str, value: Buffer) -> None:
        attributes = await self._paths.existing(path)
        await self._change(SetXattr(attributes.fid, from_python(name), bytes(value)), path)

    async def removexattr(self, path: Path, name: str) -> None:
        attributes = await self._paths.existing(path)
        await self._change(SetXattr(attributes.fid, from_python(name), None), path)

    async def read_bytes(self, path: Path) -> bytes:
        async with self.open(path, "rb") as file:
            return await file.read()

    async def write_bytes(self, path: Path, data: Buffer) -> None:
        async with self.open(path, "wb") as file:
            await file.write(data)

    async def replace_atomically(self, path: Path, data: Buffer) -> None:
        spot = await self._paths.find(path)
        if spot.is_directory:
            raise _error(errno.EISDIR, path)
        try:
            await self._replace(spot, path, data, is_alike=False)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            await self._replace(spot, path, data, is_alike=True)

    async def _replace(self, spot: Spot, path: Path, data: Buffer, *, is_alike: bool) -> None:
        permissions = 0o644 if spot.attributes is None else spot.attributes.mode
        fid, name = await self._create_temporary(spot, permissions, path, is_alike=is_alike)
        try:
            handle = _StreamHandle(self._engine, fid, path, self._clock_ns, _Appending())
            await MirroredFile(handle, FileMode("wb"), path).write(data)
            await handle.sync()
            now_ns = self._clock_ns()
            rename = Rename(fid, spot.parent, name, spot.parent, spot.name, 0, now_ns)
            await self._change(rename, path)
        except BaseException:
            await self._remove_temporary(fid, spot.parent, name)
            raise
        await self._engine.flush(spot.parent)

    async def sync(self, path: Path) -> None:
        attributes = await self._paths.existing(path)
        await self._engine.flush(attributes.fid)

    async def _open(self, path: Path, mode: FileMode, permissions: int) -> MirroredFile:
        for _ in range(OPEN_ATTEMPTS_MAX):
            fid = await self._try_open(path, mode, permissions)
            if fid:
                # One for all who append to this file, for as long as one of them has it open.
                appending = self._appending.setdefault(fid, _Appending())
                handle = _StreamHandle(self._engine, fid, path, self._clock_ns, appending)
                return MirroredFile(handle, mode, path)
        raise _error(errno.ESTALE, path)

    async def _try_open(self, path: Path, mode: FileMode, permissions: int) -> int:
        """The fid of the file, which may have been made; 0 if it comes and goes: try again."""
        spot = await self._paths.find(path, follow=not mode.is_exclusive)
        found = spot.attributes
        if found is None:
            if not mode.creates:
                raise _error(errno.ENOENT, path)
            try:
                return await self._create(spot.parent, spot.name, permissions, path)
            except FileExistsError:
                if mode.is_exclusive:
                    raise
                return 0
        if mode.is_exclusive:
            raise _error(errno.EEXIST, path)
        if found.kind is not Kind.FILE:
            raise _error(errno.EISDIR if spot.is_directory else errno.EINVAL, path)
        if mode.truncates:
            try:
                await self._change(Truncate(found.fid, 0, self._clock_ns()), path)
            except OSError as error:
                if error.errno == errno.ESTALE:
                    return 0
                raise
        return found.fid

    async def _create(self, parent: int, name: str, permissions: int, path: Path) -> int:
        create = Create(0, parent, name, permissions, OWN_USER, OWN_USER, self._clock_ns())
        done = await self._change(create, path)
        if not isinstance(done, Create):
            raise TypeError(f"creating {path} gave {done!r}")
        return done.fid

    async def _create_temporary(
        self, spot: Spot, permissions: int, path: Path, *, is_alike: bool
    ) -> tuple[int, str]:
        while True:
            self._temporaries += 1
            tag = f"{self._clock_ns():x}-{self._temporaries}"
            name = temporary_name(tag, spot.name, is_alike=is_alike)
            try:
                return await self._create(spot.parent, name, permissions, path), name
            except FileExistsError:
                continue

    async def _remove_temporary(self, fid: int, parent: int, name: str) -> None:
        # The failure that brought us here is the one to report; and what cannot be removed now, as
        # on a node that just lost its authority, is told by its name.
        with trio.move_on_after(CLEANUP_S, shield=True):
            try:
                await self._engine.change(Unlink(fid, parent, name, self._clock_ns()))
            except (OSError, MirrorHAError):
                return

    async def _mkdir(self, path: Path, *, exist_ok: bool, permissions: int) -> None:
        spot = await self._paths.find(path, follow=False)
        if spot.attributes is None:
            now_ns = self._clock_ns()
            mkdir = Mkdir(0, spot.parent, spot.name, permissions, OWN_USER, OWN_USER, now_ns)
            try:
                await self._change(mkdir, path)
            except FileExistsError:
                pass  # somebody else was quicker
            else:
                return
        if not exist_ok or not (await self._paths.find(path)).is_directory:
            raise _error(errno.EEXIST, path)

    async def _change(self, op: AnyOp, path: Path) -> AnyOp | None:
        return await _naming(self._engine, op, path)


@final
class _StreamHandle:
    """A file that is reached through the engine.

    One that is removed while it is open can no longer be used: ESTALE.
    """

    def __init__(
        self,
        engine: Engine,
        fid: int,
        path: Path,
        clock_ns: Callable[[], int],
        appending: _Appending,
    ) -> None:
        self._engine: Final = engine
        self._fid: Final = fid
        self._path: Final = path
        self._clock_ns: Final = clock_ns
        self._appending: Final = appending

    async def pread(self, length: int, offset: int) -> bytes:
        parts: list[bytes] = []
        left = length if length >= 0 else None
        while left is None or left > 0 or not parts:
            size = READ_BYTES_MAX if left is None else min(left, READ_BYTES_MAX)
            data = await self._engine.query(ReadBytes(self._fid, offset, size))
            if not isinstance(data, bytes):
                raise _error(errno.ESTALE, self._path)
            parts.append(data)
            if len(data) < size:
                break
            offset += size
            left = None if left is None else left - size
        return b"".join(parts)

    async def pwrite(self, data: bytes, offset: int) -> int:
        op = Write(self._fid, offset, data, self._clock_ns())
        done = await _naming(self._engine, op, self._path)
        return len(done.data) if isinstance(done, Write) else 0

    async def append(self, data: bytes) -> tuple[int, int]:
        # Atomic towards others who append. Whoever extends the file otherwise at the same time
        # competes for its end, as everywhere.
        async with self._appending.lock:
            offset = await self.size()
            took = await self.pwrite(data, offset)
            return took, offset + took

    async def truncate(self, size: int) -> None:
        await _naming(self._engine, Truncate(self._fid, size, self._clock_ns()), self._path)

    async def size(self) -> int:
        attributes = await self._engine.query(ReadAttributes(self._fid))
        if not isinstance(attributes, Attributes):
            raise _error(errno.ESTALE, self._path)
        return attributes.size_bytes

    async def sync(self) -> None:
        await self._engine.flush(self._fid)

    async def sync_data(self) -> None:
        await self._engine.flush(self._fid, data_only=True)

    async def close(self) -> None:
        """There is nothing to close."""


@final
class _Appending:
    """Held by whoever appends to a file; one for all who have it open for that."""

    def __init__(self) -> None:
        self.lock: Final = trio.Lock()


async def _naming(engine: Engine, op: AnyOp, path: Path) -> AnyOp | None:
    """Make a change; an OSError gets the path that the application knows."""
    try:
        return await engine.change(op)
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), os.fspath(path))
