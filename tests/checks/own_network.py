"""A network namespace for one test, entered by its own thread."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.requirements import require_netns, require_program

CLONE_NEWNET: Final = 0x40000000
libc: Final = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_network() -> Iterator[None]:
    """What this thread and its children do meanwhile happens in an empty network."""
    require_netns()
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            ip("link", "set", "lo", "up")
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(before)


def ip(*arguments: str) -> None:
    subprocess.run([require_program("ip"), *arguments], check=True, timeout=30)


def veth() -> None:
    """Two ends of a cable, `here` and `there`, both up."""
    ip("link", "add", "here", "type", "veth", "peer", "name", "there")
    for name in ("here", "there"):
        ip("link", "set", name, "up")
