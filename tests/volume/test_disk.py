"""The real disk and the one in memory keep to the same contract."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from mirrorha.testing.check_disk import DISK_CASES
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.local_disk.ids import IdTable
from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.ops import make_fid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def draws() -> Callable[[], int]:
    counter = itertools.count(1)
    return lambda: make_fid(epoch=77, counter=next(counter))


@pytest.mark.parametrize("case", DISK_CASES, ids=lambda case: case.__name__)
class TestContract:
    def test_memory_disk(self, case: Callable[[object], None]) -> None:
        case(MemoryDisk(keeps_owners=os.geteuid() == 0))

    def test_real_disk(self, case: Callable[[object], None], tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        ids, touched = IdTable(tmp_path / "ids.db"), TouchedStore(tmp_path / "touched.db")
        disk = RealDisk(root, ids, touched, draw=draws())
        case(disk)
        disk.close()
        ids.close()
        touched.close()
