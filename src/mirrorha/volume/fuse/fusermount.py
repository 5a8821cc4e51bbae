"""Mounting as an ordinary user, by way of the program fusermount3 of the Debian package fuse3."""

from __future__ import annotations

import array
import os
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Sequence
from typing import Final

from mirrorha.errors import VolumeError

PROGRAM: Final = "fusermount3"
_SEARCH: Final = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin"
#: It has a few system calls to do; what leads to the directory may be on a slow disk.
_FINISH_S: Final = 10.0
_OUTPUT_BYTES_MAX: Final = 2000


def find_fusermount() -> str | None:
    """The program's path if it is there and has the rights that it needs."""
    path = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:{_SEARCH}")
    if path is None:
        return None
    status = os.stat(path)
    return path if status.st_uid == 0 and status.st_mode & stat.S_ISUID else None


def mount_by_program(path: str, *, source: str, subtype: str, options: Sequence[str]) -> int:
    """Mount, and receive the descriptor of /dev/fuse. Blocks for some seconds at most.

    Raises:
        VolumeError: the program is missing, refuses, or does not end.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        named = [f"fsname={_escape(source)}", f"subtype={_escape(subtype)}", *options]
        _run(
            ["-o", ",".join(named), "--", path],
            environment={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            descriptors=(theirs.fileno(),),
        )
        theirs.close()
        ours.settimeout(_FINISH_S)
        return _receive(ours, path)


def unmount_by_program(path: str) -> None:
    """Take off lazily what this user mounted at `path`. Blocks for some seconds at most.

    Raises:
        VolumeError: as for mounting; or nothing of this user's is mounted there.
    """
    _run(["-u", "-z", "-q", "--", path], environment=os.environ.copy(), descriptors=())


def _receive(ours: socket.socket, path: str) -> int:
    try:
        _, control, _, _ = ours.recvmsg(
            1, socket.CMSG_SPACE(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
        )
    except OSError as error:
        raise VolumeError(f"{path}: {PROGRAM} sent no descriptor: {error}") from error
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and content:
            (fd,) = array.array("i", content)
            return int(fd)
    raise VolumeError(f"{path}: {PROGRAM} ended well and sent no descriptor")


def _run(
    arguments: Sequence[str], *, environment: dict[str, str], descriptors: Sequence[int]
) -> None:
    program = find_fusermount()
    if program is None:
        raise VolumeError(
            f"an ordinary user mounts by the program {PROGRAM}, set-user-ID of root, which is"
            " missing here: `apt install fuse3`"
        )
    child = subprocess.Popen(  # noqa: S603 - no shell, and `--` before the path
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=descriptors,
    )
    try:
        output, _ = child.communicate(timeout=_FINISH_S)
    except subprocess.TimeoutExpired:
        child.kill()
        threading.Thread(target=child.communicate, name="mirrorha-reaper", daemon=True).start()
        raise VolumeError(f"{arguments[-1]}: {PROGRAM} does not end; is its disk well?") from None
    if child.returncode:
        said = " ".join(output[:_OUTPUT_BYTES_MAX].decode(errors="replace").split())
        raise VolumeError(said or f"{arguments[-1]}: {PROGRAM} ended with {child.returncode}")


def _escape(value: str) -> str:
    """In an option a comma ends the value, and a backslash takes its meaning from what follows."""
    return value.replace("\\", "\\\\").replace(",", "\\,")
