"""A mount that a process of its own serves, for tests; and clients that use it, in yet others."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tests.requirements import require_device, require_root

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
CLIENT_S = 60.0
ANSWER_S = 20.0
NOBODY = 65534
_MNT_DETACH = 2


@final
class Mount:
    """A served mount. `path` is it, `raw` the directory behind it."""

    def __init__(self, home: Path, user: int) -> None:
        self.home = home
        self.path = home / "mount"
        self.raw = home / "root"
        self.path.mkdir()
        if user:
            os.chown(home, user, user)
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("serving.py"), home, self.path, str(user)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._clients: list[subprocess.Popen[str]] = []
        self._said = b""
        self.connection = -1
        self.expected_failures = 0

    def wait_ready(self) -> None:
        self.connection = self.answer()["connection"]

    def tell(self, command: str) -> dict[str, Any]:
        """Give the server a command; what it says then."""
        self.send(command)
        return self.answer()

    def send(self, command: str) -> None:
        assert self._server.stdin is not None
        print(command, file=self._server.stdin, flush=True)

    def wait_for(self, what: str, number: int) -> None:
        """Wait until the server says so of one of its counts."""
        for _ in range(500):
            if self.tell("counts")[what] == number:
                return
            time.sleep(0.01)
        raise AssertionError(f"{what} does not become {number}: {self.tell('counts')}")

    def run(self, code: str, *, user: int | None = None, timeout_s: float = CLIENT_S) -> str:
        """Run Python code in a process of its own, in the mount; what it printed."""
        client = self.start(code, user=user)
        try:
            said, _ = client.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            client.kill()
            self.abort()  # a process that hangs in the kernel ends only so
            client.communicate()
            raise
        assert client.returncode == 0, said
        return str(said)

    def start(self, code: str, *, user: int | None = None) -> subprocess.Popen[str]:
        # Before rights are given away: Python's own modules may be out of reach then.
        prelude = "import errno, fcntl, mmap, os, sys, stat, time\n"
        if user is not None:
            prelude += (
                f"os.setgroups([]); os.setresgid(*[{user}] * 3); os.setresuid(*[{user}] * 3)\n"
            )
        body = prelude + textwrap.dedent(code)
        client = subprocess.Popen(
            [sys.executable, "-S", "-c", f"import os; os.chdir({str(self.path)!r})\n{body}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._clients.append(client)
        return client

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{self.connection}/abort").write_text("1")

    def close(self) -> None:
        self.abort()
        ctypes.CDLL(None).umount2(os.fsencode(self.path), _MNT_DETACH)
        for client in self._clients:
            # Only where a test failed is there still something to do.
            client.kill()
            client.wait()
            for stream in (client.stdin, client.stdout):
                if stream is not None:
                    stream.close()
        assert self._server.stdin is not None
        self._server.stdin.close()
        try:
            self._server.wait(10)
        finally:
            self._server.kill()
            self._server.wait()
            assert self._server.stdout is not None
            self._server.stdout.close()

    def answer(self) -> dict[str, Any]:
        stream = self._server.stdout
        assert stream is not None
        while b"\n" not in self._said:
            assert select.select([stream], [], [], ANSWER_S)[0], "the server says nothing"
            more = os.read(stream.fileno(), 65536)
            assert more, "the server has ended"
            self._said += more
        line, self._said = self._said.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment() -> dict[str, str]:
    paths = os.pathsep.join(str(path) for path in (ROOT / "src", ROOT))
    return {**os.environ, "PYTHONPATH": paths}


def finish(process: subprocess.Popen[str], *, timeout_s: float = 20.0) -> str:
    """Wait for a client to end well; what it printed."""
    said, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, said
    return str(said)


@contextlib.contextmanager
def mounted(home: Path, *, user: int = 0) -> Iterator[Mount]:
    """A mount under `home`, gone again when the block ends, whatever happened in it.

    Args:
        user: Who serves it.
    """
    require_root()
    require_device("/dev/fuse")
    mount = Mount(home, user)
    try:
        mount.wait_ready()
        yield mount
    finally:
        mount.close()


@contextlib.contextmanager
def checked_mount(*, user: int = 0) -> Iterator[Mount]:
    """A mount in a directory of its own; at its end the server is asked what went wrong in it."""
    # Not in pytest's own directory, which is root's alone.
    with tempfile.TemporaryDirectory(prefix="mirrorha-mount-") as name:
        home = Path(name)
        home.chmod(0o755)
        with mounted(home, user=user) as mount:
            yield mount
            # What a handler could not do by a bug, or the kernel did not understand.
            state = mount.tell("counts")
            expected = (mount.expected_failures, 0, 0)
            assert (state["failures"], state["refused"], state["waiting"]) == expected


#: Prints everything that can be seen of the tree in the working directory.
SNAPSHOT = """
import hashlib, json
seen = {}
links = {}
def look(path):
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    content = ""
    if kind == stat.S_IFREG:
        content = hashlib.sha256(open(path, "rb").read()).hexdigest()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path).decode("latin-1")
    xattrs = {} if kind == stat.S_IFLNK else {
        name: os.getxattr(path, name).hex()
        for name in os.listxattr(path) if not name.startswith("security.selinux")
    }
    first = links.setdefault(status.st_ino, path.decode("latin-1"))
    seen[path.decode("latin-1")] = [
        kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
        status.st_nlink, status.st_mtime_ns,
        0 if kind == stat.S_IFDIR else status.st_size, status.st_rdev, content, xattrs, first,
    ]
def walk(path):
    for name in sorted(os.listdir(path)):
        if path == b"." and name in (b".mirrorha-volume", b".mirrorha-limbo"):
            continue
        inner = path + b"/" + name
        look(inner)
        if stat.S_ISDIR(os.lstat(inner).st_mode):
            walk(inner)
walk(b".")
print(json.dumps(seen))
"""


def snapshots(mount: Mount) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is seen on the mount, and in the directory behind it."""
    through: dict[str, Any] = json.loads(mount.run(SNAPSHOT))
    body = "import errno, os, sys, stat, time\n" + SNAPSHOT
    said = subprocess.run(
        [sys.executable, "-S", "-c", body],
        cwd=mount.raw,
        capture_output=True,
        text=True,
        timeout=CLIENT_S,
        check=True,
    )
    behind: dict[str, Any] = json.loads(said.stdout)
    return through, behind


def assert_same(mount: Mount) -> None:
    """The directory behind the mount holds what is seen on it."""
    through, behind = snapshots(mount)
    assert through == behind
