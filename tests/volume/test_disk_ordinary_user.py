"""A node that does not run as root keeps no owners, and for the rest does the same."""

from __future__ import annotations

import os
import random
import stat
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorha.testing.check_disk import DISK_CASES
from mirrorha.testing.check_disk_steps import take_snapshot
from mirrorha.testing.disk_requests import RandomRequests
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import Apply, Outcome
from mirrorha.volume.ops import ROOT_FID, Create, SetAttributes, Write
from tests.volume.disk_support import T0, Home, create, do, fid

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534


def as_nobody(body: Callable[[Path], None], path: Path) -> None:
    """Run `body` in a child process that has given its rights away."""
    read_fd, write_fd = os.pipe()
    with warnings.catch_warnings():
        # Other tests leave threads; the child uses nothing of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            body(path)
            os.write(write_fd, b"well")
        except BaseException:
            os.write(write_fd, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    assert said == "well", said


def test_the_contract_holds(open_path: Path) -> None:
    def body(path: Path) -> None:
        for case in DISK_CASES:
            (path / case.__name__).mkdir()
            home = Home(path / case.__name__)
            case(home.open())
            home.close()

    as_nobody(body, open_path)


@pytest.mark.parametrize("seed", range(5))
def test_twins_do_the_same(seed: int, open_path: Path) -> None:
    def body(path: Path) -> None:
        home = Home(path)
        real = home.open(idle_max=4, dirty_max=4)
        memory = MemoryDisk(keeps_owners=False)
        requests = RandomRequests(random.Random(seed), mode_min=0o700)
        for disk in (real, memory):
            disk.perform(Apply(SetAttributes(ROOT_FID, 0o755, 3, 4, 1, 1)))
        for _ in range(200):
            request = Apply(requests.op())
            expected, found = memory.perform(request), real.perform(request)
            assert found == expected, request
        assert take_snapshot(real) == memory.snapshot()
        home.close()

    as_nobody(body, open_path)


def test_owners_are_not_kept(open_path: Path) -> None:
    def body(path: Path) -> None:
        home = Home(path)
        disk = home.open()
        outcome = disk.perform(Apply(Create(fid(1), ROOT_FID, "a", 0o644, 0, 7, T0)))
        assert outcome == Outcome(Create(fid(1), ROOT_FID, "a", 0o644, -1, -1, T0))
        outcome = disk.perform(Apply(SetAttributes(fid(1), None, 5, None, None)))
        assert outcome == Outcome(SetAttributes(fid(1), None, -1, None, None))
        attributes = take_snapshot(disk)["a"].attributes
        assert (attributes.uid, attributes.gid) == (-1, -1)
        assert (home.root / "a").stat().st_uid == NOBODY
        home.close()

    as_nobody(body, open_path)


def test_a_read_only_file_can_be_written_by_its_owner(open_path: Path) -> None:
    """As by whoever opened it before it became read-only; git does that with every object."""

    def body(path: Path) -> None:
        home = Home(path)
        disk = home.open()
        do(disk, create(1, "a", mode=0o444), create(2, "b", mode=0))
        disk = home.open(idle_max=4)
        do(disk, Write(fid(1), 0, b"x", T0), Write(fid(2), 0, b"y", T0))
        seen = take_snapshot(disk)
        assert (seen["a"].content, seen["a"].attributes.mode) == (b"x", 0o444)
        assert (seen["b"].content, seen["b"].attributes.mode) == (b"y", 0)
        home.close()

    as_nobody(body, open_path)


def test_the_files_of_others_are_not_changed(open_path: Path) -> None:
    (open_path / "root").mkdir()
    (open_path / "root/a").write_bytes(b"theirs")
    for path in (open_path / "root", open_path / "root/a"):
        path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o666)
    (open_path / "root").chmod(0o777)

    def body(path: Path) -> None:
        home = Home(path)
        disk = home.open()
        seen = take_snapshot(disk)["a"]
        outcome = disk.perform(Apply(Write(seen.fid, 0, b"x", T0)))
        assert isinstance(outcome, Outcome)
        assert (outcome.done, outcome.errno) == (None, 1)
        assert take_snapshot(disk)["a"] == seen
        home.close()

    as_nobody(body, open_path)
