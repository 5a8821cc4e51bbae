"""Beats speak for an application that cannot speak for itself."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio

from mirrorha.core.detector import Detector, Proof
from mirrorha.net.heartbeat import HeardBeat, HeartbeatThread, monotonic_ms
from mirrorha.net.paths import HeartbeatPath
from tests.net.heartbeat_support import (
    ONE,
    PULSE_MS,
    TIMEOUT_MS,
    TWO,
    direct,
    eventually,
    figures,
    heart_of,
    running,
    take,
    until,
    wires,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


# An application that blocks its loop


class BlockingApplication:
    """A node whose application runs a trio loop in a thread of its own, and can block it."""

    def __init__(self, paths: Sequence[HeartbeatPath]) -> None:
        self.thread: HeartbeatThread | None = None
        self.blocked = threading.Event()
        self.block = threading.Event()
        self.unblock = threading.Event()
        self._paths = paths
        self._os_thread = threading.Thread(target=trio.run, args=(self._main,))

    async def _main(self) -> None:
        with running("lyon", self._paths) as self.thread:
            while not self.unblock.is_set():
                self.thread.note_alive()
                if self.block.is_set():
                    self.blocked.set()
                    self.unblock.wait(10)
                await trio.sleep(0.01)

    def __enter__(self) -> BlockingApplication:
        self._os_thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.unblock.set()
        self._os_thread.join(5)
        assert not self._os_thread.is_alive()


async def test_a_blocked_application_is_told_of_and_its_beats_go_on() -> None:
    of_paris, of_lyon = direct(ONE)
    with running("paris", of_paris) as paris, BlockingApplication(of_lyon) as application:
        await until(paris, lambda one: one.beat.loop_age_ms < 100)
        application.block.set()
        await eventually(application.blocked.is_set)
        heard_before, began = figures(paris).heard, trio.current_time()
        stalled = await until(paris, lambda one: one.beat.loop_age_ms >= 600)
        took_ms = (trio.current_time() - began) * 1000
        assert stalled.beat.loop_age_ms == pytest.approx(took_ms, abs=150)
        assert figures(paris).heard - heard_before >= 0.5 * took_ms / PULSE_MS
        assert figures(paris).up


async def test_a_goodbye_is_heard_from_a_blocked_application() -> None:
    of_paris, of_lyon = direct(ONE, TWO)
    detector = Detector(
        tuple(path.name for path in of_paris),
        pulse_ms=PULSE_MS,
        timeout_ms=TIMEOUT_MS,
        now_ms=monotonic_ms(),
    )
    with running("paris", of_paris) as paris, BlockingApplication(of_lyon) as application:
        await until(paris, lambda one: not one.facts.goodbye)
        application.block.set()
        await eventually(application.blocked.is_set)
        assert application.thread is not None
        assert application.thread.say_goodbye(wait_ms=1_000)
        heard = await until(paris, lambda one: one.facts.goodbye)
        detector.heard(
            heard.path, beat=heard.facts, heard_at_ms=heard.heard_at_ms, now_ms=monotonic_ms()
        )
        assert detector.verdict(monotonic_ms()).proof is Proof.GOODBYE
        assert not application.unblock.is_set(), "it was heard while the application was blocked"


async def test_a_goodbye_goes_out_at_once_thrice_and_with_every_later_beat() -> None:
    with wires(ONE, TWO) as both:
        lyon = HeartbeatThread.start(
            [wire.lyon for wire in both], heart_of("lyon"), pulse_ms=60_000, timeout_ms=180_000
        )
        try:
            await eventually(lambda: all(len(wire.from_lyon) == 1 for wire in both))
            began = trio.current_time()
            assert lyon.say_goodbye(wait_ms=1_000)
            await eventually(lambda: all(len(wire.from_lyon) == 4 for wire in both))
            assert trio.current_time() - began < 2, "not at the next pulse"
        finally:
            assert lyon.stop()
        for wire in both:
            assert [raw[5] & 1 for raw in wire.from_lyon] == [0, 1, 1, 1]


async def test_a_goodbye_ends_with_the_next_incarnation_and_not_before() -> None:
    of_paris, of_lyon = direct(ONE)
    with running("paris", of_paris) as paris, running("lyon", of_lyon) as lyon:
        lyon.say_goodbye()
        await until(paris, lambda one: one.facts.goodbye)
        later = await take(paris, while_s=8 * PULSE_MS / 1000)
        assert later
        assert all(heard.facts.goodbye for heard in later)
        lyon.renew(2)
        renewed = await until(paris, lambda one: one.facts.incarnation == 2)
        assert not renewed.facts.goodbye


async def test_a_goodbye_that_nothing_could_carry_is_not_said_to_be_sent() -> None:
    (path,), _ = direct(ONE)
    absent = HeartbeatPath(
        index=0, local="192.0.2.77", local_port=path.local_port, peer=ONE, peer_port=path.peer_port
    )
    with running("lyon", [absent]) as lyon:
        assert not lyon.say_goodbye(wait_ms=100)


async def test_what_is_not_taken_is_replaced_and_nothing_grows() -> None:
    of_paris, of_lyon = direct(ONE, TWO)
    with running("paris", of_paris) as paris, running("lyon", of_lyon):
        await eventually(lambda: all(one.heard >= 10 for one in paris.statistics()))
        # The loop is held, so that what is taken now is what waited.
        time.sleep(5 * PULSE_MS / 1000)  # noqa: ASYNC251 - it is the blocking that is tested
        taken: dict[str, HeardBeat] = {}
        for _ in of_paris:
            with trio.fail_after(5):
                heard = await paris.__anext__()
            assert monotonic_ms() - heard.heard_at_ms < 6 * PULSE_MS + 50, "the newest was kept"
            # Others are replaced meanwhile, and this path has a new one: it is not its turn.
            time.sleep(3 * PULSE_MS / 1000)  # noqa: ASYNC251 - so that nothing else is taken
            assert heard.path not in taken, "one beat per path was kept"
            taken[heard.path] = heard
        assert all(heard.facts.sequence >= 30 for heard in taken.values())


async def test_the_thread_says_when_it_last_listened_though_the_application_is_blocked() -> None:
    of_paris, _ = direct(ONE)
    with running("paris", of_paris) as paris:
        time.sleep(10 * PULSE_MS / 1000)  # noqa: ASYNC251 - it is the blocking that is tested
        assert monotonic_ms() - paris.listened_at_ms < 5 * PULSE_MS
