"""What both disks hold if the power fails soon after a write to a mounted directory.

    python benchmarks/power_loss.py [--rounds N]

A pair of real nodes, each volume on a disk of its own (ext4 on a loop device). A program writes a
file of the mount and does something for its safety, or nothing; some time later each disk is copied
as it is, without what is only in a page cache: so it would be found after the power has failed. The
copies are mounted, as a machine that starts again would, and looked at. Needs root and /dev/fuse.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.mounted.mounts import run_bounded
from tests.mounted.real_pair import NODES, RealPair, Setup, open_real_pair
from tests.shows.small_disks import loop_disk, run

LIMIT_S: Final = 20.0
TIMEOUT_S: Final = 30.0
#: What was written before is durable, and nothing is under way.
SETTLE_S: Final = 4.0
CONTENT_BYTES: Final = 64 << 10

#: What a program does after `write`, and how many seconds later the power fails.
CASES: Final[dict[str, tuple[str, float]]] = {
    "write, at once": ("pass", 0.0),
    "write, 0.5 s later": ("pass", 0.5),
    "write, 1 s later": ("pass", 1.0),
    "write, 2 s later": ("pass", 2.0),
    "write, 3 s later": ("pass", 3.0),
    "write + syncfs of the mount, at once": ("libc.syncfs(fd)", 0.0),
    "write + sync(1), at once": ("os.sync()", 0.0),
    "write + fsync, at once": ("os.fsync(fd)", 0.0),
}
_WRITE: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(fd, sys.argv[2].encode() * {size})
{safety}
"""


@contextlib.contextmanager
def open_pair_on_disks(base: Path) -> Iterator[RealPair]:
    """A pair that mirrors, each volume on a disk of its own."""
    setup = Setup(timeout_s=TIMEOUT_S)
    with contextlib.ExitStack() as disks, open_real_pair(base, setup) as pair:
        for name in NODES:
            disks.enter_context(loop_disk(pair.directory(name)))
        try:
            pair.start()
            pair.wait_mirrored()
            yield pair
        finally:
            pair.close()


def survivors(pair: RealPair, case: str, name: str) -> set[str]:
    """On which nodes a file that a program has just written survives."""
    safety, wait_s = CASES[case]
    directory = pair.directory(pair.primary())
    code = _WRITE.format(size=CONTENT_BYTES, safety=safety)
    command = [sys.executable, "-c", code, str(directory / name), "x"]
    time.sleep(SETTLE_S)
    done = run_bounded(command, limit_s=LIMIT_S, directory=directory)
    if done.code:
        raise RuntimeError(f"the writer ended with {done.code}: {done.said}")
    time.sleep(wait_s)
    copies = {node: _copy(pair.directory(node)) for node in NODES}
    return {node for node, copy in copies.items() if _holds(copy, name)}


def _copy(directory: Path) -> Path:
    """The disk beneath, as it is now."""
    copy = directory.with_name("copy")
    run("cp", "--sparse=always", str(directory.with_name("data.medium") / "image"), str(copy))
    return copy


def _holds(copy: Path, name: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="mirrorha-copy-") as place:
        run("mount", "-o", "loop", str(copy), place)
        try:
            file = Path(place, name)
            return file.exists() and file.read_bytes() == b"x" * CONTENT_BYTES
        finally:
            run("umount", place)
            copy.unlink()


def measure(pair: RealPair, *, rounds: int, cases: tuple[str, ...] = tuple(CASES)) -> list[str]:
    """A line for each case: on how many disks of how many the file was whole."""
    lines = []
    for case in cases:
        serves = pair.primary()
        held = {"PRIM": 0, "SECOND": 0}
        for number in range(rounds):
            found = survivors(pair, case, f"{cases.index(case)}-{number}")
            held["PRIM"] += serves in found
            held["SECOND"] += pair.other(serves) in found
        lines.append(
            f"{case:38} PRIM {held['PRIM']} of {rounds}   SECOND {held['SECOND']} of {rounds}"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="mirrorha-power-", ignore_cleanup_errors=True) as base,
        open_pair_on_disks(Path(base)) as pair,
    ):
        for line in measure(pair, rounds=options.rounds):
            print(line, flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
