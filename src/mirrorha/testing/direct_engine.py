"""A volume on one node, without anything behind it: the file API over a disk alone.

For the tests of applications, and of the file API itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, final

import msgspec
import trio

from mirrorha.errors import NotPrimaryError
from mirrorha.volume.disk import Apply, Outcome, SyncFiles
from mirrorha.volume.ops import Create, Mkdir, Symlink, Write, make_fid

if TYPE_CHECKING:
    from mirrorha.volume.disk import AnyRequest, Disk
    from mirrorha.volume.ops import AnyOp

_DRAWING: Final = (Create, Mkdir, Symlink)


@final
class DirectEngine:
    """An engine for `mirrorha.volume.files.streamed.Files`.

    Args:
        disk: Where everything goes. One that blocks needs `in_threads`.
        in_threads: Perform requests in a thread, one at a time.
        epoch: Of the ids drawn.
    """

    def __init__(self, disk: Disk, *, in_threads: bool = False, epoch: int = 1) -> None:
        self._disk: Final = disk
        self._turn: Final = trio.Lock() if in_threads else None
        self._epoch: Final = epoch
        self._drawn = 0
        #: Set to refuse changes, as a node does that may not write.
        self.refuses = False
        #: What was flushed, in order.
        self.flushed: Final[list[int]] = []

    async def change(self, op: AnyOp) -> AnyOp | None:
        """See `mirrorha.volume.files.streamed.Engine`."""
        if self.refuses:
            await trio.lowlevel.checkpoint()
            raise NotPrimaryError(primary=None)
        if isinstance(op, _DRAWING):
            self._drawn += 1
            fid = make_fid(epoch=self._epoch, counter=self._drawn)
            op = msgspec.structs.replace(op, fid=fid)
        outcome = await self._perform(Apply(op))
        if not isinstance(outcome, Outcome):
            raise TypeError(f"applying {op} gave {outcome!r}")
        if outcome.errno and not isinstance(outcome.done, Write):
            raise OSError(outcome.errno, os.strerror(outcome.errno))
        return outcome.done

    async def flush(self, fid: int, *, data_only: bool = False) -> None:
        """See `mirrorha.volume.files.streamed.Engine`."""
        if self.refuses:
            await trio.lowlevel.checkpoint()
            raise NotPrimaryError(primary=None)
        await self._perform(SyncFiles([fid], [fid] if data_only else []))
        self.flushed.append(fid)

    async def query(self, request: AnyRequest) -> object:
        """See `mirrorha.volume.files.streamed.Engine`."""
        return await self._perform(request)

    async def _perform(self, request: AnyRequest) -> object:
        if self._turn is None:
            await trio.lowlevel.checkpoint()
            return self._disk.perform(request)
        async with self._turn:
            return await trio.to_thread.run_sync(self._disk.perform, request)
