"""The smaller one of two file systems is what a mirrored mount has room for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorha.core.orders import Follow, Freeze, Replayed, ServeMirror
from tests.requirements import require_root
from tests.worker.worker_pair import WAIT_S, Pair, open_pair

SMALL_BYTES = 16 << 20


@pytest.fixture
def small_lyon(tmp_path: Path) -> Iterator[Pair]:
    """Lyon's directory is on a small file system of its own."""
    require_root()
    root = tmp_path / "lyon" / "root"
    root.mkdir(parents=True)
    options = f"size={SMALL_BYTES},nr_inodes=500"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", root], check=True)
    try:
        with open_pair(tmp_path) as pair:
            yield pair
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_follower_tells_how_much_room_it_has(small_lyon: Pair) -> None:
    pair = small_lyon
    pair.connect()
    pair.wait_linked()
    pair.lyon.order(Follow(1, "g", 1))
    pair.paris.order(ServeMirror(1, "g", 1))
    pair.paris.wait_report(Replayed)
    wait_for(lambda: pair.paris.driver.peer_space() is not None)
    told = pair.paris.driver.peer_space()
    assert told is not None
    assert (told.total_bytes, told.files) == (SMALL_BYTES, 500)
    assert pair.lyon.driver.peer_space() is None

    fid = pair.paris.create("big")
    pair.paris.write(fid, 0, os.urandom(1 << 20)).done()
    wait_for(lambda: _free_bytes(pair) <= SMALL_BYTES - (1 << 20))
    pair.paris.order(Freeze(1))
    assert pair.paris.driver.peer_space() is None


def _free_bytes(pair: Pair) -> int:
    told = pair.paris.driver.peer_space()
    assert told is not None
    return told.free_bytes


def wait_for(is_so: object) -> None:
    until_s = time.monotonic() + WAIT_S
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.05)
