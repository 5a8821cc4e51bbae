"""What a test may need of the machine.

On a developer's machine a test whose need is not met is skipped, with the reason. With
`MIRRORHA_REQUIRE_ALL=1`, as in CI, it fails: there, a skipped test would be a hole nobody sees.

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


def _lacking(reason: str) -> NoReturn:
    __tracebackhide__ = True
    if os.environ.get("MIRRORHA_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and MIRRORHA_REQUIRE_ALL=1 forbids to skip", pytrace=False)
    pytest.skip(reason)


def require_root() -> None:
    """Go on only as root."""
    __tracebackhide__ = True
    if os.geteuid() != 0:
        _lacking("needs root")


def require_program(name: str) -> str:
    """Go on only if program `name` is installed. Returns its path."""
    __tracebackhide__ = True
    # Debian leaves sbin out of an ordinary user's PATH, though users may run much of it.
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        _lacking(f"needs the program {name}")
    return path


def require_file(path: str, *, package: str) -> None:
    """Go on only if the file at `path`, of a Debian package, is there."""
    __tracebackhide__ = True
    if not os.path.exists(path):
        _lacking(f"needs {path}, of the Debian package {package}")


def require_device(path: str) -> None:
    """Go on only if the device at `path` can be opened for reading and writing."""
    __tracebackhide__ = True
    if not os.path.exists(path):
        _lacking(f"needs the device {path}")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        _lacking(f"needs the device {path}, which cannot be opened: {error.strerror}")


def require_netns() -> None:
    """Go on only if network namespaces can be made here."""
    __tracebackhide__ = True
    require_root()
    problem = _netns_problem(require_program("ip"))
    if problem:
        _lacking(f"needs network namespaces: {problem}")


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
