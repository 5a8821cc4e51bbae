"""Watches every durable step of a node's processes, and crashes at one of them if told to.

Python imports this when it starts, where its directory is on PYTHONPATH. It wraps the few
primitives that make something durable: fsync, fdatasync and syncfs, and a commit of sqlite. A step
is named by the function of mirrorha that takes it; see `mirrorha.testing.crash_points`.

CRASH_SEEN names a file to which each step is added when it is first taken. CRASH_AT is a JSON
object: the name of a `step`, the `moment` ("before" or "after"), which time it is taken (`nth`),
the `disk` whose file system loses its power (or ""), and a file `note` that is made when it comes
to that: then every process of this node's machine is killed at one instant.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import sqlite3
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_PACKAGE = "mirrorha."
_LEVELS_MAX = 12
_COMMITS = re.compile(r"\s*(COMMIT|PRAGMA wal_checkpoint)")
_fsync, _fdatasync = os.fsync, os.fdatasync
_connect = sqlite3.connect
_turn = threading.RLock()


def step_name() -> str:
    """Which step is being taken, by who takes it; "" if that is nobody of ours."""
    frame: Any = sys._getframe(2)
    chain = []
    for _ in range(_LEVELS_MAX):
        if frame is None:
            break
        if frame.f_globals.get("__name__", "").startswith(_PACKAGE):
            chain.append(frame)
        frame = frame.f_back
    if not chain:
        return ""
    module = chain[0].f_globals["__name__"]
    function = chain[0].f_code.co_name
    # The function that the others of its module call.
    inside = (one for one in chain if one.f_globals["__name__"] == module)
    public = next((one for one in inside if not one.f_code.co_name.startswith("_")), chain[0])
    of = public.f_code.co_name if function == "_commit" else ""
    if module == "mirrorha.state.atomic":
        of = public.f_locals["path"].name
    return f"{module.removeprefix(_PACKAGE)}: {function}" + (f" of {of}" if of else "")


class Watcher:
    """Told of each step. For several threads."""

    def __init__(self, seen: str, at: dict[str, Any] | None) -> None:
        self._seen_path, self._at = seen, at
        self._seen: set[str] = set()
        self._left = at["nth"] if at else 0

    def note(self, name: str, moment: str) -> None:
        with _turn:
            if self._seen_path and name not in self._seen:
                self._seen.add(name)
                fd = os.open(self._seen_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.write(fd, f"{name}\n".encode())
                os.close(fd)
            at = self._at
            if at is None or (name, moment) != (at["step"], at["moment"]):
                return
            self._left -= 1
            if not self._left:
                crash(at)


def crash(at: dict[str, Any]) -> None:
    """End every process of this machine but the one that started it, and perhaps its disk."""
    others = [pid for pid in machine() if pid != os.getpid()]
    for pid in others:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    Path(at["note"]).touch()
    if at["disk"]:
        fd = os.open(at["disk"], os.O_RDONLY | os.O_DIRECTORY)
        fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    for pid in (*others, os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def machine() -> Iterator[int]:
    """The processes that descend from the shepherd of this machine."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            parents[int(process.name)] = int(fields[1])
    shepherd = os.getpid()
    while b"shepherd.py" not in Path(f"/proc/{shepherd}/cmdline").read_bytes():
        shepherd = parents[shepherd]
    yield from descendants(shepherd, parents)


def descendants(above: int, parents: dict[int, int]) -> Iterator[int]:
    for pid, parent in parents.items():
        if parent == above:
            yield pid
            yield from descendants(pid, parents)


def watched(real: Callable[..., Any], watcher: Watcher) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        name = step_name()
        if not name:
            return real(*arguments)
        watcher.note(name, "before")
        result = real(*arguments)
        watcher.note(name, "after")
        return result

    return call


def watch(watcher: Watcher) -> None:
    """From now on every durable step is noted."""
    os.fsync, os.fdatasync = watched(_fsync, watcher), watched(_fdatasync, watcher)
    find = ctypes.CDLL.__getattr__

    def find_watched(library: ctypes.CDLL, name: str) -> Any:
        found = find(library, name)
        return watched(found, watcher) if name == "syncfs" else found

    ctypes.CDLL.__getattr__ = find_watched  # type: ignore[method-assign]

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:  # type: ignore[override]
            if not _COMMITS.match(sql):
                return super().execute(sql, *rest)
            name = step_name()
            watcher.note(name, "before")
            done = super().execute(sql, *rest)
            watcher.note(name, "after")
            return done

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return _connect(*arguments, **{"factory": Connection, **options})

    sqlite3.connect = connect  # type: ignore[assignment]


_asked = os.environ.get("CRASH_AT", "")
if _asked or os.environ.get("CRASH_SEEN"):
    watch(Watcher(os.environ.get("CRASH_SEEN", ""), json.loads(_asked) if _asked else None))
