"""The one way in which mirrorha replaces a file that must survive a crash.

Everything here blocks, for as long as the disk takes: call it from a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TEMPORARY: Final = re.compile(r"[0-9a-f]{16}\.tmp")
# Absent on Windows, where a directory cannot be opened, nor a new file replaced by a link.
_O_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
_O_NEW: Final = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)


class ReplacementUnknownError(OSError):
    """The disk failed while the file was being replaced: it has the old bytes or the new ones.

    What a read finds now need not be what a read finds after a power loss. Do not build upon
    either: treat the disk as failing.
    """


def write_atomically(
    path: Path, data: bytes, *, mode: int = 0o600, fsync: Callable[[int], None] = os.fsync
) -> None:
    """Make `data` the content of `path`, durably; at no moment is it half of anything.

    Writes a temporary file beside it, fsyncs that, renames it and fsyncs the directory. Several
    writers do no harm to each other: the last rename wins. A symbolic link at `path` is replaced,
    not followed. A crash can leave a temporary file behind, see `remove_leftovers`.

    Args:
        path: The file; its directory must exist.
        data: All of its new content.
        mode: Permissions of the new file, less what the umask takes away. By default nobody
            else reads it.
        fsync: Makes a descriptor's file durable. Tests watch and fail it.

    Raises:
        ReplacementUnknownError: the failure came after the rename had begun.
        OSError: any other: `path` is untouched, and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        _write_new(temporary, data, mode, fsync)
    except BaseException:
        _remove(temporary)
        raise
    try:
        os.replace(temporary, path)
        _sync_directory(path.parent, fsync)
    except OSError as error:
        _remove(temporary)
        raise ReplacementUnknownError(
            error.errno, f"the disk failed while the file was being replaced: {error.strerror}"
        ) from error


def make_durable(path: Path, *, fsync: Callable[[int], None] = os.fsync) -> None:
    """Make what is at `path` now durable, name and content.

    For whoever acts on a file that another process has written: that may have been killed after
    the rename and before the sync of the directory, and a power loss would bring back the old one.

    Args:
        path: The file.
        fsync: As for `write_atomically`.

    Raises:
        OSError: it cannot be done, or there is no such file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync_directory(path.parent, fsync)


def read_bytes_or_none(path: Path, *, bytes_max: int | None = None) -> bytes | None:
    """Return the content of `path`, or None if there is no such file.

    Args:
        path: The file.
        bytes_max: Read no more than this; a larger file is an error.

    Raises:
        OSError: it cannot be read, or is larger than `bytes_max` (errno EFBIG).
    """
    try:
        with path.open("rb") as file:
            if bytes_max is None:
                return file.read()
            data = file.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    if len(data) > bytes_max:
        raise OSError(errno.EFBIG, f"the file has more than {bytes_max} bytes", str(path))
    return data


def remove_leftovers(path: Path) -> int:
    """Remove the temporary files that crashed writers of `path` left; return how many.

    Only for whoever owns `path`, at a moment when nobody can be writing it: a live writer's
    temporary file would go as well, and its write fail.

    Raises:
        OSError: the directory cannot be read, or a file not be removed.
    """
    prefix = f".{path.name}."
    with os.scandir(path.parent) as entries:
        leftovers = [
            entry.path
            for entry in entries
            if entry.name.startswith(prefix) and _TEMPORARY.fullmatch(entry.name[len(prefix) :])
        ]
    for leftover in leftovers:
        os.unlink(leftover)
    return len(leftovers)


def make_directory(
    path: Path, *, mode: int = 0o700, fsync: Callable[[int], None] = os.fsync
) -> None:
    """Make the directory `path` and those above it that are missing, durably.

    Without this a power loss can take away a new directory together with files that were
    fsynced in it. What exists already is left as it is.

    Args:
        path: The directory.
        mode: Permissions of each new directory, less what the umask takes away.
        fsync: As for `write_atomically`.

    Raises:
        OSError: one cannot be made, or is not a directory.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        if path == path.parent:
            break
        path = path.parent
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode)
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
        _sync_directory(directory.parent, fsync)


def _write_new(path: Path, data: bytes, mode: int, fsync: Callable[[int], None]) -> None:
    descriptor = os.open(path, _O_NEW, mode)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path, fsync: Callable[[int], None]) -> None:
    # Without this a power loss can bring back the old file, after its successor was promised.
    if not _O_DIRECTORY:
        return
    descriptor = os.open(directory, os.O_RDONLY | _O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    # The failure that brought us here is the one to report.
    with contextlib.suppress(OSError):
        path.unlink()
