"""What a directory holds, looked at by nobody's code but the kernel's and hashlib's."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

#: The root of every volume has it. Its time is each node's own.
MARKER: Final = ".mirrorha-volume"
_PIECE_BYTES: Final = 1 << 20
Tree = dict[str, tuple[Any, ...]]


def walk(root: Path) -> Tree:
    """By path: kind and permissions, owner, time, hash or target, attributes, all its names."""
    found: Tree = {}
    names: dict[int, list[str]] = {}
    seen = list(_below(root))
    for path, status in seen:
        names.setdefault(status.st_ino, []).append(path)
    for path, status in seen:
        is_directory = stat.S_ISDIR(status.st_mode)
        found[path] = (
            oct(status.st_mode),
            (status.st_uid, status.st_gid),
            None if path == MARKER else status.st_mtime_ns,
            None if is_directory else status.st_size,
            _content(root / path, status.st_mode),
            _attributes(root / path),
            sorted(names[status.st_ino]),
        )
    return found


def differences(one: Tree, other: Tree) -> list[str]:
    """The paths at which two trees are not the same, with what is there."""
    return [
        f"{path or '.'}: {one.get(path)} and {other.get(path)}"
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    ]


def _below(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    todo = [""]
    while todo:
        path = todo.pop()
        status = (root / path).lstat()
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            todo += sorted(os.path.join(path, name) for name in os.listdir(root / path))


def _content(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if not stat.S_ISREG(mode):
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _attributes(path: Path) -> list[tuple[str, bytes]]:
    names = os.listxattr(path, follow_symlinks=False)
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names)]
