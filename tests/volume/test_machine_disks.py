"""The machine on the disks it is made for: whatever callers do, both trees are the same."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, cast

import pytest

from mirrorha.core.orders import Trouble
from mirrorha.testing.check_disk_steps import take_snapshot
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.access_lists import ACL_ACCESS, ACL_DEFAULT, packed_list
from mirrorha.volume.disk import LoadTouched
from mirrorha.volume.events import Change, Failure, Flush
from mirrorha.volume.ops import (
    ROOT_FID,
    AnyOp,
    Birth,
    Create,
    Fallocate,
    Kind,
    Link,
    Mkdir,
    Mknod,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.touched import TouchedState
from tests.volume.disk_support import Home
from tests.volume.stream_pair import Node, Pair, TinyDisk, TinyResyncs

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorha.volume.disk import Disk

NAMES = ("a", "b", "c", "é")
LIST = packed_list((1, 7, 0), (2, 6, 7), (4, 5, 0), (16, 3, 0), (32, 4, 0))


class Callers:
    """Ask for anything, by what they were told before."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.files = [ROOT_FID]
        self.directories = [ROOT_FID]

    def told(self, op: AnyOp | None) -> None:
        if isinstance(op, Mkdir):
            self.directories.append(op.fid)
        if isinstance(op, Birth):
            self.files.append(op.fid)

    def op(self, stamp: int) -> AnyOp:
        chance = self.chance
        fid, parent = chance.choice(self.files), chance.choice(self.directories)
        name, other = chance.choice(NAMES), chance.choice(NAMES)
        other_parent, flags = chance.choice(self.directories), chance.choice((0, 0, 1, 2, 2))
        umask, condition = chance.choice((None, 0o22, 0o77)), chance.choice((0, 0, 1, 2))
        range_mode = chance.choice((0, 1, 3, 3, 16, 17))
        return chance.choice(
            [
                Create(0, parent, name, 0o640, -1, -1, stamp),
                Create(0, parent, name, 0o766, -1, -1, stamp, umask),
                Mkdir(0, parent, name, 0o750, -1, -1, stamp, umask),
                Symlink(0, parent, name, "nowhere", -1, -1, stamp, umask),
                Mknod(0, parent, name, Kind.FIFO, 0o666, 0, -1, -1, stamp, umask),
                Rename(0, parent, name, other_parent, other, 0, stamp, flags),
                Fallocate(fid, range_mode, chance.randrange(9000), 5000, stamp),
                SetXattr(fid, ACL_DEFAULT, chance.choice([None, LIST])),
                SetXattr(fid, ACL_ACCESS, chance.choice([None, LIST])),
                SetXattr(fid, "user.y", b"1", condition),
                SetAttributes(fid, None, None, None, None, stamp),
                Link(fid, parent, name, stamp),
                Unlink(0, parent, name, stamp),
                Rmdir(0, parent, name, stamp),
                Rename(0, parent, name, chance.choice(self.directories), other, 0, stamp),
                # A directory stays one that an ordinary user may enter.
                SetAttributes(fid, chance.choice([None, 0o700]), None, None, stamp),
                SetAttributes(fid, None, None, None, None),
                SetXattr(fid, "user.x", chance.choice([None, b"1", b"2"])),
                Truncate(fid, chance.randrange(9000), stamp),
                Write(fid, chance.randrange(9000), chance.randbytes(chance.randrange(50)), stamp),
                Write(fid, chance.randrange(9000), chance.randbytes(chance.randrange(50)), stamp),
            ]
        )


def place(node: Node, disk: Disk) -> None:
    """Give a node another disk than the tiny one."""
    node.disk = cast("TinyDisk", disk)
    node.syncs_take_time = False
    touched = disk.perform(LoadTouched())
    assert isinstance(touched, TouchedState)
    resyncs = TinyResyncs(node.disk, node.disk)
    node.volume = Volume(VolumeSettings(checkpoint_ms=50), touched=touched, resyncs=resyncs)


def live(pair: Pair, chance: random.Random, changes: int) -> int:
    """Mirror random changes, at random paces. How many were acknowledged."""
    source, _ = pair.mirror()
    callers = Callers(chance)
    for number in range(1, changes + 1):
        pair.give(source, Change(number, callers.op(number * 1_000)))
        if chance.random() < 0.1:
            pair.give(source, Flush(number + changes, chance.choice(callers.files)))
        if chance.random() < 0.05:
            pair.tick(chance.randrange(10))
        for _ in range(chance.randrange(12)):
            if moves := pair.busy():
                chance.choice(moves)()
        for reply in source.replies[-3:]:
            callers.told(reply.op)
    pair.settle()
    assert not pair.resets
    assert not any(isinstance(report, Trouble) for report in source.reports)
    assert len(source.replies) >= changes
    return sum(reply.failure is Failure.NONE for reply in source.replies)


def make_memory_disk() -> MemoryDisk:
    return MemoryDisk(keeps_owners=os.geteuid() == 0)


@pytest.mark.parametrize("seed", range(10))
def test_on_disks_in_memory(seed: int) -> None:
    pair = Pair()
    for node in pair.nodes:
        place(node, make_memory_disk())
    assert live(pair, random.Random(seed), 400) > 80
    first, second = (take_snapshot(cast("Disk", node.disk)) for node in pair.nodes)
    assert first == second
    assert len(first) > 3


@pytest.mark.parametrize("source", [0, 1])
def test_on_a_real_one_and_one_in_memory(source: int, tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.root.mkdir(mode=0o755, exist_ok=True)
    pair = Pair()
    place(pair.nodes[source], home.open())
    place(pair.nodes[1 - source], make_memory_disk())
    chance = random.Random(source)
    assert live(pair, chance, 300) > 60
    first, second = (take_snapshot(cast("Disk", node.disk)) for node in pair.nodes)
    for seen in (first, second):
        seen.pop("")  # the root itself was there before
    assert first == second
    home.close()
