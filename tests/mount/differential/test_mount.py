"""A mount on one node, without its peer, does what a plain directory does."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.mount.differential.comparison import TreeRules
from tests.mount.differential.driver import (
    Allowance,
    Answer,
    Differential,
    HangError,
    Operation,
)
from tests.mount.differential.operations import draw_operations
from tests.mount.mount_support import ground
from tests.requirements import require_root
from tests.volume.fuse.mounts import Mount, mounted

USERS = (0, 0, 1000)
# Nothing moves what is in a file, and many file systems refuse that.
REFUSED = ("shift_range",)


def changes_no_owner(operation: Operation, ours: Answer, theirs: Answer) -> bool:
    """The kernel does not tell a server whether somebody asks for that, or is about to write."""
    return operation[-2:] == (-1, -1) and (ours[0], theirs) == ("done", ["error", "EPERM"])


ALLOWANCES = [Allowance("a chown of others that changes no owner is done", changes_no_owner)]
RUNS = int(os.environ.get("MIRRORHA_DIFFERENTIAL_RUNS", "8"))


@pytest.fixture(scope="module")
def against() -> Iterator[tuple[Differential, Mount]]:
    require_root()
    with ground() as here:
        for name in ("home", "reference"):
            (here.path / name).mkdir()
        with (
            mounted(here.path / "home") as mount,
            Differential(
                mount.path, here.path / "reference", users=USERS, allowances=ALLOWANCES
            ) as differential,
        ):
            yield differential, mount


@pytest.mark.parametrize("seed", range(RUNS))
def test_the_mount_does_what_a_plain_directory_does(
    against: tuple[Differential, Mount], seed: int
) -> None:
    differential, mount = against
    # What is reserved and not written counts as data once it was read, so where data begins is
    # only certain where nothing is reserved.
    is_certain = seed % 2 == 0
    without = {*REFUSED, "fallocate" if is_certain else "find"}
    differential.rules = TreeRules(with_holes=is_certain)
    drawn = draw_operations(random.Random(seed), 150, actors=len(USERS), without=without)
    try:
        differential.run_and_minimise(drawn)
    except HangError:
        mount.abort()
        raise
    state = mount.tell("counts")
    assert (state["failures"], state["refused"], state["waiting"]) == (0, 0, 0)
