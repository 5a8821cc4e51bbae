"""Two worker processes, each behind its mount."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.requirements import require_device, require_root
from tests.worker.process_pair import ProcessPair, clean, open_processes
from tests.worker.worker_pair import tree

WRITE = """
import os, sys
os.chdir(sys.argv[1])
with open("journal", "wb", buffering=0) as file:
    for number in range(100):
        file.write(bytes([number]) * 4096)
    os.fsync(file.fileno())
os.mkdir("sub")
with open("sub/big", "wb") as file:
    file.write(os.urandom(3_000_000))
os.rename("sub/big", "big")
"""
READ = """
import os, sys
os.chdir(sys.argv[1])
print(sorted(os.listdir(".")), os.stat("journal").st_size, open("journal", "rb").read()[4096])
"""


@pytest.fixture(autouse=True)
def _needs(tmp_path: Path) -> Iterator[None]:
    require_root()
    require_device("/dev/fuse")
    yield
    clean(tmp_path)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[ProcessPair]:
    async with open_processes(tmp_path) as opened:
        await opened.start("paris")
        await opened.start("lyon")
        yield opened


async def test_a_program_that_knows_nothing_of_us_is_mirrored(pair: ProcessPair) -> None:
    await pair.connect()
    await pair.mirror()
    await pair.paris.run(WRITE)
    assert await pair.paris.run(READ) == "['big', 'journal', 'sub'] 409600 1"
    assert await pair.lyon.run(READ) == "['big', 'journal', 'sub'] 409600 1"
    for name in ("paris", "lyon"):
        await pair.stop(name)
        assert pair.nodes[name].error is None
    assert tree(pair.paris.root) == tree(pair.lyon.root)
    assert len(tree(pair.paris.root)) == 3
