"""A real disk's tree as a mount shows it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import stat
from typing import TYPE_CHECKING, Any

import pytest

from mirrorha.volume.disk import LIMBO_FID, SetAside
from mirrorha.volume.ops import (
    ROOT_FID,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from tests.volume.disk_support import T0, Home, create, do, fid, mkdir, seen_in

if TYPE_CHECKING:
    pass

FILE, DIRECTORY, INNER, SYMLINK = fid(1), fid(2), fid(3), fid(4)


def opened(home: Home, **settings: int) -> tuple[Any, Any]:
    disk = home.open(**settings)
    return disk, disk.view()


def fill(disk: Any) -> None:
    do(
        disk,
        create(1, "file"),
        mkdir(2, "directory"),
        create(3, "inner", DIRECTORY),
        Symlink(SYMLINK, ROOT_FID, "symlink", "directory/inner", -1, -1, T0),
        Write(FILE, 0, b"content", T0),
        SetXattr(FILE, "user.note", b"value"),
    )


def refused(number: int, call: Any, *args: Any) -> None:
    with pytest.raises(OSError, match=re.escape(f"[Errno {number}]")):
        call(*args)


def test_names(home: Home) -> None:
    disk, view = opened(home)
    fill(disk)
    assert view.lookup(ROOT_FID, "file") == FILE
    assert view.lookup(DIRECTORY, "inner") == INNER
    assert view.lookup(DIRECTORY, "missing") == 0
    refused(errno.ENOTDIR, view.lookup, FILE, "x")
    refused(errno.ESTALE, view.lookup, fid(99), "x")
    assert (view.parent(DIRECTORY), view.parent(ROOT_FID)) == (ROOT_FID, ROOT_FID)
    listed = {one.name: (one.fid, one.type << 12) for one in view.list_directory(ROOT_FID)}
    assert listed == {
        "file": (FILE, stat.S_IFREG),
        "directory": (DIRECTORY, stat.S_IFDIR),
        "symlink": (SYMLINK, stat.S_IFLNK),
    }
    assert view.readlink(SYMLINK) == b"directory/inner"
    assert view.names(INNER) == [(DIRECTORY, "inner")]


def test_looking_opens_no_file(home: Home) -> None:
    disk, _ = opened(home)
    fill(disk)
    disk, view = opened(home)
    before = len(os.listdir("/proc/self/fd"))
    assert view.status(FILE)[0].st_size == 7
    assert view.status(INNER)[0].st_size == 0
    assert stat.S_ISLNK(view.status(SYMLINK)[0].st_mode)
    # The directory that `inner` is in, at most.
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_what_a_resync_set_aside_is_not_shown(home: Home) -> None:
    disk, view = opened(home)
    fill(disk)
    links = view.status(ROOT_FID)[1]
    disk.perform(SetAside(ROOT_FID, "file"))
    assert "file" not in {one.name for one in view.list_directory(ROOT_FID)}
    assert view.lookup(ROOT_FID, ".mirrorha-limbo") == 0
    assert view.names(FILE) == []
    assert view.status(ROOT_FID)[1] == links
    disk.perform(SetAside(ROOT_FID, "directory"))
    assert view.parent(DIRECTORY) == ROOT_FID
    assert LIMBO_FID not in {one.fid for one in view.list_directory(ROOT_FID)}


def test_an_open_file_outlives_its_names(home: Home) -> None:
    disk, view = opened(home, idle_max=1, dirty_max=100)
    fill(disk)
    view.open(FILE)
    view.open(FILE)
    do(disk, Unlink(FILE, ROOT_FID, "file", T0))
    assert view.is_orphan(FILE)
    assert seen_in(view, FILE, 3) == b"tent"
    status, links = view.status(FILE)
    assert (status.st_size, links, view.names(FILE)) == (7, 0, [])
    for op in (
        Write(FILE, 7, b"more", T0 + 1),
        Truncate(FILE, 9, T0 + 2),
        SetAttributes(FILE, 0o4711, None, None, T0 + 3),
        SetXattr(FILE, "user.other", b"1"),
        SetXattr(FILE, "user.note", None),
    ):
        assert view.change_orphan(op) == op
    assert seen_in(view, FILE) == b"contentmo"
    status = view.status(FILE)[0]
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o4711, T0 + 3)
    assert (view.xattrs(FILE), view.xattr(FILE, "user.other")) == (["user.other"], b"1")
    refused(errno.ENODATA, view.xattr, FILE, "user.note")
    view.release(FILE)
    assert view.is_orphan(FILE)
    view.release(FILE)
    assert not view.is_orphan(FILE)
    refused(errno.ESTALE, view.pin, FILE)
    refused(errno.ESTALE, view.change_orphan, Truncate(FILE, 0, T0))
    view.release(FILE)  # nothing to release


def test_only_orphans_are_changed_beside_the_stream(home: Home) -> None:
    disk, view = opened(home)
    fill(disk)
    view.open(FILE)
    refused(errno.ESTALE, view.change_orphan, Truncate(FILE, 0, T0))
    assert seen_in(view, FILE) == b"content"
    view.close()


def test_a_file_that_was_replaced_and_a_directory_that_was_removed(home: Home) -> None:
    disk, view = opened(home)
    fill(disk)
    view.open(INNER)
    view.open(DIRECTORY)
    do(
        disk,
        Rename(FILE, ROOT_FID, "file", DIRECTORY, "inner", INNER, T0),
        Unlink(FILE, DIRECTORY, "inner", T0),
        Rmdir(DIRECTORY, ROOT_FID, "directory", T0),
    )
    assert view.is_orphan(INNER)
    assert view.is_orphan(DIRECTORY)
    assert view.list_directory(DIRECTORY) == []
    refused(errno.ESTALE, view.lookup, DIRECTORY, "inner")
    view.close()
    assert not view.is_orphan(INNER)


def test_looking_never_makes_anything_durable(home: Home) -> None:
    """A sync that fails is the business of who writes; nobody else may swallow that."""
    synced: list[int] = []
    home.close()
    disk = home.open(idle_max=1, dirty_max=2, fsync=synced.append, syncfs=None)
    view = disk.view()
    fill(disk)
    for number in range(10, 20):
        do(disk, mkdir(number, f"d{number}"), create(number + 20, "f", fid(number)))
    disk = home.open(idle_max=1, dirty_max=2, fsync=synced.append, syncfs=None)
    view = disk.view()
    do(disk, Write(FILE, 0, b"x", T0), Write(INNER, 0, b"x", T0))
    synced.clear()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(10, 20):
        view.status(fid(number + 20))
        view.xattrs(fid(number + 20))
    assert synced == []
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def take_all_descriptors() -> list[int]:
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    return taken


def test_too_many_open_files(home: Home) -> None:
    disk, view = opened(home, idle_max=4)
    fill(disk)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    spare: list[int] = []
    try:
        spare += take_all_descriptors()
        refused(errno.ENFILE, view.open, FILE)
    finally:
        for fd in spare:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    view.open(FILE)
    view.release(FILE)


def test_who_has_files_open_can_change_them_however_many_there_are(home: Home) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # An eighth is left for whatever else this process has open.
    limit = 8 * max(32, len(os.listdir("/proc/self/fd")) + 12)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        disk, view = opened(home)
        numbers = range(1000, 1000 + limit)
        do(disk, *(create(number, f"f{number}") for number in numbers))
        held = []
        with contextlib.suppress(OSError):
            for number in numbers:
                view.open(fid(number))
                held.append(number)
        assert limit // 3 < len(held) < limit * 4 // 5
        refused(errno.ENFILE, view.open, fid(numbers[-1]))
        for number in held:
            do(disk, Write(fid(number), 0, b"data", T0))
            assert seen_in(view, fid(number)) == b"data"
        assert len(view.list_directory(ROOT_FID)) == len(numbers)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
