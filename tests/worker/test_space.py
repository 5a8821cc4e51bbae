"""The smaller one of two file systems is what a mirrored mount has room for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from mirrorha.core.orders import Follow, Freeze, Replayed, ServeAlone, ServeMirror
from tests.requirements import require_root
from tests.worker.process_pair import open_processes
from tests.worker.worker_pair import WAIT_S, Pair, open_pair

SMALL_BYTES = 16 << 20


@pytest.fixture
def small_lyon(tmp_path: Path) -> Iterator[Path]:
    """What is Lyon's is on a small file system of its own."""
    require_root()
    place = tmp_path / "lyon"
    place.mkdir()
    options = f"size={SMALL_BYTES},nr_inodes=500"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", place], check=False)  # unless all was taken off


@pytest.fixture
def pair(small_lyon: Path) -> Iterator[Pair]:
    with open_pair(small_lyon) as opened:
        yield opened


def test_a_follower_tells_how_much_room_it_has(pair: Pair) -> None:
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


SPACE = """
import os, sys
seen = os.statvfs(sys.argv[1])
print(seen.f_blocks * seen.f_frsize, seen.f_files)
"""


async def test_a_program_sees_the_smaller_one_while_the_pair_mirrors(small_lyon: Path) -> None:
    async with open_processes(small_lyon) as pair:
        await pair.start_both()
        alone = await pair.paris.run(SPACE)
        await pair.connect()
        await pair.mirror()
        with trio.fail_after(WAIT_S):
            while await pair.paris.run(SPACE) != f"{SMALL_BYTES} 500":  # noqa: ASYNC110
                await trio.sleep(0.05)
        pair.paris.engine.order(ServeAlone(2, "h"))
        await pair.paris.engine.ping()
        assert await pair.paris.run(SPACE) == alone
