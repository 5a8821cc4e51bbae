"""Two worker processes, each behind its mount."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from mirrorha.core.orders import (
    BecomeTarget,
    CutDone,
    CutOver,
    Follow,
    Freeze,
    Frozen,
    NearlyEqual,
    ServeAlone,
    StartResync,
    StreamDown,
    Trouble,
)
from mirrorha.errors import VolumeError
from mirrorha.volume.local_disk.identity import MARKER_NAME, VolumeIdentity
from tests.worker.process_pair import ProcessPair, open_processes
from tests.worker.worker_pair import tree

WRITE = """
import os, sys
os.chdir(sys.argv[1])
with open("journal", "wb", buffering=0) as file:
    for number in range(100):
        file.write(bytes([number]) * 4096)
    os.fsync(file.fileno())
os.mkdir("sub")
with open("sub/big", "wb") as file:
    file.write(os.urandom(3_000_000))
os.rename("sub/big", "big")
"""
READ = """
import os, sys
os.chdir(sys.argv[1])
print(sorted(os.listdir(".")), os.stat("journal").st_size, open("journal", "rb").read()[4096])
"""


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[ProcessPair]:
    async with open_processes(tmp_path) as opened:
        await opened.start_both()
        yield opened


async def test_a_program_that_knows_nothing_of_us_is_mirrored(pair: ProcessPair) -> None:
    await pair.connect()
    await pair.mirror()
    await pair.paris.run(WRITE)
    assert await pair.paris.run(READ) == "['big', 'journal', 'sub'] 409600 1"
    assert await pair.lyon.run(READ) == "['big', 'journal', 'sub'] 409600 1"
    await pair.stop_both()
    assert tree(pair.paris.root) == tree(pair.lyon.root)
    assert len(tree(pair.paris.root)) == 3


PUT = """
import sys
with open(sys.argv[1] + "/" + sys.argv[2], "r+b" if len(sys.argv) > 4 else "wb") as file:
    file.write(sys.argv[3].encode())
