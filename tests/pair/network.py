"""A network namespace of their own for the processes of a run, and cuts in it.

The kernel drops what a cut names as it arrives, or, where one node alone is to be cut off, as it
leaves that node's process: all the addresses are this machine's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs

#: What is cut now, and what was never connected.
_CUT: Final = "cut"
_APART: Final = "apart"


class NetworkError(Exception):
    """The machine lacks what a cut needs."""


@attrs.frozen
class Way:
    """From one address to another one."""

    source: str
    target: str
    only_tcp: bool = False

    def rule(self) -> str:
        what = "meta l4proto tcp " if self.only_tcp else ""
        return f"ip saddr {self.source} ip daddr {self.target} {what}drop"


def both_ways(*pairs: tuple[str, str]) -> tuple[Way, ...]:
    """Every pair, to and fro."""
    return tuple(way for one, other in pairs for way in (Way(one, other), Way(other, one)))


def cut(*ways: Way, groups: dict[int, str] | None = None) -> float:
    """From now on nothing passes on `ways`, and all else does that is not apart.

    Returns since when, in monotonic seconds: on a busy machine `nft` needs its time.

    Args:
        groups: processes by their group id, and an address that nothing of theirs reaches.
    """
    _replace(_CUT, ways, groups or {})
    return time.monotonic()


def keep_apart(*ways: Way) -> None:
    """As long as the namespace is there, nothing passes on `ways`."""
    _replace(_APART, ways, {})


def heal() -> None:
    """Everything passes again that was cut."""
    _replace(_CUT, (), {})


def _replace(table: str, ways: tuple[Way, ...], groups: dict[int, str]) -> None:
    arriving = "; ".join(["type filter hook input priority 0", *(way.rule() for way in ways)])
    barred = (f"meta skgid {group} ip daddr {host} drop" for group, host in groups.items())
    leaving = "; ".join(["type filter hook output priority 0", *barred])
    chains = f"chain input {{ {arriving}; }}\nchain output {{ {leaving}; }}"
    _nft(
        f"add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{chains}\n}}\n"
    )


def _nft(rules: str) -> None:
    program = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise NetworkError("nft is not installed")
    subprocess.run([program, "-f", "-"], input=rules, text=True, check=True, timeout=10)


@contextmanager
def network() -> Iterator[str]:
    """The name of a network namespace with loopback up. What runs in it at the end is killed."""
    name = f"mirrorha-pair-{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("netns", "exec", name, "ip", "link", "set", "lo", "up")
        yield name
    finally:
        for pid in _ip("netns", "pids", name).split():
            os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", *arguments],
        check=True,
        timeout=10,
        capture_output=True,
        text=True,
    )
    return done.stdout
