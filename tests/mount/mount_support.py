"""Tiny FUSE servers on directories of a test, and no mount left behind whatever becomes of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from mirrorha.mount_table import MountEntry, read_mount_table
from mirrorha.volume.fuse import mount_calls
from mirrorha.volume.fuse.connection import abort

WAIT_S = 20
NOBODY = 65534
SERVER = Path(__file__).with_name("tiny_server.py")
SOURCE = Path(__file__).parents[2] / "src"


@attrs.define
class Server:
    """A server's process, and what it said once it had mounted, or why it did not."""

    child: subprocess.Popen[bytes]
    said: dict[str, Any]

    def stop(self) -> None:
        """Let it unmount and end."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.close()
        self.child.stdout.close()
        assert self.child.wait(WAIT_S) == 0

    def kill(self) -> None:
        self.child.kill()
        self.child.wait(WAIT_S)


@attrs.define
class Ground:
    """A directory of a test's own in which it mounts."""

    path: Path
    servers: list[Server] = attrs.field(factory=list)

    def make(self, name: str, *, owner: int | None = None) -> Path:
        """Make a directory with a file `raw` in it."""
        directory = self.path / name
        directory.mkdir(parents=True)
        (directory / "raw").write_text("the directory itself")
        if owner is not None:
            os.chown(directory, owner, owner)
        return directory

    def serve(
        self,
        directory: Path,
        volume: str = "orders",
        *,
        how: str = "serve",
        user: int = 0,
        prefix: Sequence[str] = (),
    ) -> Server:
        """Mount, in another process, and return once that is done or refused."""
        child = subprocess.Popen(
            [*prefix, sys.executable, str(SERVER), str(directory), volume, how, str(user)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        assert child.stdout is not None
        ready, _, _ = select.select([child.stdout], [], [], WAIT_S)
        said = json.loads(child.stdout.readline() or "{}") if ready else {}
        server = Server(child, said)
        self.servers.append(server)
        return server

    def mounts(self) -> list[str]:
        """Kind and place of what is mounted here, in the order in which it was."""
        return [
            f"{one.kind} {os.path.relpath(one.mount_point, self.path)}" for one in self.entries()
        ]

    def entries(self) -> list[MountEntry]:
        inside = f"{self.path}/"
        every = read_mount_table().entries.values()
        return [one for one in every if one.mount_point.startswith(inside)]

    def clear(self) -> None:
        for server in self.servers:
            server.child.kill()
            for entry in self.entries():
                if entry.is_fuse:
                    abort(entry.connection)
            server.child.wait(WAIT_S)
            for stream in (server.child.stdin, server.child.stdout):
                if stream is not None:
                    stream.close()
        for entry in reversed(self.entries()):
            if entry.is_fuse:
                abort(entry.connection)
            with contextlib.suppress(OSError):
                mount_calls.detach(entry.mount_point)


@contextlib.contextmanager
def device_for_all() -> Iterator[None]:
    """/dev/fuse as udev makes it: in containers it may be root's alone."""
    before = os.stat("/dev/fuse").st_mode & 0o777
    os.chmod("/dev/fuse", 0o666)
    try:
        yield
    finally:
        os.chmod("/dev/fuse", before)


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """A directory that every user may search, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="mirrorha-mount-") as path:
        os.chmod(path, 0o755)
        here = Ground(Path(path).resolve())
        try:
            yield here
        finally:
            here.clear()


def see(
    path: Path | str, *, user: int = 0, prefix: Sequence[str] = (), timeout_s: float = 10
) -> str:
    """What programs find at a path: `served`, `raw`, `covered`, or the errno's name.

    In a process of its own, for it may hang; then the answer is `hangs`.
    """
    program = (
        "import errno, os, sys\n"
        "if sys.argv[2] != '0':\n"
        "    os.setgroups([])\n"
        "    os.setresgid(*[int(sys.argv[2])] * 3)\n"
        "    os.setresuid(*[int(sys.argv[2])] * 3)\n"
        "try:\n"
        "    size = os.stat(sys.argv[1]).st_size\n"
        "    found = 'served' if size == 4711 else 'covered'\n"
        "    if size != 4711 and os.listdir(sys.argv[1]):\n"
        "        found = 'raw'\n"
        "except OSError as error:\n"
        "    found = errno.errorcode[error.errno]\n"
        "print(found)\n"
    )
    command = [*prefix, sys.executable, "-I", "-S", "-c", program, str(path), str(user)]
    return run(command, timeout_s=timeout_s)


def write_into(path: Path) -> str:
    """What becomes of a program's new file in a directory: `written`, or the errno's name."""
    program = (
        "import errno, sys\n"
        "try:\n"
        "    open(sys.argv[1] + '/written', 'w').close()\n"
        "    print('written')\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno])\n"
    )
    return run([sys.executable, "-I", "-S", "-c", program, str(path)], timeout_s=10)


def run(command: Sequence[str], *, timeout_s: float) -> str:
    with open(os.devnull, "rb") as nothing, tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdin=nothing, stdout=output)
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            # It may be out of reach until its mount is aborted, at the end of the test.
            threading.Thread(target=child.wait, daemon=True).start()
            return "hangs"
        output.seek(0)
        return output.read().decode().strip()
