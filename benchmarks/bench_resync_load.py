"""A full resync beside a checksummed copy, and what an application feels of one that is limited.

    python benchmarks/bench_resync_load.py [--mib 4096] [--rounds 3] [--seconds 20] [--link plain]

Two real nodes, their volume mounted. A machine that was replaced is filled with everything: timed
from when the resync begins until both mirror, beside the plainest checksummed copy of the same
directory over the same kind of link between two processes; no file is in memory before. Asked:
80 % of that copy's speed. Then a program writes 4 KiB every two milliseconds, and the machine is
replaced again, the rate limited to half of what it was before. Asked: the 99th percentile of its
writes during that is at most twice what it is while the pair mirrors. It exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Final

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.checksummed_copy import copy
from benchmarks.mixed_tree import MIB, MixedTree
from benchmarks.recovery_subjects import drop_caches, ensure_equal, open_place
from benchmarks.steady_writer import SteadyWriter, open_writer

from tests.mounted.mounts import detach
from tests.mounted.real_pair import NODES, RealPair, Setup, open_real_pair

SHARE_MIN: Final = 0.8
SLOWER_MAX: Final = 2.0
EVERY_MS: Final = 2
LIMIT_S: Final = 900.0
LOOK_S: Final = 0.02
#: The heartbeats of a machine that copies as fast as it can come late.
TIMEOUT_S: Final = 6.0
SERVES, FILLED = NODES


@attrs.frozen
class Load:
    """How long an application's writes took, in microseconds, the shortest first."""

    mirrored_us: list[int]
    alone_us: list[int]
    resync_us: list[int]
    limit_bytes_per_s: int
    took_s: float

    @property
    def slower(self) -> float:
        """How many times as long the 99th percentile is during the resync."""
        return p99(self.resync_us) / p99(self.mirrored_us)


def p99(took_us: list[int]) -> int:
    """The 99th percentile of what is sorted; 0 of nothing."""
    return took_us[math.ceil(len(took_us) * 0.99) - 1] if took_us else 0


def replace_machine(pair: RealPair) -> None:
    """The second node dies, and what it held is gone with it. The first one serves alone."""
    if FILLED in pair.machines:
        pair.kill(FILLED)
    pair.wait_alone(SERVES)
    detach(pair.directory(FILLED))
    shutil.rmtree(pair.directory(FILLED).parent)
    pair.directory(FILLED).mkdir(parents=True)


def fill(pair: RealPair) -> float:
    """Start the second node; the seconds from when its resync begins until both mirror."""
    drop_caches()
    pair.launch(FILLED)
    ends_s = time.monotonic() + LIMIT_S
    while not any(volume["resync"] for volume in pair.status(SERVES).get("volumes", ())):
        if time.monotonic() > ends_s:
            raise TimeoutError(f"no resync has begun within {LIMIT_S:g} s")
        time.sleep(LOOK_S)
    began_s = time.monotonic()
    while pair.role(SERVES) != "PRIM":
        if time.monotonic() > ends_s:
            raise TimeoutError(f"the pair does not mirror within {LIMIT_S:g} s")
        time.sleep(LOOK_S)
    took_s = time.monotonic() - began_s
    pair.wait_mirrored()
    return took_s


def measure_load(pair: RealPair, *, limit_bytes_per_s: int, seconds: float) -> Load:
    """The pair mirrors. What a program's writes take then, alone, and during a limited resync."""
    with open_writer(pair.directory(SERVES) / "written", every_ms=EVERY_MS) as writer:
        _wait_for_writes(writer, 100)
        mirrored_us = _over(writer, seconds)
        replace_machine(pair)
        alone_us = _over(writer, seconds)
        pair.limit_resync(SERVES, limit_bytes_per_s)
        since = writer.count()
        took_s = fill(pair)
        resync_us = writer.took_us(since)
    pair.limit_resync(SERVES, 0)
    return Load(mirrored_us, alone_us, resync_us, limit_bytes_per_s, took_s)


def _wait_for_writes(writer: SteadyWriter, count: int) -> None:
    ends_s = time.monotonic() + LIMIT_S
    while writer.count() < count:
        if time.monotonic() > ends_s:
            raise TimeoutError("the program does not write")
        time.sleep(LOOK_S)


def _over(writer: SteadyWriter, seconds: float) -> list[int]:
    since = writer.count()
    time.sleep(seconds)
    return writer.took_us(since)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--link", choices=("tls", "plain"), default="tls")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tree = MixedTree.of(options.mib)
    setup = Setup(link=options.link, timeout_s=TIMEOUT_S)
    filled_s, copied_s, loads = [], [], []
    with open_place() as base, open_real_pair(base, setup) as pair:
        tree.make(pair.directory(SERVES))
        plain = base / "plain"
        shutil.copytree(pair.directory(SERVES), plain)
        pair.begin_alone(SERVES)
        for _ in range(options.rounds):
            replace_machine(pair)
            filled_s.append(fill(pair))
            ensure_equal(*map(pair.directory, NODES))
            drop_caches()
            copied_s.append(copy(base / "keys", options.link, plain))
            print(
                f"load {os.getloadavg()[0]:.1f}: filled in {filled_s[-1]:.2f} s, "
                f"copied in {copied_s[-1]:.2f} s",
                flush=True,
            )
        free_bytes_per_s = round(tree.total_bytes / statistics.median(filled_s))
        for _ in range(options.rounds):
            load = measure_load(
                pair, limit_bytes_per_s=free_bytes_per_s // 2, seconds=options.seconds
            )
            loads.append(load)
            print(
                f"load {os.getloadavg()[0]:.1f}: p99 {p99(load.mirrored_us)} us mirrored, "
                f"{p99(load.alone_us)} alone, {p99(load.resync_us)} during a resync of "
                f"{load.took_s:.1f} s at {load.limit_bytes_per_s / MIB:.0f} MiB/s",
                flush=True,
            )
    share = statistics.median(copied_s) / statistics.median(filled_s)
    slower = statistics.median(load.slower for load in loads)
    print(f"a full resync goes at {share:.2f} of a checksummed copy (at least {SHARE_MIN})")
    print(f"p99 of writes during a limited one: {slower:.2f} times (at most {SLOWER_MAX})")
    return 0 if share >= SHARE_MIN and slower <= SLOWER_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
