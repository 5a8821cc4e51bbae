"""What a program holds of one replicated directory: its file API, while the program runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import NotPrimaryError
from mirrorha.volume.files.streamed import Files

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest
    from mirrorha.volume.engine import Engine
    from mirrorha.volume.ops import AnyOp

_NOT_OPEN: Final = "the node does not run, or has not opened this directory yet"


@final
class Replicator:
    """A replicated directory. Every write is on both nodes before it returns, where there are two.

    Paths are relative to the directory, or absolute ones below it. Methods are those of
    `mirrorha.volume.files.api.FileApi`, all of them asynchronous but `open`:
    `async with data.open("journal", "r+b") as file: await file.write(b"…"); await file.fsync()`.

    Made by `Cluster.replicate`. Writes raise `NotPrimaryError` on a node that may not write, and
    `OutcomeUnknownError` if it lost that right while they were pending.
    """

    def __init__(self, path: str, *, engine: Callable[[], Engine | None]) -> None:
        self.path: Final = path
        self._files: Final = Files(path, _Current(engine), clock_ns=time.time_ns)
        self.open: Final = self._files.open
        self.mkdir: Final = self._files.mkdir
        self.rename: Final = self._files.rename
        self.unlink: Final = self._files.unlink
        self.rmdir: Final = self._files.rmdir
        self.listdir: Final = self._files.listdir
        self.stat: Final = self._files.stat
        self.exists: Final = self._files.exists
        self.symlink: Final = self._files.symlink
        self.readlink: Final = self._files.readlink
        self.read_bytes: Final = self._files.read_bytes
        self.write_bytes: Final = self._files.write_bytes
        self.replace_atomically: Final = self._files.replace_atomically
        self.sync: Final = self._files.sync

    def __repr__(self) -> str:
        return f"Replicator({self.path!r})"


@final
class _Current:
    """The engine that there is now: another one after each start of the node."""

    def __init__(self, engine: Callable[[], Engine | None]) -> None:
        self._engine: Final = engine

    async def change(self, op: AnyOp) -> AnyOp | None:
        return await self._get().change(op)

    async def flush(self, fid: int) -> None:
        await self._get().flush(fid)

    async def query(self, request: AnyRequest) -> object:
        return await self._get().query(request)

    def _get(self) -> Engine:
        engine = self._engine()
        if engine is None:
            raise NotPrimaryError(primary=None, why=_NOT_OPEN)
        return engine
