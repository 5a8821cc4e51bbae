"""Cases of `check_disk`: what is kept of one side of a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mirrorha.errors import ensure
from mirrorha.testing.check_disk_steps import (
    T1,
    create,
    do,
    entries_of,
    fid_of,
    make_all,
    mkdir,
    same,
    take_snapshot,
)
from mirrorha.volume.disk import (
    LIMBO_FID,
    BeginRescue,
    KeepAttributes,
    KeepFiles,
    KeepNames,
    NoteRenamed,
    NoteReplaced,
    Place,
    Relabel,
    RescueSum,
    SetAside,
    SumRescue,
)
from mirrorha.volume.ops import ROOT_FID, Link, Write

if TYPE_CHECKING:
    from mirrorha.volume.disk import AnyRequest, Disk


def _begin(disk: Disk, generation: str = "mine") -> None:
    again = False
    while disk.perform(BeginRescue(generation, "theirs", again)):
        again = True


def _keep(disk: Disk, make: Any, wanted: list[Any]) -> None:
    left = wanted
    while left:
        request: AnyRequest = make(left)
        left = disk.perform(request)  # type: ignore[assignment]
        ensure(isinstance(left, list), f"{request} gave {left}")


def _sum(disk: Disk) -> tuple[int, int]:
    found = disk.perform(SumRescue())
    ensure(isinstance(found, RescueSum), f"a sum is {found}")
    return (found.files, found.content_bytes) if isinstance(found, RescueSum) else (-1, -1)


def _fill(disk: Disk) -> None:
    make_all(disk, mkdir(1, "d"), *(create(n, str(n), fid_of(1)) for n in range(2, 12)))
    do(disk, *(Write(fid_of(n), 0, b"x" * n, T1) for n in range(2, 12)))


def files_are_kept_once(disk: Disk) -> None:
    _fill(disk)
    _begin(disk)
    before = take_snapshot(disk)
    wanted = [fid_of(number) for number in (1, 2, 3, 4, 5, 6, 99)]
    _keep(disk, KeepFiles, wanted)
    same(_sum(disk), (5, 2 + 3 + 4 + 5 + 6), "what was kept")
    do(disk, Write(fid_of(2), 0, b"y" * 50, T1))
    make_all(disk, create(20, "new"))
    do(disk, Write(fid_of(20), 0, b"new", T1))
    _keep(disk, KeepFiles, [*wanted, fid_of(20)])
    _keep(disk, KeepAttributes, [fid_of(1), fid_of(20)])
    _keep(disk, NoteReplaced, wanted)
    while disk.perform(NoteRenamed()):
        pass
    same(_sum(disk), (5, 2 + 3 + 4 + 5 + 6), "what was kept the second time")
    same(set(take_snapshot(disk)) - {"new"}, set(before), "the tree's names")


def a_file_is_known_whatever_it_is_called(disk: Disk) -> None:
    _fill(disk)
    _begin(disk)
    disk.perform(Relabel(fid_of(2), fid_of(50)))
    make_all(disk, create(2, "other"))
    do(disk, Write(fid_of(2), 0, b"new", T1))
    disk.perform(Place(ROOT_FID, "moved", fid_of(50)))
    _keep(disk, KeepFiles, [fid_of(2), fid_of(50)])
    same(_sum(disk), (1, 2), "only the one that was there")


def what_is_removed_is_moved(disk: Disk) -> None:
    _fill(disk)
    do(disk, Link(fid_of(3), ROOT_FID, "link", T1), Link(fid_of(4), ROOT_FID, "stays", T1))
    _begin(disk)
    make_all(disk, create(20, "new"))
    disk.perform(SetAside(ROOT_FID, "new"))
    disk.perform(SetAside(ROOT_FID, "link"))
    for number in range(2, 12):
        disk.perform(SetAside(fid_of(1), str(number)))
    names = {entry.fid: entry.name for entry in entries_of(disk, LIMBO_FID)}
    _keep(disk, KeepFiles, [fid_of(5)])
    _keep(disk, KeepNames, sorted(entry.name for entry in entries_of(disk, LIMBO_FID)))
    left = {entry.fid for entry in entries_of(disk, LIMBO_FID)}
    same(left, {fid_of(20), fid_of(4), fid_of(5)}, "new, with a name elsewhere, or copied before")
    same(_sum(disk), (9, sum(range(2, 12)) - 4), "what was kept")
    _keep(disk, KeepNames, [names[fid_of(6)], "none"])
    same(_sum(disk)[0], 9, "kept once")


def a_rescue_goes_on(disk: Disk) -> None:
    _fill(disk)
    _begin(disk)
    _keep(disk, KeepFiles, [fid_of(2)])
    do(disk, Write(fid_of(2), 0, b"theirs", T1))
    _begin(disk)
    _keep(disk, KeepFiles, [fid_of(2), fid_of(3)])
    same(_sum(disk), (2, 5), "of the same rescue")
    _begin(disk, "another")
    _keep(disk, KeepFiles, [fid_of(2)])
    same(_sum(disk), (1, 6), "of another rescue")


def what_another_rescue_left_aside_is_kept(disk: Disk) -> None:
    _fill(disk)
    make_all(disk, mkdir(20, "e"), create(21, "inner", fid_of(20)))
    _begin(disk)
    disk.perform(SetAside(fid_of(1), "5"))
    disk.perform(SetAside(ROOT_FID, "e"))
    _begin(disk, "another")
    make_all(disk, create(22, "new"))
    disk.perform(SetAside(ROOT_FID, "new"))
    _keep(disk, KeepFiles, [fid_of(5)])
    same(_sum(disk), (1, 5), "content that is about to change")
    disk.perform(SetAside(fid_of(20), "inner"))
    _keep(disk, KeepNames, [entry.name for entry in entries_of(disk, LIMBO_FID)])
    same(_sum(disk), (2, 5), "what is removed, once, and nothing new")


RESCUE_CASES: Final = (
    files_are_kept_once,
    a_file_is_known_whatever_it_is_called,
    what_is_removed_is_moved,
    a_rescue_goes_on,
    what_another_rescue_left_aside_is_kept,
)
