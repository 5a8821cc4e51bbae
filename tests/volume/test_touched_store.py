"""The touched log on a real disk: what it forgets against its will is noticed."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mirrorha.volume.local_disk.touched_store import TouchedStore
from mirrorha.volume.touched import TouchedState

KEYS = [(7, 0), (7, 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "touched.sqlite"


def load(path: Path) -> TouchedState:
    with contextlib.closing(TouchedStore(path)) as store:
        return store.load()


def begun(path: Path) -> TouchedStore:
    store = TouchedStore(path)
    store.begin()
    return store


def killed(path: Path, then: Path) -> Path:
    """The state directory as a kill leaves it: the write-ahead log was not brought in."""
    store = begun(path)
    for key in KEYS:
        store.record([key])
    then.mkdir()
    for each in path.parent.glob("touched.*"):
        shutil.copyfile(each, then / each.name)
    store.close()
    return then / path.name


def remove_the_wal(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def cut_the_wal(path: Path) -> None:
    """Behind its last whole change but one."""
    wal = path.with_name(path.name + "-wal")
    wal.write_bytes(wal.read_bytes()[:-5_000])


def flip_a_bit_of_the_wal(path: Path) -> None:
    wal = path.with_name(path.name + "-wal")
    raw = bytearray(wal.read_bytes())
    raw[len(raw) - 9_000] ^= 1
    wal.write_bytes(raw)


def remove_all_but_the_count(path: Path) -> None:
    for each in path.parent.glob("touched.sqlite*"):
        each.unlink()


def remove_the_count(path: Path) -> None:
    path.with_suffix(".count").unlink()


def damage_the_count(path: Path) -> None:
    path.with_suffix(".count").write_bytes(bytes(24))


def test_a_kill_takes_nothing_away(path: Path, tmp_path: Path) -> None:
    left = killed(path, tmp_path / "killed")
    for _ in range(2):
        assert load(left) == TouchedState(KEYS)


@pytest.mark.parametrize(
    "harm",
    [
        remove_the_wal,
        cut_the_wal,
        flip_a_bit_of_the_wal,
        remove_all_but_the_count,
        remove_the_count,
        damage_the_count,
    ],
)
def test_changes_that_sqlite_does_not_miss_are_missed(
    path: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    left = killed(path, tmp_path / "killed")
    harm(left)
    assert load(left).damaged
    with contextlib.closing(begun(left)) as store:  # nothing but a checkpoint makes up for it
        assert store.load().damaged
        store.retire([], epoch=3, seq=1)
        assert not store.load().damaged
    assert not load(left).damaged


def test_an_older_copy_of_the_log_is_noticed(path: Path, tmp_path: Path) -> None:
    """As a backup puts it back, of the file alone."""
    with contextlib.closing(begun(path)) as store:
        store.record(KEYS[:1])
    shutil.copyfile(path, tmp_path / "older")
    with contextlib.closing(TouchedStore(path)) as store:
        store.record(KEYS[1:])
    shutil.copyfile(tmp_path / "older", path)
    assert load(path).damaged


def test_a_count_that_lags_behind_is_no_damage(path: Path, tmp_path: Path) -> None:
    """A crash of the system: what was made durable is there, what was merely counted is not."""
    with contextlib.closing(begun(path)) as store:
        shutil.copyfile(path.with_suffix(".count"), tmp_path / "count")
        store.record(KEYS)
    shutil.copyfile(tmp_path / "count", path.with_suffix(".count"))
    assert load(path) == TouchedState(KEYS)


def test_what_an_older_node_has_written_goes_on(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript("""
            CREATE TABLE touched (fid INTEGER, part INTEGER, PRIMARY KEY (fid, part)) WITHOUT ROWID;
            CREATE TABLE checkpoints (
                confirmed_epoch INTEGER, confirmed_seq INTEGER,
                retired_epoch INTEGER, retired_seq INTEGER
            );
            INSERT INTO checkpoints VALUES (3, 9, 3, 8);
            CREATE TABLE damage (what TEXT);
            INSERT INTO touched VALUES (7, 0);
            PRAGMA user_version = 1;
        """)
    assert load(path) == TouchedState(KEYS[:1], (3, 9), (3, 8))
    with contextlib.closing(TouchedStore(path)) as store:
        store.confirm(epoch=4, seq=1, is_filled=True)
    assert load(path) == TouchedState(KEYS[:1], (4, 1), (3, 8), filled=(4, 1))


def test_changes_of_several_threads_are_counted_one_by_one(path: Path) -> None:
    """Else the count would be ahead of the file, and a whole log pass for one that lacks some."""
    with contextlib.closing(begun(path)) as store:
        together = threading.Barrier(4)

        def record(part: int) -> None:
            together.wait()
            store.record([(7, part)])

        threads = [threading.Thread(target=record, args=(part,)) for part in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert not load(path).damaged
