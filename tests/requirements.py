"""What a test may need of the machine.

On a developer's machine a test whose need is not met is skipped; the reason says what is missing
and what to do. With `MIRRORHA_REQUIRE_ALL=1`, as in CI, it fails: there, a skipped test would be a
hole nobody sees.

    from tests.requirements import require_program

    def test_haproxy_follows_the_probe() -> None:
        haproxy = require_program("haproxy")
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import NoReturn

import pytest


def lacking(what: str, remedy: str) -> NoReturn:
    """End the test: this machine lacks `what`, which `remedy` would bring."""
    __tracebackhide__ = True
    reason = f"needs {what}: {remedy}"
    if os.environ.get("MIRRORHA_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}; MIRRORHA_REQUIRE_ALL=1 forbids to skip", pytrace=False)
    pytest.skip(reason)


def lacking_of_files(what: str) -> NoReturn:
    """End the test: temporary files cannot do `what`."""
    __tracebackhide__ = True
    lacking(f"a temporary directory that {what}", "set TMPDIR to one on ext4")


def require_root() -> None:
    """Go on only as root."""
    __tracebackhide__ = True
    if os.geteuid() != 0:
        lacking("root", "run the tests as root")


def require_program(name: str) -> str:
    """Go on only if program `name` is installed. Returns its path."""
    __tracebackhide__ = True
    # Debian leaves sbin out of an ordinary user's PATH, though users may run much of it.
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        lacking(f"the program {name}", "install the Debian packages that .ci/apt.txt names")
    return path


def require_file(path: str, *, package: str) -> None:
    """Go on only if the file at `path`, of a Debian package, is there."""
    __tracebackhide__ = True
    if not os.path.exists(path):
        lacking(path, f"install the Debian package {package}")


def require_device(path: str) -> None:
    """Go on only if the device at `path` can be opened for reading and writing."""
    __tracebackhide__ = True
    if not os.path.exists(path):
        lacking(f"the device {path}", "load its kernel module, or give it to the container")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        lacking(f"to open {path} ({error.strerror})", "run the tests as a user who may")


def require_netns() -> None:
    """Go on only if network namespaces can be made here."""
    __tracebackhide__ = True
    require_root()
    problem = _netns_problem(require_program("ip"))
    if problem:
        lacking(f"network namespaces ({problem})", "run the tests where root may make them")


@functools.cache
def _netns_problem(ip: str) -> str:
    """Why no network namespace can be made; empty if one can."""
    name = f"mirrorha-try-{os.getpid()}"
    made = subprocess.run(
        [ip, "netns", "add", name], capture_output=True, text=True, timeout=10, check=False
    )
    if made.returncode:
        return made.stderr.strip() or f"`ip netns add` ended with {made.returncode}"
    subprocess.run([ip, "netns", "delete", name], capture_output=True, timeout=10, check=True)
    return ""
