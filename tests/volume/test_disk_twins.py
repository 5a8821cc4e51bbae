"""The real disk and the one in memory do the same, whatever is asked of them."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from mirrorha.testing.check_disk_steps import take_snapshot
from mirrorha.testing.disk_requests import RandomRequests
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import LIMBO_FID, Apply, Kind, ListDirectory, Outcome
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.local_disk.ids import IdTable
from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.ops import ROOT_FID, Rmdir, SetAttributes, Unlink

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorha.volume.disk import AnyRequest, Disk

REQUESTS = 250


def result_of(disk: Disk, request: AnyRequest) -> object:
    result = disk.perform(request)
    if isinstance(request, ListDirectory) and isinstance(result, list):
        return sorted(result, key=lambda entry: entry.name)
    return result


def remove_from_limbo(disk: Disk, chance: float) -> object:
    """Remove one name from limbo, where each disk has names of its own."""
    entries = disk.perform(ListDirectory(LIMBO_FID))
    if not isinstance(entries, list) or not entries:
        return None
    entries.sort(key=lambda entry: entry.fid)
    entry = entries[int(chance * len(entries))]
    remove = Rmdir if entry.kind is Kind.DIRECTORY else Unlink
    outcome = disk.perform(Apply(remove(entry.fid, LIMBO_FID, entry.name, 1)))
    return entry.fid, outcome.errno if isinstance(outcome, Outcome) else outcome


def refuse_to_draw() -> int:
    pytest.fail("every file has its id in the table")


@pytest.mark.parametrize("seed", range(20))
def test_twins_do_the_same(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    ids = IdTable(tmp_path / "ids.db")
    # Few descriptors, so that eviction and forced syncs are part of it.
    limits = {"idle_max": rng.choice((4, 64)), "dirty_max": rng.choice((2, 64))}
    touched = TouchedStore(tmp_path / "touched.db")
    real = RealDisk(root, ids, touched, draw=refuse_to_draw, **limits)
    memory = MemoryDisk(keeps_owners=os.geteuid() == 0)
    requests = RandomRequests(rng, mode_min=0 if os.geteuid() == 0 else 0o700)
    for disk in (real, memory):
        disk.perform(Apply(SetAttributes(ROOT_FID, 0o755, -1, -1, 1, 1)))
    for number in range(REQUESTS):
        request = requests.request()
        expected, found = result_of(memory, request), result_of(real, request)
        assert found == expected, f"request {number}: {request}"
        if rng.random() < 0.1:
            chance = rng.random()
            assert remove_from_limbo(real, chance) == remove_from_limbo(memory, chance)
        if rng.random() < 0.02:
            # What a process leaves, the next one finds.
            real.close()
            ids.close()
            ids = IdTable(tmp_path / "ids.db")
            touched.close()
            touched = TouchedStore(tmp_path / "touched.db")
            real = RealDisk(root, ids, touched, draw=refuse_to_draw, **limits)
            assert real.found == memory.open_again()
    assert take_snapshot(real) == memory.snapshot()
    real.close()
    ids.close()
    touched.close()
