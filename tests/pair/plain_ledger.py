"""The demonstration's ledger as a program that knows nothing of mirrorha: threads, open and write.

    python -m tests.pair.plain_ledger JOURNAL PORT [broken]

takes off what is there of a last line that is not whole, as a log does after any crash; appends
each line that a client sends to JOURNAL and answers `ok ID` once `write` has returned. It ends with
its input, and at the first error of the journal: what could not be written was not answered. A
broken one answers first, and writes when it has the time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final, final

import trio

from mirrorha import RoleChange
from mirrorha.cli.demo.ledger import JOURNAL

STOP_S: Final = 5.0
FAILED: Final = 3


@final
class PlainLedger:
    """Runs it where its cluster says. See `mirrorha.cli.demo.ledger.Ledger`."""

    def __init__(self, directory: Path, *, port: int, broken: bool = False) -> None:
        self._journal, self._port, self._broken = directory / JOURNAL, port, broken
        self.acknowledged = 0

    async def serve(
        self, why: RoleChange, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        del why
        command = [sys.executable, "-m", __name__, str(self._journal), str(self._port)]
        command += ["broken"] if self._broken else []
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if await process.stdout.receive_some(1):
                task_status.started()
            await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                await process.stdin.aclose()
                with trio.move_on_after(STOP_S):
                    await process.wait()
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.wait()
                await process.stdout.aclose()


def serve_client(client: socket.socket, journal: int, is_broken: bool) -> None:
    with client, contextlib.suppress(ConnectionError):
        for line in client.makefile("rb"):
            if is_broken:
                client.sendall(b"ok " + line.split(b" ")[0] + b"\n")
                time.sleep(0.05)
            try:
                taken = os.write(journal, line)
            except OSError:
                os._exit(FAILED)
            if taken != len(line):
                os._exit(FAILED)
            if not is_broken:
                client.sendall(b"ok " + line.split(b" ")[0] + b"\n")


def take_off_torn_line(path: str) -> None:
    """A write that nobody was told of may be there in part."""
    with contextlib.suppress(FileNotFoundError):
        held = Path(path).read_bytes()
        os.truncate(path, held.rfind(b"\n") + 1)


def end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    path, port, *words = sys.argv[1:]
    threading.Thread(target=end_with_input, daemon=True).start()
    take_off_torn_line(path)
    journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            arguments = (client, journal, "broken" in words)
            threading.Thread(target=serve_client, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
