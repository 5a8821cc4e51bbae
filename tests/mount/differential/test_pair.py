"""A mounted pair: what is done on one node is done as on a plain directory, and is on both."""

from __future__ import annotations

import os
import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from mirrorha.volume.names import HIDDEN_NAMES
from tests.cluster.rig import TestNode, open_pair, start_pair, wait_mirrored, wait_until
from tests.mount.differential.comparison import TreeRules, differences, snapshot
from tests.mount.differential.driver import (
    Actor,
    DifferenceError,
    Differential,
    Operation,
    read_tree,
    storm,
)
from tests.mount.differential.operations import NAMES, draw_operations
from tests.mount.differential.test_mount import ALLOWANCES, REFUSED, USERS
from tests.mount.mount_support import ground
from tests.requirements import require_device, require_root

if TYPE_CHECKING:
    from pathlib import Path

RUNS = int(os.environ.get("MIRRORHA_DIFFERENTIAL_RUNS", "4"))
#: What fails is tried again and again with fewer operations.
LIMIT_S = 120 + 10 * RUNS
#: Of two copies, everything is the same.
COPIES = TreeRules(HIDDEN_NAMES, with_holes=False, with_times=True)


def place_of(node: TestNode) -> Path:
    return node.site.data(node.name)


def compare_copies(one: Path, other: Path, name: str) -> None:
    found = differences(read_tree(one / name, COPIES), read_tree(other / name, COPIES))
    if found:
        raise DifferenceError("\n".join(["the other node has something else:", *found]))


class Watcher:
    """Looks on both nodes, by processes that go on to live, at what was just done."""

    def __init__(self, one: Path, other: Path) -> None:
        self.actors = [Actor.start(place, 0) for place in (one, other)]
        self.looks = 0

    def __call__(self, differential: Differential, operation: Operation) -> None:
        run = f"/run{differential.runs}"
        paths = [one for one in operation[2:4] if isinstance(one, str) and "\0" not in one]
        for path in dict.fromkeys([*paths, *NAMES[:2]]):
            place = f"{run}/{path}"
            self.look("lstat", place)
            self.look("open", 0, place, os.O_RDONLY, 0)
            self.look("pread", 0, 200_000, 0)
            self.look("listxattr", place)
        self.look("listdir", run)

    def look(self, *command: Any) -> None:
        ours, theirs = (actor.ask(*command) for actor in self.actors)
        self.looks += ours[0] == "done"
        if ours != theirs:
            raise DifferenceError(f"{command}: here {ours}, on the other node {theirs}")

    def end(self) -> None:
        for actor in self.actors:
            actor.end()


def run_seed(differential: Differential, seed: int) -> None:
    is_certain = seed % 2 == 0  # see test_mount
    without = {*REFUSED, "fallocate" if is_certain else "find"}
    differential.rules = TreeRules(with_holes=is_certain)
    drawn = draw_operations(random.Random(seed), 120, actors=len(USERS), without=without)
    differential.run_and_minimise(drawn)


async def run_seeds(pair: list[TestNode], reference: Path, seeds: range) -> None:
    """Do random things on the node that serves, and look at what both have after each run."""
    serving, standing_by = (place_of(node) for node in pair)
    with Differential(
        serving, reference, users=USERS, allowances=ALLOWANCES, runs=seeds.start * 1000
    ) as differential:
        differential.after = partial(compare_copies, serving, standing_by)
        watcher = Watcher(serving, standing_by)
        differential.watch = partial(watcher, differential)
        try:
            for seed in seeds:
                await trio.to_thread.run_sync(run_seed, differential, seed)
        finally:
            watcher.end()
        assert watcher.looks > 100 * len(seeds)


@pytest.mark.timeout(LIMIT_S)
async def test_three_trees_are_one(tmp_path: Path) -> None:
    require_root()
    require_device("/dev/fuse")
    with ground() as here:
        reference = here.make("reference")
        place = here.path / "pair"
        place.mkdir()
        async with open_pair(place, mount=True, limit_s=LIMIT_S) as pair:
            first, second = await start_pair(pair)
            await run_seeds([first, second], reference, range(RUNS))
            await first.cluster.swap()
            await wait_mirrored(pair)
            await run_seeds([second, first], reference, range(RUNS, 2 * RUNS))
            for node in (first, second):
                await node.cluster.stop()
            await wait_until(lambda: not here.mounts())
            behind = [snapshot(place_of(node), COPIES) for node in (first, second)]
            assert differences(*behind) == []
            assert len(behind[0]) > 10


def storm_and_compare(pair: list[TestNode], seed: int) -> Counter[str]:
    serving, standing_by = (place_of(node) for node in pair)
    drawn = [
        draw_operations(random.Random(f"{seed} {number}"), 400, actors=1, without=REFUSED)
        for number in range(5)
    ]
    ends = storm(serving, drawn, f"storm{seed}")
    compare_copies(serving, standing_by, f"storm{seed}")
    return ends


@pytest.mark.timeout(LIMIT_S)
async def test_what_many_do_at_once_is_on_both(tmp_path: Path) -> None:
    """Nobody knows beforehand what becomes of it; but it becomes the same."""
    require_root()
    require_device("/dev/fuse")
    with ground() as here:
        ends: Counter[str] = Counter()
        async with open_pair(here.path, mount=True, limit_s=LIMIT_S) as pair:
            first, second = await start_pair(pair)
            for seed in range(RUNS):
                ends += await trio.to_thread.run_sync(storm_and_compare, [first, second], seed)
            for node in (first, second):
                await node.cluster.stop()
            await wait_until(lambda: not here.mounts())
            behind = [snapshot(place_of(node), COPIES) for node in (first, second)]
            assert differences(*behind) == []
        assert ends["done"] > 300 * RUNS
