"""A program that writes 4 KiB somewhere in its file again and again, and how long each write took.

    python benchmarks/steady_writer.py FILE EVERY_MS

It knows nothing of what the directory is. For each write a line: when it began (monotonic, in
microseconds) and how long it took. It ends when its input does.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

WRITE_BYTES: Final = 4096
FILE_BYTES: Final = 16 << 20


@final
class SteadyWriter:
    """The program, and what it has told so far. Made by `open_writer`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process: Final = process
        self._told: Final[list[tuple[int, int]]] = []
        self._reader: Final = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            began_us, took_us = line.split()
            self._told.append((int(began_us), int(took_us)))

    def count(self) -> int:
        """How many writes have been told of."""
        return len(self._told)

    def took_us(self, since: int) -> list[int]:
        """How long those took that were told after the first `since`, the shortest first."""
        return sorted(took_us for _, took_us in self._told[since:])


@contextlib.contextmanager
def open_writer(file: Path, *, every_ms: int) -> Iterator[SteadyWriter]:
    """Let the program write to `file` until the block is left."""
    command = [sys.executable, __file__, str(file), str(every_ms)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield SteadyWriter(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


def main() -> int:
    path, every_s = sys.argv[1], int(sys.argv[2]) / 1000
    rng = random.Random(1)
    data = rng.randbytes(WRITE_BYTES)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    for at in range(0, FILE_BYTES, 1 << 20):  # so that no write makes the file longer
        os.pwrite(fd, bytes([1]) * (1 << 20), at)
    while not select.select([sys.stdin], [], [], every_s)[0]:
        offset = rng.randrange(FILE_BYTES // WRITE_BYTES) * WRITE_BYTES
        began_ns = time.monotonic_ns()
        os.pwrite(fd, data, offset)
        took_ns = time.monotonic_ns() - began_ns
        print(began_ns // 1000, took_ns // 1000, flush=True)
    os.close(fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
