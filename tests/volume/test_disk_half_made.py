"""A process that ends in the middle of making a file leaves nothing of it behind."""

from __future__ import annotations

import os
import random
import stat
import warnings
from typing import TYPE_CHECKING

import msgspec
import pytest

from mirrorha.testing.check_disk_steps import take_snapshot
from mirrorha.testing.check_disk_surface import acl
from mirrorha.volume.access_lists import ACL_ACCESS
from mirrorha.volume.disk import Apply, ApplyHere, RecordTouched, SyncTree
from mirrorha.volume.local_disk import naming
from mirrorha.volume.names import HALF_MADE_PREFIX
from mirrorha.volume.opening import OpenVolume, open_volume
from mirrorha.volume.ops import ROOT_FID, Create, Kind, Mkdir, Mknod, Symlink
from mirrorha.volume.touched import NAMES
from tests.volume.disk_support import T0, Home, create, do, fid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirrorha.volume.ops import Birth

LIST = {ACL_ACCESS: acl((1, 6), (2, 4, 7), (4, 4), (16, 4), (32, 0))}
OWNERS = (7, 8) if os.geteuid() == 0 else (-1, -1)
BIRTHS: tuple[Birth, ...] = (
    Create(fid(5), ROOT_FID, "new", 0o640, *OWNERS, T0, None, LIST),
    Mkdir(fid(5), ROOT_FID, "new", 0o2750, *OWNERS, T0),
    Mknod(fid(5), ROOT_FID, "new", Kind.FIFO, 0o640, 0, *OWNERS, T0),
    Symlink(fid(5), ROOT_FID, "new", "old", *OWNERS, T0),
)
# What making a file consists of. Reading calls are not among them.
CALLS = frozenset(
    {
        *("chmod", "chown", "link", "mkdir", "mknod", "open", "rename", "setxattr", "symlink"),
        *("unlink", "utime"),
    }
)


def in_a_child(body: Callable[[], None]) -> bool:
    """Run `body` in a child process. True: it came to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests leave threads
        child = os.fork()
    if child == 0:
        try:
            body()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class _DyingOs:
    """The module `os`, which ends the process before its `nth` call that changes something."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: object, **named: object) -> object:
            if not self._left:
                os._exit(1)
            self._left -= 1
            return real(*arguments, **named)

        return call


@pytest.mark.parametrize("op", BIRTHS, ids=lambda op: type(op).__name__)
def test_a_file_is_there_whole_or_not_at_all(op: Birth, home: Home) -> None:
    disk = home.open()
    do(disk, create(1, "old"))
    disk.perform(RecordTouched([(ROOT_FID, NAMES)]))
    disk.perform(SyncTree())
    ended = 0
    for nth in range(20):
        disk = home.open()
        disk.perform(RecordTouched([(ROOT_FID, NAMES)]))

        def make(nth: int = nth, disk: object = disk) -> None:
            naming.os = _DyingOs(nth)  # type: ignore[assignment,attr-defined]
            disk.perform(Apply(op))  # type: ignore[attr-defined]

        if in_a_child(make):
            break
        ended += 1
        raw = os.listdir(home.root)
        disk = home.open()
        seen = take_snapshot(disk)
        if "new" in seen:
            # Its last step was done: only its id is missing, and it is said so.
            _check_whole(op, home.root / "new")
            assert disk.found.unknown == (seen["new"].fid,)
            (os.rmdir if isinstance(op, Mkdir) else os.unlink)(home.root / "new")
        else:
            assert sorted(seen) == ["", "old"]
            assert disk.found.half_made == tuple(name for name in raw if name != "old")
            assert os.listdir(home.root) == ["old"]
        for name in os.listdir(home.root):
            assert name == "old"
    assert ended >= 3


@pytest.mark.parametrize("op", BIRTHS, ids=lambda op: type(op).__name__)
def test_so_it_is_of_what_is_excluded(op: Birth, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()

    def opened() -> OpenVolume:
        rng = random.Random(1)
        return open_volume(root, tmp_path / "state", rng=rng, exclude=["new"])

    opened().close()
    ends = []
    for nth in range(20):

        def make(nth: int = nth) -> None:
            disk = opened().disk
            naming.os = _DyingOs(nth)  # type: ignore[assignment,attr-defined]
            disk.perform(ApplyHere(msgspec.structs.replace(op, fid=0)))

        is_made = in_a_child(make)
        raw = os.listdir(root)
        volume = opened()
        volume.close()
        assert volume.disk.found.half_made == tuple(name for name in raw if name != "new")
        ends.append(os.listdir(root))
        if ends[-1]:
            _check_whole(op, root / "new")
            (os.rmdir if isinstance(op, Mkdir) else os.unlink)(root / "new")
        if is_made:
            break
    assert ends[-1] == ["new"]
    assert ends.count([]) >= 3


def _check_whole(op: Birth, path: Path) -> None:
    status = path.lstat()
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == OWNERS
    assert status.st_mtime_ns == T0
    if not isinstance(op, Symlink):
        assert stat.S_IMODE(status.st_mode) == op.mode
        found = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        assert found == op.xattrs


def test_what_only_looks_half_made_stays(home: Home) -> None:
    """It has an id, or content, or the touched log knows nothing of it."""
    disk = home.open()
    do(disk, create(1, "known", mode=0o1600))
    home.close()
    for name, content in ("new", b""), ("full", b"x"):
        (home.root / name).write_bytes(content)
        (home.root / name).chmod(0o1600)
    (home.root / f"{HALF_MADE_PREFIX}5").symlink_to("x")
    (home.root / "d").mkdir()
    (home.root / "d/f").touch()
    (home.root / "d").chmod(0o1700)
    (home.root / "e").mkdir(mode=0o700)
    disk = home.open()
    assert disk.found.half_made == ()
    there = {"known", "new", "full", f"{HALF_MADE_PREFIX}5", "d", "d/f", "e"}
    assert set(take_snapshot(disk)) - {""} == there
    # The log says that names were changed, but now all of these are known.
    disk.perform(RecordTouched([(ROOT_FID, NAMES)]))
    disk = home.open()
    assert disk.found.half_made == ()
    (home.root / "later").touch()
    (home.root / "later").chmod(0o1600)
    (home.root / "full2").write_bytes(b"x")
    (home.root / "full2").chmod(0o1600)
    (home.root / "g").mkdir()
    (home.root / "g/f").touch()
    (home.root / "g").chmod(0o1700)
    disk = home.open()
    assert disk.found.half_made == ("later",)
    assert set(take_snapshot(disk)) - {""} == there | {"full2", "g", "g/f"}
