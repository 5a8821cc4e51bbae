"""The kernel's end of a mount: /dev/fuse, and what is agreed on over it at the start.

One request is read at a time, into one buffer; whoever keeps a part of it copies it. A reply is one
write, which the kernel takes whole or not at all: so replies and notices may come from several
threads.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.volume.fuse.kernel import (
    BUFFER_BYTES_MIN,
    IN_HEADER,
    INIT_IN,
    INIT_OUT,
    MAJOR,
    MINOR,
    MINOR_MIN,
    OUT_HEADER,
    WRITE_IN,
    Init,
)
from mirrorha.wire.limits import WRITE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

_log: Final = logging.getLogger(__name__)

#: What `receive` returns if there is no request: none now, or none ever again.
NOTHING: Final = 0
ENDED: Final = -1

_PAGE_BYTES: Final = 4096
_BUFFER_BYTES: Final = max(BUFFER_BYTES_MIN, IN_HEADER.size + WRITE_IN.size + WRITE_BYTES_MAX)
# A signal arrived, or whoever asked was killed between our wake-up and our read.
_AGAIN: Final = frozenset({errno.EINTR, errno.ENOENT})
_OVER: Final = frozenset({errno.ENODEV, errno.ECONNABORTED})
# What the kernel may have under way of its own accord: readahead, and write-back of mappings.
_BACKGROUND_MAX: Final = 64
_CONGESTED: Final = 48

# No WRITEBACK_CACHE: it acknowledges writes that we have not seen. No POSIX_LOCKS, no FLOCK_LOCKS:
# locks that the kernel keeps are right on a file system with one writing node.
WANTED: Final = (
    Init.ASYNC_READ
    | Init.ATOMIC_O_TRUNC
    | Init.BIG_WRITES
    | Init.DONT_MASK
    | Init.DO_READDIRPLUS
    | Init.READDIRPLUS_AUTO
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS
    | Init.POSIX_ACL
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    | Init.HANDLE_KILLPRIV_V2
    | Init.SETXATTR_EXT
    | Init.INIT_EXT
    | Init.HAS_EXPIRE_ONLY
)


@attrs.frozen
class Agreement:
    """What kernel and server agreed on. `flags` are those that both know."""

    minor: int
    flags: Init


def negotiate(body: memoryview) -> tuple[bytes, Agreement | None]:
    """The answer to an INIT request, without its header; and what is agreed on.

    None: the kernel's protocol has another major number, and it will ask again with ours, or is
    older than Linux 5.4. Then the answer is empty in the latter case.
    """
    # Before 7.36 the request ended where `flags2` is now.
    major, minor, _, low, high = INIT_IN.unpack(bytes(body).ljust(INIT_IN.size, b"\0"))
    if major > MAJOR:
        return INIT_OUT.pack(0, 0, 0, MAJOR, MINOR, *[0] * 9)[OUT_HEADER.size :], None
    if major < MAJOR or minor < MINOR_MIN:
        return b"", None
    flags = WANTED & Init(low | (high << 32 if low & Init.INIT_EXT else 0))
    agreement = Agreement(min(minor, MINOR), flags)
    answer = INIT_OUT.pack(
        *(0, 0, 0),
        # Read ahead: it takes the smaller of this and what it has now (`connection.read_ahead`).
        *(MAJOR, agreement.minor, WRITE_BYTES_MAX, flags & 0xFFFFFFFF),
        *(_BACKGROUND_MAX, _CONGESTED, WRITE_BYTES_MAX),
        1,  # times are kept to the nanosecond
        *(WRITE_BYTES_MAX // _PAGE_BYTES, 0, flags >> 32),
    )
    return answer[OUT_HEADER.size :], agreement


@final
class Device:
    """An open, non-blocking /dev/fuse. Not closed here.

    `buffer` holds the last request that `receive` read. `unheard` counts replies that nobody waited
    for any more, which is ordinary; `refused` those that the kernel did not understand, which is a
    bug.
    """

    def __init__(self, fd: int) -> None:
        self.fd: Final = fd
        self.buffer: Final = bytearray(_BUFFER_BYTES)
        self.view: Final = memoryview(self.buffer)
        self.unheard = 0
        self.refused = 0
        self._into: Final = [self.buffer]

    def receive(self) -> int:
        """Read the next request: its length, NOTHING or ENDED. Never blocks."""
        while True:
            try:
                return os.readv(self.fd, self._into)
            except BlockingIOError:
                return NOTHING
            except OSError as error:
                if error.errno in _AGAIN:
                    continue
                if error.errno not in _OVER:
                    _log.error("the FUSE device cannot be read any more: %s", error)
                return ENDED

    def reply(self, data: bytes) -> bool:
        """Send a whole reply. False: nobody waits for it."""
        try:
            os.write(self.fd, data)
        except OSError as error:
            return self._not_sent(error, data)
        return True

    def reply_parts(self, parts: Sequence[bytes | memoryview]) -> bool:
        """Send a reply that is in parts, the header alone in the first. False: nobody waits."""
        try:
            os.writev(self.fd, parts)
        except OSError as error:
            return self._not_sent(error, bytes(parts[0]))
        return True

    def notify(self, code: int, parts: Sequence[bytes]) -> int:
        """Send a notice. The errno that the kernel answers, 0 if it is content. May block."""
        length = OUT_HEADER.size + sum(len(part) for part in parts)
        try:
            os.writev(self.fd, [OUT_HEADER.pack(length, code, 0), *parts])
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _not_sent(self, error: OSError, data: bytes) -> bool:
        if error.errno == errno.ENOENT or error.errno in _OVER:
            self.unheard += 1
            return False
        self.refused += 1
        _log.error("the kernel refuses a reply: %s", error)
        # Whoever waits for it must not do so for ever.
        unique = OUT_HEADER.unpack_from(data)[2]
        try:
            os.write(self.fd, OUT_HEADER.pack(OUT_HEADER.size, -errno.EIO, unique))
        except OSError:
            self.unheard += 1
        return False
