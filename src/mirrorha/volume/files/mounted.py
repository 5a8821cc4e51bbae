"""The file API of a mounted volume: ordinary file I/O, in threads.

The mount is served by another process, which may hold a change back for as long as it is frozen. So
these threads have a limiter of their own: nothing else waits for one of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, TypeVar, cast, final

import trio

from mirrorha.errors import MirrorHAError, NotPrimaryError, ensure
from mirrorha.volume.disk import Attributes, Kind
from mirrorha.volume.files.modes import FileMode
from mirrorha.volume.files.open_file import MirroredFile, Opening
from mirrorha.volume.files.paths import parts_below, temporary_name
from mirrorha.volume.ops import DEVICE_KINDS
from mirrorha.wire.limits import WRITE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.files.api import Buffer, Path

T = TypeVar("T")

#: How many calls of one volume may wait in the kernel at the same time.
THREADS_MAX: Final = 40
READ_BYTES_MAX: Final = 64 * WRITE_BYTES_MAX
LINKS_MAX: Final = 40  # as many as the kernel follows
# What a failed replacement may take to remove its temporary file.
CLEANUP_S: Final = 5.0
_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


@final
class MountedFiles:
    """The files of one mounted volume. See `mirrorha.volume.files.api.FileApi`.

    Symlinks are the kernel's to follow. A call that was cancelled goes on in its thread.

    Args:
        root: Where it is mounted, absolute.
        place: By which path the kernel gets there, if not by that one: `/proc/self/fd/N` of a
            descriptor that stays open for as long as this is referred to. Whatever is mounted at
            `root` later, or nothing, is not taken for this volume then.
    """

    def __init__(self, root: Path, *, place: str | None = None) -> None:
        self._root: Final = PurePosixPath(os.fspath(root))
        self._place: Final = PurePosixPath(place or root)
        ensure(self._root.is_absolute(), "the root of a volume is absolute")
        self._limiter: Final = trio.CapacityLimiter(THREADS_MAX)
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
        at = self._at(path)

        def make() -> None:
            if parents:
                for parent in [*at.relative_to(self._place).parents][-2::-1]:
                    _mkdir(self._place / parent, permissions, exist_ok=True)
            _mkdir(at, permissions, exist_ok=exist_ok)

        await self._run(make, path)

    async def rename(self, old: Path, new: Path) -> None:
        source, target = self._at(old), self._at(new)
        await self._run(lambda: os.rename(source, target), old)

    async def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        at = self._at(path)
        try:
            await self._run(lambda: os.unlink(at), path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    async def rmdir(self, path: Path) -> None:
        at = self._at(path)
        await self._run(lambda: os.rmdir(at), path)

    async def listdir(self, path: Path = ".") -> list[str]:
        at = self._at(path)
        return sorted(await self._run(lambda: os.listdir(at), path))

    async def stat(self, path: Path, *, follow_symlinks: bool = True) -> Attributes:
        at = self._at(path)

        def look() -> Attributes:
            status = os.stat(at, follow_symlinks=follow_symlinks)
            is_link = stat.S_ISLNK(status.st_mode)
            return _attributes(status, os.readlink(at) if is_link else "")

        return await self._run(look, path)

    async def exists(self, path: Path) -> bool:
        at = self._at(path)
        try:
            await self._run(lambda: os.stat(at), path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def symlink(self, target: str, path: Path) -> None:
        at = self._at(path)
        await self._run(lambda: os.symlink(target, at), path)

    async def readlink(self, path: Path) -> str:
        at = self._at(path)
        return await self._run(lambda: os.readlink(at), path)

    async def link(self, existing: Path, new: Path) -> None:
        old, at = self._at(existing), self._at(new)
        await self._run(lambda: os.link(old, at, follow_symlinks=False), existing)

    async def truncate(self, path: Path, size: int) -> None:
        at = self._at(path)
        await self._run(lambda: os.truncate(at, size), path)

    async def chmod(self, path: Path, mode: int) -> None:
        at = self._at(path)
        await self._run(lambda: os.chmod(at, mode), path)

    async def utime(
        self, path: Path, *, atime_ns: int, mtime_ns: int, follow_symlinks: bool = True
    ) -> None:
        at, times = self._at(path), (atime_ns, mtime_ns)
        await self._run(lambda: os.utime(at, ns=times, follow_symlinks=follow_symlinks), path)

    async def listxattr(self, path: Path) -> list[str]:
        at = self._at(path)
        return sorted(await self._run(lambda: os.listxattr(at), path))

    async def getxattr(self, path: Path, name: str) -> bytes:
        at = self._at(path)
        return await self._run(lambda: os.getxattr(at, name), path)

    async def setxattr(self, path: Path, name: str, value: Buffer) -> None:
        at = self._at(path)
        await self._run(lambda: os.setxattr(at, name, value), path)

    async def removexattr(self, path: Path, name: str) -> None:
        at = self._at(path)
        await self._run(lambda: os.removexattr(at, name), path)

    async def read_bytes(self, path: Path) -> bytes:
        async with self.open(path, "rb") as file:
            return await file.read()

    async def write_bytes(self, path: Path, data: Buffer) -> None:
        async with self.open(path, "wb") as file:
            await file.write(data)

    async def replace_atomically(self, path: Path, data: Buffer) -> None:
        whole = bytes(data)
        try:
            await self._replace(path, whole, is_alike=False)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            await self._replace(path, whole, is_alike=True)

    async def _replace(self, path: Path, whole: bytes, *, is_alike: bool) -> None:
        at = self._at(path)
        self._temporaries += 1
        tag = f"{os.getpid()}-{self._temporaries}"

        def target() -> tuple[PurePosixPath, int]:
            real = self._end_of_links(at)
            try:
                mode = os.stat(real).st_mode
            except FileNotFoundError:
                return real, 0o644
            if stat.S_ISDIR(mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            return real, stat.S_IMODE(mode)

        real, permissions = await self._run(target, path)
        temporary = real.with_name(temporary_name(tag, real.name, is_alike=is_alike))
        try:
            await self._run(lambda: _write_new(temporary, whole, permissions), path)
            await self._run(lambda: os.replace(temporary, real), path)
        except BaseException:
            with trio.move_on_after(CLEANUP_S, shield=True):
                # The failure that brought us here is the one to report.
                with contextlib.suppress(OSError, MirrorHAError):
                    await self._run(lambda: os.unlink(temporary), path)
            raise
        await self._run(lambda: _sync(real.parent), path)

    async def sync(self, path: Path) -> None:
        at = self._at(path)
        await self._run(lambda: _sync(at), path)

    def _at(self, path: Path) -> PurePosixPath:
        return self._place.joinpath(*parts_below(self._root, path))

    def _end_of_links(self, at: PurePosixPath) -> PurePosixPath:
        """Where a name leads to that may be a symlink; `realpath` would leave the place."""
        for _ in range(LINKS_MAX):
            try:
                target = PurePosixPath(os.readlink(at))
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOENT):
                    return at
                raise
            inside = target.is_relative_to(self._root)
            at = self._place / target.relative_to(self._root) if inside else at.parent / target
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    async def _open(self, path: Path, mode: FileMode, permissions: int) -> MirroredFile:
        at = self._at(path)
        fd = await open_in_thread(
            partial(self._call, lambda: _open(at, mode, permissions)), path, self._limiter
        )
        return MirroredFile(KernelHandle(fd, path, self._limiter), mode, path)

    async def _run(self, call: Callable[[], T], path: Path) -> T:
        return await _in_thread(partial(self._call, call), path, self._limiter)

    def _call(self, call: Callable[[], T]) -> T:
        """In a thread, which refers to us by this: the place is there for as long as it is used."""
        return call()


@final
class KernelHandle:
    """A descriptor. Closed once it is both given up and out of use: its number may be used anew."""

    def __init__(self, fd: int, path: Path, limiter: trio.CapacityLimiter) -> None:
        self._fd: Final = fd
        self._path: Final = path
        self._limiter: Final = limiter
        self._lock: Final = threading.Lock()
        self._users = 1

    async def pread(self, length: int, offset: int) -> bytes:
        return await self.run(lambda fd: _read(fd, length, offset))

    async def pwrite(self, data: bytes, offset: int) -> int:
        return await self.run(lambda fd: os.pwrite(fd, data, offset))

    async def append(self, data: bytes) -> tuple[int, int]:
        def append(fd: int) -> tuple[int, int]:
            # Not O_APPEND: with that, a write at an offset would append as well.
            took = os.pwritev(fd, [data], 0, os.RWF_APPEND)
            return took, os.fstat(fd).st_size

        return await self.run(append)

    async def truncate(self, size: int) -> None:
        await self.run(lambda fd: os.ftruncate(fd, size))

    async def size(self) -> int:
        return await self.run(lambda fd: os.fstat(fd).st_size)

    async def sync(self) -> None:
        await self.run(os.fsync)

    async def sync_data(self) -> None:
        await self.run(os.fdatasync)

    async def close(self) -> None:
        # Shielded, or the descriptor would stay open.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._let_go, limiter=self._limiter)

    async def run(self, call: Callable[[int], T]) -> T:
        """Do something with the descriptor in a thread. Cancelled, it is done all the same."""
        with self._lock:
            self._users += 1
        # Whoever takes it first has the turn: the thread to use the descriptor, or we to give it
        # back, if we were cancelled before there was a thread.
        turn = threading.Lock()

        def use() -> T | None:
            if not turn.acquire(blocking=False):
                return None
            try:
                return call(self._fd)
            finally:
                self._let_go()

        try:
            result = await _in_thread(use, self._path, self._limiter)
        finally:
            if turn.acquire(blocking=False):
                self._let_go()
        return cast(T, result)

    def _let_go(self) -> None:
        with self._lock:
            self._users -= 1
            is_last = self._users == 0
        if is_last:
            os.close(self._fd)


async def open_in_thread(
    do_open: Callable[[], int], path: Path, limiter: trio.CapacityLimiter
) -> int:
    """Open a descriptor. If that is cancelled, whatever is opened all the same is closed."""
    turn = threading.Lock()
    opened: list[int] = []

    def work() -> int:
        opened.append(do_open())
        if not turn.acquire(blocking=False):
            os.close(opened[0])
        return opened[0]

    try:
        return await _in_thread(work, path, limiter)
    except BaseException:
        if not turn.acquire(blocking=False):
            # It was opened just before. Closing may block, and this is the loop's thread.
            threading.Thread(target=os.close, args=(opened[0],), daemon=True).start()
        raise


async def _in_thread(call: Callable[[], T], path: Path, limiter: trio.CapacityLimiter) -> T:
    """Run a system call in a thread. An OSError gets the path that the application knows.

    Cancelled, the call goes on: on a frozen volume it cannot be interrupted, and waiting for it
    would keep the application from ending.
    """
    try:
        return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)
    except OSError as error:
        if error.errno == errno.EROFS:
            raise NotPrimaryError(primary=None, why="the volume is read-only here") from error
        raise OSError(error.errno, os.strerror(error.errno or 0), os.fspath(path)) from error


def _open(at: PurePosixPath, mode: FileMode, permissions: int) -> int:
    _check_openable(at)
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    if mode.reads and mode.writes:
        flags |= os.O_RDWR
    else:
        flags |= os.O_WRONLY if mode.writes else os.O_RDONLY
    if mode.truncates:
        flags |= os.O_TRUNC
    if not mode.creates:
        return _no_directory(os.open(at, flags))
    while True:
        try:
            fd = os.open(at, flags | os.O_CREAT | os.O_EXCL, permissions)
        except FileExistsError:
            if mode.is_exclusive:
                raise
            try:
                # Without O_EXCL, that a dangling symlink is followed.
                return os.open(at, flags | (os.O_CREAT if os.path.islink(at) else 0), permissions)
            except FileNotFoundError:
                if not os.path.lexists(at.parent):
                    raise
                continue  # it went away in between
        os.fchmod(fd, permissions)  # whatever the umask
        return fd


def _check_openable(at: PurePosixPath) -> None:
    """To open a fifo or a device does something, and it is no file."""
    try:
        mode = os.stat(at).st_mode
    except OSError:
        return  # the open says why, or makes it
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _no_directory(fd: int) -> int:
    """The kernel opens directories, and only refuses to read them. This API opens files."""
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    return fd


def _mkdir(at: PurePosixPath, permissions: int, *, exist_ok: bool) -> None:
    try:
        os.mkdir(at, permissions)
    except FileExistsError:
        if not exist_ok or not os.path.isdir(at):
            raise
    else:
        os.chmod(at, permissions)  # whatever the umask


def _read(fd: int, length: int, offset: int) -> bytes:
    parts: list[bytes] = []
    left = length if length >= 0 else None
    while left is None or left > 0:
        data = os.pread(fd, READ_BYTES_MAX if left is None else min(left, READ_BYTES_MAX), offset)
        parts.append(data)
        offset += len(data)
        left = None if left is None else left - len(data)
        if not data:
            break
    return b"".join(parts)


def _write_new(at: PurePosixPath, whole: bytes, permissions: int) -> None:
    fd = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(whole)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fchmod(fd, permissions)
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync(at: PurePosixPath) -> None:
    fd = os.open(at, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _attributes(status: os.stat_result, target: str) -> Attributes:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    return Attributes(
        fid=status.st_ino,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size_bytes=status.st_size if kind is Kind.FILE else 0,
        mtime_ns=status.st_mtime_ns,
        target=target,
        links=1 if kind is Kind.DIRECTORY else status.st_nlink,
        rdev=status.st_rdev if kind in DEVICE_KINDS else 0,
        atime_ns=status.st_atime_ns,
    )
