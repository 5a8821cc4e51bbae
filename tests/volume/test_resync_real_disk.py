"""A resync between two directories of this machine."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final

import pytest

from mirrorha.volume.disk import LIMBO_FID, ListDirectory, SyncTree
from mirrorha.volume.local_disk.disk import RealDisk
from mirrorha.volume.ops import ROOT_FID, Create, Truncate, Write
from mirrorha.volume.stream.resync_interface import ResyncStatus
from mirrorha.wire.limits import BLOCK_BYTES
from tests.requirements import lacking_of_files
from tests.volume.disk_support import Home, create, do, fid
from tests.volume.resync_pair import Pair, difference
from tests.volume.resync_trees import Application

# Without root nobody can read what its owner may not.
OWNER_BITS: Final = 0 if os.geteuid() == 0 else 0o700


def application(rng: random.Random, disk: RealDisk, *, epoch: int) -> Application:
    return Application(rng, disk, epoch=epoch, owner_bits=OWNER_BITS)


def finish(pair: Pair[RealDisk]) -> None:
    pair.begin()
    pair.run(mutations=40)
    assert (pair.machine_s.failure, pair.machine_t.failure) == ("", "")
    assert pair.machine_t.status is ResyncStatus.EQUAL
    assert difference(pair.source.disk, pair.target.disk) == []
    assert pair.target.disk.perform(ListDirectory(LIMBO_FID)) == []


@pytest.mark.parametrize("seed", range(6))
def test_two_directories_become_equal_and_diverge_and_become_equal_again(
    seed: int, homes: tuple[Home, Home]
) -> None:
    rng = random.Random(seed)
    source, target = (home.open() for home in homes)
    application(rng, source, epoch=2).live(30)
    application(rng, target, epoch=3).live(rng.choice((0, 30)))
    finish(Pair(rng, source, target, everything=True, mutate=application(rng, source, epoch=4)))
    for disk in (source, target):
        disk.perform(SyncTree())
    # Both go their own way, in epochs of their own.
    mutate = application(rng, source, epoch=6)
    pair = Pair(rng, source, target, everything=False, mutate=mutate, epoch=6)
    mutate.live(30, pair.source.log)
    application(rng, target, epoch=5).live(20, pair.target.log)
    finish(pair)
    # What was written is there, not only in the view of the process that wrote it.
    reopened = [home.open() for home in homes]
    assert difference(*reopened) == []
    assert not reopened[1].found.unknown


def test_holes_take_no_room(homes: tuple[Home, Home]) -> None:
    source, target = (home.open() for home in homes)
    block = b"x" * BLOCK_BYTES
    do(source, create(1, "sparse"), Write(fid(1), 90 * BLOCK_BYTES, block, 1))
    do(source, Truncate(fid(1), 200 * BLOCK_BYTES, 2))
    # And where the target had data the source has a hole.
    do(target, create(1, "sparse"), Write(fid(1), 0, block * 8, 1))
    finish(Pair(random.Random(1), source, target, everything=True))
    rooms = [os.stat(home.root / "sparse").st_blocks * 512 for home in homes]
    if rooms[0] > 2 * BLOCK_BYTES:
        lacking_of_files("keeps holes")
    assert rooms[1] <= 2 * BLOCK_BYTES


def test_names_that_are_no_utf8(homes: tuple[Home, Home]) -> None:
    for name in (b"caf\xe9", b"\xff\xfe", "café".encode(), b"plain"):
        try:
            (homes[0].root / os.fsdecode(name)).write_bytes(name)
        except OSError:
            lacking_of_files("keeps names of any bytes")
    source, target = (home.open() for home in homes)
    finish(Pair(random.Random(1), source, target, everything=True))
    assert sorted(os.listdir(os.fsencode(homes[1].root))) == sorted(
        os.listdir(os.fsencode(homes[0].root))
    )


def test_a_symlink_out_of_the_volume_is_only_a_symlink(
    homes: tuple[Home, Home], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("untouched")
    (homes[0].root / "link").symlink_to(tmp_path / "secret")
    source, target = (home.open() for home in homes)
    do(target, Create(fid(5), ROOT_FID, "link", 0o600, -1, -1, 3))
    finish(Pair(random.Random(1), source, target, everything=True))
    assert os.readlink(homes[1].root / "link") == str(tmp_path / "secret")
    assert (tmp_path / "secret").read_text() == "untouched"
