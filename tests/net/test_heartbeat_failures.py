"""Sockets that fail; beginnings and ends; a process that was stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

import mirrorha
from mirrorha.errors import InvariantViolation
from mirrorha.net.heartbeat import HeartbeatThread, monotonic_ms
from mirrorha.net.paths import HeartbeatPath
from mirrorha.wire.beat import Status
from tests.net.heartbeat_support import (
    ONE,
    TIMEOUT_MS,
    direct,
    eventually,
    figures,
    free_port,
    running,
    start,
    until,
    wires,
)

# Sockets that fail


async def test_an_address_that_is_not_there_stops_no_other_path() -> None:
    with wires(ONE) as (wire,):
        absent = HeartbeatPath(
            index=1, local="192.0.2.77", local_port=free_port(), peer=ONE, peer_port=9
        )
        with running("paris", [absent, wire.paris]) as paris, running("lyon", [wire.lyon]):
            await until(paris, lambda one: one.path == wire.paris.name)
            await eventually(lambda: figures(paris, 0).errors >= 3)
            lacking, well = paris.statistics()
            assert "192.0.2.77 is not an address of this machine" in lacking.error
            assert (lacking.up, lacking.last_heard_s, lacking.sent) == (False, None, 0)
            assert (well.up, well.error) == (True, "")


async def test_a_peer_that_does_not_run_is_shown_and_heard_once_it_does() -> None:
    of_paris, of_lyon = direct(ONE)
    with running("paris", of_paris) as paris:
        await eventually(lambda: "refuses port" in figures(paris).error)
        assert "does mirrorha run there?" in figures(paris).error
        with running("lyon", of_lyon):
            await until(paris, lambda _: True)
            await eventually(lambda: figures(paris).error == "")
            assert figures(paris).up


async def test_a_port_that_is_taken_is_shown_and_used_once_it_is_free() -> None:
    of_paris, of_lyon = direct(ONE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        squatter.bind((ONE, of_paris[0].local_port))
        paris = start("paris", of_paris)
        await eventually(lambda: "is taken by another program" in figures(paris).error)
    try:
        with running("lyon", of_lyon):
            await until(paris, lambda _: True)
    finally:
        assert paris.stop()


# Beginnings and ends


async def test_stopping_is_quick_idempotent_and_ends_the_iteration() -> None:
    of_paris, _ = direct(ONE)
    paris = start("paris", of_paris)
    began = time.monotonic()
    assert paris.stop()
    assert paris.stop()
    assert time.monotonic() - began < 1
    with trio.fail_after(5):
        async for _ in paris:
            raise AssertionError("nobody sends")
    paris.set_status(Status())
    paris.note_alive()
    assert not paris.say_goodbye(), "too late, and no error"


async def test_the_beats_end_with_the_loop_that_they_speak_for() -> None:
    of_paris, _ = direct(ONE)
    kept: list[HeartbeatThread] = []

    async def application() -> None:
        kept.append(start("paris", of_paris))
        await eventually(lambda: figures(kept[0]).sent + figures(kept[0]).errors > 0)

    await trio.to_thread.run_sync(trio.run, application)
    ours = kept[0]
    await eventually(lambda: not ours.running)
    with pytest.raises(StopAsyncIteration):
        await ours.__anext__()


async def test_a_thread_that_fails_is_an_alarm_and_not_a_silence() -> None:
    of_paris, _ = direct(ONE)
    calls = iter(range(100))

    def clock_ms() -> int:
        if next(calls) > 5:
            raise RuntimeError("the clock is gone")
        return monotonic_ms()

    paris = start("paris", of_paris, clock_ms=clock_ms)
    with trio.fail_after(5), pytest.raises(InvariantViolation, match="clock is gone"):
        await paris.__anext__()
    assert paris.stop()


STOPPED_PROGRAM = """
import sys, trio
from mirrorha.core.detector import Detector
from mirrorha.net.heartbeat import HeartbeatThread, monotonic_ms
from mirrorha.net.paths import Endpoint, heartbeat_paths
from mirrorha.wire.beat import Heart

mine, peer = (Endpoint(addresses=("127.0.0.1",), port=int(port)) for port in sys.argv[1:])
paths = heartbeat_paths(mine, peer, listed_first=True)
heart = Heart(cluster="orders", node="paris", peer="lyon", key=bytes(range(32)), incarnation=1)

async def feed(thread, detector):
    async for heard in thread:
        detector.heard(
            heard.path, beat=heard.facts, heard_at_ms=heard.heard_at_ms, now_ms=monotonic_ms()
        )

async def main():
    thread = HeartbeatThread.start(paths, heart, pulse_ms=20, timeout_ms=200)
    detector = Detector((paths[0].name,), pulse_ms=20, timeout_ms=200, now_ms=monotonic_ms())
    said = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed, thread, detector)
        while True:
            now_ms = monotonic_ms()
            # As an impatient caller would: a verdict before the tick, and one after it.
            verdicts = [detector.verdict(now_ms)]
            detector.tick(now_ms, listened_at_ms=thread.listened_at_ms)
            verdicts.append(detector.verdict(now_ms))
            for verdict in verdicts:
                if verdict.rule is not said:
                    said = verdict.rule
                    print(now_ms, said.value, flush=True)
            await trio.sleep(max(0, detector.next_deadline_ms() - monotonic_ms()) / 1000)

trio.run(main)
"""


def stopped_program(path: HeartbeatPath) -> subprocess.Popen[str]:
    source = str(Path(mirrorha.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", STOPPED_PROGRAM, str(path.local_port), str(path.peer_port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )


async def test_who_was_stopped_judges_nobody_on_waking() -> None:
    (path,), of_lyon = direct(ONE)
    program = stopped_program(path)
    try:
        assert program.stdout is not None
        lines: list[tuple[int, str]] = []

        async def next_rule() -> str:
            assert program.stdout is not None
            with trio.fail_after(10):
                line = await trio.to_thread.run_sync(
                    program.stdout.readline, abandon_on_cancel=True
                )
            at_ms, rule = line.split()
            lines.append((int(at_ms), rule))
            return str(rule)

        assert await next_rule() == "not-heard-yet"
        with running("lyon", of_lyon):
            while await next_rule() != "heard":
                pass
        # Lyon is gone: to the one who sleeps and wakes it must not seem to have been so all along.
        program.send_signal(signal.SIGSTOP)
        await trio.sleep(0.6)
        woken_ms = monotonic_ms()
        program.send_signal(signal.SIGCONT)
        rules = [await next_rule()]
        while rules[-1] != "silent-on-every-path":
            rules.append(await next_rule())
        # A last beat may have waited in the socket.
        assert {"own-loop-was-late"} <= set(rules[:-1]) <= {"own-loop-was-late", "heard"}
        assert lines[-1][0] - woken_ms >= TIMEOUT_MS
    finally:
        program.kill()
        program.wait(5)
        assert program.stdout is not None
        program.stdout.close()
