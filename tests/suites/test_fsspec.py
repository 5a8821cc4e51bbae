"""fsspec's own suite, with our file API under it."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from tests.suites.carriers import CARRIERS
from tests.suites.fsspec_files import MirroredFileSystem
from tests.suites.portal import BlockingFiles, blocking_files

# A pair has real directories; one alone would add nothing but its time.
WANTED = [name for name in CARRIERS if name != "in_a_directory"]
SLOW = {"mirrored"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in WANTED
    ],
)
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BlockingFiles]:
    """One volume for all tests; each cleans up behind itself."""
    root = tmp_path_factory.mktemp("volume")
    with blocking_files(lambda: CARRIERS[request.param](root)) as files:
        yield files


class Fixtures(AbstractFixtures):
    @pytest.fixture
    def fs(self, files: BlockingFiles) -> MirroredFileSystem:
        return MirroredFileSystem(files)

    @pytest.fixture
    def fs_path(self, fs: MirroredFileSystem) -> str:
        fs.makedirs("below", exist_ok=True)
        return "below"

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return posixpath.join

    @pytest.fixture
    def local_path(self, tmp_path: Path) -> Path:
        return tmp_path


class TestCopy(Fixtures, AbstractCopyTests):
    pass


class TestGet(Fixtures, AbstractGetTests):
    pass


class TestPut(Fixtures, AbstractPutTests):
    pass


class TestPipe(Fixtures, AbstractPipeTests):
    pass


class TestOpen(Fixtures, AbstractOpenTests):
    pass
