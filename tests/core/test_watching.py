"""What is told of heartbeats: a lost network, a one-way one, a peer that stalls."""

from __future__ import annotations

import random

from mirrorha.core import effects as e
from mirrorha.core import events as v
from mirrorha.core.detector import PeerBeat
from mirrorha.core.meta import Meta, begin_incarnation
from mirrorha.core.node import Node
from mirrorha.core.settings import Settings

A, B = "10.0.1.10 → 10.0.2.10", "192.168.9.1 → 192.168.9.2"
PULSE_MS, TIMEOUT_MS = 250, 3_000


class Bench:
    """A node that hears beats, and what it told."""

    def __init__(self) -> None:
        meta, boot = begin_incarnation(Meta(node="lyon"), boot_id="b", at_least=1)
        settings = Settings(
            node="lyon",
            peer="paris",
            first="lyon",
            volumes=("a",),
            paths=(A, B),
            pulse_ms=PULSE_MS,
            timeout_ms=TIMEOUT_MS,
        )
        self.now_ms = 0
        self.sequence = 0
        self.node = Node(settings, meta, boot, rng=random.Random(1), now_ms=0)
        self.told: list[tuple[str, bool]] = []

    def step(self, event: v.AnyEvent) -> None:
        batch = self.node.step(event, self.now_ms)
        notes = [each for each in batch.after if isinstance(each, e.Note)]
        self.told += [(note.rule, note.alarm) for note in notes]

    def wait(
        self,
        wait_ms: int,
        *,
        hear_on: tuple[str, ...] = (A, B),
        deaf: tuple[str, ...] = (),
        loop_age_ms: int = 0,
    ) -> list[tuple[str, bool]]:
        """Let time pass; the peer hears us on no path of `deaf`. Returns what was told."""
        self.told.clear()
        for _ in range(wait_ms // PULSE_MS):
            self.now_ms += PULSE_MS
            self.step(v.Tick(listened_at_ms=self.now_ms))
            for path in hear_on:
                self.sequence += 1
                beat = PeerBeat(
                    incarnation=1,
                    sequence=self.sequence,
                    echo_sequence=0 if path in deaf else self.sequence,
                    loop_age_ms=loop_age_ms,
                )
                self.step(v.BeatHeard(path=path, beat=beat, heard_at_ms=self.now_ms))
        return list(self.told)


def test_a_lost_network_is_told_once_and_its_return_too() -> None:
    bench = Bench()
    assert bench.wait(5_000) == []
    assert bench.wait(10_000, hear_on=(B,)) == [("path-lost", True)]
    assert bench.wait(5_000) == [("path-back", False)]


def test_a_one_way_network_is_told_as_one() -> None:
    bench = Bench()
    bench.wait(5_000)
    assert bench.wait(10_000, deaf=(A,)) == [("path-one-way", True)]


def test_a_network_that_is_lost_is_not_one_way_on_the_way_there() -> None:
    """What the peer heard last it told a beat before its own last one."""
    bench = Bench()
    bench.wait(5_000)
    bench.wait(PULSE_MS, deaf=(A,))
    assert bench.wait(10_000, hear_on=(B,)) == [("path-lost", True)]


def test_a_network_that_never_worked_is_told() -> None:
    assert Bench().wait(10_000, hear_on=(B,)) == [("path-lost", True)]


def test_of_a_peer_that_goes_and_comes_no_network_is_told() -> None:
    bench = Bench()
    bench.wait(5_000)
    assert bench.wait(10_000, hear_on=()) == []
    assert bench.wait(PULSE_MS, hear_on=(B,)) == []  # the first of the two that returns
    assert bench.wait(10_000) == []


def test_a_peer_that_blocks_its_loop_is_told_once() -> None:
    bench = Bench()
    bench.wait(5_000)
    assert bench.wait(5_000, loop_age_ms=4_000) == [("peer-stalled", True)]
    assert bench.node.state.watch.stalled
    assert bench.wait(5_000) == [("peer-turns-again", False)]
