"""The rival: replicated GlusterFS volumes on this machine, put up and taken down again.

Debian's `glusterfs-server`. A daemon of our own, with its state in a temporary directory; it and
its bricks end with the block, after Ctrl-C and SIGTERM too. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, final

COMMAND_S: Final = 60.0
START_S: Final = 30.0
PROGRAMS: Final = ("glusterd", "gluster", "glusterfs", "glusterfsd")

_UNHEALED: Final = re.compile(r"^Total Number of entries: (\d+)$", re.MULTILINE)
_GLUSTERD: Final = """\
volume management
    type mgmt/glusterd
    option working-directory {root}/glusterd
    option run-directory {root}/run
    option glusterd-sockfile {root}/glusterd.socket
    option transport-type socket
    option transport.socket.keepalive-time 10
    option transport.socket.keepalive-interval 2
    option transport.socket.read-fail-log off
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
"""


class GlusterError(Exception):
    """GlusterFS is not here, is in use, or refused."""


def running(below: Path | None = None) -> list[int]:
    """Ids of this machine's processes of GlusterFS; with `below`, of those that work there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() not in PROGRAMS:
                continue
            if below is None or os.fsencode(below) in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


@contextlib.contextmanager
def open_gluster(volumes: dict[str, dict[str, str]]) -> Iterator[dict[str, Path]]:
    """Volumes with two copies each, by name, with the options given; where each is mounted.

    Raises:
        GlusterError: it is not installed, runs already, or a command failed.
    """
    with open_rival() as rival:
        yield {name: rival.add(name, options) for name, options in volumes.items()}


@contextlib.contextmanager
def open_rival() -> Iterator[Gluster]:
    """The daemon, without a volume.

    Raises:
        GlusterError: it is not installed, runs already, or does not start.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise GlusterError(f"{program} is missing: apt-get install glusterfs-server")
    if pids := running():
        raise GlusterError(f"GlusterFS runs already (process {pids[0]}); it is left alone")
    root = Path(tempfile.mkdtemp(prefix="mirrorha-gluster-"))
    before = {signum: signal.signal(signum, _interrupt) for signum in (signal.SIGTERM,)}
    try:
        with contextlib.ExitStack() as stack:
            rival = Gluster(root)
            stack.callback(shutil.rmtree, root, ignore_errors=True)
            stack.callback(rival.close)
            rival.start()
            yield rival
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@final
class Gluster:
    """Made by `open_rival`. Blocking."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._host = socket.gethostname()  # GlusterFS refuses addresses of loopback for bricks
        self._mounts: list[Path] = []
        self._volumes: list[str] = []
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        for name in ("glusterd", "run", "log"):
            (self._root / name).mkdir()
        config = self._root / "glusterd.vol"
        config.write_text(_GLUSTERD.format(root=self._root))
        self._daemon = subprocess.Popen(
            [
                # It ends with this process, however that ends.
                *("setpriv", "--pdeathsig", "KILL", "glusterd", "--no-daemon", "-f", str(config)),
                *("-p", str(self._root / "glusterd.pid"), "-L", "ERROR"),
                *("-l", str(self._root / "log/glusterd.log")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        _wait("glusterd answers", lambda: self._ask("volume", "list").returncode == 0)

    def add(self, name: str, options: dict[str, str]) -> Path:
        """Make a volume, start it and mount it."""
        bricks = [self.brick(name, number) for number in (1, 2)]
        mount = self._root / name / "mount"
        for path in (*bricks, mount):
            path.mkdir(parents=True)
        places = [f"{self._host}:{brick}" for brick in bricks]
        self._must("volume", "create", name, "replica", "2", *places, "force")
        self._volumes.append(name)
        for option, value in options.items():
            self._must("volume", "set", name, option, value)
        self._must("volume", "start", name)
        self._mounts.append(mount)
        done = subprocess.run(
            [
                *("glusterfs", f"--volfile-server={self._host}", f"--volfile-id={name}"),
                *(f"--log-file={self._root}/log/{name}.log", str(mount)),
            ],
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        if done.returncode:
            raise GlusterError(f"mounting {name}: {done.stderr.strip()}")
        _wait(f"{name} is mounted", lambda: os.path.ismount(mount))
        return mount

    def brick(self, name: str, number: int) -> Path:
        """The directory of one of a volume's two copies."""
        return self._root / name / f"brick{number}"

    def lose(self, name: str, number: int) -> None:
        """Kill who serves this copy; the volume goes on with the other one."""
        for pid in running(self.brick(name, number)):
            os.kill(pid, signal.SIGKILL)
        _wait("the brick is dead", lambda: not running(self.brick(name, number)))

    def give_back(self, name: str) -> None:
        """Serve all copies again, and begin to heal what differs."""
        self._must("volume", "start", name, "force")
        _wait("the heal begins", lambda: self._ask("volume", "heal", name).returncode == 0)

    def unhealed(self, name: str) -> int:
        """How many entries wait to be healed, as it says itself."""
        self._must("volume", "heal", name, "info", "summary")
        said = self._ask("volume", "heal", name, "info", "summary").stdout
        return sum(int(count) for count in _UNHEALED.findall(said))

    def close(self) -> None:
        """Unmount, stop, forget; whatever of ours still runs then is killed."""
        for mount in self._mounts:
            subprocess.run(["umount", "-l", str(mount)], capture_output=True, check=False)
        for name in self._volumes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ask("volume", "stop", name, "force")
                self._ask("volume", "delete", name)
        if self._daemon is not None:
            self._daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._daemon.wait(5)
        for _ in range(50):
            for pid in (pids := running(self._root)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.1)
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait(5)

    def _ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["gluster", "--mode=script", f"--glusterd-sock={self._root}/glusterd.socket", *words],
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def _must(self, *words: str) -> None:
        done = self._ask(*words)
        if done.returncode:
            said = (done.stderr + done.stdout).strip()
            raise GlusterError(f"gluster {' '.join(words)}: {said}")


def _wait(what: str, holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > ends:
            raise GlusterError(f"{what}: not within {START_S:g} s")
        time.sleep(0.2)
