"""A mount on one node, without its peer, does what a plain directory does."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.mount.differential.driver import Differential, HangError
from tests.mount.differential.operations import draw_operations
from tests.mount.mount_support import ground
from tests.requirements import require_root
from tests.volume.fuse.mounts import Mount, mounted

USERS = (0, 0, 1000)
# What the mount refuses as yet.
NOT_YET = ("socket", "mkfifo", "mknod", "fallocate", "rename2", "acl")
RUNS = int(os.environ.get("MIRRORHA_DIFFERENTIAL_RUNS", "8"))


@pytest.fixture(scope="module")
def against() -> Iterator[tuple[Differential, Mount]]:
    require_root()
    with ground() as here:
        for name in ("home", "reference"):
            (here.path / name).mkdir()
        with (
            mounted(here.path / "home") as mount,
            Differential(mount.path, here.path / "reference", users=USERS) as differential,
        ):
            yield differential, mount


@pytest.mark.parametrize("seed", range(RUNS))
def test_the_mount_does_what_a_plain_directory_does(
    against: tuple[Differential, Mount], seed: int
) -> None:
    differential, mount = against
    drawn = draw_operations(random.Random(seed), 150, actors=len(USERS), without=NOT_YET)
    try:
        differential.run_and_minimise(drawn)
    except HangError:
        mount.abort()
        raise
    state = mount.tell("counts")
    assert (state["failures"], state["refused"], state["waiting"]) == (0, 0, 0)
