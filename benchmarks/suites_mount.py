"""Suites that others wrote, on a mounted directory while it is mirrored, beside a plain one.

    python benchmarks/suites_mount.py [--suite cpython] [--short] [--directory DIR]

Each suite runs in a plain directory first: only what goes well there, and not on the mount, counts
(also what was tried there, and not on the mount). Afterwards the processes of the nodes must be the
same, and both copies equal. Needs root, /dev/fuse, and Debian's fio, stress-ng and
libpython3.11-testsuite. In full about a quarter of an hour. With --directory nothing is mirrored:
the suites run there instead. Ends with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.suites.on_mount import SUITES, mirrored_mount, try_suite


@contextlib.contextmanager
def subject(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="mirrorha-suites-") as root:
        Path(root).chmod(0o755)
        with mirrored_mount(Path(root)) as mounted:
            yield mounted


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suite", choices=sorted(SUITES), action="append")
    parser.add_argument("--short", action="store_true", help="a part of each: a minute")
    parser.add_argument("--directory", type=Path, help="an empty one, to be tried instead")
    parser.add_argument("--faults", type=int, default=25, help="how many of a suite to tell")
    options = parser.parse_args()
    wrong = 0
    with subject(options.directory) as directory:
        for name in options.suite or SUITES:
            tried = try_suite(name, directory, short=options.short)
            wrong += len(tried.faults)
            print(
                f"{name}: {len(tried.subject.passed)} passed (plain directory: "
                f"{len(tried.plain.passed)} passed, {len(tried.plain.failed)} failed), "
                f"{len(tried.faults)} faults, {tried.took_s:.0f} s, load {os.getloadavg()[0]:.2f}",
                flush=True,
            )
            for fault in tried.faults[: options.faults]:
                print(f"  {fault}", flush=True)
            if tried.plain.failed:
                print(
                    f"  failed in the plain directory too: {', '.join(sorted(tried.plain.failed))}"
                )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
