"""The ways in which a client gets at the volume: through the mount, or through the file API."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, Final, Protocol, final

ANSWER_S: Final = 90.0


class NotServedError(OSError):
    """There is no volume where one should be."""


class Volume(Protocol):
    """A volume where it is served. Paths are relative. Raises OSError for whatever goes wrong."""

    def write(self, path: str, offset: int, data: bytes) -> None: ...
    def make(self, path: str, data: bytes) -> None: ...
    def sync(self, path: str, *, data_only: bool = False) -> None: ...
    def sync_names(self, directory: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def mkdir(self, path: str) -> None: ...
    def close(self) -> None: ...


def open_volume(where: str) -> Volume:
    """The volume at a directory, or, if it is a number, behind a port of `sdk_node.py`."""
    return SdkVolume(int(where)) if where.isdigit() else MountedVolume(where)


@final
class MountedVolume:
    """A mount: what was there when it was opened, whatever is mounted at its path later."""

    def __init__(self, directory: str) -> None:
        self._fd: Final = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Never the directory beneath, where one writes to one node only.
        if not _is_fuse(self._fd):
            os.close(self._fd)
            raise NotServedError(f"nothing of ours is mounted at {directory}")

    def write(self, path: str, offset: int, data: bytes) -> None:
        fd = self._open(path, os.O_WRONLY)
        try:
            _write_whole(fd, data, offset)
        finally:
            os.close(fd)

    def make(self, path: str, data: bytes) -> None:
        fd = self._open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            _write_whole(fd, data, 0)
        finally:
            os.close(fd)

    def sync(self, path: str, *, data_only: bool = False) -> None:
        fd = self._open(path, os.O_WRONLY)
        try:
            (os.fdatasync if data_only else os.fsync)(fd)
        finally:
            os.close(fd)

    def sync_names(self, directory: str) -> None:
        fd = self._open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def unlink(self, path: str) -> None:
        os.unlink(path, dir_fd=self._fd)

    def mkdir(self, path: str) -> None:
        os.mkdir(path, dir_fd=self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def _open(self, path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o644, dir_fd=self._fd)


def _write_whole(fd: int, data: bytes, offset: int) -> None:
    if os.pwrite(fd, data, offset) != len(data):
        raise OSError("a short write")


def _is_fuse(fd: int) -> bool:
    """By the kernel's table of mounts: statfs would ask who serves it, who may hang."""
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        mount = next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo") as lines:
        return any(line.split()[0] == mount and " - fuse" in line for line in lines)


@final
class SdkVolume:
    """The volume of an application, which takes a request a line: see `sdk_node.py`."""

    def __init__(self, port: int) -> None:
        self._socket: Final = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
        self._lines: Final = self._socket.makefile("rwb")

    def write(self, path: str, offset: int, data: bytes) -> None:
        self._ask(do="write", path=path, offset=offset, data=data.hex())

    def make(self, path: str, data: bytes) -> None:
        self._ask(do="make", path=path, data=data.hex())

    def sync(self, path: str, *, data_only: bool = False) -> None:
        self._ask(do="sync", path=path, data_only=data_only)

    def sync_names(self, directory: str) -> None:
        self._ask(do="sync_names", path=directory)

    def rename(self, old: str, new: str) -> None:
        self._ask(do="rename", path=old, new=new)

    def unlink(self, path: str) -> None:
        self._ask(do="unlink", path=path)

    def mkdir(self, path: str) -> None:
        self._ask(do="mkdir", path=path)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _ask(self, **request: Any) -> None:
        self._lines.write(json.dumps(request).encode() + b"\n")
        self._lines.flush()
        answer = self._lines.readline()
        if not answer:
            raise NotServedError("the application closed the connection")
        if problem := json.loads(answer)["problem"]:
            raise OSError(problem)
