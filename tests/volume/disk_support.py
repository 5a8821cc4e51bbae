"""A volume's directory and state for the tests of the real disk."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, NoReturn, final

from mirrorha.volume.disk import Apply, Outcome
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.local_disk.ids import IdTable
from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.ops import ROOT_FID, Create, Mkdir, make_fid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirrorha.volume.disk import Disk
    from mirrorha.volume.local_disk.view import DiskView
    from mirrorha.volume.ops import AnyOp

T0 = 1_700_000_000_000_000_000
DRAWN_EPOCH = 77


def fid(number: int) -> int:
    return make_fid(epoch=1, counter=number)


def drawn(number: int) -> int:
    return make_fid(epoch=DRAWN_EPOCH, counter=number)


def create(number: int, name: str, parent: int = ROOT_FID, mode: int = 0o644) -> Create:
    return Create(fid(number), parent, name, mode, -1, -1, T0)


def mkdir(number: int, name: str, parent: int = ROOT_FID) -> Mkdir:
    return Mkdir(fid(number), parent, name, 0o755, -1, -1, T0)


def do(disk: Disk, *ops: AnyOp) -> None:
    for op in ops:
        outcome = disk.perform(Apply(op))
        assert isinstance(outcome, Outcome)
        assert not outcome.errno, f"{op}: {os.strerror(outcome.errno)}"


def failing(number: int) -> Callable[..., NoReturn]:
    """A system call that always fails with this errno."""

    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def open_descriptors() -> set[str]:
    """Those of this process, by number."""
    return set(os.listdir("/proc/self/fd"))


@final
class Home:
    """The directory of a volume, and its state beside it. Opened again and again."""

    def __init__(self, path: Path) -> None:
        self.root = path / "root"
        self.root.mkdir(exist_ok=True)
        self.state = path / "state"
        self.state.mkdir(exist_ok=True)
        self._draws = itertools.count(1)
        self._open: list[Any] = []

    def open(self, **settings: Any) -> RealDisk:
        """Open the disk; one that was open is closed first."""
        self.close()
        ids = IdTable(self.state / "ids.db")
        touched = TouchedStore(self.state / "touched.db")
        self._open = [ids, touched]
        disk = RealDisk(self.root, ids, touched, draw=lambda: drawn(next(self._draws)), **settings)
        self._open.insert(0, disk)
        return disk

    def close(self) -> None:
        for one in self._open:
            one.close()
        self._open = []


def seen_in(view: DiskView, fid: int, offset: int = 0, length: int = 100) -> bytes:
    """What a view shows of a file."""
    return view.read_pinned(view.pin(fid), offset, length)
