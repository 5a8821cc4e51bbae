"""What the target of a resync alone acknowledged is in its tree or in the rescue, at any moment."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import (
    LIMBO_FID,
    Apply,
    Attributes,
    Disk,
    Kind,
    ListDirectory,
    ReadAttributes,
    ReadBytes,
    SyncTree,
)
from mirrorha.volume.names import RESCUE_NAME
from mirrorha.volume.ops import ROOT_FID, Write
from mirrorha.volume.resync.rescuing import Rescuing
from mirrorha.volume.tasks.task import Steps
from tests.shows.small_disks import loop_disk
from tests.volume.disk_support import Home
from tests.volume.resync_pair import Pair, difference
from tests.volume.resync_scenarios import assert_equal, make_pair
from tests.volume.resync_trees import Application, snapshot
from tests.volume.test_resync_real_disk import OWNER_BITS

SCENARIOS: Final = ("diverged", "foreign", "target_ids", "source_ids", "collide")


def brand(rng: random.Random, disk: Disk) -> set[bytes]:
    """Make the contents of most files of this side like no other's; returns them, durable."""
    files = [one for one in snapshot(disk).values() if one.kind is Kind.FILE]
    for one in {one.fid: one for one in files}.values():
        if rng.random() < 0.7:
            mark = rng.randbytes(12)
            disk.perform(Apply(Write(one.fid, rng.choice((0, 2, 70_000)), mark, 1)))
    disk.perform(SyncTree())
    return {one.content for one in snapshot(disk).values() if one.kind is Kind.FILE}


def contents(disk: Disk) -> Iterator[bytes]:
    """Of every file, those in limbo too."""
    todo = [ROOT_FID, LIMBO_FID]
    while todo:
        entries = disk.perform(ListDirectory(todo.pop()))
        assert isinstance(entries, list)
        for entry in entries:
            if entry.kind is Kind.DIRECTORY:
                todo.append(entry.fid)
            elif entry.kind is Kind.FILE:
                attributes = disk.perform(ReadAttributes(entry.fid))
                assert isinstance(attributes, Attributes)
                content = disk.perform(ReadBytes(entry.fid, 0, attributes.size_bytes))
                assert isinstance(content, bytes)
                yield content


class Checker:
    """Knows what the target had, and what the source has had since."""

    def __init__(self, rng: random.Random, pair: Pair[MemoryDisk]) -> None:
        self.pair = pair
        self.owed = brand(rng, pair.target.disk)
        self.shared: set[bytes] = set()
        mutate = pair.mutate
        assert mutate is not None
        self._mutate = mutate
        pair.mutate = self._watched
        self._look()

    def _watched(self) -> object:
        self._look()
        return self._mutate()

    def _look(self) -> None:
        self.shared.update(contents(self.pair.source.disk))

    def check(self) -> None:
        self._look()
        disk = self.pair.target.disk
        kept = {*contents(disk), *disk.rescued()}
        assert self.owed <= kept | self.shared


def run_rescue(scenario: str, seed: int) -> Pair[MemoryDisk]:
    rng = random.Random(f"rescue {scenario} {seed}")
    pair = make_pair(rng, scenario)
    pair.rescue, pair.everything = "mine", True
    checker = Checker(rng, pair)
    mutations = rng.choice((0, rng.randrange(60)))
    for _ in range(rng.randrange(4)):
        pair.begin()
        steps, last = itertools.count(), rng.randrange(600)
        pair.run(mutations=mutations, until=lambda last=last, steps=steps: next(steps) > last)
        mutations = pair.mutations_left
        if pair.is_over():
            break
        end = rng.choice(("link", "process", "power"))
        pair.lose_link(target_dies=end != "link")
        if end == "power":
            pair.target.disk.power_loss(rng)
            pair.target.disk.open_again()
        checker.check()
    else:
        pair.begin()
        pair.run(mutations=mutations)
    assert_equal(pair)
    checker.check()
    return pair


def rescued_in(home: Home) -> set[bytes]:
    # os.walk: a symbolic link may say more than a path may, and pathlib fails at that.
    walked = os.walk(home.root / RESCUE_NAME)
    paths = (Path(place, name) for place, _, names in walked for name in names)
    files = (path for path in paths if "files" in path.parent.parts)
    return {path.read_bytes() for path in files if stat.S_ISREG(path.lstat().st_mode)}


def run_real(
    homes: tuple[Home, Home], seed: int, lose_power: Callable[[], None] | None = None
) -> None:
    """The target's process dies, or its power, and its directory is opened anew."""
    rng = random.Random(f"real {seed}")
    source, target = (home.open() for home in homes)
    Application(rng, source, epoch=1, owner_bits=OWNER_BITS).live(40)
    pair = Pair(rng, source, target, everything=True)
    pair.begin()
    pair.run()
    Application(rng, source, epoch=5, owner_bits=OWNER_BITS).live(30)
    Application(rng, target, epoch=rng.choice((4, 5)), owner_bits=OWNER_BITS).live(30)
    owed, shared = brand(rng, target), set(contents(source))
    for _ in range(5):
        pair = Pair(rng, source, target, everything=True, epoch=6, rescue="mine")
        pair.begin()
        steps, last = itertools.count(), rng.randrange(20, 500)
        pair.run(until=lambda last=last, steps=steps: next(steps) > last)
        if pair.is_over():
            break
        if lose_power is not None:
            lose_power()
        pair.lose_link(target_dies=lose_power is not None or rng.random() < 0.5)
        target = homes[1].open()
        assert owed <= {*contents(target), *rescued_in(homes[1])} | shared
    else:
        pair = Pair(rng, source, target, everything=True, epoch=6, rescue="mine")
        pair.begin()
        pair.run()
    assert (pair.machine_s.failure, pair.machine_t.failure) == ("", "")
    assert difference(source, target) == []
    assert owed <= {*contents(target), *rescued_in(homes[1])} | shared


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_on_a_real_disk(seed: int, homes: tuple[Home, Home]) -> None:
    run_real(homes, seed)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_with_the_power_of_a_real_disk(
    seed: int, home: Home, tmp_path: Path
) -> None:
    with loop_disk(tmp_path / "disk") as disk:
        far = Home(disk.path)

        def lose_power() -> None:
            disk.lose_power()
            with contextlib.suppress(Exception):  # it closes what it cannot write any more
                far.close()
            disk.get_power()

        try:
            run_real((home, far), seed, lose_power)
        finally:
            far.close()


def run_all(seeds: int) -> None:
    for scenario, seed in itertools.product(SCENARIOS, range(seeds)):
        run_rescue(scenario, seed)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_in_spite_of_interruptions(scenario: str) -> None:
    for seed in range(30):
        run_rescue(scenario, seed)


def nothing(*_: object) -> Steps[None]:
    return
    yield


@pytest.mark.parametrize("rule", ["before_change", "before_removal"])
def test_without_a_rule_something_is_lost(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rescuing, rule, nothing)
    with pytest.raises(AssertionError):
        run_all(30)
