"""The suites of others on a mirrored mount, in short: the full form is `nox -s suites`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.requirements import require_device, require_program, require_root
from tests.suites.on_mount import SUITES, mirrored_mount, try_suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_mount_does_as_well_as_a_plain_directory() -> None:
    require_root()
    require_device("/dev/fuse")
    for suite in SUITES.values():
        for program in suite.programs:
            require_program(program)
    # Not in pytest's own directory, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="mirrorha-suites-") as name:
        Path(name).chmod(0o755)
        with mirrored_mount(Path(name)) as mounted:
            tried = [try_suite(suite, mounted, short=True) for suite in SUITES]
    assert {each.suite: each.faults for each in tried if each.faults} == {}
    assert all(each.subject.passed for each in tried)
