"""The blocks of an open file: their hashes, and what is on the device of them."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

import xxhash

from mirrorha.volume.local_disk.handles import read_range
from mirrorha.wire.limits import BLOCK_BYTES

_ZEROS: Final = bytes(BLOCK_BYTES)
# Blocks are read together up to this many, for a system call costs as much as hashing one.
_BLOCKS_AT_ONCE: Final = 16


def read_anew(fd: int, first: int, count: int) -> None:
    """See the request `ReadAnew`. Does not wait for the device."""
    if not hasattr(os, "posix_fadvise"):
        return
    offset, length = first * BLOCK_BYTES, count * BLOCK_BYTES
    with contextlib.suppress(OSError):  # it is advice
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)


def hash_blocks(fd: int, first: int, count: int, seed: int) -> list[bytes]:
    """See the request `HashBlocks`."""
    size_bytes = os.fstat(fd).st_size
    end = min(first + count, -(-size_bytes // BLOCK_BYTES))
    digests: list[bytes] = []
    block = first
    while block < end:
        data_block = min(_next_data(fd, block * BLOCK_BYTES, size_bytes) // BLOCK_BYTES, end)
        if data_block > block:
            digests += [b""] * (data_block - block)
            block = data_block
            continue
        some = min(_BLOCKS_AT_ONCE, end - block)
        data = read_range(fd, block * BLOCK_BYTES, some * BLOCK_BYTES)
        digests += [
            _digest(data[start : start + BLOCK_BYTES], seed)
            for start in range(0, len(data), BLOCK_BYTES)
        ]
        block += some
    return digests


def _digest(block: bytes, seed: int) -> bytes:
    if block == (_ZEROS if len(block) == BLOCK_BYTES else bytes(len(block))):
        return b""
    return xxhash.xxh3_128_digest(block, seed)


def _next_data(fd: int, offset: int, size_bytes: int) -> int:
    """Where the next data is, from `offset` on; the size if there is none."""
    if not hasattr(os, "SEEK_DATA"):
        return offset
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size_bytes + BLOCK_BYTES
        return offset
