"""Where a volume's disk lives, for each test that asks for one or two."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import require_root
from tests.volume.disk_support import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[tuple[Home, Home]]:
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        made.append(Home(tmp_path / name))
    yield made[0], made[1]
    for home in made:
        home.close()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everybody can reach; pytest's own is root's."""
    require_root()
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)
