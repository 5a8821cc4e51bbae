"""The history: nothing that was promised is lost, and nothing waits for it."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from mirrorha.core.words import Role
from mirrorha.state.history import History, HistoryError, HistoryEvent, open_history
from mirrorha.state.reserve import Reserve
from tests.requirements import require_root

if TYPE_CHECKING:
    from collections.abc import Iterator


def event(number: int, *, text: str = "") -> HistoryEvent:
    return HistoryEvent(
        kind="note",
        at_ms=number,
        node="paris",
        epoch=7,
        role=Role.ALONE,
        rule="a-rule",
        text=text or f"event {number}",
    )


def numbers(events: list[HistoryEvent]) -> list[int]:
    return [one.at_ms for one in events]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


async def test_events_are_read_as_they_were_written(path: Path) -> None:
    change = HistoryEvent(
        kind="role",
        at_ms=1_700_000_000_123,
        node="lyon",
        epoch=3,
        role=Role.PRIM,
        rule="peer-in-sync",
        text="é",
        from_role=Role.ALONE,
    )
    async with open_history(path) as history:
        await history.append(change)
        history.record(event(2))
    async with open_history(path) as history:
        first, second = await history.read(limit=10)
    assert (first.seq, second.seq) == (1, 2)
    assert first == HistoryEvent(**{**vars_of(change), "seq": 1})
    assert first.at_s == 1_700_000_000.123
    assert second.text == "event 2"


def vars_of(one: HistoryEvent) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


async def test_a_reader_goes_on_where_it_was(path: Path) -> None:
    async with open_history(path) as history:
        for number in range(1, 8):
            await history.append(event(number))
        assert numbers(await history.read(limit=3)) == [1, 2, 3]
        assert numbers(await history.read(since=3, limit=3)) == [4, 5, 6]
        assert numbers(await history.read(since=6, limit=3)) == [7]
        assert await history.read(since=7, limit=3) == []
        assert numbers(await history.newest(limit=2)) == [6, 7]


async def test_the_oldest_are_forgotten(path: Path) -> None:
    async with open_history(path, kept_max=5) as history:
        for number in range(1, 13):
            await history.append(event(number))
        found = await history.read(limit=100)
    assert numbers(found) == [8, 9, 10, 11, 12]
    assert [one.seq for one in found] == numbers(found)
    async with open_history(path, kept_max=5) as history:
        await history.append(event(13))
        assert (await history.newest(limit=1))[0].seq == 13


async def test_those_who_wait_together_are_written_together(path: Path) -> None:
    async with open_history(path) as history:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(history.append, event(number))
        assert sorted(numbers(await history.read(limit=1000))) == list(range(200))
        assert history.commits < 100


async def test_what_is_recorded_from_any_thread_is_kept(path: Path) -> None:
    async with open_history(path, queue_max=10_000) as history:

        def record(first: int) -> None:
            for number in range(first, first + 100):
                history.record(event(number))

        threads = [threading.Thread(target=record, args=(first,)) for first in range(0, 500, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    async with open_history(path) as history:
        assert sorted(numbers(await history.read(limit=1000))) == list(range(500))


async def test_a_slow_disk_costs_events_and_says_how_many(path: Path) -> None:
    async with open_history(path, queue_max=10) as history:
        await history.append(event(0))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for number in range(1, 100):
            history.record(event(number))
        left_out = history.left_out
        other.execute("COMMIT")
        other.close()
    # What the writer had taken already is kept as well.
    assert 50 < left_out <= 89
    async with open_history(path) as history:
        found = await history.read(limit=1000)
    kept = [one for one in found if one.rule == "a-rule"]
    assert numbers(kept)[:11] == list(range(11))
    assert len(kept) == 100 - left_out
    (notice,) = [one for one in found if one.rule == "history-overflow"]
    assert notice.kind == "alarm"
    assert notice.text.startswith(f"{left_out} events ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[trio.Path]:
    require_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=True)
    yield trio.Path(tmp_path)
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


async def append_for_ever(history: History) -> None:
    for number in itertools.count(2):
        await history.append(event(number, text="x" * 10_000))


async def test_a_full_disk_costs_events_and_says_how_many(small_disk: trio.Path) -> None:
    ballast = small_disk / "ballast"
    path = Path(small_disk / "history.db")
    room_asked = 0

    def make_room() -> bool:
        nonlocal room_asked
        room_asked += 1
        return False

    async with open_history(path, make_room=make_room) as history:
        await history.append(event(1))
        await ballast.write_bytes(bytes(90_000))
        with pytest.raises(HistoryError, match="full"):
            await append_for_ever(history)
        assert history.failure
        assert room_asked == 1
        await ballast.unlink()
        await history.append(event(999))
        assert not history.failure
        found = await history.newest(limit=2)
    assert [one.rule for one in found] == ["history-overflow", "a-rule"]
    assert found[0].text.startswith("1 events were left out")
    assert found[1].at_ms == 999


async def test_what_was_left_out_at_last_is_told_at_the_end(small_disk: trio.Path) -> None:
    ballast = small_disk / "ballast"
    path = Path(small_disk / "history.db")
    async with open_history(path) as history:
        await ballast.write_bytes(bytes(90_000))
        with pytest.raises(HistoryError, match="full"):
            await append_for_ever(history)
        await ballast.unlink()
    async with open_history(path) as history:
        assert (await history.newest(limit=1))[0].rule == "history-overflow"


async def test_a_full_disk_may_have_a_reserve(small_disk: trio.Path) -> None:
    reserve = Reserve(Path(small_disk / "reserve"), size_bytes=90_000)
    assert reserve.keep()
    path = Path(small_disk / "history.db")
    async with open_history(path, make_room=reserve.give_up) as history:
        number = 0
        while reserve.is_kept:
            number += 1
            await history.append(event(number, text="x" * 10_000))
        assert (await history.newest(limit=1))[0].at_ms == number
        assert history.left_out == 0


WRITER = """
import sys, trio
from pathlib import Path
from mirrorha.core.words import Role
from mirrorha.state.history import HistoryEvent, open_history

