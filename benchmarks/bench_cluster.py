"""Two nodes in two processes on the loopback, with TLS: what a mirrored write costs.

    python benchmarks/bench_cluster.py [--profile]

Prints the median and the 99th percentile of a 4 KiB write by one writer, the throughput of 64
writers, and that of 1 MiB writes. Bounded in time, and stops by itself. (What a takeover takes is
printed by `tests/cluster/test_kill.py`.)
"""

from __future__ import annotations

import cProfile
import pstats
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mirrorha.core.words import Role  # noqa: E402
from mirrorha.volume.ops import ROOT_FID, Create, Write  # noqa: E402
from tests.cluster.node_process import CHANGES  # noqa: E402
from tests.cluster.rig import Site, TestNode, wait_until  # noqa: E402

KIB = 1024
SECONDS = 3.0


async def make_file(engine, name):
    made = await engine.change(Create(0, ROOT_FID, name, 0o644, -1, -1, time.time_ns()))
    return made.fid


async def write_for(engine, name, size, times, seconds):
    """Write over and over the first 1 MiB of a file; note how long each write takes."""
    fid, block = await make_file(engine, name), bytes(size)
    end, offset = time.perf_counter() + seconds, 0
    while (began := time.perf_counter()) < end:
        await engine.change(Write(fid, offset, block, time.time_ns()))
        times.append(time.perf_counter() - began)
        offset = (offset + size) % (1024 * KIB)


async def measure(engine, what, *, size, writers, seconds=SECONDS):
    times: list[float] = []
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(writers):
            name = f"{what.replace(' ', '-').replace('/', '')}-{number}"
            nursery.start_soon(write_for, engine, name, size, times, seconds)
    took_s = time.perf_counter() - began
    times.sort()
    p50_us, p99_us = (times[int(len(times) * share)] * 1e6 for share in (0.5, 0.99))
    rate = len(times) / took_s
    print(
        f"{what:28} p50 {p50_us:8.0f} µs   p99 {p99_us:8.0f} µs   {rate:8.0f}/s   "
        f"{rate * size / 1e6:7.1f} MB/s",
        flush=True,
    )


async def main(profile: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="mirrorha-bench-") as base:
        async with trio.open_nursery() as nursery:
            site = Site(Path(base), changes=CHANGES)
            site.share_keys()
            mine = TestNode(site, "lyon", nursery)
            await mine.start()
            arguments = [base, "paris", *map(str, site.ports)]
            peer = subprocess.Popen(  # noqa: ASYNC220 - it is killed below
                [sys.executable, str(ROOT / "tests/cluster/node_process.py"), *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            )
            try:
                with trio.fail_after(60):
                    await mine.cluster.wait_role(Role.PRIM)
                    await wait_until(lambda: mine.cluster.status()["colour"] == "green")
                    engine = mine.cluster._engine(mine.data.path)
                    profiler = cProfile.Profile() if profile else None
                    if profiler:
                        profiler.enable()
                    await measure(engine, "4 KiB, one writer", size=4 * KIB, writers=1)
                    await measure(engine, "4 KiB, 64 writers", size=4 * KIB, writers=64)
                    await measure(engine, "1 MiB, one writer", size=1024 * KIB, writers=1)
                    await measure(engine, "1 MiB, 4 writers", size=1024 * KIB, writers=4)
                    if profiler:
                        profiler.disable()
                        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
            finally:
                peer.send_signal(signal.SIGKILL)
                peer.wait()
            await mine.end()
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, "--profile" in sys.argv)
