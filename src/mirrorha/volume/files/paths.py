"""From an application's paths to the ids of files: what the kernel does on a mounted volume."""

from __future__ import annotations

import errno
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.errors import LocalUsageError, PathOutsideVolumeError
from mirrorha.volume.disk import Attributes, Kind, ReadAttributes, Resolve
from mirrorha.volume.names import from_python

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirrorha.volume.disk import AnyRequest
    from mirrorha.volume.files.api import Path

# As the kernel's.
SYMLINKS_MAX: Final = 40


@attrs.frozen
class Spot:
    """Where a path leads: a name in a directory, and what is there, if anything."""

    parent: int
    name: str
    attributes: Attributes | None

    @property
    def is_directory(self) -> bool:
        return self.attributes is not None and self.attributes.kind is Kind.DIRECTORY


def parts_below(root: PurePosixPath, path: Path) -> tuple[str, ...]:
    """The names that lead from `root` to `path`, which is relative to it, or absolute below it.

    Raises:
        PathOutsideVolumeError: it leads elsewhere, or nowhere.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise LocalUsageError(f"a path is text, not {type(text).__name__}")
    if "\0" in text:
        raise PathOutsideVolumeError(f"{text!r} is no path: it contains a zero")
    pure = PurePosixPath(text)
    if pure.is_absolute():
        if not pure.is_relative_to(root):
            raise PathOutsideVolumeError(f"{text} does not lie in the volume {root}")
        pure = pure.relative_to(root)
    if ".." in pure.parts:
        raise PathOutsideVolumeError(f"{text} has '..' in it: it could leave {root}")
    return pure.parts


def temporary_name(tag: str, name: str, *, is_alike: bool) -> str:
    """What is written before it replaces `name`.

    Args:
        tag: what no other one has.
        is_alike: it begins and ends as `name`, so that patterns of `exclude` are mostly about both
            or none: where they are about one of them, it cannot replace the other (EXDEV).
    """
    if not is_alike:
        return f".mirrorha-{tag}.tmp"
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.mirrorha-{tag}{dot}{suffix}" if dot else f"{name}.mirrorha-{tag}"


@final
class PathFinder:
    """Follows paths below `root`.

    Args:
        root: Of the volume, absolute.
        query: Asks the disk.
    """

    def __init__(
        self, root: PurePosixPath, query: Callable[[AnyRequest], Awaitable[object]]
    ) -> None:
        self._root: Final = root
        self._query: Final = query

    def parts(self, path: Path) -> list[str]:
        """The names that lead from the root to `path`, as `parts_below`."""
        return [from_python(part) for part in parts_below(self._root, path)]

    async def existing(self, path: Path, *, follow: bool = True) -> Attributes:
        """What is at `path`.

        Raises:
            OSError: there is nothing, or no way there.
        """
        spot = await self.find(path, follow=follow)
        if spot.attributes is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        return spot.attributes

    async def find(self, path: Path, *, follow: bool = True) -> Spot:
        """Follow a path; at its end, a symlink only if `follow`.

        Raises:
            OSError: there is no way there.
        """
        parts = self.parts(path)
        found = await self._query(Resolve("/".join(parts)))
        if isinstance(found, tuple):
            parent, name, fid = found
            attributes = await self._attributes(fid) if fid else None
            if attributes is None or attributes.kind is not Kind.SYMLINK or not follow:
                return Spot(parent, name, attributes)
        return await self._walk(parts, follow=follow, path=path)

    async def _walk(self, parts: list[str], *, follow: bool, path: Path) -> Spot:
        """Follow a path with symlinks in it, name by name."""
        at: list[str] = []
        todo = parts[::-1]
        followed = 0
        while todo:
            name = todo.pop()
            if name == "..":
                # Only from a symlink: `at` has none, so this is its own directory's parent.
                if not at:
                    raise PathOutsideVolumeError(f"{path} leads out of {self._root} by a symlink")
                at.pop()
                continue
            spot = await self._step([*at, name], path)
            if spot.attributes is None:
                if todo:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
                return spot
            if spot.attributes.kind is Kind.SYMLINK and (todo or follow):
                followed += 1
                if followed > SYMLINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
                target = spot.attributes.target
                if target.startswith("/"):
                    at = []
                todo += self._target_parts(target, path)[::-1]
                continue
            at.append(name)
        return await self._step(at, path)

    async def _step(self, names: list[str], path: Path) -> Spot:
        found = await self._query(Resolve("/".join(names)))
        if not isinstance(found, tuple):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
        parent, name, fid = found
        return Spot(parent, name, await self._attributes(fid) if fid else None)

    def _target_parts(self, target: str, path: Path) -> list[str]:
        pure = PurePosixPath(target)
        if not pure.is_absolute():
            return list(pure.parts)
        if not pure.is_relative_to(self._root):
            raise PathOutsideVolumeError(f"{path} leads to {target}, out of {self._root}")
        return list(pure.relative_to(self._root).parts)

    async def _attributes(self, fid: int) -> Attributes | None:
        found = await self._query(ReadAttributes(fid))
        return found if isinstance(found, Attributes) else None
