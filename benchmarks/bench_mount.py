"""What a mirrored directory costs any program, beside a plain one and beside GlusterFS, in one run.

    python benchmarks/bench_mount.py [--only plain,link,gluster] [--rows "rand write"]
                                     [--rounds N] [--seconds S] [--relay-ms MS]
                                     [--json FILE] [--markdown FILE] [--svg FILE]

Everything is on this machine: both nodes, both copies. All subjects are up at the same time and are
measured in turn (A B A B ...), so that a machine whose speed drifts treats them alike; medians are
compared. Each row runs in a process of its own that is given up if it hangs. Needs root, /dev/fuse,
Debian's `fio`, and for the rival `glusterfs-server`. Run it on a machine that does nothing else.

With --relay-ms only what waits for a distance is measured, through a relay that makes every byte so
late each way, beside the same without one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import mount_report as report
from benchmarks.mount_rows import FAR_ROWS, RANDOM, RANDOM_64, ROWS, Row, RowError
from benchmarks.mount_subjects import GLUSTER, PLAIN, subjects

from tests.cluster.rig import free_ports
from tests.mounted.mounts import run_bounded

ROW_S: Final = 120.0  # what a row may take besides ten times the seconds it was given
FAR: Final = "{}, {:g} ms away"


def main() -> int:
    options = _options()
    if options.measure:
        return _measure_here(*options.measure)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.relay_ms:
        return _far(options)
    wanted = [row for row in ROWS.values() if _is_wanted(row.name, options.rows)]
    with contextlib.ExitStack() as stack:
        directories = _put_up(stack, options.only)
        for named in options.directory:
            name, _, directory = named.rpartition("=")
            directories[name or directory] = Path(directory)
        taken = _take(wanted, directories, rounds=options.rounds, seconds=options.seconds)
    return _tell(taken, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help=f"of {','.join(subjects())}; all otherwise")
    parser.add_argument(
        "--directory", action="append", default=[], metavar="NAME=DIR", help="measured as well"
    )
    parser.add_argument("--rows", default="", help="parts of names of rows, comma separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a timed row, each time")
    parser.add_argument("--relay-ms", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _is_wanted(name: str, parts: str) -> bool:
    return not parts or any(part.strip() in name for part in parts.split(","))


def _put_up(stack: contextlib.ExitStack, only: str, relay_ms: float = 0.0) -> dict[str, Path]:
    """Put the subjects up; where each of them is, by its name in the tables."""
    found = subjects(relay_ms=relay_ms)
    letters = [letter.strip() for letter in only.split(",")] if only else list(found)
    if not only and shutil.which("glusterd") is None:
        print("without GlusterFS: glusterfs-server is not installed", file=sys.stderr)
        letters.remove("gluster")
    directories: dict[str, Path] = {}
    for letter in letters:
        if letter not in found:
            raise SystemExit(f"--only {letter}: it is one of {', '.join(found)}")
        directories |= stack.enter_context(found[letter].open())
        print(f"{', '.join(found[letter].names)}: up", file=sys.stderr, flush=True)
    return directories


# ---- measuring ----


def _measure_here(name: str, directory: str, seconds: str) -> int:
    """Be the process that measures one row once."""
    try:
        print(json.dumps({**FAR_ROWS, **ROWS}[name].measure(Path(directory), float(seconds))))
    except (RowError, OSError, subprocess.SubprocessError) as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _measure(row: Row, directory: Path, seconds: float) -> float:
    """One figure; 0 if the row cannot be measured there: that is a result too."""
    work = directory / "bench"
    command = [sys.executable, __file__, "--measure", row.name, str(work), str(seconds)]
    prepare = f'rm -rf "{work}" && mkdir "{work}" && sync'
    # A row does not pay for what the one before left to be written.
    limit_s = ROW_S + 10 * seconds
    before = run_bounded(["sh", "-c", prepare], limit_s=limit_s, directory=directory)
    if before.code == 0:
        ended = run_bounded(command, limit_s=limit_s, directory=directory)
        after = run_bounded(["rm", "-rf", str(work)], limit_s=limit_s, directory=directory)
        if ended.code == 0 and after.code == 0:
            return float(json.loads(ended.said))
        before = ended
    how = "was given up" if before.code is None else f"ended with {before.code}"
    print(f"{row.name} in {directory} {how}: {before.said.strip()}", file=sys.stderr, flush=True)
    return 0.0


def _take(
    wanted: list[Row], directories: dict[str, Path], *, rounds: int, seconds: float
) -> report.Taken:
    taken: report.Taken = {row.name: {name: [] for name in directories} for row in wanted}
    for row in wanted:
        for _ in range(rounds):
            for name, directory in directories.items():
                taken[row.name][name].append(_measure(row, directory, seconds))
        each = {name: statistics.median(figures) for name, figures in taken[row.name].items()}
        shown = "  ".join(f"{name} {figure:,.0f}" for name, figure in each.items())
        print(f"{row.name:20} {row.unit:9} {shown}", file=sys.stderr, flush=True)
    return taken


def _tell(taken: report.Taken, options: argparse.Namespace) -> int:
    """Print and keep what was found; 1 if it is less than what is asked."""
    found = report.medians(taken)
    lines, judged = report.table(found), report.verdicts(found)
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.2f}"
    print(f"Medians of {options.rounds} rounds; {machine}")
    print(report.as_text(lines))
    if len(judged) > 1:
        print("\n" + report.as_text(judged))
    if options.json:
        whole = {"taken": taken, "medians": found, "machine": machine, "asked": judged}
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    if options.markdown:
        parts = [report.as_markdown(lines)] + ([report.as_markdown(judged)] if judged[1:] else [])
        options.markdown.write_text("\n\n".join([*parts, f"{machine}."]) + "\n")
    if options.svg:
        names = next(iter(found.values()), {})
        base = GLUSTER if GLUSTER in names else PLAIN
        options.svg.write_text(report.as_svg(found, base=base))
    return int(any(line[-1] == "NO" for line in judged))


# ---- a distance ----


@contextlib.contextmanager
def _relay(delay_ms: float, *ports: int) -> Iterator[None]:
    program = [sys.executable, str(ROOT / "benchmarks/relay.py"), str(delay_ms), *map(str, ports)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout is not None:
            process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def _round_trip_us(delay_ms: float, seconds: float) -> float:
    """The median of an echo of 4 KiB through a relay."""
    listen, target = free_ports(2)
    page = bytes(4096)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            signal.alarm(int(seconds) + 30)
            connection, _ = socket.create_server(("127.0.0.1", target)).accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := connection.recv(1 << 16):
                connection.sendall(data)
        os._exit(0)
    try:
        with _relay(delay_ms, listen, target):
            connection = socket.create_connection(("127.0.0.1", listen))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            times, ends = [], time.perf_counter() + seconds
            while (began := time.perf_counter()) < ends:
                connection.sendall(page)
                left = len(page)
                while left:
                    left -= len(connection.recv(left))
                times.append(time.perf_counter() - began)
            return statistics.median(times) * 1e6
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _far(options: argparse.Namespace) -> int:
    """One writer waits for the distance and for nothing else; 64 share it."""
    only = options.only or "link,tls"
    with contextlib.ExitStack() as stack:
        directories = _put_up(stack, only)
        far = _put_up(stack, only, options.relay_ms)
        directories |= {FAR.format(name, options.relay_ms): path for name, path in far.items()}
        taken = _take(
            list(FAR_ROWS.values()), directories, rounds=options.rounds, seconds=options.seconds
        )
    trip_us = _round_trip_us(options.relay_ms, 2.0)
    code = _tell(taken, options)
    found = report.medians(taken)
    print(f"\nround trip through the relay: {trip_us:,.0f} us")
    for name in far:
        there = FAR.format(name, options.relay_ms)
        near, one, many = (found[RANDOM][name], found[RANDOM][there], found[RANDOM_64][there])
        if not (near and one and many):
            return 1
        wanted_us, one_us = trip_us + 1e6 / near, 1e6 / one
        code |= int(one_us > 1.15 * wanted_us or many < 20 * one)
        print(f"{name}: one writer {one_us:,.0f} us a write, round trip + near {wanted_us:,.0f}")
        print(f"  {one_us / wanted_us:.2f} of it (asked: at most 1.15);", end=" ")
        print(f"64 writers {many / one:.1f} times one (asked: at least 20)")
    return code


if __name__ == "__main__":
    sys.exit(main())
