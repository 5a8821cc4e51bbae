"""The suites of others are read rightly, and what a mount does worse than a directory is seen."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import require_program, require_root
from tests.suites import cpython, stress
from tests.suites.on_mount import SUITES, try_suite
from tests.suites.outcome import Found, judge
from tests.suites.trees import differences

PLAIN = Found(frozenset({"a", "b"}), {"c": "as always"})


@pytest.mark.parametrize(
    ("subject", "faults"),
    [
        (PLAIN, []),
        (Found(frozenset({"a", "b", "c"}), {}), []),
        (Found(frozenset({"a"}), {"b": "why", "c": ""}), ["b failed: why"]),
        (Found(frozenset({"a"}), {"c": ""}), ["b was not tried"]),
        (Found(frozenset({"a"}), {"d": "new"}), ["d failed: new", "b was not tried"]),
        (Found(PLAIN.passed, {}, "it hung"), ["it hung"]),
    ],
)
def test_only_what_goes_well_in_a_plain_directory_counts(subject: Found, faults: list[str]) -> None:
    assert judge(PLAIN, subject) == faults


def test_a_suite_that_runs_nowhere_is_no_success() -> None:
    nothing = Found(frozenset(), {}, "no such program")
    assert judge(nothing, nothing)


def test_what_a_mount_cannot_have_need_not_be_tried() -> None:
    assert judge(PLAIN, Found(frozenset({"a"}), {}), {"b"}) == []
    assert judge(PLAIN, Found(frozenset({"a"}), {"b": "why"}), {"b"}) == ["b failed: why"]


def test_what_cpython_tells() -> None:
    found = cpython.read(
        "<testsuites><testsuite><testcase name='test.a'/>"
        "<testcase name='test.b'><skipped>no</skipped></testcase>"
        "<testcase name='test.c'><failure>it is 1</failure></testcase>"
        "<testcase name='test.d'><error type='OSError'>EIO</error></testcase>"
        "</testsuite></testsuites>"
    )
    assert found == Found(frozenset({"test.a"}), {"test.c": "it is 1", "test.d": "EIO"})


SAID = """\
stress-ng: info:  [1] dispatching hogs: 1 access, 1 binderfs, 1 bind-mount, 1 file-ioctl, 1 fiemap
stress-ng: info:  [2] binderfs: binderfs not supported, errno=19 (No such device), skipping \
stress test
stress-ng: warn:  [1] process [2] (binderfs) aborted early, out of system resources
stress-ng: info:  [9] fiemap: FS_IOC_FIEMAP not supported, skipping stressor, filesystem: fuse
stress-ng: fail:  [3] file-ioctl: ioctl FIOQSIZE failed, size 1 vs 0 (reported)
stress-ng: error: [1] process [3] (file-ioctl) terminated with an error, exit status=2
stress-ng: error: [1] process [5] (bind-mount) terminated on signal: 11
"""


def test_what_stress_ng_tells() -> None:
    found = stress.read(SAID)
    assert found.passed == {"access"}
    assert set(found.failed) == {"file-ioctl", "bind-mount"}
    assert not found.broken
    assert stress.read("stress-ng: unrecognized option").broken


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A directory where there is hardly any space."""
    require_root()
    at = tmp_path / "tiny"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(at)], check=True)
    yield at
    subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", SUITES)
def test_a_directory_that_does_worse_is_seen(name: str, tiny: Path) -> None:
    for program in SUITES[name].programs:
        require_program(program)
    tried = try_suite(name, tiny, short=True)
    assert tried.plain.passed
    assert not tried.plain.failed
    assert tried.faults


def test_trees_that_differ(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "d").mkdir(parents=True)
    (one / "d/f").write_bytes(b"x" * 9000)
    (one / "l").symlink_to("d")
    (one / "g").hardlink_to(one / "d/f")
    with (one / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["cp", "-a", str(one), str(other)], check=True)
    assert differences(one, other) == []
    (other / "g").unlink()
    subprocess.run(["cp", "-p", str(one / "g"), str(other / "g")], check=True)
    (other / "sparse").write_bytes(bytes(1 << 20))
    (other / "d").chmod(0o700)
    (other / "l").unlink()
    (other / "new").touch()
    found = {each.partition(":")[0] for each in differences(one, other)}
    assert found == {"d", "d/f", "g", "l", "new", "sparse"}
