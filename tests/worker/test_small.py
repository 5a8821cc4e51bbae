"""A worker stays small: what it imports, and so its size and its start."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("trio", "cryptography", "click", "rich", "h11", "mirrorha.cluster", "mirrorha.config")


def test_the_workers_process_imports_nothing_that_it_has_no_use_for() -> None:
    code = (
        "import mirrorha.volume.worker.process, mirrorha.volume.fuse.mounting, sys;"
        "print(*(name for name in sys.argv[1:] if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == []
