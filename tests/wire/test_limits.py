"""The limits, as the outside world dictates them. How they relate, the module itself ensures."""

from __future__ import annotations

import os

from mirrorha.wire import limits


def test_the_kernels_limits() -> None:
    assert os.pathconf("/", "PC_NAME_MAX") == limits.NAME_BYTES_MAX
    assert os.pathconf("/", "PC_PATH_MAX") == limits.PATH_BYTES_MAX


def test_the_promised_sizes() -> None:
    """Touched logs and resyncs of two releases count in the same units."""
    assert limits.SEGMENT_BYTES == 1_048_576
    assert limits.BLOCK_BYTES == 65_536
