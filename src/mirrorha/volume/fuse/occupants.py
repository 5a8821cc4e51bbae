"""Which processes use a directory as it is, beneath any mount: they would go on to, unmirrored.

Processes of other mount namespaces count too, and so do bind mounts: what is compared is the place
in the file system, not the path. Only /proc is read; no file system is asked, for it may hang.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Iterator
from typing import Final, final

import attrs

from mirrorha.errors import VolumeError
from mirrorha.mount_table import (
    MountEntry,
    MountTable,
    Spot,
    mount_id_of,
    read_mount_table,
)

#: 90 processes take some 10 ms. A process stuck in the kernel may keep its list of mappings locked.
_SCAN_S: Final = 5.0
_LINKS: Final = {"cwd": "its working directory", "root": "its root directory", "exe": "its program"}
_DELETED: Final = " (deleted)"
# address, rights, offset, device, inode, path
_MAPPING: Final = re.compile(rb"\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) \d+ +(/.*)")
_COMM_BYTES_MAX: Final = 64


@final
@attrs.frozen
class Occupant:
    """A process that uses the directory, by what. One line a process."""

    pid: int
    name: str
    use: str
    path: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name}): {self.use} is {self.path}"


@final
@attrs.frozen
class Place:
    """A directory, named independently of where its file system is mounted."""

    device: str
    path: str

    @classmethod
    def of(cls, spot: Spot, entry: MountEntry) -> Place:
        """What is at `spot` as the mount `entry`, one that holds it or is mounted there, has it."""
        inside = "" if entry in spot.stack else _rest(spot.path, entry.mount_point)
        return cls(entry.device, entry.root.rstrip("/") + inside or "/")


@final
@attrs.frozen
class Scan:
    """What was found. `unseen` names a process that did not let itself be looked at in time."""

    occupants: tuple[Occupant, ...]
    unseen: int | None = None


def find_occupants(place: Place, *, scan_s: float = _SCAN_S) -> Scan:
    """Look through all processes that this user may look into.

    Blocks for `scan_s` at most. This process itself does not count.
    """
    scanner = _Scanner(place, os.getpid())
    # A daemon: if a read of /proc never returns, the program can end all the same.
    thread = threading.Thread(target=scanner.run, name="mirrorha-occupants", daemon=True)
    thread.start()
    thread.join(scan_s)
    is_stuck = thread.is_alive()
    scanner.is_left = True
    return Scan(tuple(scanner.found), scanner.at if is_stuck else None)


@attrs.frozen
class _Window:
    """Where in one mount namespace the directory, or a part of it, is to be seen."""

    mount_id: int
    path: str

    def shows(self, path: str) -> bool:
        return path == self.path or path.startswith(self.path.rstrip("/") + "/")


@attrs.define
class _Scanner:
    place: Place
    ignored: int
    found: list[Occupant] = attrs.field(factory=list)
    at: int = 0
    is_left: bool = False
    _windows: dict[tuple[str, str], tuple[_Window, ...]] = attrs.field(factory=dict)

    def run(self) -> None:
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            self.at = pid
            if self.is_left:
                return
            if pid != self.ignored:
                try:
                    self._look_into(pid)
                except (OSError, VolumeError):
                    continue  # it ended, or it is another user's

    def _look_into(self, pid: int) -> None:
        windows = self._windows_of(pid)
        use = windows and (self._by_links(pid, windows) or self._by_mappings(pid, windows))
        if use:
            what, path = use
            self.found.append(Occupant(pid, _name(pid), what, path))

    def _windows_of(self, pid: int) -> tuple[_Window, ...]:
        namespace = os.readlink(f"/proc/{pid}/ns/mnt")
        # The kernel names a process's mounts by their path from that process's root directory,
        # but its files from ours, or from the root of its namespace if that is another.
        is_ours = namespace == os.readlink("/proc/self/ns/mnt")
        root = "" if is_ours else os.readlink(f"/proc/{pid}/root").rstrip("/")
        key = (namespace, root)
        if key not in self._windows:
            table = read_mount_table("self" if is_ours else pid)
            self._windows[key] = tuple(_windows(table, self.place, root))
        return self._windows[key]

    def _by_links(self, pid: int, windows: Collection[_Window]) -> tuple[str, str] | None:
        for name, what in _LINKS.items():
            if path := _link_in(f"/proc/{pid}/{name}", windows):
                return what, path
        for number in os.listdir(f"/proc/{pid}/fd"):
            if path := _link_in(f"/proc/{pid}/fd/{number}", windows):
                return f"open as {number}", path
        return None

    def _by_mappings(self, pid: int, windows: Collection[_Window]) -> tuple[str, str] | None:
        with open(f"/proc/{pid}/maps", "rb") as lines:
            for line in lines:
                found = _MAPPING.match(line.rstrip(b"\n"))
                if not found or _number(found[1], found[2]) != self.place.device:
                    continue
                path = _without_mark(os.fsdecode(found[3]))
                if any(window.shows(path) for window in windows):
                    return "mapped", path
        return None


def _windows(table: MountTable, place: Place, root: str) -> Iterator[_Window]:
    """Where a namespace shows the directory; `root` is what its table leaves out."""
    for entry in table.entries.values():
        if entry.device != place.device:
            continue
        if _is_in(place.path, entry.root):
            inside = _rest(place.path, entry.root)
            path = root + entry.mount_point.rstrip("/") + inside
            yield _Window(entry.mount_id, path or "/")
        elif _is_in(entry.root, place.path):  # a bind mount of something in it
            yield _Window(entry.mount_id, root + entry.mount_point)


def _link_in(link: str, windows: Collection[_Window]) -> str | None:
    """What the link leads to, if that is in one of the windows."""
    try:
        path = _without_mark(os.readlink(link))
        numbers = {window.mount_id for window in windows if window.shows(path)}
        return path if numbers and _mount_of(link) in numbers else None
    except OSError:
        return None  # closed meanwhile


def _mount_of(link: str) -> int:
    """The number of the mount that a link of /proc leads to; two may be seen at one path."""
    # O_PATH: nothing is asked of the file system, and a device or a pipe is not opened.
    fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        return mount_id_of(fd)
    finally:
        os.close(fd)


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _rest(path: str, directory: str) -> str:
    """What follows `directory` in `path`: nothing, or a slash and more."""
    rest = path[len(directory.rstrip("/")) :]
    return "" if rest == "/" else rest


def _without_mark(path: str) -> str:
    return path.removesuffix(_DELETED)


def _number(major: bytes, minor: bytes) -> str:
    return f"{int(major, 16)}:{int(minor, 16)}"


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm", "rb") as stream:
        return os.fsdecode(stream.read(_COMM_BYTES_MAX)).rstrip("\n")
