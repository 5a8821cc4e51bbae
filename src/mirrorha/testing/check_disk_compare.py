"""Of `check_disk`: what a comparison of two copies asks, and what a repair restates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mirrorha.testing.check_disk_steps import (
    T0,
    T1,
    attributes_of,
    create,
    do,
    fid_of,
    make_all,
    mkdir,
    same,
    take_snapshot,
)
from mirrorha.volume.disk import Locate, Outcome, ReadAnew, ReadBytes, Restate
from mirrorha.volume.ops import (
    ROOT_FID,
    AnyOp,
    Link,
    Rename,
    SetAttributes,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.wire.limits import BLOCK_BYTES

if TYPE_CHECKING:
    from mirrorha.volume.disk import Disk


def what_there_is_is_restated(disk: Disk) -> None:
    fid = fid_of(1)
    make_all(disk, create(1, "a", mode=0o604), mkdir(2, "d"))
    do(disk, Write(fid, 0, b"what there is", T1))
    own = attributes_of(disk, fid)
    uid, gid = (None if each < 0 else each for each in (own.uid, own.gid))
    before = take_snapshot(disk)
    restated: dict[Write | Truncate | SetAttributes, AnyOp | None] = {
        Write(fid, 5, bytes(5), 0): Write(fid, 5, b"there", T1),
        Write(fid, 8, bytes(100), 0): Write(fid, 8, b"re is", T1),
        Write(fid, 13, bytes(5), 0): None,
        Truncate(fid, 0, 0): Truncate(fid, 13, T1),
        SetAttributes(fid, None, None, None, 0): SetAttributes(fid, 0o604, uid, gid, T1),
        SetAttributes(fid_of(2), None, None, None, 0): SetAttributes(
            fid_of(2), attributes_of(disk, fid_of(2)).mode, uid, gid, T0
        ),
        Write(fid_of(2), 0, b"x", 0): None,
        Write(fid_of(3), 0, b"x", 0): None,
        Truncate(fid_of(3), 0, 0): None,
    }
    for op, done in restated.items():
        same(disk.perform(Restate(op)), Outcome(done), f"of {op}")
        if done is not None:
            do(disk, done)  # applied where it holds already, it changes nothing
    same(take_snapshot(disk), before, "nothing has changed")


def files_are_located(disk: Disk) -> None:
    fid = fid_of(1)
    make_all(disk, mkdir(2, "d"), create(1, "a", fid_of(2)))
    same(disk.perform(Locate(ROOT_FID)), "", "the root")
    same(disk.perform(Locate(fid)), "d/a", "a file")
    same(disk.perform(Locate(fid_of(2))), "d", "a directory")
    same(disk.perform(Locate(fid_of(9))), None, "what is not there")
    do(
        disk,
        Rename(fid_of(2), ROOT_FID, "d", ROOT_FID, "e", 0, T1),
        Link(fid, ROOT_FID, "b", T1),
        Unlink(fid, fid_of(2), "a", T1),
    )
    same(disk.perform(Locate(fid)), "b", "its other name")


def what_is_read_anew_is_the_same(disk: Disk) -> None:
    fid, data = fid_of(1), b"data" * BLOCK_BYTES
    make_all(disk, create(1, "a"), mkdir(2, "d"))
    do(disk, Write(fid, 0, data, T1))
    for request in ReadAnew(fid, 0, 4), ReadAnew(fid, 2, 99), ReadAnew(fid, 99, 1):
        same(disk.perform(request), None, "nothing is told")
    for nothing in fid_of(2), fid_of(3):
        same(disk.perform(ReadAnew(nothing, 0, 1)), None, "of no file either")
    same(disk.perform(ReadBytes(fid, 0, len(data))), data, "what was written")


COMPARE_CASES: Final = (
    what_there_is_is_restated,
    files_are_located,
    what_is_read_anew_is_the_same,
)
