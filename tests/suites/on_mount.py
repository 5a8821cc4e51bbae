"""The suites of others, in a plain directory first and then on a mirrored mount."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from tests.mounted.real_pair import NODES, RealPair, Setup, open_real_pair
from tests.suites.cpython import CPYTHON
from tests.suites.fio_verify import FIO_VERIFY
from tests.suites.outcome import Found, Suite, judge
from tests.suites.stress import STRESS
from tests.suites.trees import differences_bounded

SUITES: Final[dict[str, Suite]] = {suite.name: suite for suite in (FIO_VERIFY, CPYTHON, STRESS)}
#: Nobody dies in a suite, and the machine is busy.
TIMEOUT_S: Final = 30.0
COMPARE_S: Final = 300.0


@attrs.frozen
class Tried:
    """One suite, in both directories. `faults` is empty if the subject does as well."""

    suite: str
    plain: Found
    subject: Found
    faults: list[str]
    took_s: float


def try_suite(name: str, subject: Path, *, short: bool) -> Tried:
    """Run a suite in a plain directory and in `subject`, which are left empty."""
    began_s = time.monotonic()
    suite = SUITES[name]
    with tempfile.TemporaryDirectory(prefix="mirrorha-suite-") as outside:
        plain, notes = Path(outside, "plain"), Path(outside, "notes")
        plain.mkdir()
        notes.mkdir()
        for path in (Path(outside), plain, notes):
            path.chmod(0o777)  # some of what they start runs as another user
        expected = suite.run(plain, notes, short)
        found = suite.run(subject, notes, short)
    faults = judge(expected, found, suite.unsupported)
    return Tried(name, expected, found, faults, time.monotonic() - began_s)


@contextlib.contextmanager
def mirrored_mount(root: Path, setup: Setup | None = None) -> Iterator[Path]:
    """A mounted directory that is mirrored, whatever is done in it while the block lasts.

    Raises:
        AssertionError: at the end, if a process of the nodes is another one than before, or the
            copies differ, as the mounts show them or as they lie on the disks.
    """
    with open_real_pair(root, setup or Setup(timeout_s=TIMEOUT_S)) as pair:
        pair.start()
        primary = pair.wait_mirrored()
        before = _processes(pair)
        yield pair.directory(primary)
        assert _processes(pair) == before, "a process of a node has ended, or is new"
        pair.wait_mirrored()
        one, other = (pair.directory(name) for name in NODES)
        found = differences_bounded(one, other, limit_s=COMPARE_S)
        assert not found, f"the mounts differ: {found}"
        for name in (pair.other(primary), primary):
            pair.stop(name)
        found = differences_bounded(one, other, limit_s=COMPARE_S)
        assert not found, f"the directories differ: {found}"


def _processes(pair: RealPair) -> dict[str, list[int]]:
    return {name: sorted(machine.pids()) for name, machine in pair.machines.items()}
