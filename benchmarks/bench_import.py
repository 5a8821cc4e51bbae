"""What imports cost: `mirrorha` alone, and with what a program needs to put a node together.

    python benchmarks/bench_import.py

At most 200 ms (median of 20) and 32 MB of memory for each of them. It exits with 1 over budget.
(What must not be loaded is held by `tests/test_public_names.py`.)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Final

RUNS: Final = 20
BUDGET_MS: Final = 200
BUDGET_MB: Final = 32
STATEMENTS: Final = (
    "import mirrorha",
    "from mirrorha import Checker, Cluster, HealthProbe, Replicator",
    "import trio, ssl, h11, msgspec, attrs",  # for comparison: what these are made with
)

# In a fresh interpreter: time only the import, then ask the kernel for the peak memory (VmHWM,
# for ru_maxrss counts the parent's memory from before exec as well).
PROGRAM: Final = """
import time
start = time.perf_counter()
{statement}
spent = time.perf_counter() - start
with open("/proc/self/status") as status:
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print(spent * 1000, peak_kib / 1024)
"""


def measure(statement: str, bytecode: str) -> tuple[float, float]:
    """Import once in a fresh process. Returns milliseconds and MB."""
    # An installation has its bytecode; here it is kept apart, so that it is always there.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    spent_ms, memory_mb = map(float, answer.stdout.split())
    return spent_ms, memory_mb


def main() -> int:
    is_within = True
    print(f"load {os.getloadavg()[0]:.1f}; medians of {RUNS}")
    with tempfile.TemporaryDirectory(prefix="mirrorha-bytecode-") as bytecode:
        for statement in STATEMENTS:
            measure(statement, bytecode)  # writes the bytecode, so that the others do not
            results = [measure(statement, bytecode) for _ in range(RUNS)]
            spent_ms = statistics.median(ms for ms, _ in results)
            memory_mb = statistics.median(mb for _, mb in results)
            print(
                f"{spent_ms:4.0f} ms (budget {BUDGET_MS})  {memory_mb:4.1f} MB "
                f"(budget {BUDGET_MB})  {statement}"
            )
            is_within = is_within and spent_ms <= BUDGET_MS and memory_mb <= BUDGET_MB
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
