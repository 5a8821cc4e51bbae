"""Writers that signals interrupt, on a volume that freezes and thaws: no record is there twice."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mount_support import ground
from tests.requirements import require_device, require_root
from tests.volume.fuse.mounts import Mount, mounted

WRITERS = 4
LAST_S = 3.0
BYTES_EACH = 64
# Not by os.write, which goes on by itself after a signal.
WRITER = """
    import ctypes, signal
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    fd = os.open("log", os.O_WRONLY | os.O_CREAT | {flags}, 0o644)
    until = time.monotonic() + {last_s}
    number = 0
    while time.monotonic() < until:
        # Of many lengths: what is written over what should not be there leaves something of it.
        record = b"<%d-%d-%s>\\n" % ({writer}, number, b"x" * (number * 7 % 40))
        if {flags}:
            written = libc.write(fd, record, len(record))
        else:
            place = ctypes.c_int64({bytes_each} * ({writers} * number + {writer}))
            written = libc.pwrite(fd, record, len(record), place)
        # At the border of a page the kernel asks twice: of two parts, one may be done.
        how = "EINTR" if written < 0 else "done" if written == len(record) else "short"
        print(number, how, max(written, 0), flush=True)
        number += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.fixture
def mount() -> Iterator[Mount]:
    require_root()
    require_device("/dev/fuse")
    with ground() as here:
        (here.path / "home").mkdir()
        with mounted(here.path / "home") as one:
            yield one


def freeze_now_and_then(mount: Mount, rng: random.Random) -> None:
    until = time.monotonic() + LAST_S
    while time.monotonic() < until:
        mount.tell("freeze")
        time.sleep(rng.uniform(0, 0.02))
        mount.tell("thaw")
        time.sleep(rng.uniform(0, 0.02))


def write_and_interrupt(mount: Mount, flags: int) -> tuple[dict[tuple[int, int], str], int]:
    """How each record ended, by writer and number; and how many bytes were written."""
    fields = {"last_s": LAST_S, "flags": flags, "writers": WRITERS, "bytes_each": BYTES_EACH}
    writers = [mount.start(WRITER.format(writer=writer, **fields)) for writer in range(WRITERS)]
    freeze_now_and_then(mount, random.Random(1))
    told: dict[tuple[int, int], str] = {}
    size = 0
    for writer, child in enumerate(writers):
        said, _ = child.communicate(timeout=20)
        assert child.returncode == 0, said
        for line in said.splitlines():
            number, how, written = line.split()
            told[writer, int(number)] = how
            size += int(written)
    ends = Counter(told.values())
    assert min(ends["done"], ends["EINTR"]) > 10, ends
    assert ends["short"] < 100, ends
    assert mount.tell("counts")["waiting"] == 0
    return told, size


def record(writer: int, number: int) -> str:
    return f"<{writer}-{number}-{'x' * (number * 7 % 40)}>"


def test_an_append_that_is_done_is_there_once_and_no_other(mount: Mount) -> None:
    told, size = write_and_interrupt(mount, os.O_APPEND)
    content = (mount.raw / "log").read_text()
    # With its end: of a short one all but that may be there.
    there = Counter(re.findall("<[^<>]*>\n", content))
    done = Counter(record(*which) + "\n" for which, how in told.items() if how == "done")
    assert (sorted(there - done), sorted(done - there)) == ([], [])
    assert len(content) == size


def test_a_write_that_was_interrupted_is_not_there(mount: Mount) -> None:
    told, _ = write_and_interrupt(mount, 0)
    content = (mount.raw / "log").read_bytes()
    for (writer, number), how in told.items():
        place = BYTES_EACH * (WRITERS * number + writer)
        there = content[place : place + BYTES_EACH].rstrip(b"\0\n").decode()
        assert there == (record(writer, number) if how == "done" else ""), how


def test_who_is_killed_while_it_waits_goes_at_once(mount: Mount) -> None:
    mount.run("open('log', 'w').close()")
    mount.tell("freeze")
    child = mount.start("os.write(os.open('log', os.O_WRONLY), b'never'); print('written')")
    while mount.tell("counts")["waiting"] != 1:
        time.sleep(0.01)  # until it waits
    os.kill(child.pid, signal.SIGKILL)
    try:
        said, _ = child.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        mount.abort()
        raise
    assert said == ""
    mount.tell("thaw")
    assert Path(mount.raw / "log").read_bytes() == b""
    assert mount.tell("counts")["waiting"] == 0
