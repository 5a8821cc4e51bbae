"""Beats flow, and strangers' do not."""

from __future__ import annotations

import socket

import pytest
import trio

from mirrorha.core.detector import Detector, PathState, Standing
from mirrorha.core.words import Role
from mirrorha.net.heartbeat import monotonic_ms
from mirrorha.wire.beat import Status
from tests.net.heartbeat_support import (
    KEY,
    ONE,
    PULSE_MS,
    TIMEOUT_MS,
    TWO,
    direct,
    eventually,
    figures,
    heart_of,
    listening,
    running,
    take,
    until,
    wires,
)
from tests.requirements import lacking

# Beats flow


async def test_beats_flow_on_every_pair_of_addresses_and_echo() -> None:
    of_paris, of_lyon = direct(ONE, TWO)
    assert len(of_paris) == 4
    with running("paris", of_paris) as paris, running("lyon", of_lyon) as lyon:
        for thread, paths in ((paris, of_paris), (lyon, of_lyon)):
            missing = {path.name for path in paths}
            deadline = trio.current_time() + 10
            while missing:
                assert trio.current_time() < deadline
                heard = await until(thread, lambda one: one.facts.echo_sequence is not None)
                missing.discard(heard.path)
            await eventually(lambda t=thread: all(one.up for one in t.statistics()))  # type: ignore[misc]
            assert [one.refusal for one in thread.statistics() if one.refused] == []