"""
GET = """
import os, sys
print(open(sys.argv[1] + "/" + sys.argv[2]).read(), *sorted(os.listdir(sys.argv[1])))
"""
# Keeps a file open and mapped, so that the kernel has every reason to remember it.
KEEP = """
import mmap, os, sys
fd = os.open(sys.argv[1] + "/" + sys.argv[2], os.O_RDONLY)
held = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
print(os.pread(fd, 100, 0).decode(), held[:].decode(), flush=True)
sys.stdin.readline()
print(os.pread(fd, 100, 0).decode(), held[:].decode(), flush=True)
"""


async def test_roles_change_places_and_the_kernel_shows_nothing_old(pair: ProcessPair) -> None:
    paris, lyon = pair.paris, pair.lyon
    await pair.connect()
    await pair.mirror()
    await paris.run(PUT, "notes", "from paris")
    assert await paris.run(GET, "notes") == "from paris notes"
    with paris.running(KEEP, "notes") as keeper:
        assert await line_of(keeper) == "from paris from paris"
        await pair.mirror("lyon", epoch=2, round_=2)
        await lyon.run(PUT, "notes", "from lyon!", "in place")
        await lyon.run(PUT, "more", "x")
        assert await paris.run(GET, "notes") == "from lyon! more notes"
        assert keeper.stdin is not None
        keeper.stdin.write("\n")
        keeper.stdin.flush()
        assert await line_of(keeper) == "from lyon! from lyon!"
    refused = await paris.run(
        "import errno, sys\n"
        "try: open(sys.argv[1] + '/no', 'w')\n"
        "except OSError as error: print(errno.errorcode[error.errno])"
    )
    assert refused == "EROFS"
    await pair.mirror("paris", epoch=3, round_=3)
    await paris.run(PUT, "notes", "once more", "in place")
    assert (await lyon.run(GET, "notes")).startswith("once more")


async def test_one_that_was_away_is_brought_up_to_date_under_its_mount(pair: ProcessPair) -> None:
    paris, lyon = pair.paris, pair.lyon
    paris.engine.order(ServeAlone(1, "g"))
    await paris.run(WRITE)
    await pair.connect()
    lyon.engine.order(BecomeTarget(1, 5))
    paris.engine.order(StartResync(1, 5, everything=True, seed=3))
    await paris.wait_report(NearlyEqual)
    paris.engine.order(CutOver(9))
    await paris.wait_report(CutDone)
    await pair.mirror(epoch=2)
    await paris.run(PUT, "notes", "after")
    assert await lyon.run(READ) == "['big', 'journal', 'notes', 'sub'] 409600 1"
    await pair.stop_both()
    assert tree(paris.root) == tree(lyon.root)


async def test_when_the_peers_worker_dies_changes_wait_and_are_released(
    pair: ProcessPair,
) -> None:
    paris, lyon = pair.paris, pair.lyon
    await pair.connect()
    await pair.mirror()
    await paris.run(PUT, "notes", "both")
    os.kill(lyon.engine.status.pid or 0, signal.SIGKILL)
    await paris.wait_report(StreamDown)
    trouble = await lyon.wait_report(Trouble)
    assert "killed by SIGKILL" in trouble.text
    with trio.fail_after(5):
        await lyon.ended.wait()
    assert isinstance(lyon.error, VolumeError)
    with paris.running(PUT, "notes", "alone") as writer:
        await trio.sleep(0.5)
        assert writer.poll() is None, "it waits for who decides"
        paris.engine.order(Freeze(4))
        await paris.wait_report(Frozen)
        paris.engine.order(ServeAlone(2, "h"))
        assert await trio.to_thread.run_sync(lambda: writer.wait(10)) == 0
    assert await paris.run(GET, "notes") == "alone notes"


async def test_an_interrupted_write_that_waits_is_not_made(pair: ProcessPair) -> None:
    paris = pair.paris
    paris.engine.order(ServeAlone(1, "g"))
    await paris.run(PUT, "notes", "first")
    paris.engine.order(Freeze(4))
    await paris.wait_report(Frozen)
    # A handler that raises ends the write with EINTR instead of having it tried again.
    code = (
        "import os, signal, sys\n"
        "class Stop(Exception): pass\n"
        "def stop(*_): raise Stop\n"
        "signal.signal(signal.SIGALRM, stop)\n"
        "fd = os.open(sys.argv[1] + '/notes', os.O_WRONLY | os.O_APPEND)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.5)\n"
        "try: print(os.write(fd, b'second'))\n"
        "except Stop: print('interrupted')\n"
    )
    assert await paris.run(code) == "interrupted"
    paris.engine.order(ServeAlone(2, "h"))
    assert await paris.run(GET, "notes") == "first notes"


@pytest.mark.parametrize("sync", ["fsync", "fdatasync"])
async def test_fsync_is_answered_by_both_disks(pair: ProcessPair, sync: str) -> None:
    await pair.connect(plain=True)
    await pair.mirror()
    code = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1] + '/notes', os.O_WRONLY | os.O_CREAT, 0o644)\n"
        "os.write(fd, b'x')\n"
        f"os.{sync}(fd)\n"
        "above = os.open(sys.argv[1], os.O_RDONLY)\n"
        "os.fsync(above)\n"
        "print('durable')\n"
    )
    assert await pair.paris.run(code) == "durable"
    # With its follower frozen nobody says that it is durable there.
    pair.lyon.engine.order(Freeze(5))
    await pair.lyon.wait_report(Frozen)
    with pair.paris.running(code) as syncing:
        await trio.sleep(0.5)
        assert syncing.poll() is None
        pair.lyon.engine.order(Follow(1, "g", 1))
        assert await trio.to_thread.run_sync(lambda: syncing.wait(10)) == 0


async def test_the_directory_carries_its_id_below_the_mount(pair: ProcessPair) -> None:
    await pair.paris.engine.mark("0123456789abcdef")
    assert await pair.paris.run("import os, sys; print(os.listdir(sys.argv[1]))") == "[]"
    await pair.stop("paris")
    assert (pair.paris.root / MARKER_NAME).exists()


async def test_what_may_not_be_used_is_not_mounted(tmp_path: Path) -> None:
    async with open_processes(tmp_path) as pair:
        with pytest.raises(VolumeError, match="not this one"):
            await pair.start("paris", judge=lambda found: f"{found.root}: not this one")
        assert not (tmp_path / "paris" / "state" / "ids.sqlite").exists()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[int]:
    """A process that works in Paris's directory."""
    root = tmp_path / "paris/root"
    root.mkdir(parents=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", "input('in it')"], cwd=root, **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.read(5) == b"in it"
        yield child.pid
        child.kill()


async def test_what_stands_in_the_way_is_said_before_anything_is_looked_at(
    tmp_path: Path, busy: int
) -> None:
    looked: list[VolumeIdentity] = []

    def judge(found: VolumeIdentity) -> str:
        looked.append(found)
        return ""

    async with open_processes(tmp_path) as pair:
        with pytest.raises(VolumeError, match=f"process {busy} .* write past the mount"):
            await pair.start("paris", judge=judge)
    assert looked == []
    assert not (tmp_path / "paris/state/ids.sqlite").exists()


async def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    with trio.fail_after(15):
        await trio.lowlevel.wait_readable(child.stdout)
        return child.stdout.readline().strip()
