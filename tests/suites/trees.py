"""Whether two trees are the same: names, contents, metadata, xattrs, hard links, holes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, Final

from mirrorha.volume.names import LIMBO_NAME, MARKER_NAME
from tests.mounted.machine import environment
from tests.mounted.mounts import run_bounded

PART_BYTES: Final = 1 << 20
# What the library keeps on a copy, for itself.
OWN_XATTRS: Final = "trusted.mirrorha"
OWN_NAMES: Final = (MARKER_NAME, LIMBO_NAME)


def differences(one: Path, other: Path, *, at_most: int = 10) -> list[str]:
    """The first paths that are not the same in both, with what differs."""
    left, right = describe(one), describe(other)
    found = []
    for path in sorted(left.keys() | right.keys()):
        mine, theirs = left.get(path), right.get(path)
        if mine == theirs:
            continue
        if mine is None or theirs is None:
            found.append(f"{path}: only in {one if theirs is None else other}")
        else:
            what = {key: (mine[key], theirs.get(key)) for key in mine if mine[key] != theirs[key]}
            found.append(f"{path}: {what}")
    return found[:at_most]


def describe(root: Path) -> dict[str, dict[str, Any]]:
    """Everything below `root`, by path."""
    first_names: dict[tuple[int, int], str] = {}
    found: dict[str, dict[str, Any]] = {}
    for directory, _, _ in sorted(os.walk(os.fsencode(root))):
        for entry in sorted(os.scandir(directory), key=lambda each: each.name):
            path = os.fsdecode(os.path.relpath(entry.path, os.fsencode(root)))
            if path.partition("/")[0] in OWN_NAMES:
                continue
            found[path] = _describe(entry, path, first_names)
    return found


def _describe(
    entry: os.DirEntry[bytes], path: str, first_names: dict[tuple[int, int], str]
) -> dict[str, Any]:
    status = entry.stat(follow_symlinks=False)
    found: dict[str, Any] = {
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "xattrs": _xattrs(entry.path),
    }
    if not stat.S_ISDIR(status.st_mode):
        found["same as"] = first_names.setdefault((status.st_dev, status.st_ino), path)
        found["links"] = status.st_nlink
    if stat.S_ISLNK(status.st_mode):
        found["target"] = os.readlink(entry.path)
    else:
        found["mtime_ns"] = status.st_mtime_ns
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        found["device"] = status.st_rdev
    if stat.S_ISREG(status.st_mode):
        found["size"] = status.st_size
        found["content"], found["data in"] = _content(entry.path, status.st_size)
    return found


def _xattrs(path: bytes) -> dict[str, bytes]:
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if not name.startswith(OWN_XATTRS):
            with contextlib.suppress(FileNotFoundError):
                found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def _content(path: bytes, size: int) -> tuple[str, list[tuple[int, int]]]:
    """A digest, and where there is data rather than a hole."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while part := file.read(PART_BYTES):
            digest.update(part)
        ranges, at = [], 0
        while at < size:
            try:
                begins = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole up to the end
                    break
                raise
            at = os.lseek(file.fileno(), begins, os.SEEK_HOLE)
            ranges.append((begins, at))
    return digest.hexdigest(), ranges


def differences_bounded(one: Path, other: Path, *, limit_s: float) -> list[str]:
    """As `differences`, of directories that may be on a mount that hangs."""
    command = [sys.executable, "-m", "tests.suites.trees", str(one), str(other)]
    ended = run_bounded(command, limit_s=limit_s, directory=one, env=environment())
    if ended.code is None:
        return [f"{one} and {other} could not be compared within {limit_s:g} s"]
    if ended.code:
        return [f"{one} and {other} could not be compared: {ended.said}"]
    return list(json.loads(ended.said))


if __name__ == "__main__":
    print(json.dumps(differences(Path(sys.argv[1]), Path(sys.argv[2]))))
