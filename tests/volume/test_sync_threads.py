"""Calls made at the same time, and what becomes of those that fail."""

from __future__ import annotations

import gc
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from mirrorha.volume.local_disk.sync_threads import SyncThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def threads() -> Iterator[SyncThreads]:
    threads = SyncThreads(4)
    yield threads
    threads.stop()


def test_as_many_calls_as_there_may_be_threads_are_under_way(threads: SyncThreads) -> None:
    lock = threading.Lock()
    four_here = threading.Barrier(4)
    now = most = 0

    def call() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        four_here.wait(30)
        with lock:
            now -= 1

    threads.perform([call] * 12)
    assert (now, most) == (0, 4)


def test_every_call_is_made_once_round_after_round(threads: SyncThreads) -> None:
    for count in (0, 1, 2, 3, 5, 40):
        made: list[int] = []
        threads.perform([partial(made.append, number) for number in range(count)])
        assert sorted(made) == list(range(count))


def test_nothing_is_begun_after_a_failure() -> None:
    made: list[int] = []

    def fail() -> None:
        raise ValueError("the first")

    calls: list[Callable[[], None]] = [partial(made.append, 1), fail, partial(made.append, 2), fail]
    with pytest.raises(ValueError, match="the first"):
        SyncThreads(1).perform(calls)
    assert made == [1]


def test_what_a_helper_raises_is_raised_here(threads: SyncThreads) -> None:
    here = threading.current_thread()
    both_here = threading.Barrier(2)

    def call() -> None:
        both_here.wait(30)
        if threading.current_thread() is not here:
            raise LookupError("in a helper")

    with pytest.raises(LookupError, match="in a helper"):
        threads.perform([call, call])
    threads.perform([both_here.wait, both_here.wait])  # type: ignore[list-item]


def test_without_threads_all_is_done_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    threads = SyncThreads()
    seen: list[threading.Thread] = []
    threads.perform([lambda: seen.append(threading.current_thread())] * 5)
    assert seen == [threading.current_thread()] * 5
    threads.stop()


def test_threads_end() -> None:
    threads = SyncThreads()
    before = threading.active_count()
    all_here = threading.Barrier(8)
    threads.perform([partial(all_here.wait, 30)] * 8)  # type: ignore[list-item]
    assert threading.active_count() == before + 7
    threads.stop()
    threads.stop()
    assert threading.active_count() == before


def rounds_kept() -> int:
    gc.collect()
    return sum(type(each).__qualname__ == "_Round" for each in gc.get_objects())


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_nothing_waits_for_threads_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise error("can't start new thread")

    made: list[int] = []
    threads = SyncThreads()
    before = rounds_kept()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for number in range(10):
            threads.perform([partial(made.append, number)] * 3)
    assert sorted(made) == sorted([*range(10)] * 3)
    assert rounds_kept() == before
    all_here = threading.Barrier(3)
    threads.perform([partial(all_here.wait, 30)] * 3)  # type: ignore[list-item]
    threads.stop()