async def test_what_came_for_others_before_a_path_was_connected_is_not_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A socket that has a port and no peer yet is given whatever comes to that port."""
    of_paris, of_lyon = direct(ONE)
    connect = socket.socket.connect

    def connect_late(sock: socket.socket, address: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"?", sock.getsockname())
        connect(sock, address)

    monkeypatch.setattr(socket.socket, "connect", connect_late)
    with running("paris", of_paris) as paris, running("lyon", of_lyon):
        await until(paris, lambda one: one.facts.echo_sequence is not None)
        assert figures(paris).refused == 0


async def test_beats_flow_over_ipv6() -> None:
    try:
        of_paris, of_lyon = direct("::1")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        lacking("the address ::1", "sysctl -w net.ipv6.conf.lo.disable_ipv6=0")
    with running("paris", of_paris) as paris, running("lyon", of_lyon):
        heard = await until(paris, lambda one: one.facts.echo_sequence is not None)
        assert heard.path == "::1 → ::1"


async def test_a_beat_tells_incarnation_role_and_epoch() -> None:
    of_paris, of_lyon = direct(ONE)
    with running("paris", of_paris, incarnation=7) as paris, running("lyon", of_lyon) as lyon:
        paris.set_status(Status(role=Role.PRIM, epoch=17, stopping=True))
        heard = await until(lyon, lambda one: one.beat.status.epoch == 17)
        assert heard.beat.status == Status(role=Role.PRIM, epoch=17, stopping=True)
        assert heard.beat.incarnation == heard.facts.incarnation == 7
        assert 0 <= monotonic_ms() - heard.heard_at_ms < 5_000


async def test_the_detector_lives_on_what_the_thread_hands_over() -> None:
    with wires(ONE, TWO) as (first, second):
        of_paris = (first.paris, second.paris)
        detector = Detector(
            tuple(path.name for path in of_paris),
            pulse_ms=PULSE_MS,
            timeout_ms=TIMEOUT_MS,
            now_ms=monotonic_ms(),
        )
        with (
            running("paris", of_paris) as paris,
            running("lyon", (first.lyon, second.lyon)) as lyon,
        ):

            async def feed() -> None:
                async for heard in paris:
                    detector.heard(
                        heard.path,
                        beat=heard.facts,
                        heard_at_ms=heard.heard_at_ms,
                        now_ms=monotonic_ms(),
                    )

            async def tick() -> None:
                while True:
                    now_ms = monotonic_ms()
                    detector.tick(now_ms, listened_at_ms=paris.listened_at_ms)
                    for thread in (paris, lyon):
                        thread.note_alive()
                    await trio.sleep((detector.next_deadline_ms() - now_ms) / 1000)

            def states() -> list[PathState]:
                return list(detector.path_states(monotonic_ms()).values())

            def standing() -> Standing:
                return detector.verdict(monotonic_ms()).standing

            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed)
                nursery.start_soon(tick)
                await eventually(lambda: standing() is Standing.HEARD)
                await eventually(lambda: states() == [PathState.UP, PathState.UP])
                first.cut = True
                await eventually(lambda: states()[0] is PathState.SILENT)
                assert states()[1] is PathState.UP
                assert standing() is Standing.HEARD
                assert [one.up for one in paris.statistics()] == [False, True]
                second.cut = True
                await eventually(lambda: standing() is Standing.LOST)
                assert detector.verdict(monotonic_ms()).proof is None
                first.cut = False
                await eventually(lambda: standing() is Standing.HEARD)
                nursery.cancel_scope.cancel()


# Strangers


async def test_a_recorded_beat_is_refused() -> None:
    with wires(ONE) as (wire,), running("paris", [wire.paris]) as paris:
        with running("lyon", [wire.lyon]):
            await eventually(lambda: figures(paris).heard >= 3)
        await take(paris, while_s=0.1)
        heard_before = figures(paris).heard
        for raw in list(wire.from_lyon):
            wire.inject(wire.to_paris, raw)
        await eventually(lambda: figures(paris).refused >= 3)
        assert figures(paris).heard == heard_before
        assert "heard before" in figures(paris).refusal
        assert await take(paris, while_s=0.1) == []


async def test_a_beat_under_another_key_is_refused() -> None:
    with wires(ONE) as (wire,), running("paris", [wire.paris]) as paris:
        await listening(wire)
        forger = heart_of("lyon", key=KEY[::-1])
        for _ in range(3):
            wire.inject(
                wire.to_paris,
                forger.beat(0, now_ms=0, loop_age_ms=0, status=Status(), goodbye=True),
            )
        await eventually(lambda: figures(paris).refused == 3)
        assert figures(paris).heard == 0
        assert "not authentic" in figures(paris).refusal
        assert await take(paris, while_s=0.1) == []


async def test_our_own_beats_reflected_are_refused() -> None:
    with wires(ONE) as (wire,), running("paris", [wire.paris]) as paris:
        await eventually(lambda: len(wire.from_paris) >= 3)
        for raw in list(wire.from_paris):
            wire.inject(wire.to_paris, raw)
        await eventually(lambda: figures(paris).refused >= 3)
        assert figures(paris).heard == 0
        assert "reflected" in figures(paris).refusal


async def test_a_goodbye_is_authenticated() -> None:
    with wires(ONE) as (wire,), running("paris", [wire.paris]) as paris:
        wire.cut = True
        with running("lyon", [wire.lyon]):
            await eventually(lambda: len(wire.from_lyon) >= 3)
        wire.cut = False
        await listening(wire)
        for raw in list(wire.from_lyon):
            flagged = bytearray(raw)
            flagged[5] |= 1
            wire.inject(wire.to_paris, bytes(flagged))
        await eventually(lambda: figures(paris).refused >= 3)
        assert await take(paris, while_s=0.1) == []
        # The same beat as it was is still good: what was refused left nothing behind.
        wire.inject(wire.to_paris, wire.from_lyon[0])
        heard = await until(paris, lambda _: True)
        assert not heard.facts.goodbye


async def test_junk_of_any_length_is_counted_and_ends_nothing() -> None:
    with wires(ONE) as (wire,), running("paris", [wire.paris]) as paris:
        await listening(wire)
        for length in (0, 1, 95, 96, 97, 512, 513, 1_400):
            wire.inject(wire.to_paris, bytes(length))
        await eventually(lambda: figures(paris).refused == 8)
        with running("lyon", [wire.lyon]):
            await until(paris, lambda _: True)
