"""How fast a node that was away is brought up to date, beside rsync and GlusterFS, in one run.

    python benchmarks/bench_recovery.py [--mib 4096] [--rounds 3] [--share 0.01]
                                        [--only mirrorha,rsync,gluster] [--link plain]

A directory of large and small files; one copy goes away (a clean stop, kill -9 of either node, kill
-9 of both), 1 % of the blocks change, half of them evenly over the large files, half whole small
files; it comes back. Timed from its start until both mirror again, with no file in memory. Asked:
at most 1.2 times the changed blocks and the touched segments' hashes on the wire; at least five
times as fast as `rsync -a --inplace` and as GlusterFS's own heal. It exits with 1 otherwise. Both
copies are read and compared at the end. Needs root, /dev/fuse, and Debian's rsync and
glusterfs-server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.mixed_tree import BLOCK_BYTES, MIB, SEGMENT_BYTES, Changed, MixedTree
from benchmarks.recovery_subjects import (
    CASES,
    OurPair,
    Recovered,
    Subject,
    open_healing,
    open_ours,
    open_rsync,
)

FASTER_MIN: Final = 5.0
SENT_MAX: Final = 1.2
HASH_BYTES: Final = 16
#: Certificates, hellos and what is said of each of the files.
SAID_BYTES: Final = 64 << 10

Found = dict[tuple[str, str], list[Recovered]]


def allowed_bytes(changed: Changed) -> float:
    """What may be on the wire for it."""
    hashes = changed.segments * SEGMENT_BYTES // BLOCK_BYTES * HASH_BYTES
    return SENT_MAX * changed.content_bytes + hashes + SAID_BYTES


def measure(subjects: list[Subject], *, rounds: int, share: float) -> Found:
    """Every case of every subject in turn, so that a machine that drifts treats them alike."""
    found: Found = {}
    for number in range(rounds):
        for at, case in enumerate(CASES):
            for subject in subjects:
                if at and not isinstance(subject, OurPair):
                    continue  # to them the cases are the same
                seed = number * len(CASES) + at
                recovered = subject.recover(case, share, seed)
                found.setdefault((subject.name, case), []).append(recovered)
                print(
                    f"load {os.getloadavg()[0]:.1f} {subject.name}, {case}: "
                    f"{recovered.took_s:.2f} s, {recovered.wire_bytes / MIB:.2f} MiB on the wire "
                    f"for {recovered.changed.content_bytes / MIB:.2f} changed in "
                    f"{recovered.changed.segments} segments",
                    flush=True,
                )
    return found


def judge(found: Found) -> bool:
    """Print the medians beside what is asked. Returns whether all is met."""
    medians = {
        key: statistics.median(each.took_s for each in rounds) for key, rounds in found.items()
    }
    is_met = True
    for (name, case), rounds in found.items():
        if name != OurPair.name:
            print(f"{name}: {medians[name, case]:.2f} s")
            continue
        shares = [each.wire_bytes / allowed_bytes(each.changed) for each in rounds]
        faster = {
            other: took_s / medians[name, case]
            for (other, _), took_s in medians.items()
            if other != OurPair.name
        }
        told = ", ".join(f"{times:.1f} times as fast as {other}" for other, times in faster.items())
        print(
            f"{name}, {case}: {medians[name, case]:.2f} s; {max(shares):.2f} of the bytes that it "
            f"may send{'; ' if told else ''}{told}"
        )
        is_met &= max(shares) <= 1 and min(faster.values(), default=FASTER_MIN) >= FASTER_MIN
    return is_met


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--only", default="mirrorha,rsync,gluster")
    parser.add_argument("--link", choices=("tls", "plain"), default="tls")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tree = MixedTree.of(options.mib)
    files = len(tree.large) + len(tree.small)
    print(f"{files:,} files, {tree.total_bytes / MIB:,.0f} MiB", flush=True)
    with contextlib.ExitStack() as stack:
        subjects: list[Subject] = []
        ours = None
        if "mirrorha" in options.only:
            ours, filled_s = stack.enter_context(open_ours(tree, link=options.link))
            print(f"filled from nothing in {filled_s:.1f} s", flush=True)
            subjects.append(ours)
        if "rsync" in options.only:
            subjects.append(stack.enter_context(open_rsync(tree)))
        if "gluster" in options.only:
            subjects.append(stack.enter_context(open_healing(tree)))
        found = measure(subjects, rounds=options.rounds, share=options.share)
        if ours is not None:
            ours.ensure_equal()
            print("both copies are equal")
    return 0 if judge(found) else 1


if __name__ == "__main__":
    sys.exit(main())
