"""FUSE connections: ending one, and finding out whether anybody still serves it.

A connection outlives its server's death as a mount that answers ENOTCONN; one whose server hangs
holds everybody who touches the mount, in the kernel and beyond signals, until it is aborted.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Final

from mirrorha.volume.fuse.mount_calls import open_unmounted
from mirrorha.wire.limits import KIB

_CONNECTIONS: Final = "/sys/fs/fuse/connections"
# Its number is that of the device which `stat` names, and so its settings are called.
_READ_AHEAD: Final = "/sys/class/bdi/0:{connection}/read_ahead_kb"
#: A server that is well answers within microseconds; one that is loaded gets this long.
_ANSWER_S: Final = 2.0
#: What a mount answers whose connection is over, in the words of the C libraries, GNU's and musl's.
_OVER: Final = (
    "Transport endpoint is not connected",
    "Socket not connected",
    "Software caused connection abort",
    "Connection aborted",
    "Connection refused",
)
_SEARCH: Final = "/usr/bin:/bin"
_SAID_BYTES_MAX: Final = 8192

_log: Final = logging.getLogger(__name__)


class Standing(enum.Enum):
    """What a mount's server is."""

    GONE = "gone"
    ANSWERS = "answers"
    SILENT = "silent"  # nobody knows: it may be slow, stopped, or a process that ends just now


def abort(connection: int) -> bool:
    """End a FUSE connection: all that wait for its server fail at once, and so does all later.

    Does nothing to one that is over. Does not block.

    Returns:
        Whether it is over. False: this process has no right to; it ends when the last descriptor
        of its /dev/fuse is closed.
    """
    try:
        return _abort_mounted(connection) or _abort_unmounted(connection)
    except OSError as error:
        _log.warning("FUSE connection %d cannot be aborted: %s", connection, error.strerror)
        return False


def read_ahead(connection: int, size_bytes: int) -> None:
    """Have the kernel fetch up to so much ahead of who reads in a row, instead of 128 KiB.

    For root; to others, and in a container that may not write to /sys, it does nothing.
    """
    with contextlib.suppress(OSError):
        Path(_READ_AHEAD.format(connection=connection)).write_text(str(size_bytes // KIB))


def ask(path: str, *, owner: tuple[int, int]) -> Standing:
    """Find out whether the FUSE file system that `owner` mounted at `path` has a server.

    The kernel may answer others than that user and group itself, so root asks in their name. A
    process of its own asks, for one that asks may hang for as long as the server likes; it is left
    behind then. Blocks for two seconds at most.
    """
    program = shutil.which("stat", path=_SEARCH)
    is_other = os.geteuid() == 0 and owner != (0, 0)
    user, group = owner if is_other else (None, None)
    if program is None:
        return Standing.SILENT
    with tempfile.TemporaryFile() as said:
        # Of the file system, not of the file, whose attributes the kernel may still remember.
        child = subprocess.Popen(  # noqa: S603 - no shell, and `--` before the path
            [program, "-f", "-c", "%t", "--", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={"LC_ALL": "C"},
            user=user,
            group=group,
            extra_groups=[] if is_other else None,
        )
        try:
            status = child.wait(_ANSWER_S)
        except subprocess.TimeoutExpired:
            child.kill()  # which does not reach it while it waits in the kernel
            threading.Thread(target=child.wait, name="mirrorha-reaper", daemon=True).start()
            return Standing.SILENT
        said.seek(0)
        text = said.read(_SAID_BYTES_MAX).decode(errors="replace").rstrip()
        return Standing.GONE if status and text.endswith(_OVER) else Standing.ANSWERS


def _abort_in(directory: int, connection: int) -> bool:
    try:
        fd = os.open(f"{connection}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)
    return True


def _abort_mounted(connection: int) -> bool:
    try:
        root = os.open(_CONNECTIONS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return _abort_in(root, connection)
    finally:
        os.close(root)


def _abort_unmounted(connection: int) -> bool:
    """In containers the control file system is often not mounted where it belongs."""
    with open_unmounted("fusectl") as root:
        _abort_in(root, connection)
        return True  # if it is not even there, it is over
