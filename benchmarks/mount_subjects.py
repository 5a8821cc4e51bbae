"""What is measured: directories with something behind them, each up while its block lasts."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
from benchmarks.gluster import open_gluster

from tests.mounted.real_pair import NODES, Setup, open_real_pair

PLAIN: Final = "plain directory"
ALONE: Final = "mount, no peer"
LINK_PLAIN: Final = "mirrored, plain link"
LINK_TLS: Final = "mirrored, TLS"
GLUSTER: Final = "GlusterFS"
GLUSTER_BEHIND: Final = "GlusterFS, write-behind"

#: Nobody dies in a measurement, and a saturated machine is late.
TIMEOUT_S: Final = 30.0

Open = Callable[[], contextlib.AbstractContextManager[dict[str, Path]]]


@attrs.frozen
class Subject:
    """One or several directories that are put up together, by the names they have in tables.

    Attributes:
        letter: how it is named on the command line.
    """

    letter: str
    names: tuple[str, ...]
    open: Open


def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mirrorha-bench-", ignore_cleanup_errors=True)


@contextlib.contextmanager
def _plain() -> Iterator[dict[str, Path]]:
    with _temporary() as name:
        yield {PLAIN: Path(name)}


@contextlib.contextmanager
def _alone() -> Iterator[dict[str, Path]]:
    with _temporary() as name, open_real_pair(Path(name), Setup(timeout_s=TIMEOUT_S)) as pair:
        pair.begin_alone(NODES[0])
        yield {ALONE: pair.directory(NODES[0])}


@contextlib.contextmanager
def _mirrored(link: str, *, relay_ms: float = 0.0) -> Iterator[dict[str, Path]]:
    names = {"plain": LINK_PLAIN, "tls": LINK_TLS}
    setup = Setup(link=link, timeout_s=TIMEOUT_S, relay_ms=relay_ms)
    with _temporary() as name, open_real_pair(Path(name), setup) as pair:
        pair.start()
        serves = pair.wait_mirrored()
        yield {names[link]: pair.directory(serves)}


@contextlib.contextmanager
def _gluster() -> Iterator[dict[str, Path]]:
    off, on = ({"performance.write-behind": value} for value in ("off", "on"))
    with open_gluster({"off": off, "on": on}) as mounts:
        yield {GLUSTER: mounts["off"], GLUSTER_BEHIND: mounts["on"]}


def subjects(*, relay_ms: float = 0.0) -> dict[str, Subject]:
    """Everything that can be measured, by letter; through a relay, what has a link."""

    def mirrored(link: str) -> Open:
        return lambda: _mirrored(link, relay_ms=relay_ms)

    found = [
        Subject("plain", (PLAIN,), _plain),
        Subject("alone", (ALONE,), _alone),
        Subject("link", (LINK_PLAIN,), mirrored("plain")),
        Subject("tls", (LINK_TLS,), mirrored("tls")),
        Subject("gluster", (GLUSTER, GLUSTER_BEHIND), _gluster),
    ]
    return {subject.letter: subject for subject in found}
