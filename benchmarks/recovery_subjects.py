"""Who can bring a copy up to date that was away: a pair of ours, rsync, GlusterFS.

Each is put up with the same mixed directory, and told to lose its second copy, to change a share of
the first, and to bring the second up to date again; the last is what is timed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, final

import attrs
from benchmarks.gluster import Gluster, open_rival
from benchmarks.mixed_tree import Changed, MixedTree

from tests.cluster.rig import free_ports
from tests.mounted.real_pair import NODES, RealPair, Setup, open_real_pair

LIMIT_S: Final = 900.0
STEP_S: Final = 0.1
HEALED: Final = "heal"

CLEAN: Final = "clean stop"
KILL: Final = "kill -9 of either"
KILL_BOTH: Final = "kill -9 of both"
CASES: Final = (CLEAN, KILL, KILL_BOTH)


class RecoveryError(Exception):
    """A copy is not what it should be."""


@attrs.frozen
class Recovered:
    """What it took to bring a copy up to date."""

    took_s: float
    wire_bytes: int  # both ways; 0 where it cannot be told
    changed: Changed


class Subject(Protocol):
    name: str

    def recover(self, case: str, share: float, seed: int) -> Recovered:
        """Lose the second copy, change this share of the first; then the second is timed."""


def drop_caches() -> None:
    """So that all reads of what comes are reads of the disk."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def digests(directory: Path) -> dict[str, str]:
    """Every file below, by its path: what is in it."""
    found = {}
    for at, _, names in os.walk(directory):
        for name in names:
            path = Path(at, name)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(directory))] = digest
    return found


def ensure_equal(one: Path, other: Path) -> None:
    """Read both.

    Raises:
        RecoveryError: they differ; which files, says the text.
    """
    first, second = digests(one), digests(other)
    if first != second:
        differ = [name for name in {*first, *second} if first.get(name) != second.get(name)]
        raise RecoveryError(f"{len(differ)} files differ in {one} and {other}: {differ[:5]}")


@final
class OurPair:
    """Two `mirrorha run`, killed or stopped and started again."""

    name = "mirrorha"

    def __init__(self, pair: RealPair, tree: MixedTree) -> None:
        self._pair: Final = pair
        self._tree: Final = tree

    def recover(self, case: str, share: float, seed: int) -> Recovered:
        pair = self._pair
        serves = pair.wait_mirrored()
        away = [pair.other(serves)]
        if case == KILL and seed % 2:
            away, serves = [serves], away[0]
        (pair.stop if case == CLEAN else pair.kill)(away[0])
        pair.wait(f"{serves} serves alone", lambda: pair.role(serves) == "ALONE")
        changed = self._tree.change(pair.directory(serves), share, seed)
        if case == KILL_BOTH:
            pair.kill(serves)
            away.append(serves)
        drop_caches()
        began_s = time.monotonic()
        pair.start(*away)
        pair.wait_mirrored(limit_s=LIMIT_S)
        took_s = time.monotonic() - began_s
        return Recovered(took_s, pair.wire_bytes(), changed)

    def ensure_equal(self) -> None:
        ensure_equal(*map(self._pair.directory, NODES))


@contextlib.contextmanager
def open_ours(tree: MixedTree, *, link: str) -> Iterator[tuple[OurPair, float]]:
    """The pair, and how long it took to fill the second node from the first."""
    with open_place() as base, open_real_pair(base, Setup(link=link)) as pair:
        tree.make(pair.directory(NODES[0]))
        drop_caches()
        began_s = time.monotonic()
        pair.start()
        pair.wait_mirrored(limit_s=LIMIT_S)
        yield OurPair(pair, tree), time.monotonic() - began_s


@final
class Rsync:
    """Two directories and a daemon in between; told nothing but what dates and sizes say."""

    name = "rsync"

    def __init__(self, source: Path, port: int, tree: MixedTree) -> None:
        self._source: Final = source
        self._port: Final = port
        self._tree: Final = tree

    def recover(self, case: str, share: float, seed: int) -> Recovered:
        del case  # to rsync they are all the same
        changed = self._tree.change(self._source, share, seed)
        drop_caches()
        began_s = time.monotonic()
        said = self.copy()
        took_s = time.monotonic() - began_s
        moved = re.findall(r"^Total bytes (?:sent|received): ([\d,]+)", said, re.MULTILINE)
        return Recovered(took_s, sum(int(each.replace(",", "")) for each in moved), changed)

    def copy(self) -> str:
        """Bring the other directory up to date; what rsync says of it."""
        command = ["rsync", "-a", "--inplace", "--delete", "--stats", f"{self._source}/"]
        return _run([*command, f"rsync://127.0.0.1:{self._port}/copy/"])


@contextlib.contextmanager
def open_rsync(tree: MixedTree) -> Iterator[Rsync]:
    """A daemon on loopback, and the first copy made.

    Raises:
        RecoveryError: rsync is not installed.
    """
    if shutil.which("rsync") is None:
        raise RecoveryError("rsync is missing: apt-get install rsync")
    (port,) = free_ports(1)
    with open_place() as base:
        source, copy = base / "source", base / "copy"
        source.mkdir()
        copy.mkdir()
        tree.make(source)
        config = base / "rsyncd.conf"
        options = "uid = root\ngid = root\nuse chroot = no\nread only = no"
        config.write_text(f"{options}\n[copy]\npath = {copy}\n")
        listen = ["--address", "127.0.0.1", "--port", str(port)]
        daemon = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", "--config", str(config), *listen]
        )
        try:
            rsync = Rsync(source, port, tree)
            time.sleep(1)
            rsync.copy()
            yield rsync
            ensure_equal(source, copy)
        finally:
            daemon.terminate()
            daemon.wait(10)


@final
class Healing:
    """A volume of GlusterFS, one of whose bricks dies and comes back."""

    name = "GlusterFS"

    def __init__(self, rival: Gluster, mount: Path, tree: MixedTree) -> None:
        self._rival: Final = rival
        self._mount: Final = mount
        self._tree: Final = tree

    def recover(self, case: str, share: float, seed: int) -> Recovered:
        del case
        self._rival.lose(HEALED, 2)
        changed = self._tree.change(self._mount, share, seed)
        drop_caches()
        began_s = time.monotonic()
        self._rival.give_back(HEALED)
        while self._rival.unhealed(HEALED):
            if time.monotonic() - began_s > LIMIT_S:
                raise RecoveryError(f"GlusterFS does not heal within {LIMIT_S:g} s")
            time.sleep(STEP_S)
        return Recovered(time.monotonic() - began_s, 0, changed)


@contextlib.contextmanager
def open_healing(tree: MixedTree) -> Iterator[Healing]:
    """A volume with two copies, filled through its mount."""
    with open_rival() as rival:
        mount = rival.add(HEALED, {})
        tree.make(mount)
        yield Healing(rival, mount, tree)


def _run(command: Sequence[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=LIMIT_S
    ).stdout


@contextlib.contextmanager
def open_place() -> Iterator[Path]:
    """A directory that is gone when the block is left."""
    with tempfile.TemporaryDirectory(
        prefix="mirrorha-recovery-", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)
