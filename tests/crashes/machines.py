"""Two nodes that can lose their power, each with all that it has on a disk of its own.

What a machine keeps (the volume and the state directory) is on an ext4 on a loop device. To lose
the power is the shutdown of that file system: from one moment to the next nothing reaches the disk
any more, and what was not synced by then is not there when it is mounted again.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, final

from tests.crashes.record import Event
from tests.crashes.walk import Tree, walk
from tests.mounted.machine import MachineError, environment
from tests.mounted.mounts import detach
from tests.mounted.real_pair import NODES, RealPair, Setup, open_real_pair
from tests.shows.small_disks import LoopDisk, loop_disk, run

DISK_MIB: Final = 96
LOOK_S: Final = 0.05
_CLONE_NEWNS: Final = 0x20000
ANSWER_S: Final = 120.0


def eatmydata() -> str:
    """The library that makes every sync do nothing; "" if it is not installed."""
    return next(map(str, Path("/usr/lib").glob("*/libeatmydata.so")), "")


def enter_own_mounts() -> None:
    """From now on nobody else sees what this process mounts, and all of it goes with it. As root.

    Else a program that takes a copy of the table of mounts meanwhile keeps our disks busy.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no mount namespace can be made; is this root?")
    run("mount", "--make-rprivate", "/")


@final
class Machines:
    """A pair of real nodes on disks of their own. Blocking. Made by `open_machines`."""

    def __init__(self, pair: RealPair, disks: dict[str, LoopDisk]) -> None:
        self.pair: Final = pair
        self._disks: Final = disks
        self._seen: dict[str, dict[str, Any]] = {}

    def crash(self, nodes: Sequence[tuple[str, bool]]) -> list[Event]:
        """At one moment end each of these nodes, with a loss of power if that is True."""
        machines = [self.pair.machines[node] for node, _ in nodes]
        with contextlib.ExitStack() as stack:
            # So that none of them sees what becomes of the others.
            for machine in machines:
                stack.enter_context(machine.stopped())
            at_s = time.monotonic()
            for node, power in nodes:
                if power:
                    self._disks[node].lose_power()
            for node, _ in nodes:
                self.pair.kill(node)
        over_s = time.monotonic()
        for node, power in nodes:
            self._clear(node, power=power)
        return [Event(node=node, at_s=at_s, over_s=over_s, power=power) for node, power in nodes]

    def bury(self, node: str, *, power: bool) -> None:
        """It has crashed by itself: nothing of it is left running, its disk is as after that."""
        self.pair.kill(node)
        self._clear(node, power=power)

    def _clear(self, node: str, *, power: bool) -> None:
        if power:
            # Of mounts nothing outlives it, and the journal is replayed.
            detach(self.pair.directory(node))
            self._disks[node].get_power()

    def sync(self) -> None:
        """Have both disks hold all that there is, by nobody's doing but the kernel's."""
        for disk in self._disks.values():
            run("sync", "--file-system", str(disk.path))

    def return_(self, node: str) -> None:
        """Start it again; return when it can be asked."""
        self.pair.start(node)

    def status(self, node: str) -> dict[str, Any]:
        """What the node says of itself, nothing while it does not run."""
        try:
            return self.pair.status(node)
        except (OSError, KeyError):  # it is being killed
            return {}

    def serving(self) -> str:
        """Who serves, its service started, or ""."""
        return next((name for name in NODES if _serves(self.status(name))), "")

    @property
    def is_mirrored(self) -> bool:
        """One serves, the other has all that this one has acknowledged, and both say so."""
        seen = [self.status(name) for name in NODES]
        roles = sorted(str(one.get("role")) for one in seen)
        return roles == ["PRIM", "SECOND"] and all(one["colour"] == "green" for one in seen)

    def is_quiet(self) -> bool:
        """They mirror, and nothing is on its way."""
        volumes = [one for name in NODES for one in self.status(name).get("volumes", ())]
        seqs = {one["seq"] for one in volumes}
        return self.is_mirrored and len(seqs) == 1 and not any(one["waiting"] for one in volumes)

    @contextlib.contextmanager
    def beneath(self, node: str) -> Iterator[Path]:
        """The volume's directory on this node's disk, whatever is mounted over it."""
        with tempfile.TemporaryDirectory(prefix="mirrorha-beneath-") as place:
            run("mount", "--bind", str(self._disks[node].path), place)
            try:
                run("mount", "--make-private", place)
                yield Path(place, self.pair.directory(node).name)
            finally:
                run("umount", place)

    def tree(self, node: str) -> Tree:
        """What is on this node's disk."""
        with self.beneath(node) as root:
            return walk(root)


def _serves(status: dict[str, Any]) -> bool:
    is_started = status.get("service", {}).get("state") == "started"
    return status.get("role") in ("PRIM", "ALONE") and is_started


@contextlib.contextmanager
def open_machines(root: Path, setup: Setup) -> Iterator[Machines]:
    """Two machines, the nodes not started yet, and a witness. All of it is gone with the block."""
    with contextlib.ExitStack() as stack, open_real_pair(root, setup) as pair:
        disks = {name: stack.enter_context(_disk_of(pair, name)) for name in NODES}
        try:
            pair.start_witness()
            yield Machines(pair, disks)
        finally:
            pair.close()


@contextlib.contextmanager
def _disk_of(pair: RealPair, name: str) -> Iterator[LoopDisk]:
    with loop_disk(pair.directory(name).parent, size_mib=DISK_MIB) as disk:
        pair.directory(name).mkdir()
        yield disk


@final
class CheckerProcess:
    """The program of clients, which outlives the nodes. See `checker.py`."""

    def __init__(self, seed: int, *, clients: int, log: Path) -> None:
        with log.open("ab") as err:
            self._process: Final = subprocess.Popen(
                [sys.executable, "-m", "tests.crashes.checker", str(seed), str(clients)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                env=environment(),
            )
        self._where = ""

    def go(self, where: str) -> None:
        """Have the clients write there from now on."""
        if where != self._where:
            self._where = where
            self._ask(do="go", where=where)

    def pause(self) -> dict[str, Any]:
        """Have them rest; return what they did so far."""
        self._where = ""
        told = self._ask(do="pause")
        if not told["idle"]:
            raise MachineError("a client hangs in the volume")
        return told

    def check(self, root: Path, events: Sequence[Event], *, synced_s: float) -> list[str]:
        """What is wrong with the directory, by the record, after these events.

        `synced_s`: since then both disks have all that was answered before.
        """
        plain = [
            {"node": one.node, "at_s": one.at_s, "over_s": one.over_s, "power": one.power}
            for one in events
        ]
        asked = {"root": str(root), "events": plain, "synced_s": synced_s}
        return list(self._ask(do="check", **asked)["faults"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _ask(self, **asked: Any) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise MachineError("unreachable: the checker has pipes")
        limit = threading.Timer(ANSWER_S, self._process.kill)
        limit.start()
        try:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        finally:
            limit.cancel()
        if not answer:
            raise MachineError("the checker ended, or hangs")
        return dict(json.loads(answer))
