"""What the disk in memory loses with the power, and what not."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

import pytest

from mirrorha.testing.disk_requests import RandomRequests
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.testing.memory_inode import SECTOR_BYTES
from mirrorha.volume.disk import (
    Apply,
    DiskError,
    ListDirectory,
    LoadTouched,
    Outcome,
    RecordTouched,
    Relabel,
    SetAside,
    SyncFiles,
    SyncTree,
)
from mirrorha.volume.ops import ROOT_FID, Rename, SetAttributes, Truncate, Unlink, Write
from tests.volume.disk_support import T0, create, do, drawn, fid, mkdir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SEEDS = range(200)


def never() -> int:
    pytest.fail("no id is drawn")


def after_power_loss(prepare: Callable[[MemoryDisk], None]) -> Iterable[MemoryDisk]:
    """The disk that `prepare` leaves, after each of many losses of power."""
    for seed in SEEDS:
        disk = MemoryDisk()
        prepare(disk)
        disk.power_loss(random.Random(seed))
        yield disk


def content(disk: MemoryDisk, path: str = "a") -> bytes | None:
    seen = disk.snapshot().get(path)
    return None if seen is None else seen.content


def test_what_was_synced_stays() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, mkdir(1, "d"), create(2, "a", fid(1)), Write(fid(2), 0, b"durable", T0))
        disk.perform(SyncFiles([fid(2)]))
        do(disk, create(3, "b"), Write(fid(3), 0, b"lost", T0))

    found = set()
    for disk in after_power_loss(prepare):
        assert content(disk, "d/a") == b"durable"
        assert disk.snapshot()["d/a"].fid == fid(2)
        found.add(content(disk, "b"))
    # Not there; there, but without any content; torn; or whole.
    assert found >= {None, b"", b"\0\0\0\0", b"lost"}


def test_a_loss_after_everything_was_synced_loses_nothing() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        disk = MemoryDisk(draw=never)
        requests = RandomRequests(rng)
        for _ in range(150):
            disk.perform(requests.request())
        disk.perform(SyncTree())
        before = disk.snapshot()
        disk.power_loss(rng)
        disk.open_again()
        assert disk.snapshot() == before


def test_writes_are_torn_sector_by_sector() -> None:
    old, new = b"o" * 2 * SECTOR_BYTES, b"n" * 2 * SECTOR_BYTES

    def prepare(disk: MemoryDisk) -> None:
        do(disk, create(1, "a"), Write(fid(1), 0, old, T0))
        disk.perform(SyncTree())
        do(disk, Write(fid(1), 0, new, T0 + 1))

    found = {content(disk) for disk in after_power_loss(prepare)}
    half = SECTOR_BYTES
    assert found == {old, new, old[:half] + new[:half], new[:half] + old[:half]}


def test_writes_reach_the_disk_in_any_order() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, create(1, "a"), Write(fid(1), 0, b"..", T0))
        disk.perform(SyncTree())
        do(disk, Write(fid(1), 0, b"1", T0 + 1), Write(fid(1), 1, b"2", T0 + 2))
        do(disk, Write(fid(1), 0, b"3", T0 + 3))

    found = {content(disk) for disk in after_power_loss(prepare)}
    assert found == {b"..", b"1.", b".2", b"12", b"32", b"3."}


def test_a_truncation_brings_back_nothing_old() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, create(1, "a"), Write(fid(1), 0, b"secret", T0))
        disk.perform(SyncTree())
        do(disk, Truncate(fid(1), 2, T0 + 1), Write(fid(1), 4, b"xy", T0 + 2))

    found = {content(disk) for disk in after_power_loss(prepare)}
    # Before the truncation the write can have been ahead of it; after it, nothing old is there.
    assert found == {b"secret", b"secrxy", b"se", b"se\0\0\0\0", b"se\0\0xy"}


def test_attributes_become_those_of_some_moment() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, create(1, "a"))
        disk.perform(SyncTree())
        do(disk, SetAttributes(fid(1), 0o600, None, None, T0 + 1))
        do(disk, SetAttributes(fid(1), 0o400, None, None, T0 + 2))

    seen = [disk.snapshot()["a"].attributes for disk in after_power_loss(prepare)]
    found = {(attributes.mode, attributes.mtime_ns) for attributes in seen}
    assert found == {(0o644, T0), (0o600, T0 + 1), (0o400, T0 + 2)}


def test_names_are_lost_from_the_end() -> None:
    """The tree is one that there was, at or after the last sync."""
    kept = set()
    for seed in range(150):
        rng = random.Random(seed)
        disk = MemoryDisk()
        requests = RandomRequests(rng)
        trees = [{""}]
        for _ in range(80):
            disk.perform(Apply(requests.op()))
            trees.append(set(disk.snapshot()))
            if rng.random() < 0.03:
                disk.perform(SyncTree())
                trees = trees[-1:]
        disk.power_loss(rng)
        after = set(disk.snapshot())
        assert after in trees
        kept.add(trees.index(after) / len(trees) > 0.5)
    assert kept == {True, False}


def test_a_synced_file_keeps_its_name_and_what_came_before() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, create(1, "old"), mkdir(2, "d"))
        disk.perform(SyncTree())
        do(disk, create(3, "before"), Rename(0, ROOT_FID, "d", ROOT_FID, "e", 0, T0))
        do(disk, create(4, "a", fid(2)), Unlink(0, ROOT_FID, "old", T0))
        disk.perform(SyncFiles([fid(4)]))

    found = {frozenset(disk.snapshot()) - {""} for disk in after_power_loss(prepare)}
    both = {"before", "e", "e/a"}
    assert found == {frozenset(both), frozenset(both | {"old"})}


def test_data_that_was_synced_stays_and_the_rest_may_go() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, create(1, "a"), Write(fid(1), 0, b"old", T0))
        disk.perform(SyncTree())
        do(disk, SetAttributes(fid(1), 0o600, None, None, T0 + 1))
        do(disk, Truncate(fid(1), 1, T0 + 2), Write(fid(1), 3, b"new", T0 + 3))
        disk.perform(SyncFiles([fid(1)], [fid(1)]))

    found = set()
    for disk in after_power_loss(prepare):
        assert content(disk) == b"o\0\0new"
        attributes = disk.snapshot()["a"].attributes
        found.add((attributes.mode, attributes.mtime_ns))
    assert found == {(0o644, T0), (0o600, T0 + 1), (0o600, T0 + 2), (0o600, T0 + 3)}


def test_what_follows_synced_data_may_go() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, create(1, "a"))
        disk.perform(SyncTree())
        do(disk, Write(fid(1), 0, b"data", T0 + 1))
        disk.perform(SyncFiles([fid(1)], [fid(1)]))
        do(disk, Write(fid(1), 4, b"more", T0 + 2))

    assert {content(disk) for disk in after_power_loss(prepare)} >= {b"data", b"datamore"}
    for disk in after_power_loss(lambda disk: (prepare(disk), disk.perform(SyncTree()))):
        seen = disk.snapshot()["a"]
        assert (seen.content, seen.attributes.mtime_ns) == (b"datamore", T0 + 2)


def test_files_are_synced_together() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, *(create(number, f"f{number}") for number in (1, 2, 3)))
        disk.perform(SyncTree())
        do(disk, *(Write(fid(number), 0, b"x", T0) for number in (1, 2, 3)))
        disk.perform(SyncFiles([fid(1), fid(2)]))

    found = {tuple(content(disk, f"f{n}") for n in (1, 2, 3)) for disk in after_power_loss(prepare)}
    assert {kept[:2] for kept in found} == {(b"x", b"x")}
    assert {kept[2] for kept in found} >= {b"", b"x"}


def test_a_synced_file_keeps_the_names_of_its_directories() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, mkdir(1, "d"), mkdir(2, "e", fid(1)), create(3, "a", fid(2)))
        disk.perform(SyncTree())
        do(disk, Rename(0, ROOT_FID, "d", ROOT_FID, "f", 0, T0))
        disk.perform(SyncFiles([fid(3)]))

    for disk in after_power_loss(prepare):
        assert set(disk.snapshot()) == {"", "f", "f/e", "f/e/a"}


def test_a_synced_directory_keeps_what_it_holds() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, mkdir(1, "d"), create(2, "a", fid(1)))
        disk.perform(SyncTree())
        do(disk, Unlink(0, fid(1), "a", T0))
        disk.perform(SyncFiles([fid(1)]))

    for disk in after_power_loss(prepare):
        assert set(disk.snapshot()) == {"", "d"}


def test_a_file_that_comes_back_has_what_was_durable_of_it() -> None:
    def prepare(disk: MemoryDisk) -> None:
        do(disk, create(1, "a"), Write(fid(1), 0, b"x", T0))
        disk.perform(SyncTree())
        do(disk, Unlink(0, ROOT_FID, "a", T0))

    assert {content(disk) for disk in after_power_loss(prepare)} == {None, b"x"}


def test_files_whose_ids_were_lost_get_new_ones_and_are_named() -> None:
    ways = set()
    for seed in SEEDS:
        drawn_fids = (drawn(number) for number in range(1, 100))
        disk = MemoryDisk(draw=drawn_fids.__next__)
        do(disk, create(1, "a"), create(2, "b"))
        disk.perform(SyncTree())
        disk.perform(Relabel(fid(1), fid(9)))
        do(disk, create(3, "c"))
        disk.power_loss(random.Random(seed))
        found = disk.open_again()
        fids = {path: seen.fid for path, seen in disk.snapshot().items() if path}
        assert fids["b"] == fid(2)
        assert fids["a"] in {fid(1), fid(9)}
        assert fids.get("c") in {None, fid(3), drawn(1)}
        assert found.unknown == ((drawn(1),) if fids.get("c") == drawn(1) else ())
        assert disk.found is found
        assert not disk.open_again().unknown
        ways.add((fids["a"], fids.get("c")))
    # The table of ids is a journal too: the older change first.
    assert (fid(1), fid(3)) not in ways
    assert len(ways) == 5


def test_a_lost_table_of_ids_gives_everything_a_new_one() -> None:
    disk = MemoryDisk()
    do(disk, mkdir(1, "d"), create(2, "a", fid(1)))
    disk.lose_ids()
    found = disk.open_again()
    fids = {seen.fid for path, seen in disk.snapshot().items() if path}
    assert found.rebuilt
    assert set(found.unknown) == fids
    assert not fids & {fid(1), fid(2)}


def test_the_end_of_a_process_loses_nothing() -> None:
    disk = MemoryDisk(draw=never)
    do(disk, create(1, "a"), Write(fid(1), 0, b"x", T0), create(2, "b"))
    disk.perform(SetAside(ROOT_FID, "b"))
    before = disk.snapshot()
    disk.process_crash()
    assert disk.open_again().limbo == 1
    assert disk.snapshot() == before
    disk.power_loss(random.Random(1))
    assert disk.snapshot() == before, "opening made it durable"


def test_an_image_is_the_disk_as_it_was() -> None:
    disk = MemoryDisk()
    do(disk, create(1, "a"), Write(fid(1), 0, b"x", T0))
    disk.perform(RecordTouched([(fid(1), 0)]))
    disk.perform(SyncTree())
    do(disk, create(2, "b"), Write(fid(1), 0, b"y", T0))
    before = disk.snapshot()
    image = disk.image()
    do(disk, Unlink(0, ROOT_FID, "a", T0), create(3, "c"))
    disk.perform(RecordTouched([(fid(3), 0)]))
    for _ in range(2):
        disk.restore(image)
        assert disk.snapshot() == before
        assert disk.perform(LoadTouched()).keys == [(fid(1), 0)]  # type: ignore[attr-defined]
        do(disk, Write(fid(1), 0, b"z", T0))
    contents = set()
    for seed in SEEDS:
        # Of a running node: what was not durable then is not durable in the image.
        disk.restore(image)
        disk.power_loss(random.Random(seed))
        contents.add((content(disk), content(disk, "b")))
    assert contents == {(b"x", None), (b"x", b""), (b"y", None), (b"y", b"")}


def test_the_same_chance_gives_the_same_loss() -> None:
    def lose(seed: int) -> object:
        rng = random.Random(seed)
        disk = MemoryDisk()
        requests = RandomRequests(rng)
        for _ in range(200):
            disk.perform(requests.request())
        disk.power_loss(rng)
        return disk.snapshot(), disk.open_again()

    assert [lose(seed) for seed in range(5)] == [lose(seed) for seed in range(5)]


def test_a_full_disk_takes_what_fits() -> None:
    disk = MemoryDisk()
    do(disk, create(1, "a"), Write(fid(1), 0, b"abcd", T0))
    disk.fill(3)
    do(disk, Write(fid(1), 0, b"ABCD", T0), Write(fid(1), 3, b"de", T0))
    outcome = disk.perform(Apply(Write(fid(1), 5, b"fghi", T0)))
    assert outcome == Outcome(Write(fid(1), 5, b"fg", T0), errno.ENOSPC)
    before = disk.snapshot()
    outcome = disk.perform(Apply(Write(fid(1), 7, b"h", T0)))
    assert outcome == Outcome(None, errno.ENOSPC)
    assert disk.snapshot() == before
    do(disk, Truncate(fid(1), 6, T0), Write(fid(1), 6, b"x", T0))
    disk.make_room()
    do(disk, Write(fid(1), 7, b"yz", T0))
    assert content(disk) == b"ABCdefxyz"


def test_a_failing_disk_refuses_everything() -> None:
    disk = MemoryDisk()
    do(disk, create(1, "a"))
    disk.fail("broken", after=2)
    do(disk, create(2, "b"))
    disk.perform(SyncTree())
    for request in (Apply(create(3, "c")), ListDirectory(ROOT_FID), SyncFiles([fid(1)])):
        with pytest.raises(DiskError, match="broken"):
            disk.perform(request)
    disk.replace()
    assert set(disk.snapshot()) == {"", "a", "b"}


def test_a_lost_touched_log_says_so() -> None:
    disk = MemoryDisk()
    disk.perform(RecordTouched([(fid(1), 0)]))
    disk.lose_touched()
    state = disk.perform(LoadTouched())
    assert (state.keys, state.damaged) == ([], True)  # type: ignore[attr-defined]
