"""The service's control group (cgroup v2), by which all that it started is found and ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, final

_log: Final = logging.getLogger(__name__)

PROC: Final = Path("/proc/self")


@final
class ControlGroup:
    """A directory in the kernel's tree of control groups, below this program's own.

    Whatever a process in it starts is in it, too, under whatever name, user or session, and no
    process leaves it by itself. It outlives this program, so that the next one finds what was
    left over. All methods block, for no longer than the kernel takes to look.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path

    @classmethod
    def below_ours(cls, name: str, *, proc: Path = PROC) -> ControlGroup | None:
        """The one of that name, be there processes in it or not; None where none can be made."""
        parent = _own_directory(proc)
        if parent is None:
            return None
        path = parent / name
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            _log.debug("no control group for the service: %s", error)
            return None
        group = cls(path)
        group.remove()  # until something enters
        return group

    def open_door(self) -> int:
        """Open what a process writes a 0 to, to enter. The caller closes it."""
        self.path.mkdir(exist_ok=True)
        return os.open(self.path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def pids(self) -> set[int]:
        """Every process in it and in what it has made below."""
        found = set[int]()
        for directory in self._directories():
            with suppress(OSError):  # gone meanwhile
                found.update(map(int, (directory / "cgroup.procs").read_text().split()))
        found.discard(0)  # of another namespace
        return found

    def has(self, pid: int) -> bool:
        return pid in self.pids()

    def kill(self) -> None:
        """Kill them all at once. Kernels before 5.14 cannot: there it does nothing."""
        with suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Take it away, if nothing is in it."""
        for directory in reversed(self._directories()):
            with suppress(OSError):
                directory.rmdir()

    def _directories(self) -> list[Path]:
        """It and all below, parents first."""
        return [Path(each) for each, _, _ in os.walk(self.path)]


def _own_directory(proc: Path) -> Path | None:
    """Where this program's own control group is, of version 2."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError as error:
        _log.debug("control groups cannot be seen: %s", error)
        return None
    own = next((line[len("0::") :] for line in groups if line.startswith("0::/")), None)
    root = next(_roots(mounts), None)
    if own is None or root is None or own.startswith("/.."):
        return None
    return Path(root + own)


def _roots(mounts: list[str]) -> Iterator[str]:
    """Where the tree of version 2 is mounted from its root on."""
    for line in mounts:
        place, _, kind = line.partition(" - ")
        fields = place.split()
        if kind.startswith("cgroup2 ") and len(fields) > 4 and fields[3] == "/":
            yield fields[4].encode().decode("unicode_escape")  # a blank is \\040 there
