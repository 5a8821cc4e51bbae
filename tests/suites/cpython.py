"""CPython's own tests of files, from Debian's libpython3.11-testsuite."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

from tests.mounted.mounts import run_bounded
from tests.suites.outcome import Found, Suite

PYTHON: Final = "/usr/bin/python3"
LONG: Final = (
    *("test_os", "test_shutil", "test_tempfile", "test_mmap", "test_io", "test_fcntl"),
    *("test_posix", "test_fileio", "test_sqlite3"),
)
SHORT: Final = ("test_fileio", "test_shutil", "test_posix", "test_fcntl")
LONG_S: Final = 1200.0
SHORT_S: Final = 120.0


def run(directory: Path, notes: Path, short: bool) -> Found:
    """Run the tests with their working and their temporary directory in `directory`."""
    result = notes / "cpython.xml"
    result.unlink(missing_ok=True)
    command = [PYTHON, "-m", "test", "--tempdir", str(directory), "--junit-xml", str(result)]
    command += ["--timeout", "120", *(SHORT if short else LONG)]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    ended = run_bounded(
        command,
        limit_s=SHORT_S if short else LONG_S,
        directory=directory,
        cwd=directory,
        env={**kept, "TMPDIR": str(directory), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if not result.exists():
        how = "did not end in time" if ended.code is None else f"ended with {ended.code}"
        return Found(frozenset(), {}, f"CPython's tests {how}: {ended.said[-2000:]}")
    return read(result.read_text())


def read(document: str) -> Found:
    """What JUnit's XML tells. What was skipped is neither passed nor failed."""
    passed, failed = set(), {}
    # From a program of this machine that we started.
    for case in ET.fromstring(document).iter("testcase"):
        name = case.get("name", "")
        wrong = [*case.findall("failure"), *case.findall("error")]
        if wrong:
            failed[name] = "\n".join(each.text or "" for each in wrong)
        elif case.find("skipped") is None:
            passed.add(name)
    return Found(frozenset(passed), failed)


CPYTHON: Final = Suite("cpython", run, (PYTHON,))
