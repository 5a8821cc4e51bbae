"""The loop's timers, and that it sleeps in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mirrorha.volume.worker.loop import Loop

GIVEN_UP_S = 10.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    guard = threading.Timer(GIVEN_UP_S, made.from_thread, [made.stop])
    guard.start()
    yield made
    guard.cancel()
    made.close()


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
