"""Two machines with one mirrored directory, as a database sees them; and one that only copies."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Final, Protocol, final

from tests.databases.database import Host
from tests.mounted.machine import Machine, MachineError
from tests.mounted.mounts import run_bounded
from tests.mounted.real_pair import NODES, RealPair

OPEN_S: Final = 60.0
STALE_S: Final = 1.0


class VolumePair(Protocol):
    """What the rounds are played on. Blocking."""

    def primary(self) -> str:
        """The node that serves."""

    def host(self, node: str) -> Host:
        """Where a database runs on that node."""

    def fail_over(self) -> str:
        """kill -9 of every process of the primary's machine at one instant; who serves then."""

    def restore(self) -> None:
        """Return when the killed node is back, and up to date."""


@final
class RealVolumePair(VolumePair):
    """A pair of real nodes whose volume is mounted."""

    def __init__(self, pair: RealPair) -> None:
        self._pair: Final = pair

    def primary(self) -> str:
        return self._pair.wait_mirrored()

    def host(self, node: str) -> Host:
        return Host(self._pair.machines[node], self._pair.directory(node))

    def fail_over(self) -> str:
        killed = self._pair.primary()
        survivor = self._pair.other(killed)
        self._pair.kill(killed)
        self._pair.wait_alone(survivor)
        directory = self._pair.directory(survivor)
        opened = run_bounded(["mktemp", "-p", str(directory)], limit_s=OPEN_S, directory=directory)
        if opened.code != 0:
            raise MachineError(f"{survivor} serves, and its directory is not: {opened.said}")
        Path(opened.said.strip()).unlink()
        return survivor

    def restore(self) -> None:
        back = next(name for name in NODES if name not in self._pair.machines)
        self._pair.start(back)
        self._pair.wait_mirrored()


@final
class CopyingPair(VolumePair):
    """Nothing is mirrored: at a failover the directory is copied, as the killed programs left it.

    That promises what a mirror promises, so a database and the harness can be tried without one.

    Args:
        stale: It breaks the promise: the copy is that of a moment before the kill.
    """

    def __init__(self, root: Path, *, stale: bool = False) -> None:
        self._root: Final = root
        self._stale: Final = stale
        self._machines: Final = {name: Machine(name, root / "logs") for name in NODES}
        self._primary = NODES[0]
        for name in NODES:
            self._directory(name).mkdir(parents=True)

    def _directory(self, node: str) -> Path:
        return self._root / node / "data"

    def primary(self) -> str:
        return self._primary

    def host(self, node: str) -> Host:
        return Host(self._machines[node], self._directory(node))

    def fail_over(self) -> str:
        killed, survivor = self._primary, self._other()
        machine = self._machines.pop(killed)
        if self._stale:
            with machine.stopped():
                self._copy(killed, survivor)
            time.sleep(STALE_S)  # transactions go on being acknowledged
        machine.kill()
        machine.close()
        if not self._stale:
            self._copy(killed, survivor)
        self._primary = survivor
        return survivor

    def _other(self) -> str:
        return NODES[1 - NODES.index(self._primary)]

    def _copy(self, source: str, target: str) -> None:
        into = self._directory(target)
        shutil.rmtree(into)
        subprocess.run(["cp", "-a", str(self._directory(source)), str(into)], check=True)

    def restore(self) -> None:
        back = self._other()
        self._machines[back] = Machine(back, self._root / "logs")

    def close(self) -> None:
        for machine in self._machines.values():
            machine.close()
