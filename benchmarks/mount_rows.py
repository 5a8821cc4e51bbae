"""What is measured in a directory, whatever stands behind it. More is better in every row."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

LAYOUT_S: Final = 60.0  # what fio may take to prepare and to sync, beyond the time it measures
PAGE_BYTES: Final = 4096
READ_MIB: Final = 512
_READ: Final = ("--rw=read", "--bs=1M", f"--size={READ_MIB}M")


class RowError(Exception):
    """A row could not be measured in this directory."""


@attrs.frozen
class Row:
    """One thing that is measured.

    Attributes:
        unit: of the figure that `measure` returns.
        measure: in this directory, for this many seconds.
        writes: it changes files; False: it reads.
    """

    name: str
    unit: str
    measure: Callable[[Path, float], float]
    writes: bool = True


def _fio(directory: Path, seconds: float, *arguments: str, figure: str) -> float:
    """One job of fio with plain pread and pwrite; its files are gone afterwards."""
    command = ["fio", "--name=t", f"--directory={directory}", "--output-format=json"]
    command += ["--ioengine=psync", "--group_reporting", f"--runtime={seconds:g}", *arguments]
    # Of its own accord fio waits for a file system for ever.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=10 * seconds + LAYOUT_S, check=False
    )
    for path in directory.glob("t.*"):
        path.unlink()
    if done.returncode:
        raise RowError(f"fio ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["write"] if job["write"]["io_bytes"] else job["read"]
    return float(side[figure])


def _fio_row(name: str, *arguments: str, writes: bool = True) -> Row:
    """A row in MB/s if it transfers a size, in operations a second if it lasts a time."""
    timed = "--time_based" in arguments

    def measure(directory: Path, seconds: float) -> float:
        if timed:
            return _fio(directory, seconds, *arguments, figure="iops")
        return _fio(directory, seconds, *arguments, figure="bw_bytes") / 1e6

    return Row(name, "IOPS" if timed else "MB/s", measure, writes)


def _random(size: str, *, jobs: int = 1) -> tuple[str, ...]:
    return ("--rw=randwrite", "--bs=4k", f"--size={size}", "--time_based", f"--numjobs={jobs}")


def _synced(size: str, *, jobs: int = 1) -> tuple[str, ...]:
    timed = ("--time_based", f"--numjobs={jobs}")
    return ("--rw=write", "--bs=4k", f"--size={size}", "--fsync=1", *timed)


def _cold_read(directory: Path, seconds: float) -> float:
    """MB/s of a file that no memory of this machine holds: whatever serves it reads the disk."""
    with (directory / "t.0.0").open("wb", buffering=0) as file:  # fio's name for its file
        for _ in range(READ_MIB):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")
    return _fio(directory, seconds, *_READ, figure="bw_bytes") / 1e6


def _small_files(directory: Path, seconds: float) -> float:
    """Create, write 4 KiB, close, stat and unlink: whole cycles a second."""
    payload, count = bytes(PAGE_BYTES), 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        path = directory / f"f{count}"
        with path.open("wb", buffering=0) as file:
            file.write(payload)
        path.stat()
        path.unlink()
        count += 1
    return count / (time.perf_counter() - began)


def _sqlite(journal: str) -> Callable[[Path, float], float]:
    def measure(directory: Path, seconds: float) -> float:
        """Durable transactions of one row a second."""
        path = directory / f"{journal}.db"
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute(f"pragma journal_mode={journal}")
            connection.execute("pragma synchronous=full")
            connection.execute("create table t(i integer primary key, v blob)")
            count, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds:
                connection.execute("insert into t(v) values (randomblob(200))")
                count += 1
            return count / (time.perf_counter() - began)
        finally:
            connection.close()
            for name in directory.glob(f"{journal}.db*"):
                os.unlink(name)

    return measure


RANDOM: Final = "rand write 4k"
RANDOM_8: Final = "rand write 4k x8"
RANDOM_64: Final = "rand write 4k x64"
SEQUENTIAL: Final = "seq write 1M"
READ: Final = "seq read 1M"

_ROWS: Final = (
    _fio_row(SEQUENTIAL, "--rw=write", "--bs=1M", "--size=512M", "--end_fsync=1"),
    _fio_row("seq write 128k", "--rw=write", "--bs=128k", "--size=256M", "--end_fsync=1"),
    _fio_row(RANDOM, *_random("64M")),
    _fio_row(RANDOM_8, *_random("16M", jobs=8)),
    _fio_row("write+fsync 4k", *_synced("64M")),
    _fio_row("write+fsync 4k x8", *_synced("16M", jobs=8)),
    _fio_row(READ, *_READ, writes=False),
    Row("cold read 1M", "MB/s", _cold_read, writes=False),
    Row("small files", "cycles/s", _small_files),
    Row("sqlite wal full", "tx/s", _sqlite("wal")),
    Row("sqlite delete full", "tx/s", _sqlite("delete")),
)
ROWS: Final = {row.name: row for row in _ROWS}
#: Measured only where there is a distance: one writer waits for it, many share it.
FAR_ROWS: Final = {
    RANDOM: ROWS[RANDOM],
    RANDOM_64: _fio_row(RANDOM_64, *_random("4M", jobs=64)),
}
