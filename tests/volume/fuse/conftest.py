"""A served mount for each test that asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.volume.fuse.mounts import Mount, checked_mount

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def mount() -> Iterator[Mount]:
    with checked_mount() as mount:
        yield mount
