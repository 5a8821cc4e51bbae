"""Answers to the kernel: what they look like, and what it may remember of them.

`Desk` also counts what the kernel knows: every entry that it is given is one more reference to an
inode, until it says that it forgot it. Until then it may ask for attributes, even of what has no
name any more and is not open: the working directory that somebody removed.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.events import Failure
from mirrorha.volume.fuse.freshness import CACHED
from mirrorha.volume.fuse.kernel import (
    ATTR_OUT,
    CREATE_OUT,
    DIRENTPLUS,
    ENTRY_OUT,
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    OPEN_OUT,
    OUT_HEADER,
)

if TYPE_CHECKING:
    import os

    from mirrorha.volume.events import Reply
    from mirrorha.volume.fuse.device import Device
    from mirrorha.volume.fuse.interface import View

_log: Final = logging.getLogger(__name__)

#: How long the kernel may believe what it was told, while nobody but its own users changes files.
_CACHED_S: Final = 86_400
_NS: Final = 1_000_000_000
_UNSIGNED: Final = 0xFFFFFFFF
# Bugs are logged one by one at first, then now and then.
_LOGGED_MAX: Final = 20
_LOGGED_EVERY: Final = 1_000


@final
class Failures:
    """Handlers that failed by a bug: counted, and logged with restraint."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, what: str) -> None:
        """Note the exception that is being handled."""
        self.count += 1
        if self.count <= _LOGGED_MAX or self.count % _LOGGED_EVERY == 0:
            _log.exception("a bug in mirrorha's mount (number %d): %s", self.count, what)


def errno_of(reply: Reply) -> int:
    """What the caller of a change is told; 0 if it was made."""
    match reply.failure:
        case Failure.NONE:
            return 0
        case Failure.ERRNO:
            return reply.errno or errno.EIO
        case Failure.NOT_PRIMARY:
            return errno.EROFS
        case Failure.WITHDRAWN:
            return errno.EINTR
        case Failure.UNKNOWN:
            return errno.EIO


@final
class Desk:
    """Answers requests. `serving` says how long what is answered holds."""

    def __init__(self, device: Device, view: View) -> None:
        self.device: Final = device
        self.view: Final = view
        self.serving = False
        self.known: Final[dict[int, int]] = {}  # fid: references that the kernel has
        self.failures: Final = Failures()
        self._departed: Final[dict[int, os.stat_result]] = {}

    # ---- answers -------------------------------------------------------------------------------

    def error(self, unique: int, number: int) -> None:
        """Refuse; 0 says that it is done."""
        self.device.reply(OUT_HEADER.pack(OUT_HEADER.size, -number, unique))

    def data(self, unique: int, data: bytes | memoryview) -> bool:
        """Answer with bytes. False: nobody waits for them."""
        header = OUT_HEADER.pack(OUT_HEADER.size + len(data), 0, unique)
        return self.device.reply_parts((header, data))

    def attributes(self, unique: int, fid: int) -> None:
        """Answer with a file's attributes."""
        self.device.reply(
            ATTR_OUT.pack(
                ATTR_OUT.size, 0, unique, self._valid_s(), 0, *packed(fid, *self.status(fid))
            )
        )

    def entry(self, unique: int, fid: int) -> None:
        """Answer with what a name stands for."""
        valid_s = self._valid_s()
        head = (fid, 0, valid_s, valid_s, 0, 0)
        attributes = packed(fid, *self.view.status(fid))
        self.refer(fid)
        if not self.device.reply(ENTRY_OUT.pack(ENTRY_OUT.size, 0, unique, *head, *attributes)):
            self.forget(fid, 1)

    def opened(self, unique: int, fid: int) -> bool:
        """Answer that a file is open. False: nobody waits for it, nor will release it."""
        return self.device.reply(OPEN_OUT.pack(OPEN_OUT.size, 0, unique, *self._handle(fid)))

    def opened_directory(self, unique: int, handle: int) -> bool:
        """Answer that a directory is open. As `opened`."""
        return self.device.reply(OPEN_OUT.pack(OPEN_OUT.size, 0, unique, handle, 0))

    def created(self, unique: int, fid: int) -> bool:
        """Answer that a file was made and is open. As `opened`."""
        valid_s = self._valid_s()
        head = (fid, 0, valid_s, valid_s, 0, 0)
        attributes = packed(fid, *self.view.status(fid))
        self.refer(fid)
        handle = self._handle(fid)
        reply = CREATE_OUT.pack(CREATE_OUT.size, 0, unique, *head, *attributes, *handle)
        if self.device.reply(reply):
            return True
        self.forget(fid, 1)
        return False

    def full_entry(self, fid: int, offset: int, name: bytes, type_: int) -> bytes:
        """One name of a READDIRPLUS, not padded. It does not count as a reference yet."""
        valid_s = self._valid_s()
        head = (fid, 0, valid_s, valid_s, 0, 0)
        attributes = packed(fid, *self.view.status(fid))
        return DIRENTPLUS.pack(*head, *attributes, fid, offset, len(name), type_) + name

    def _valid_s(self) -> int:
        return _CACHED_S if self.serving else 0

    def _handle(self, fid: int) -> tuple[int, int]:
        """The handle of a file that is opened now, and how."""
        return (fid | CACHED, FOPEN_KEEP_CACHE) if self.serving else (fid, FOPEN_DIRECT_IO)

    # ---- what the kernel knows -----------------------------------------------------------------

    def refer(self, fid: int) -> None:
        """The kernel is told of `fid` once more."""
        known = self.known
        known[fid] = known.get(fid, 0) + 1

    def forget(self, fid: int, count: int) -> bool:
        """The kernel gives references back. True: it has none any more."""
        left = self.known.get(fid, 0) - count
        if left > 0:
            self.known[fid] = left
            return False
        self.known.pop(fid, None)
        self._departed.pop(fid, None)
        return True

    # ---- what has no name any more ---------------------------------------------------------------

    def status(self, fid: int) -> tuple[os.stat_result, int]:
        """As the view's, but also of what the kernel alone still knows."""
        try:
            return self.view.status(fid)
        except OSError:
            if fid not in self._departed:
                raise
            return self._departed[fid], 0

    def depart(self, fid: int, status: os.stat_result) -> None:
        """A name of `fid` was removed; it may have been the last one.

        Args:
            status: As it was before that.
        """
        if fid in self.known and not self.view.names(fid):
            self._departed[fid] = status


def packed(fid: int, status: os.stat_result, links: int) -> tuple[int, ...]:
    """The fields of `fuse_attr`."""
    atime, atime_ns = divmod(status.st_atime_ns, _NS)
    mtime, mtime_ns = divmod(status.st_mtime_ns, _NS)
    ctime, ctime_ns = divmod(status.st_ctime_ns, _NS)
    return (
        *(fid, status.st_size, status.st_blocks),
        *(atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns),
        *(status.st_mode, links, status.st_uid, status.st_gid),
        # Python has the C library's device number, whose low half is the kernel's.
        *(status.st_rdev & _UNSIGNED, status.st_blksize, 0),
    )
