"""The table of ids: what of it is durable, and when."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mirrorha.volume.disk import DiskError, Kind
from mirrorha.volume.local_disk.ids import IdTable, Row
from mirrorha.volume.local_disk.syscalls import identify

if TYPE_CHECKING:
    from pathlib import Path


def row(number: int) -> Row:
    return Row(1000 + number, number, 5, Kind.FILE)


def test_what_was_noted_is_durable_after_a_flush(tmp_path: Path) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)

    table = IdTable(tmp_path / "ids.db", fsync=fsync)
    assert synced == [tmp_path.stat().st_ino], "the table's own name"
    wal = (tmp_path / "ids.db-wal").stat().st_ino
    for change in (
        lambda: table.add(row(1)),
        lambda: table.relabel(1001, 1009),
        lambda: table.remove(1009),
    ):
        synced.clear()
        change()
        assert synced == []
        table.flush()
        assert synced == [wal]
        table.flush()
        assert synced == [wal], "nothing more to make durable"
    table.close()


def test_a_flush_that_fails_says_so_and_is_tried_again(tmp_path: Path) -> None:
    fails = False

    def fsync(descriptor: int) -> None:
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    table = IdTable(tmp_path / "ids.db", fsync=fsync)
    fails = True
    table.add(row(1))
    for _ in range(2):
        with pytest.raises(DiskError, match="table of ids"):
            table.flush()
    fails = False
    table.flush()
    table.close()


def test_the_log_beside_the_table_does_not_grow_for_ever(tmp_path: Path) -> None:
    table = IdTable(tmp_path / "ids.db")
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    root = identify(directory_fd)
    os.close(directory_fd)
    table.store(root, new=[], stale=[])
    wal = tmp_path / "ids.db-wal"
    for first in range(1, 10_000, 500):
        for number in range(first, first + 500):
            table.add(row(number))
        table.flush()
        assert wal.stat().st_size < 8 << 20
    assert table.load(root) == [row(number) for number in range(1, 10_001)]
    table.close()
