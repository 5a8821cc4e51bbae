"""A start that is called off while a volume is being opened leaves nothing open."""

from __future__ import annotations

import array
import fcntl
import os
import termios
from collections.abc import Callable
from pathlib import Path

import trio

from mirrorha.cluster.cluster import Cluster
from mirrorha.cluster.settings import volume_names
from mirrorha.cluster.volumes import volume_state_dir
from mirrorha.config import VolumeConfig
from tests.cluster.rig import Site

LIMIT_S = 20


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT_S):
        while not is_so():  # noqa: ASYNC110 - other threads
            await trio.sleep(0.01)


def open_at(*bases: str) -> list[str]:
    """What this process has open there."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # closed since
            continue
        if path.startswith(bases):
            found.append(path)
    return found


async def test_a_cancelled_start_leaves_nothing_open(tmp_path: Path) -> None:
    site = Site(tmp_path)
    data = str(site.data("lyon"))
    volume = VolumeConfig(path=data, peer_path=str(site.data("paris")), mount=False)
    config = site.config("lyon", volumes=[volume])
    # The first thing that is read when a volume is opened: it takes until we let go of it.
    state = volume_state_dir(site.state("lyon"), volume_names(config)[0])
    state.mkdir(parents=True)
    question = state / "missing.json"
    os.mkfifo(question)
    hold = os.open(question, os.O_RDWR | os.O_NONBLOCK)
    os.write(hold, b"?")

    def is_read() -> bool:
        left = array.array("i", [0])
        fcntl.ioctl(hold, termios.FIONREAD, left)
        return not left[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Cluster(config, site.arbiter()).run)
        await until(is_read)
        nursery.cancel_scope.cancel()
    os.close(hold)
    await until(lambda: not question.exists())  # the volume is open
    await until(lambda: not open_at(data, str(state)))
