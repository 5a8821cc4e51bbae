"""What `import mirrorha` costs: at most 200 ms (median of 20) and 32 MB of memory.

Run it on a quiet machine: `python benchmarks/bench_import.py`. It exits with 1 over budget.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Final

RUNS: Final = 20
BUDGET_MS: Final = 200
BUDGET_MB: Final = 32

# In a fresh interpreter: time only the import, then ask the kernel for the peak memory (VmHWM,
# for ru_maxrss counts the parent's memory from before exec as well).
PROGRAM: Final = """
import time
start = time.perf_counter()
import mirrorha
spent = time.perf_counter() - start
with open("/proc/self/status") as status:
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print(spent * 1000, peak_kib / 1024)
"""


def measure() -> tuple[float, float]:
    """Import once in a fresh process. Returns milliseconds and MB."""
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60
    )
    spent_ms, memory_mb = map(float, answer.stdout.split())
    return spent_ms, memory_mb


def main() -> int:
    measure()  # writes the bytecode, so that the others do not pay for it
    results = [measure() for _ in range(RUNS)]
    spent_ms = statistics.median(ms for ms, _ in results)
    memory_mb = statistics.median(mb for _, mb in results)
    print(f"import mirrorha: {spent_ms:.0f} ms (budget {BUDGET_MS}), {memory_mb:.1f} MB", end=" ")
    print(f"(budget {BUDGET_MB}), median of {RUNS}")
    return 0 if spent_ms <= BUDGET_MS and memory_mb <= BUDGET_MB else 1


if __name__ == "__main__":
    sys.exit(main())