async def main():
    async with open_history(Path(sys.argv[1])) as history:
        async def write(first):
            for number in range(first, 10**9, 4):
                await history.append(HistoryEvent(
                    kind="note", at_ms=number, node="n", epoch=1, role=Role.WAIT, rule="r", text="",
                ))
                print(number, flush=True)
        async with trio.open_nursery() as nursery:
            for first in range(4):
                nursery.start_soon(write, first)

trio.run(main)
"""


def test_what_was_appended_survives_sigkill(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout as stream:
        said = [stream.readline() for _ in range(200)]
        os.kill(writer.pid, signal.SIGKILL)
        said += stream.read().splitlines()
    writer.wait(10)
    promised = {int(line) for line in said}

    async def read() -> set[int]:
        async with open_history(path) as history:
            assert not history.was_damaged
            return set(numbers(await history.read(limit=10_000)))

    assert len(promised) >= 200
    assert promised <= trio.run(read)


async def test_a_damaged_history_is_put_aside(path: Path) -> None:
    await trio.Path(path).write_bytes(b"garbage" * 1000)
    async with open_history(path) as history:
        assert history.was_damaged
        await history.append(event(1))
        assert numbers(await history.read(limit=10)) == [1]
    aside = trio.Path(path).with_name("history.db.damaged")
    assert await aside.read_bytes() == b"garbage" * 1000


async def test_events_of_a_newer_version_are_left_out(path: Path) -> None:
    async with open_history(path) as history:
        await history.append(event(1))
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO events (event) VALUES (?)", (b'{"role": "NEW"}',))
        connection.execute("INSERT INTO events (event) VALUES (?)", (b"\xff",))
    connection.close()
    async with open_history(path) as history:
        await history.append(event(2))
        assert numbers(await history.read(limit=10)) == [1, 2]


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="nowhere"):
        async with open_history(tmp_path / "nowhere/history.db"):
            pytest.fail("it cannot be opened")


async def test_a_history_in_use_is_not_taken_for_a_damaged_one(path: Path) -> None:
    async with open_history(path) as history:
        await history.append(event(1))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(HistoryError, match="locked"):
        async with open_history(path):
            pytest.fail("it is in use")
    other.close()
    assert list(path.parent.glob("*.damaged")) == []


async def test_a_cancelled_append_is_kept_and_the_end_waits_for_it(path: Path) -> None:
    async with open_history(path) as history:
        with trio.CancelScope() as scope:
            scope.cancel()
            await history.append(event(1))
        assert scope.cancelled_caught
    with pytest.raises(HistoryError, match="closed"):
        await history.append(event(2))
    history.record(event(3))
    async with open_history(path) as history:
        assert numbers(await history.read(limit=10)) == [1]
