"""What a program holds of one replicated directory: its file API, while the program runs."""

from __future__ import annotations

import os
import time
import weakref
from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.errors import NotPrimaryError
from mirrorha.volume.files.modes import FileMode
from mirrorha.volume.files.mounted import MountedFiles
from mirrorha.volume.files.open_file import Opening
from mirrorha.volume.files.streamed import Files

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest, Attributes
    from mirrorha.volume.driver import WorkerDriver
    from mirrorha.volume.engine import Engine
    from mirrorha.volume.files.api import Buffer, FileApi, Path
    from mirrorha.volume.files.open_file import MirroredFile
    from mirrorha.volume.ops import AnyOp

_NOT_OPEN: Final = "the node does not run, or has not opened this directory yet"
_NOT_MOUNTED: Final = "the directory is not mounted at this moment"


@final
class Replicator:
    """A replicated directory. Every write is on both nodes before it returns, where there are two.

    Paths are relative to the directory, or absolute ones below it. Methods are those of
    `mirrorha.volume.files.api.FileApi`, all of them asynchronous but `open`:
    `async with data.open("journal", "r+b") as file: await file.write(b"…"); await file.fsync()`.
    They are the same whether the directory is mounted or not.

    Made by `Cluster.replicate`. Writes raise `NotPrimaryError` on a node that may not write, and
    `OutcomeUnknownError` if it lost that right while they were pending.
    """

    def __init__(self, path: str, *, driver: Callable[[], Engine | WorkerDriver | None]) -> None:
        self.path: Final = path
        self._driver: Final = driver
        self._streamed: Final = Files(path, _Current(self._engine), clock_ns=time.time_ns)
        self._mount: Final = _Mount(path)

    def __repr__(self) -> str:
        return f"Replicator({self.path!r})"

    def open(self, path: Path, mode: str = "rb", *, permissions: int = 0o644) -> Opening:
        FileMode(mode)  # what is written wrong is said at once, whatever carries the file

        async def begin() -> MirroredFile:
            return await (await self._files()).open(path, mode, permissions=permissions)

        return Opening(begin)

    async def mkdir(
        self,
        path: Path,
        *,
        parents: bool = False,
        exist_ok: bool = False,
        permissions: int = 0o755,
    ) -> None:
        files = await self._files()
        await files.mkdir(path, parents=parents, exist_ok=exist_ok, permissions=permissions)

    async def rename(self, old: Path, new: Path) -> None:
        await (await self._files()).rename(old, new)

    async def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        await (await self._files()).unlink(path, missing_ok=missing_ok)

    async def rmdir(self, path: Path) -> None:
        await (await self._files()).rmdir(path)

    async def listdir(self, path: Path = ".") -> list[str]:
        return await (await self._files()).listdir(path)

    async def stat(self, path: Path, *, follow_symlinks: bool = True) -> Attributes:
        return await (await self._files()).stat(path, follow_symlinks=follow_symlinks)

    async def exists(self, path: Path) -> bool:
        return await (await self._files()).exists(path)

    async def symlink(self, target: str, path: Path) -> None:
        await (await self._files()).symlink(target, path)

    async def readlink(self, path: Path) -> str:
        return await (await self._files()).readlink(path)

    async def link(self, existing: Path, new: Path) -> None:
        await (await self._files()).link(existing, new)

    async def truncate(self, path: Path, size: int) -> None:
        await (await self._files()).truncate(path, size)

    async def chmod(self, path: Path, mode: int) -> None:
        await (await self._files()).chmod(path, mode)

    async def utime(
        self, path: Path, *, atime_ns: int, mtime_ns: int, follow_symlinks: bool = True
    ) -> None:
        files = await self._files()
        await files.utime(
            path, atime_ns=atime_ns, mtime_ns=mtime_ns, follow_symlinks=follow_symlinks
        )

    async def listxattr(self, path: Path) -> list[str]:
        return await (await self._files()).listxattr(path)

    async def getxattr(self, path: Path, name: str) -> bytes:
        return await (await self._files()).getxattr(path, name)

    async def setxattr(self, path: Path, name: str, value: Buffer) -> None:
        await (await self._files()).setxattr(path, name, value)

    async def removexattr(self, path: Path, name: str) -> None:
        await (await self._files()).removexattr(path, name)

    async def read_bytes(self, path: Path) -> bytes:
        return await (await self._files()).read_bytes(path)

    async def write_bytes(self, path: Path, data: Buffer) -> None:
        await (await self._files()).write_bytes(path, data)

    async def replace_atomically(self, path: Path, data: Buffer) -> None:
        await (await self._files()).replace_atomically(path, data)

    async def sync(self, path: Path) -> None:
        await (await self._files()).sync(path)

    async def _files(self) -> Files | MountedFiles:
        """Those of the driver that there is now: another one after each start of the node."""
        engine, worker = _one_of(self._driver())
        if worker is not None:
            return await self._mount.files(worker)
        if engine is None:
            raise NotPrimaryError(primary=None, why=_NOT_OPEN)
        return self._streamed

    def _engine(self) -> Engine | None:
        return _one_of(self._driver())[0]


def _one_of(
    driver: Engine | WorkerDriver | None,
) -> tuple[Engine | None, WorkerDriver | None]:
    # Whoever only puts a node together does not pay for this.
    from mirrorha.volume.engine import Engine  # noqa: PLC0415

    return (driver, None) if isinstance(driver, Engine) else (None, driver)


@final
class _Mount:
    """The mount of one worker, found once: its files, and nobody else's that has the same path."""

    def __init__(self, path: str) -> None:
        self._path: Final = path
        self._limiter: Final = trio.CapacityLimiter(1)
        self._found: tuple[WorkerDriver, MountedFiles] | None = None

    async def files(self, driver: WorkerDriver) -> MountedFiles:
        if self._found is None or self._found[0] is not driver:
            if not driver.status.mounted:
                raise NotPrimaryError(primary=None, why=_NOT_MOUNTED)
            files = await trio.to_thread.run_sync(
                self._open, limiter=self._limiter, abandon_on_cancel=True
            )
            self._found = (driver, files)
        return self._found[1]

    def _open(self) -> MountedFiles:
        from mirrorha.mount_table import mount_id_of, read_mount_table  # noqa: PLC0415
        from mirrorha.volume.fuse.mounting import is_ours  # noqa: PLC0415 - only where one is

        fd = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            entry = read_mount_table().entries.get(mount_id_of(fd))
            if entry is None or not entry.is_fuse or not is_ours(entry):
                raise NotPrimaryError(primary=None, why=_NOT_MOUNTED)
            files = MountedFiles(self._path, place=f"/proc/self/fd/{fd}")
        except BaseException:
            os.close(fd)
            raise
        # Whoever still uses the files of an earlier worker must not get to another place.
        weakref.finalize(files, os.close, fd)
        return files


@final
class _Current:
    """The engine that there is now: another one after each start of the node."""

    def __init__(self, engine: Callable[[], Engine | None]) -> None:
        self._engine: Final = engine

    async def change(self, op: AnyOp) -> AnyOp | None:
        return await self._get().change(op)

    async def flush(self, fid: int, *, data_only: bool = False) -> None:
        await self._get().flush(fid, data_only=data_only)

    async def query(self, request: AnyRequest) -> object:
        return await self._get().query(request)

    def _get(self) -> Engine:
        engine = self._engine()
        if engine is None:
            raise NotPrimaryError(primary=None, why=_NOT_OPEN)
        return engine


if TYPE_CHECKING:
    _: type[FileApi] = Replicator
