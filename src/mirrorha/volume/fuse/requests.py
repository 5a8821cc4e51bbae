"""One request of the kernel, and the texts in it."""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

from mirrorha.volume.names import text_of
from mirrorha.wire.limits import NAME_BYTES_MAX


class Request(NamedTuple):
    """What the kernel asks for, on behalf of whom. `body` is only valid while it is handled."""

    unique: int
    fid: int
    uid: int
    gid: int
    body: memoryview


_END: Final = b"\0"


def raw_names(body: memoryview, count: int) -> list[bytes]:
    """The first `count` texts of a request, each of which a zero ends.

    Raises:
        OSError: EINVAL, there are fewer.
    """
    parts = bytes(body).split(_END, count)
    if len(parts) <= count:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return parts[:count]


def name_in(body: memoryview) -> str:
    """The one name that a request ends with.

    Raises:
        OSError: ENAMETOOLONG, no directory can hold it; EINVAL.
    """
    return as_name(raw_names(body, 1)[0])


def as_name(raw: bytes) -> str:
    """A name as ops have it.

    Raises:
        OSError: ENAMETOOLONG.
    """
    if len(raw) > NAME_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return text_of(raw)
