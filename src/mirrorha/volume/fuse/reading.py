"""Requests that change nothing: answered at once, from this node's tree. A cold READ: later.

Each handler answers or raises OSError, which becomes the answer.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.fuse.cold_reads import ColdReads
from mirrorha.volume.fuse.freshness import CACHED
from mirrorha.volume.fuse.kernel import (
    GETXATTR_IN,
    GETXATTR_OUT,
    LSEEK_IN,
    LSEEK_OUT,
    READ_IN,
    RELEASE_IN,
    STATFS_OUT,
    Opcode,
)
from mirrorha.volume.fuse.requests import name_in, raw_names
from mirrorha.volume.names import TRUSTED, bytes_of, text_of
from mirrorha.wire.limits import WRITE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import Space
    from mirrorha.volume.fuse.directories import Directories
    from mirrorha.volume.fuse.freshness import Freshness
    from mirrorha.volume.fuse.pending import Orphans
    from mirrorha.volume.fuse.replies import Desk
    from mirrorha.volume.fuse.requests import Request

_NAME_BYTES_MAX: Final = 255


@final
class Reading:
    """Handles what only looks."""

    def __init__(
        self,
        desk: Desk,
        directories: Directories,
        orphans: Orphans,
        freshness: Freshness,
        peer_space: Callable[[], Space | None] = lambda: None,
    ) -> None:
        self._desk: Final = desk
        self._view: Final = desk.view
        self._directories: Final = directories
        self._orphans: Final = orphans
        self._freshness: Final = freshness
        self._buffer: Final = memoryview(bytearray(WRITE_BYTES_MAX))
        self._cold: Final = ColdReads(desk)
        self._peer_space: Final = peer_space

    def handlers(self) -> dict[int, Callable[[Request], None]]:
        """Who handles what."""
        return {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.READLINK: self._readlink,
            Opcode.READ: self._read,
            Opcode.LSEEK: self._seek,
            Opcode.STATFS: self._statfs,
            Opcode.RELEASE: self._release,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._releasedir,
        }

    def longest_ms(self) -> int:
        """How long the oldest read that waits for the disk has done so; 0 if none does."""
        return self._cold.longest_ms()

    def close(self) -> None:
        """Answer nothing any more."""
        self._cold.close()

    def _lookup(self, request: Request) -> None:
        fid = self._view.lookup(request.fid, name_in(request.body))
        if fid:
            self._desk.entry(request.unique, fid)
        else:
            # Never an entry that says so: what the kernel remembers not to be there, nobody can
            # make it forget when this node no longer makes the changes.
            self._desk.error(request.unique, errno.ENOENT)

    def _getattr(self, request: Request) -> None:
        self._desk.attributes(request.unique, request.fid)

    def _readlink(self, request: Request) -> None:
        self._desk.data(request.unique, self._view.readlink(request.fid))

    def _read(self, request: Request) -> None:
        handle, offset, size, _, _, _ = READ_IN.unpack_from(request.body)
        unique, fid = request.unique, request.fid
        into = self._buffer[:size]  # as much as was agreed on, at most
        count = self._view.read_at_hand(fid, offset, into)
        if count < 0:
            self._cold.read(unique, fid, offset, len(into), lambda: self._was_read(fid, handle))
            return
        self._desk.data(unique, into if count == size else into[:count])
        if handle & CACHED:
            self._was_read(fid, handle)

    def _was_read(self, fid: int, handle: int) -> None:
        if handle & CACHED and not self._desk.serving:
            self._freshness.was_read(fid)

    def _seek(self, request: Request) -> None:
        _, offset, whence = LSEEK_IN.unpack_from(request.body)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        found = self._view.seek(request.fid, offset, whence)
        self._desk.device.reply(LSEEK_OUT.pack(LSEEK_OUT.size, 0, request.unique, found))

    def _statfs(self, request: Request) -> None:
        seen = self._view.statfs()
        self._desk.device.reply(
            STATFS_OUT.pack(
                *(STATFS_OUT.size, 0, request.unique),
                *smaller(seen, self._peer_space()),
                *(seen.f_bsize, _NAME_BYTES_MAX, seen.f_frsize),
            )
        )

    def _release(self, request: Request) -> None:
        self._view.release(request.fid)
        self._orphans.released(request.fid)
        self._desk.error(request.unique, 0)

    def _getxattr(self, request: Request) -> None:
        (size,) = GETXATTR_IN.unpack_from(request.body)
        name = text_of(raw_names(request.body[GETXATTR_IN.size :], 1)[0])
        self._answer_sized(request.unique, self._view.xattr(request.fid, name), size)

    def _listxattr(self, request: Request) -> None:
        (size,) = GETXATTR_IN.unpack_from(request.body)
        names = self._view.xattrs(request.fid)
        if request.uid:
            names = [name for name in names if not name.startswith(TRUSTED)]
        listed = b"".join(bytes_of(name) + b"\0" for name in names)
        self._answer_sized(request.unique, listed, size)

    def _answer_sized(self, unique: int, data: bytes, size: int) -> None:
        """Answer with the data, or with its length to who has no room for anything."""
        if not size:
            length = len(data)
            self._desk.device.reply(GETXATTR_OUT.pack(GETXATTR_OUT.size, 0, unique, length))
        elif len(data) > size:
            self._desk.error(unique, errno.ERANGE)
        else:
            self._desk.data(unique, data)

    def _opendir(self, request: Request) -> None:
        self._view.open(request.fid)
        handle = self._directories.open()
        if not self._desk.opened_directory(request.unique, handle):
            self._directories.release(handle)
            self._view.release(request.fid)

    def _readdir(self, request: Request) -> None:
        handle, offset, size, _, _, _ = READ_IN.unpack_from(request.body)
        data = self._directories.read(request.fid, handle, offset=offset, size=size)
        self._desk.data(request.unique, data)

    def _readdirplus(self, request: Request) -> None:
        handle, offset, size, _, _, _ = READ_IN.unpack_from(request.body)
        data, fids = self._directories.read_full(request.fid, handle, offset=offset, size=size)
        if self._desk.data(request.unique, data):
            for fid in fids:
                self._desk.refer(fid)

    def _releasedir(self, request: Request) -> None:
        (handle, _, _, _) = RELEASE_IN.unpack_from(request.body)
        self._directories.release(handle)
        self._release(request)


def smaller(mine: os.statvfs_result, theirs: Space | None) -> tuple[int, int, int, int, int]:
    """What there is room for on both: blocks of mine, those free, available; files, those free.

    Each is the smaller of two, so on neither side more is free than there is.
    """
    files, files_free = mine.f_files, mine.f_ffree
    if theirs is None:
        return mine.f_blocks, mine.f_bfree, mine.f_bavail, files, files_free
    if theirs.files:
        is_limited = files > 0
        files = min(files, theirs.files) if is_limited else theirs.files
        files_free = min(files_free, theirs.files_free) if is_limited else theirs.files_free
    unit_bytes = mine.f_frsize
    return (
        min(mine.f_blocks, theirs.total_bytes // unit_bytes),
        min(mine.f_bfree, theirs.free_bytes // unit_bytes),
        min(mine.f_bavail, theirs.available_bytes // unit_bytes),
        files,
        files_free,
    )
