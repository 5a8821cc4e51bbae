"""A byte that changes beneath the mount of a SECOND is found, by two worker processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from mirrorha.core.orders import StartVerify, VerifyEnded, VerifyFound
from mirrorha.wire.limits import BLOCK_BYTES
from tests.worker.process_pair import ProcessPair, WorkerNode, open_processes
from tests.worker.worker_pair import tree

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = 40
MAKE = f"""
import os, sys
os.chdir(sys.argv[1])
with open("journal", "wb") as file:
    file.write(bytes(range(1, 129)) * 512 * {BLOCKS})
    file.flush()
    os.fsync(file.fileno())
os.makedirs("deep/er")
open("deep/er/small", "w").write("small")
"""
# Writes on and on, into the file that is compared too, until it is killed.
WRITE = f"""
import os, sys
os.chdir(sys.argv[1])
fd = os.open("journal", os.O_RDWR)
number = 0
print("ready", flush=True)
while True:
    number += 1
    os.pwrite(fd, number.to_bytes(8, "big"), number % 20 * {BLOCK_BYTES} + number % 1000)
    with open(f"deep/{{number % 30}}", "w") as file:
        file.write("x" * (number % 5000))
    if number % 7 == 0:
        os.rename(f"deep/{{number % 30}}", f"deep/er/{{number % 11}}")
"""


def beneath(node: WorkerNode) -> str:
    """The directory itself, under the mounts: by a descriptor that its worker holds."""
    held = f"/proc/{node.engine.status.pid}/fd"
    for each in os.listdir(held):
        place = f"{held}/{each}"
        if os.readlink(place) == str(node.root) and os.path.exists(f"{place}/journal"):
            return place
    raise AssertionError("the worker has no descriptor of the directory")


def flip(path: str, offset: int) -> None:
    before = os.stat(path)
    fd = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte ^ 0xFF]), offset)
    finally:
        os.close(fd)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def compare(pair: ProcessPair, session: int, *, repair: bool) -> VerifyEnded:
    order = StartVerify(session, seed=11, rate_bytes_per_s=0, repair=repair)
    pair.paris.engine.order(order)
    ended: VerifyEnded = await pair.paris.wait_report(VerifyEnded)
    assert (ended.session, ended.why) == (session, "")
    return ended


def found(pair: ProcessPair) -> list[VerifyFound]:
    kept = [each for each in pair.paris.reports if isinstance(each, VerifyFound)]
    pair.paris.reports.clear()
    return kept


async def test_one_byte_beneath_the_mount_is_found_and_repaired_while_a_program_writes(
    tmp_path: Path,
) -> None:
    async with open_processes(tmp_path) as pair:
        await pair.start_both()
        await pair.connect()
        await pair.mirror()
        await pair.paris.run(MAKE)
        with pair.paris.running(WRITE) as program:
            assert program.stdout is not None
            await trio.to_thread.run_sync(program.stdout.readline)
            assert (await compare(pair, 1, repair=False)).differences == 0
            assert found(pair) == []

            flip(f"{beneath(pair.lyon)}/journal", 33 * BLOCK_BYTES + 5)
            assert (await compare(pair, 2, repair=False)).differences == 1
            (seen,) = found(pair)
            assert (seen.path, seen.what) == ("journal", "content")
            assert (seen.offset, seen.length) == (33 * BLOCK_BYTES, BLOCK_BYTES)

            ended = await compare(pair, 3, repair=True)
            assert (ended.differences, ended.repaired) == (1, 1)
            assert (await compare(pair, 4, repair=False)).differences == 0
        await pair.stop_both()
        assert tree(pair.paris.root) == tree(pair.lyon.root)
        assert len(tree(pair.paris.root)) > 4
