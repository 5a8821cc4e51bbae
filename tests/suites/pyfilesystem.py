"""Our file API as PyFilesystem2 has file systems, for its suite. No part of the library."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Collection
from typing import Any, BinaryIO, ClassVar, final

# It asks for a module of setuptools that is gone there: for its name, and for what opens URLs.
_stub = types.ModuleType("pkg_resources")
_stub.declare_namespace = lambda name: None  # type: ignore[attr-defined]
_stub.iter_entry_points = lambda *_: iter(())  # type: ignore[attr-defined]
sys.modules.setdefault("pkg_resources", _stub)

from fs import errors  # noqa: E402
from fs.base import FS  # noqa: E402
from fs.enums import ResourceType  # noqa: E402
from fs.info import Info  # noqa: E402
from fs.mode import Mode  # noqa: E402
from fs.permissions import Permissions  # noqa: E402
from fs.subfs import SubFS  # noqa: E402

from mirrorha.volume.disk import Attributes, Kind  # noqa: E402
from tests.suites.portal import BlockingFiles  # noqa: E402

_TYPES = {
    Kind.DIRECTORY: ResourceType.directory,
    Kind.FILE: ResourceType.file,
    Kind.SYMLINK: ResourceType.symlink,
}


@final
class MirroredFS(FS):
    """What PyFilesystem2 asks of a file system."""

    _meta: ClassVar[dict[str, object]] = {
        "case_insensitive": False,
        "invalid_path_chars": "\0",
        "network": False,
        "read_only": False,
        "supports_rename": True,
        "thread_safe": True,
        "unicode_paths": True,
        "virtual": False,
    }

    def __init__(self, files: BlockingFiles) -> None:
        super().__init__()
        self._blocking = files
        self._api = files.files

    def _place(self, path: str) -> str:
        self.check()
        return self.validatepath(path).strip("/") or "."

    def getinfo(self, path: str, namespaces: Collection[str] | None = None) -> Info:
        place = self._place(path)
        try:
            found = self._blocking.call(self._api.stat, place, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise errors.ResourceNotFound(path) from error
        return _info("" if place == "." else place.rpartition("/")[2], found)

    def listdir(self, path: str) -> list[str]:
        try:
            return self._blocking.call(self._api.listdir, self._place(path))
        except FileNotFoundError as error:
            raise errors.ResourceNotFound(path) from error
        except NotADirectoryError as error:
            raise errors.DirectoryExpected(path) from error

    def makedir(
        self, path: str, permissions: Permissions | None = None, recreate: bool = False
    ) -> SubFS[FS]:
        place = self._place(path)
        if place == "." and not recreate:
            raise errors.DirectoryExists(path)
        mode = Permissions.get_mode(permissions)
        try:
            self._blocking.call(self._api.mkdir, place, exist_ok=recreate, permissions=mode)
        except FileExistsError as error:
            raise errors.DirectoryExists(path) from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise errors.ResourceNotFound(path) from error
        return self.opendir(path)

    def openbin(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> BinaryIO:
        parsed = Mode(mode)
        parsed.validate_bin()
        place = self._place(path)
        try:
            raw = self._blocking.open(place, parsed.to_platform_bin())
        except FileExistsError as error:
            raise errors.FileExists(path) from error
        except IsADirectoryError as error:
            raise errors.FileExpected(path) from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise errors.ResourceNotFound(path) from error
        if buffering == 0:
            return raw  # type: ignore[return-value]
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        if parsed.reading and parsed.writing:
            return io.BufferedRandom(raw, size)
        return io.BufferedReader(raw, size) if parsed.reading else io.BufferedWriter(raw, size)

    def remove(self, path: str) -> None:
        try:
            self._blocking.call(self._api.unlink, self._place(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise errors.ResourceNotFound(path) from error
        except (IsADirectoryError, PermissionError) as error:
            raise errors.FileExpected(path) from error

    def removedir(self, path: str) -> None:
        place = self._place(path)
        if place == ".":
            raise errors.RemoveRootError
        try:
            self._blocking.call(self._api.rmdir, place)
        except FileNotFoundError as error:
            raise errors.ResourceNotFound(path) from error
        except NotADirectoryError as error:
            raise errors.DirectoryExpected(path) from error
        except OSError as error:
            raise errors.DirectoryNotEmpty(path) from error

    def setinfo(self, path: str, info: dict[str, dict[str, object]]) -> None:
        """Times cannot be set; that is allowed, if the resource is there."""
        self.getinfo(path)

    def move(self, src_path: str, dst_path: str, overwrite: bool = False, **_: Any) -> None:
        """By our rename, so that the suite tries it."""
        source, target = self._place(src_path), self._place(dst_path)
        if not overwrite and self.exists(dst_path):
            raise errors.DestinationExists(dst_path)
        if self.getinfo(src_path).is_dir:
            raise errors.FileExpected(src_path)
        try:
            self._blocking.call(self._api.rename, source, target)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise errors.ResourceNotFound(dst_path) from error


def _info(name: str, found: Attributes) -> Info:
    kind = _TYPES[found.kind]
    return Info(
        {
            "basic": {"name": name, "is_dir": found.kind is Kind.DIRECTORY},
            "details": {
                "_write": [],
                "type": int(kind),
                "size": found.size_bytes,
                "modified": found.mtime_ns / 1e9,
            },
            "access": {
                "permissions": Permissions(mode=found.mode).dump(),
                "uid": found.uid,
                "gid": found.gid,
            },
            "link": {"target": found.target or None},
        }
    )
