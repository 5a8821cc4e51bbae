"""A pair of real nodes whose volume is mounted: what any program does there is on both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest
import trio

from mirrorha.core.words import Role
from mirrorha.volume.fuse.mount_table import read_mount_table
from tests.cluster.rig import TestNode, open_pair, start_pair, wait_mirrored, wait_until
from tests.requirements import require_device, require_root

if TYPE_CHECKING:
    from pathlib import Path

WRITE: Final = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, sys.argv[2].encode())
"""
READ: Final = "import sys; print(open(sys.argv[1]).read(), end='')"
#: Says each number once it is written; ends at the first error.
WRITE_ON: Final = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
try:
    for number in range(1 << 30):
        os.write(fd, b"%d\\n" % number)
        print(number, flush=True)
except OSError as error:
    print("ended", error.errno, flush=True)
"""


async def python(code: str, *arguments: object, limit_s: float = 10) -> str:
    """Run some Python in a process of its own: what touches a mount can hang."""
    with trio.fail_after(limit_s):
        done = await trio.run_process(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    if done.returncode:
        raise OSError(done.stderr.decode().splitlines()[-1])
    return done.stdout.decode()


def needed() -> None:
    require_root()
    require_device("/dev/fuse")


def mounts_below(path: Path) -> list[str]:
    entries = read_mount_table().entries.values()
    return [each.kind for each in entries if each.mount_point.startswith(str(path))]


def at(node: TestNode, name: str) -> Path:
    return node.site.data(node.name) / name


def worker_pid(node: TestNode) -> int:
    pid = node.cluster.status()["volumes"][0]["worker_pid"]
    assert isinstance(pid, int)
    return pid


async def test_any_programs_write_is_on_both_and_a_stop_shows_plain_directories(
    tmp_path: Path,
) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        assert all(node.cluster.status()["volumes"][0]["mounted"] for node in pair)
        await python(WRITE, at(first, "a"), "one")
        assert await python(READ, at(second, "a")) == "one"
        await python(WRITE, at(first, "a"), " two")
        assert await python(READ, at(second, "a")) == "one two", "always fresh"
        with pytest.raises(OSError, match="Read-only file system"):
            await python(WRITE, at(second, "a"), "!")
        await first.cluster.swap()
        await wait_mirrored(pair)
        assert second.cluster.role is Role.PRIM
        await python(WRITE, at(second, "a"), " three")
        assert await python(READ, at(first, "a")) == "one two three"
        await second.cluster.stop()
        await wait_until(lambda: not mounts_below(second.site.data(second.name)))
        assert second.files() == {"a": b"one two three"}
        await first.cluster.wait_role(Role.ALONE)
        await python(WRITE, at(first, "b"), "alone")
        await second.cluster.start()
        await wait_mirrored(pair)
        assert await python(READ, at(second, "b")) == "alone"
    assert not mounts_below(tmp_path)
    assert first.files() == second.files() == {"a": b"one two three", "b": b"alone"}


async def test_the_file_api_goes_through_the_mount(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        await first.write("a", b"1")
        assert await second.data.read_bytes("a") == b"1"
        assert await python(READ, at(first, "a")) == "1"
        await first.data.mkdir("files")
        assert await second.data.listdir() == ["a", "files"]


async def test_a_killed_worker_hands_over_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        writer = await trio.lowlevel.open_process(
            [sys.executable, "-c", WRITE_ON, str(at(first, "a"))], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        said = b""
        while said.count(b"\n") < 100:
            said += await writer.stdout.receive_some()
        killed = worker_pid(first)
        os.kill(killed, signal.SIGKILL)
        with trio.fail_after(5):  # whoever writes gets an error, and soon
            while data := await writer.stdout.receive_some():
                said += data
        await writer.wait()
        await writer.stdout.aclose()
        acknowledged = [int(line) for line in said.split(b"\n") if line.isdigit()]
        await wait_until(lambda: second.cluster.role in (Role.ALONE, Role.PRIM))
        held = (await python(READ, at(second, "a"))).split()
        assert acknowledged == [int(each) for each in held[: len(acknowledged)]]
        await wait_mirrored(pair)
        assert second.cluster.role is Role.PRIM
        assert worker_pid(first) != killed
        assert [what for what, _ in first.told] == ["start", "stop"]
        assert await python(READ, at(first, "a")) == await python(READ, at(second, "a"))
    assert not mounts_below(tmp_path)
    assert first.files() == second.files()


async def test_a_killed_worker_of_a_second_is_replaced(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        await python(WRITE, at(first, "a"), "one")
        os.kill(worker_pid(second), signal.SIGKILL)
        await first.cluster.wait_role(Role.ALONE)
        await python(WRITE, at(first, "a"), " two")
        await wait_mirrored(pair)
        assert first.cluster.role is Role.PRIM
        assert await python(READ, at(second, "a")) == "one two"


async def test_a_directory_that_somebody_uses_is_waited_for(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = pair
        somebody = await trio.lowlevel.open_process(
            ["sleep", "60"], cwd=second.site.data(second.name)
        )
        try:
            await first.start()
            await second.start()
            await wait_until(lambda: str(somebody.pid) in second.cluster.status()["why"])
            assert second.cluster.role is Role.WAIT
            assert second.cluster.status()["colour"] == "red"
        finally:
            somebody.kill()
            await somebody.wait()
        await wait_mirrored(pair)
