"""A served mount for each test that asks for one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.volume.fuse.mounts import Mount, mounted

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def mount() -> Iterator[Mount]:
    # Not in pytest's own directory, which is root's alone.
    with tempfile.TemporaryDirectory(prefix="mirrorha-mount-") as name:
        home = Path(name)
        home.chmod(0o755)
        with mounted(home) as mount:
            yield mount
            # What a handler could not do by a bug, or the kernel did not understand.
            state = mount.tell("counts")
            expected = (mount.expected_failures, 0, 0)
            assert (state["failures"], state["refused"], state["waiting"]) == expected
