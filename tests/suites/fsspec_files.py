"""Our file API as fsspec has file systems, for its suite. No part of the library."""

from __future__ import annotations

import io
from typing import Any, final

from fsspec import AbstractFileSystem

from mirrorha.volume.disk import Attributes, Kind
from tests.suites.portal import BlockingFiles

_TYPES = {Kind.DIRECTORY: "directory", Kind.FILE: "file", Kind.SYMLINK: "link"}


@final
class MirroredFileSystem(AbstractFileSystem):
    """What fsspec asks of a file system. Paths are relative to the volume; "" is its root."""

    protocol = "mirrorha"
    cachable = False

    def __init__(self, files: BlockingFiles) -> None:
        super().__init__()
        self._blocking = files
        self._api = files.files

    def _place(self, path: str) -> str:
        return str(self._strip_protocol(path)).strip("/") or "."

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        place = self._place(path)
        return _info(place, self._blocking.call(self._api.stat, place))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        place = self._place(path)
        below = "" if place == "." else f"{place}/"
        if self.info(path)["type"] == "file":
            found = [place]
        else:
            found = [below + name for name in self._blocking.call(self._api.listdir, place)]
        return [self.info(each) for each in found] if detail else found

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        raw = self._blocking.open(self._place(path), mode)
        if raw.readable() and raw.writable():
            return io.BufferedRandom(raw)
        return io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        self._blocking.call(self._api.mkdir, self._place(path), parents=create_parents)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._blocking.call(self._api.mkdir, self._place(path), parents=True, exist_ok=exist_ok)

    def rmdir(self, path: str) -> None:
        self._blocking.call(self._api.rmdir, self._place(path))

    def _rm(self, path: str) -> None:
        if self.isdir(path):
            self.rmdir(path)
        else:
            self._blocking.call(self._api.unlink, self._place(path))

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        self.makedirs(self._parent(path2), exist_ok=True)
        data = self._blocking.call(self._api.read_bytes, self._place(path1))
        self._blocking.call(self._api.write_bytes, self._place(path2), data)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self.makedirs(self._parent(rpath), exist_ok=True)
        super().put_file(lpath, rpath, **options)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        self.makedirs(self._parent(path), exist_ok=True)
        with self._open(path, "wb" if truncate else "ab"):
            pass

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        self.makedirs(self._parent(path), exist_ok=True)
        with self._open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)


def _info(place: str, found: Attributes) -> dict[str, Any]:
    return {
        "name": "" if place == "." else place,
        "size": found.size_bytes,
        "type": _TYPES[found.kind],
        "mtime": found.mtime_ns / 1e9,
        "islink": found.kind is Kind.SYMLINK,
    }
