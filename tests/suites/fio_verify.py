"""fio writes patterns in every way it can, reads them back, and compares."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.mounted.mounts import run_bounded
from tests.suites.outcome import Found, Suite

LIMIT_S: Final = 180.0
_VERIFY: Final = ("--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_dump=0")
_JOBS: Final = {
    "random writes": ("--rw=randwrite", "--bs=4k", "--ioengine=psync"),
    "unaligned sizes": ("--rw=randwrite", "--bsrange=512-70k", "--bs_unaligned=1"),
    "past the page cache": ("--rw=randwrite", "--bs=4k", "--ioengine=libaio", "--direct=1"),
    "many at once": ("--rw=randwrite", "--bs=4k", "--ioengine=libaio", "--iodepth=16"),
    "through a mapping": ("--rw=randwrite", "--bs=4k", "--ioengine=mmap"),
    "synchronous": ("--rw=write", "--bs=16k", "--sync=1", "--size=2M"),
    "synced now and then": ("--rw=randwrite", "--bs=8k", "--fsync=32"),
    "in vectors": ("--rw=write", "--bs=1M", "--ioengine=pvsync"),
    "four writers": ("--rw=randwrite", "--bs=4k", "--numjobs=4", "--group_reporting"),
    "sparse": ("--rw=randwrite", "--bs=4k", "--fallocate=none", "--norandommap", "--io_size=2M"),
    "overwritten in place": ("--rw=randwrite", "--bs=4k", "--overwrite=1", "--loops=2"),
}
_SHORT: Final = ("random writes", "through a mapping", "many at once")


def run(directory: Path, notes: Path, short: bool) -> Found:
    """Every job is one thing that goes well or not."""
    passed, failed = set(), {}
    for name, options in _JOBS.items():
        if short and name not in _SHORT:
            continue
        size = f"--size={4 if short else 32}M"
        command = ["fio", "--name=v", f"--directory={directory}", size, *_VERIFY, *options]
        ended = run_bounded(command, limit_s=LIMIT_S, directory=directory, cwd=notes)
        if ended.code == 0:
            passed.add(name)
        else:
            # A figure of what it measured says nothing about what is wrong.
            lines = [line for line in ended.said.splitlines() if "fio:" in line or "verify" in line]
            failed[name] = "\n".join(lines) if ended.code is not None else "it did not end in time"
        for path in directory.glob("v.*"):
            path.unlink()
    return Found(frozenset(passed), failed)


FIO_VERIFY: Final = Suite("fio-verify", run, ("fio",))
