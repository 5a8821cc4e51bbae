"""A database, its machine killed under load, and what the other machine has of it.

First with a pair that only copies: it proves that the harness sees a loss, and none where none is.
Then with a mounted pair, in short: the full form is `benchmarks/campaign_databases.py`.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases.pair import CopyingPair, RealVolumePair
from tests.databases.rounds import DATABASES, Round, play
from tests.mounted.real_pair import open_real_pair
from tests.requirements import require_device, require_program, require_root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NEEDS = {
    "sqlite-wal": (),
    "sqlite-delete": (),
    "postgresql": ("pg_ctlcluster",),
    "redis": ("redis-server", "redis-check-aof"),
    "git": ("git",),
}


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that the users of databases may enter; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="mirrorha-databases-") as name:
        root = Path(name)
        root.chmod(0o755)
        yield root


def require(name: str) -> None:
    for program in NEEDS[name]:
        require_program(program)
    if name == "postgresql":
        require_root()  # to become the user that it runs as


def test_every_database_says_what_it_needs() -> None:
    assert set(NEEDS) == set(DATABASES)


def played(name: str, root: Path, *, stale: bool, rounds: int) -> list[Round]:
    require(name)
    scratch = root / "scratch"
    scratch.mkdir()
    pair = CopyingPair(root, stale=stale)
    try:
        found = play(
            name, pair, scratch=scratch, rounds=rounds, load_s=0.5, rng=random.Random(name)
        )
        return list(found)
    finally:
        pair.close()


@pytest.mark.parametrize("name", DATABASES)
def test_nothing_acknowledged_is_missing_in_a_copy(name: str, outside: Path) -> None:
    first, second = played(name, outside, stale=False, rounds=2)
    assert first.faults == second.faults == []
    assert first.acknowledged > 0
    assert (first.primary, first.served_by) == (second.served_by, second.primary)


@pytest.mark.parametrize("name", DATABASES)
def test_a_transaction_that_a_copy_lacks_is_missed(name: str, outside: Path) -> None:
    (found,) = played(name, outside, stale=True, rounds=1)
    assert any("missing" in fault for fault in found.faults), found


@pytest.mark.parametrize("name", DATABASES)
def test_nothing_acknowledged_is_missing_on_a_mounted_pair(name: str, outside: Path) -> None:
    require_root()
    require_device("/dev/fuse")
    require(name)
    scratch = outside / "scratch"
    scratch.mkdir()
    with open_real_pair(outside) as pair:
        pair.start()
        rng = random.Random(name)
        volumes = RealVolumePair(pair)
        (found,) = play(name, volumes, scratch=scratch, rounds=1, load_s=0.5, rng=rng)
    assert found.faults == []
    assert found.acknowledged > 0
    assert found.served_by == pair.other(found.primary)
