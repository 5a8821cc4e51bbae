"""The loop's timers, and how it waits."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mirrorha.volume.worker.loop import LOOKING_NS, SHORT_NS, Loop

GIVEN_UP_S = 10.0


@contextlib.contextmanager
def guarded(pause: Callable[[], object] | None = None) -> Iterator[Loop]:
    made = Loop(pause=pause)
    guard = threading.Timer(GIVEN_UP_S, made.from_thread, [made.stop])
    guard.start()
    yield made
    guard.cancel()
    made.close()


@pytest.fixture(name="loop")
def _loop() -> Iterator[Loop]:
    with guarded() as made:
        yield made


def test_timers_are_called_in_the_order_in_which_they_are_due(loop: Loop) -> None:
    called: list[str] = []
    loop.after(40, loop.stop)
    loop.after(20, lambda: called.append("second"))
    loop.after(1, lambda: called.append("never")).cancel()
    loop.after(5, lambda: called.append("first"))
    loop.run()
    assert called == ["first", "second"]


def test_it_sleeps_until_the_next_timer_is_due_and_no_longer(loop: Loop) -> None:
    turns: list[int] = []
    loop.on_turn = lambda: turns.append(loop.clock_ms())
    loop.after(1, lambda: turns.append(-1))
    loop.after(60, loop.stop)
    began_ms = loop.clock_ms()
    loop.run()
    assert 60 <= loop.clock_ms() - began_ms < GIVEN_UP_S * 1000
    assert len(turns) <= 12, "it turned in vain"


def test_what_is_to_happen_soon_is_not_waited_for(loop: Loop) -> None:
    loop.after(int(GIVEN_UP_S * 2000), loop.stop)
    loop.soon(lambda: loop.soon(loop.stop))
    began_ms = loop.clock_ms()
    loop.run()
    assert loop.clock_ms() - began_ms < GIVEN_UP_S * 500


class Bell:
    """A descriptor that a handler watches; it rings several times in a row."""

    def __init__(self, loop: Loop) -> None:
        self.left = 0
        self._loop = loop
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)
        loop.watch(self._fd, self._heard)

    def ring(self, times: int) -> None:
        self.left = times
        os.eventfd_write(self._fd, 1)

    def _heard(self, _events: int) -> None:
        os.eventfd_read(self._fd)
        self.left -= 1
        if self.left:
            self.ring(self.left)

    def close(self) -> None:
        self._loop.unwatch(self._fd)
        os.close(self._fd)


def test_while_things_come_at_short_intervals_it_looks_before_it_sleeps() -> None:
    pauses: list[int] = []

    def pause() -> None:
        pauses.append(bell.left)
        loop.stop()
        bell.ring(1)

    def again() -> None:  # a busy machine makes waits longer than they are
        bell.ring(5)
        loop.after(10, again)

    with guarded(pause) as loop:
        bell = Bell(loop)
        again()
        loop.run()
        left = bell.left
        bell.close()
    assert pauses == [0]
    assert left == 0, "what came while it looked was not handled at once"


def test_it_does_not_look_for_long() -> None:
    pauses: list[int] = []

    def pause() -> None:
        pauses.append(0)
        time.sleep(2 * LOOKING_NS / 1e9)

    with guarded(pause) as loop:
        bell = Bell(loop)
        bell.ring(5)
        loop.after(100, loop.stop)
        loop.run()
        bell.close()
    assert len(pauses) <= 1


def test_at_rest_it_sleeps() -> None:
    pauses: list[int] = []
    with guarded(lambda: pauses.append(0)) as loop:
        for delay_ms in range(10, 100, 10):
            loop.after(delay_ms, lambda: None)
        loop.after(100, loop.stop)
        loop.run()
    assert pauses == []


def test_who_looked_in_vain_looks_more_and_more_rarely() -> None:
    pauses: list[int] = []

    def pause() -> None:
        pauses.append(0)
        time.sleep(2 * SHORT_NS / 1e9)  # somebody else has the processor

    with guarded(pause) as loop:
        bell = Bell(loop)
        rounds = 50
        for delay_ms in range(rounds):
            loop.after(4 * delay_ms, lambda: bell.ring(20))
        loop.after(4 * rounds, loop.stop)
        loop.run()
        bell.close()
    assert len(pauses) < rounds // 4
