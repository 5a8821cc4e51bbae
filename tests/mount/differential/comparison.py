"""Whole trees, compared: contents, holes, metadata, extended attributes, groups of hard links."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from tests.mount.differential.actor import when

_PIECE_BYTES = 1 << 20


@attrs.frozen
class TreeRules:
    """What of two trees need not be equal.

    Attributes:
        left_out: names in the root that are not looked at: the volume's own.
        ignored_xattrs: extended attributes that are one side's own.
        with_holes: where the holes are is compared. Off where the file systems differ in that.
        with_times: times of modification are compared to the nanosecond, those of today, too: for
            two that are to be copies of each other, and not to have had the same done to them.
    """

    left_out: frozenset[str] = frozenset()
    ignored_xattrs: frozenset[str] = frozenset()
    with_holes: bool = True
    with_times: bool = False


def snapshot(root: Path, rules: TreeRules | None = None) -> dict[str, Any]:
    """What a tree holds, by path. Read it in a process that may hang if it is a mount."""
    rules = rules or TreeRules()
    found: dict[str, Any] = {}
    inodes: dict[tuple[int, int], list[str]] = {}
    for path in _walk(str(root), rules):
        status = os.lstat(path)
        name = os.path.relpath(path, root)
        found[name] = _describe(path, status, rules)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            inodes.setdefault((status.st_dev, status.st_ino), []).append(name)
    found["groups of hard links"] = sorted(sorted(names) for names in inodes.values())
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not the same, a line each."""
    lines = []
    for path in sorted({*one, *other}):
        ours, theirs = one.get(path), other.get(path)
        if ours == theirs:
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            lines += [
                f"{path}: {key}: {ours.get(key)} != {theirs.get(key)}"
                for key in sorted({*ours, *theirs})
                if ours.get(key) != theirs.get(key)
            ]
        else:
            lines.append(f"{path}: {ours} != {theirs}")
    return lines


def _walk(root: str, rules: TreeRules) -> Iterable[str]:
    yield root
    todo = [root]
    while todo:
        directory = todo.pop()
        for name in sorted(os.listdir(directory)):
            if directory == root and name in rules.left_out:
                continue
            path = os.path.join(directory, name)
            yield path
            if stat.S_ISDIR(os.lstat(path).st_mode):
                todo.append(path)


def _describe(path: str, status: os.stat_result, rules: TreeRules) -> dict[str, Any]:
    told: dict[str, Any] = {
        "mode": oct(status.st_mode),
        "owner": f"{status.st_uid}:{status.st_gid}",
        "mtime": _mtime(status, rules),
        "xattrs": _xattrs(path, rules),
    }
    if not stat.S_ISDIR(status.st_mode):
        told["links"] = status.st_nlink
    if stat.S_ISLNK(status.st_mode):
        told["target"] = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        told |= _contents(path, status, rules)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        told["device"] = status.st_rdev
    return told


def _mtime(status: os.stat_result, rules: TreeRules) -> int | str:
    if stat.S_ISFIFO(status.st_mode):
        return "any"  # what goes through it changes it, or not
    return status.st_mtime_ns if rules.with_times else when(status.st_mtime_ns)


def _xattrs(path: str, rules: TreeRules) -> dict[str, str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {
        name: os.getxattr(path, name, follow_symlinks=False).hex()
        for name in sorted(names)
        if name not in rules.ignored_xattrs
    }


def _contents(path: str, status: os.stat_result, rules: TreeRules) -> dict[str, Any]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        hashed = hashlib.blake2b(digest_size=8)
        while piece := os.read(fd, _PIECE_BYTES):
            hashed.update(piece)
        told: dict[str, Any] = {"bytes": status.st_size, "content": hashed.hexdigest()}
        if rules.with_holes:
            told["data"] = _data(fd, status.st_size)
        return told
    finally:
        os.close(fd)


def _data(fd: int, size: int) -> list[tuple[int, int]]:
    """Where there is data, and not a hole."""
    found, end = [], 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, end))
    return found
