"""Open directories, as they are listed.

A listing is a snapshot, taken when it begins: whatever happens meanwhile, a name that was there all
the time is listed once. What has gone since is left out.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.fuse.interface import Listed
from mirrorha.volume.fuse.kernel import DIRENT, DIRENTPLUS, RECORD_ALIGN
from mirrorha.volume.names import bytes_of

if TYPE_CHECKING:
    from mirrorha.volume.fuse.replies import Desk

_DIRECTORY: Final = stat.S_IFDIR >> 12
_DOTS: Final = frozenset({".", ".."})
# How a READDIRPLUS says that there is nothing to know of a name.
_UNKNOWN: Final = bytes(DIRENTPLUS.size - DIRENT.size)
_NO_INODE: Final = bytes(8)


@final
class Directories:
    """The listings under way, by the handle that the kernel has for each."""

    def __init__(self, desk: Desk) -> None:
        self._desk: Final = desk
        self._handles = 0
        self._open: Final[dict[int, list[Listed]]] = {}

    def open(self) -> int:
        """A handle for one more listing."""
        self._handles += 1
        self._open[self._handles] = []
        return self._handles

    def release(self, handle: int) -> None:
        """A listing is over."""
        self._open.pop(handle, None)

    def read(self, fid: int, handle: int, *, offset: int, size: int) -> bytes:
        """Names of the directory `fid` from place `offset` on, as many as fit in `size` bytes."""
        return self._read(fid, handle, offset, size, is_full=False)[0]

    def read_full(
        self, fid: int, handle: int, *, offset: int, size: int
    ) -> tuple[bytes, list[int]]:
        """The same with attributes, and what counts as looked up once the kernel has them."""
        return self._read(fid, handle, offset, size, is_full=True)

    def _read(
        self, fid: int, handle: int, offset: int, size: int, *, is_full: bool
    ) -> tuple[bytes, list[int]]:
        listing = self._listing(fid, handle, offset)
        answer = bytearray()
        looked_up = []
        for place in range(offset, len(listing)):
            listed = listing[place]
            if not self._is_there(fid, listed):
                continue
            record = self._record(listed, place + 1, is_full=is_full)
            record += bytes(-len(record) % RECORD_ALIGN)
            if len(answer) + len(record) > size:
                break
            answer += record
            if is_full and not record.startswith(_NO_INODE):
                looked_up.append(listed.fid)
        return bytes(answer), looked_up

    def _listing(self, fid: int, handle: int, offset: int) -> list[Listed]:
        if handle not in self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if offset == 0:
            view = self._desk.view
            dots = [Listed(".", fid, _DIRECTORY), Listed("..", view.parent(fid), _DIRECTORY)]
            self._open[handle] = dots + view.list_directory(fid)
        return self._open[handle]

    def _is_there(self, directory: int, listed: Listed) -> bool:
        if listed.name in _DOTS:
            return True
        try:
            return self._desk.view.lookup(directory, listed.name) == listed.fid
        except OSError:
            return False

    def _record(self, listed: Listed, offset: int, *, is_full: bool) -> bytes:
        name = bytes_of(listed.name)
        if is_full and listed.name not in _DOTS:
            try:
                return self._desk.full_entry(listed.fid, offset, name, listed.type)
            except OSError:
                pass  # a name without attributes then: whoever wants them gets the error
        record = DIRENT.pack(listed.fid, offset, len(name), listed.type) + name
        return _UNKNOWN + record if is_full else record
