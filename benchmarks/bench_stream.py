"""How much Python a mirrored change costs: both machines, no disk, no wire.

    python benchmarks/bench_stream.py [CHANGES]

One 4 KiB write at a time goes from `Change` to `Reply` through the source and the follower: five
steps. Prints the median of several rounds, in microseconds of this process's CPU time a change.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

from mirrorha.core.orders import BecomeTarget, Follow, ServeAlone, ServeMirror, StartResync
from mirrorha.volume.disk import Applied, Apply, ApplyAll, Outcome
from mirrorha.volume.events import (
    AnyEffect,
    Change,
    DiskCall,
    DiskDone,
    LinkUp,
    Ordered,
    Received,
    Reply,
    Send,
)
from mirrorha.volume.ops import Write
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.stream.resync_interface import ResyncSide, ResyncSourceSide
from mirrorha.volume.touched import TouchedState, TouchKey

ROUNDS = 7
PAGE = bytes(range(256)) * 16


class NoResyncs:
    """Nothing is brought up to date here."""

    def source(self, order: StartResync, touched: Sequence[TouchKey]) -> ResyncSourceSide:
        raise NotImplementedError

    def target(self, order: BecomeTarget, touched: Sequence[TouchKey]) -> ResyncSide:
        raise NotImplementedError


class Pair:
    """Two machines; disks that do nothing, at once; a link that delivers at once."""

    def __init__(self) -> None:
        self.volumes = [
            Volume(VolumeSettings(), touched=TouchedState(), resyncs=NoResyncs()) for _ in range(2)
        ]
        self.replies = 0

    def perform(self, node: int, effects: list[AnyEffect]) -> None:
        for effect in effects:
            if isinstance(effect, DiskCall):
                request = effect.request
                if isinstance(request, Apply):
                    result: object = Outcome(request.op)
                else:
                    result = Applied(len(request.ops)) if isinstance(request, ApplyAll) else None
                done = DiskDone(effect.token, result)
                self.perform(node, self.volumes[node].step(done, 0))
            elif isinstance(effect, Send):
                event = Received(effect.message)
                self.perform(1 - node, self.volumes[1 - node].step(event, 0))
            elif isinstance(effect, Reply):
                self.replies += 1

    def mirror(self) -> None:
        for node in range(2):
            self.perform(node, self.volumes[node].step(LinkUp(), 0))
        self.perform(1, self.volumes[1].step(Ordered(Follow(1, "g", round=1)), 0))
        self.perform(0, self.volumes[0].step(Ordered(ServeMirror(1, "g", round=1)), 0))


def measure(changes: int, *, mirrored: bool) -> float:
    """Microseconds a change."""
    pair = Pair()
    if mirrored:
        pair.mirror()
    else:
        pair.perform(0, pair.volumes[0].step(Ordered(ServeAlone(1, "g")), 0))
    events = [Change(n, Write(7, n % 256 * 4096, PAGE, n)) for n in range(changes)]
    volume = pair.volumes[0]
    began = time.process_time()
    for event in events:
        pair.perform(0, volume.step(event, 0))
    took = time.process_time() - began
    if pair.replies != changes:
        raise SystemExit(f"{pair.replies} replies to {changes} changes")
    return took / changes * 1e6


def main() -> None:
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    for name, mirrored in (("mirrored", True), ("alone", False)):
        took = [measure(changes, mirrored=mirrored) for _ in range(ROUNDS)]
        print(f"{name}: {statistics.median(took):.1f} us a change (best {min(took):.1f})")


if __name__ == "__main__":
    main()
