"""What tests of a resync begin with: trees drawn by chance, or a quiet one, changed by hand."""

from __future__ import annotations

import itertools
import random
from typing import Final

from mirrorha.core.orders import Progress, Rescued
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import LIMBO_FID, Apply, ListDirectory, Outcome
from mirrorha.volume.ops import ROOT_FID, AnyOp, Create, Mkdir, Write, make_fid
from mirrorha.volume.stream.resync_interface import ResyncStatus
from mirrorha.volume.touched import touches
from mirrorha.wire.limits import BLOCK_BYTES
from tests.volume.resync_pair import Pair, difference
from tests.volume.resync_trees import Application, twin

BLOCK: Final = bytes(range(1, 256)) * (BLOCK_BYTES // 255) + b"x" * (BLOCK_BYTES % 255)


def make_pair(rng: random.Random, scenario: str) -> Pair[MemoryDisk]:
    """Two trees of a common past, as two nodes may have them; and what both know of it."""
    counter = itertools.count(1)

    def draw() -> int:
        return make_fid(epoch=9, counter=next(counter))

    source = MemoryDisk(draw=draw)
    Application(rng, source, epoch=1).live(rng.randrange(5, 80))
    target = twin(source, draw=draw)
    if scenario in {"empty", "foreign"}:
        target = MemoryDisk(draw=draw)
    application = Application(rng, source, epoch=5)
    everything = scenario != "touched"
    pair = Pair(rng, source, target, everything=everything, mutate=application)
    application.live(rng.randrange(40), pair.source.log)
    if scenario != "empty":
        # On "collide" both made files of the same ids in one epoch, as after a split they may.
        epoch = 5 if scenario == "collide" else 4
        steps = rng.choice((0, rng.randrange(40)))
        Application(rng, target, epoch=epoch).live(steps, pair.target.log)
    lost = {"target_ids": target, "source_ids": source}.get(scenario)
    if lost is not None:
        lost.lose_ids()
        lost.open_again()
    return pair


def assert_equal(pair: Pair[MemoryDisk]) -> None:
    failures = pair.machine_s.failure, pair.machine_t.failure
    assert failures == ("", "")
    assert pair.machine_s.status is pair.machine_t.status is ResyncStatus.EQUAL
    assert difference(pair.source.disk, pair.target.disk) == []
    assert pair.target.disk.perform(ListDirectory(LIMBO_FID)) == []
    reports = [one for one in pair.source.reports if isinstance(one, Progress)]
    assert all(one.done_bytes <= one.total_bytes for one in reports)
    rescued = [one for one in pair.target.reports if isinstance(one, Rescued)]
    assert rescued == pair.target.reports
    assert bool(rescued) is bool(pair.rescue)


class Quiet:
    """A source and a target that are the same, to be changed by hand."""

    def __init__(self, *, everything: bool = False) -> None:
        self.rng = random.Random(0)
        self.disk = MemoryDisk()
        self.counter = 0
        self.everything = everything
        self.pair: Pair[MemoryDisk] | None = None

    def apply(self, op: AnyOp) -> None:
        outcome = self.disk.perform(Apply(op))
        assert isinstance(outcome, Outcome)
        assert outcome.errno == 0
        if self.pair is not None:
            self.pair.source.log.update(touches(op))

    def fid(self) -> int:
        self.counter += 1
        return make_fid(epoch=1 if self.pair is None else 5, counter=self.counter)

    def file(self, parent: int, name: str, content: bytes) -> int:
        fid = self.fid()
        self.apply(Create(fid, parent, name, 0o644, 0, 0, 1))
        if content:
            self.apply(Write(fid, 0, content, 2))
        return fid

    def directory(self, parent: int, name: str) -> int:
        fid = self.fid()
        self.apply(Mkdir(fid, parent, name, 0o755, 0, 0, 1))
        return fid

    def split(self, target: MemoryDisk | None = None) -> Pair[MemoryDisk]:
        """From here on the target is behind."""
        target = twin(self.disk) if target is None else target
        self.pair = Pair(self.rng, self.disk, target, everything=self.everything)
        return self.pair

    def resync(self) -> Pair[MemoryDisk]:
        assert self.pair is not None
        self.pair.begin()
        self.pair.run()
        assert_equal(self.pair)
        return self.pair


def big_tree(quiet: Quiet) -> tuple[int, int]:
    """A directory of two large files, and one of them."""
    directory = quiet.directory(ROOT_FID, "directory")
    quiet.file(directory, "other", BLOCK * 40)
    return directory, quiet.file(directory, "large", BLOCK * 40)
