"""stress-ng's class `filesystem`, with its own verification."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.mounted.mounts import run_bounded
from tests.suites.outcome import Found, Suite

#: Each stressor of the class for so long, one after another: there are about fifty.
EACH_S: Final = 2
LIMIT_S: Final = 900.0
SHORT_S: Final = 90.0
_SIZES: Final = (
    *("--hdd-bytes", "64M", "--fallocate-bytes", "64M", "--iomix-bytes", "32M"),
    *("--readahead-bytes", "64M", "--revio-bytes", "32M", "--copy-file-bytes", "128M"),
    *("--sync-file-bytes", "64M", "--fiemap-bytes", "32M"),
)
_SHORT: Final = (
    *("access", "dentry", "dir", "fallocate", "filename", "flock", "fpunch", "getdent", "hdd"),
    *("link", "mknod", "open", "rename", "seek", "symlink", "utime", "xattr"),
)
_DISPATCHED: Final = re.compile(r"dispatching hogs: (.*)")
_NAMED: Final = re.compile(r"\d+ ([a-z0-9-]+)")
_FAILED: Final = re.compile(r"stress-ng: fail: *\[\d+\] ([a-z0-9-]+): (.*)")
_ENDED: Final = re.compile(r"process \[\d+\] \(([a-z0-9-]+)\) (terminated .*)")
_SKIPPED: Final = re.compile(
    r"(?:\[\d+\] ([a-z0-9-]+): .*skipping stress|process \[\d+\] \(([a-z0-9-]+)\) aborted early)"
)
#: What a FUSE file system cannot have, with the reason.
UNSUPPORTED: Final = {
    "fiemap": "the kernel asks no FUSE file system where a file's extents are",
}


def run(directory: Path, notes: Path, short: bool) -> Found:
    """Run the stressors; each is one thing that goes well or not."""
    command = ["stress-ng", "--verify", "--temp-path", str(directory), *_SIZES]
    if short:
        command += ["--timeout", "1s"]
        # All at the same time: it has no way to run some of a class in turn.
        for name in _SHORT:
            command += [f"--{name}", "1"]
    else:
        command += ["--class", "filesystem", "--sequential", "1", "--timeout", f"{EACH_S}s"]
    ended = run_bounded(
        command, limit_s=SHORT_S if short else LIMIT_S, directory=directory, cwd=notes
    )
    if ended.code is None:
        return Found(frozenset(), {}, f"stress-ng did not end in time: {ended.said[-2000:]}")
    return read(ended.said)


def read(said: str) -> Found:
    """What stress-ng tells line by line. What it skipped is neither passed nor failed."""
    failed: dict[str, str] = {}
    for name, text in [*_FAILED.findall(said), *_ENDED.findall(said)]:
        failed[name] = f"{failed.get(name, '')}{text}\n"
    skipped = {name for names in _SKIPPED.findall(said) for name in names}
    started = {name for line in _DISPATCHED.findall(said) for name in _NAMED.findall(line)}
    broken = "" if started else f"stress-ng ran nothing: {said[-2000:]}"
    return Found(frozenset(started - skipped - failed.keys()), failed, broken)


STRESS: Final = Suite("stress-ng", run, ("stress-ng",), UNSUPPORTED)
