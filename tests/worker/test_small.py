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


def test_it_may_open_as_many_files_as_the_machine_lets_it() -> None:
    """Files that its callers have open are its own as well."""
    code = (
        "import resource as r; from mirrorha.volume.worker.process import allow_descriptors;"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 300)); allow_descriptors();"
        "print(r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "(300, 300)"
