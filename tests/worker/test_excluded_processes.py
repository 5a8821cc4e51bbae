"""Two worker processes behind their mounts, and what stays on each of them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from mirrorha.core.orders import Close, Freeze, Frozen
from mirrorha.volume.names import KEPT_NAME
from tests.worker.process_pair import ProcessPair, WorkerNode, open_processes
from tests.worker.worker_pair import tree

EXCLUDE: Final = ("tmp/**", "*.lock", "a/cache/**")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[ProcessPair]:
    async with open_processes(tmp_path) as opened:
        await opened.start_both(exclude=EXCLUDE)
        await opened.connect()
        await opened.mirror()
        yield opened


#: Prints what comes of each line: its value, or its errno. `at` is the mount.
TRY: Final = """
import ctypes, errno, fcntl, json, mmap, os, stat, sys
os.chdir(sys.argv[1])

def put(path, text):
    with open(path, "w") as file:
        file.write(text)

def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)

def copy(source, target, size):
    one, other = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_CREAT)
    return os.copy_file_range(one, other, size)

def shared(path, text):
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as mapped:
        mapped[: len(text)] = text
        mapped.flush()

def exchange(one, other):
    if ctypes.CDLL(None, use_errno=True).renameat2(-100, one.encode(), -100, other.encode(), 2):
        raise OSError(ctypes.get_errno(), "")

def get(path):
    with open(path) as file:
        return file.read()

results = []
for line in sys.argv[2:]:
    try:
        value = eval(line)
        results.append(value if value.__class__ in (int, str, list) else None)
    except OSError as error:
        results.append(errno.errorcode[error.errno])
print(json.dumps(results))
"""


async def tried(node: WorkerNode, *lines: str) -> list[Any]:
    return list(json.loads(await node.run(TRY, *lines)))


async def fine(node: WorkerNode, *lines: str) -> list[Any]:
    results = await tried(node, *lines)
    wrong = {
        line: result
        for line, result in zip(lines, results, strict=True)
        if isinstance(result, str) and result.startswith("E")
    }
    assert wrong == {}
    return results


async def test_a_service_keeps_its_scratch_files_to_itself(pair: ProcessPair) -> None:
    await fine(
        pair.paris,
        "os.mkdir('tmp')",
        "os.mkdir('data')",
        "put('data/x.lock', 'pid')",
        "put('data/x', 'x')",
        "os.makedirs('tmp/in/deep')",
        "put('tmp/in/deep/f', 'f' * 3_000_000)",
        "sync('tmp/in/deep/f')",
        "os.symlink('f', 'tmp/in/deep/s')",
        "os.mkfifo('tmp/fifo')",
        "os.link('data/x.lock', 'y.lock')",
        "copy('tmp/in/deep/f', 'data/copy', 1000)",
        "copy('data/x', 'tmp/copy', 1)",
        "shared('tmp/in/deep/f', b'mapped')",
        "os.truncate('tmp/in/deep/f', 100)",
        "os.setxattr('tmp/in/deep/f', 'user.a', b'b')",
        "os.chmod('data/x.lock', 0o600)",
        "os.rename('tmp/in/deep', 'tmp/deep')",
        "os.posix_fallocate(os.open('tmp/room', os.O_RDWR | os.O_CREAT), 0, 8192)",
    )
    seen = await fine(
        pair.paris,
        "sorted(os.listdir('tmp'))",
        "sorted(os.listdir('data'))",
        "get('tmp/deep/f')[:10]",
        "os.stat('y.lock').st_nlink",
        "stat.S_IMODE(os.stat('y.lock').st_mode)",
        "os.stat('tmp/room').st_size",
        "len({entry.inode() for entry in os.scandir('tmp')})",
        "int(all(entry.inode() == entry.stat(follow_symlinks=False).st_ino"
        " for entry in os.scandir('tmp')))",
    )
    assert seen == [
        ["copy", "deep", "fifo", "in", "room"],
        ["copy", "x", "x.lock"],
        "mappedffff",
        2,
        0o600,
        8192,
        5,
        1,
    ]
    assert await tried(pair.lyon, "sorted(os.listdir('tmp'))", "sorted(os.listdir('data'))") == [
        [],
        ["copy", "x"],
    ]
    await pair.stop_both()
    assert sorted(os.listdir(pair.lyon.root)) == ["data", "tmp"]
    for name in ("tmp", "data"):
        one, other = (node.root / name for node in (pair.paris, pair.lyon))
        assert one.stat().st_mtime_ns == other.stat().st_mtime_ns


#: A service as there are many: locks that come and go, scratch files, and what it is all about.
SERVE: Final = """
import fcntl, os, sys, threading
os.chdir(sys.argv[1])

def serve(number):
    journal = os.open(f"data/journal{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for turn in range(100):
        lock = os.open(f"data/{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        scratch = f"tmp/{number}/{turn}"
        with open(scratch, "wb") as file:
            file.write(os.urandom(20_000))
        with open(scratch, "rb") as file:
            content = file.read()
        os.write(journal, content[:3_000])
        with open(f"data/new{number}", "wb") as file:
            file.write(content)
        os.rename(f"data/new{number}", f"data/{number}")
        if turn % 3:
            os.unlink(scratch)
        if turn % 10:
            os.unlink(f"data/{number}.lock")
        os.close(lock)
    os.fsync(journal)

os.mkdir("tmp")
os.mkdir("data")
for number in range(4):
    os.mkdir(f"tmp/{number}")
threads = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(sum(os.path.exists(f"data/journal{number}") for number in range(4)))
"""


async def test_what_a_busy_service_mirrors_is_the_same_on_both(pair: ProcessPair) -> None:
    assert await pair.paris.run(SERVE, timeout_s=60) == "4"
    await pair.stop_both()
    one, other = (
        {path: content for path, content in tree(node.root).items() if ".lock" not in path}
        for node in (pair.paris, pair.lyon)
    )
    scratch = {path for path in one if path.startswith("tmp/")}
    assert len([path for path in scratch if path.count("/") == 2]) == 4 * 34
    assert {path: content for path, content in one.items() if path not in scratch} == other
    assert len([path for path in other if path.startswith("data/journal")]) == 4


async def test_nothing_crosses_the_border_and_mv_copies(pair: ProcessPair) -> None:
    await fine(
        pair.paris,
        "os.makedirs('tmp/in')",
        "os.makedirs('a/b')",
        "put('x.lock', 'lock')",
        "put('f', 'f')",
        "put('tmp/f', 'tmp')",
        "os.mkdir('d')",
    )
    crossing = [
        "os.rename('x.lock', 'x')",
        "os.rename('f', 'f.lock')",
        "os.rename('f', 'tmp/f')",
        "os.rename('tmp/in', 'in')",
        "os.rename('a', 'tmp/a')",
        "exchange('f', 'tmp/f')",
        "os.link('f', 'f.lock')",
        "os.link('x.lock', 'l')",
        "os.rename('a', 'b')",
        "os.rename('d', 'a/cache')",
    ]
    assert await tried(pair.paris, *crossing) == ["EXDEV"] * len(crossing)
    await fine(pair.paris, "os.rename('a/b', 'b')", "os.rename('d', 'e')", "exchange('b', 'e')")
    moves = ["mv x.lock x", "mv f tmp/g", "mv a tmp/a"]
    await fine(pair.paris, *(f"os.system('{move}') and os.rename('', '')" for move in moves))
    assert await tried(pair.paris, "sorted(os.listdir('.'))", "get('x')") == [
        ["b", "e", "tmp", "x"],
        "lock",
    ]
    assert await tried(pair.lyon, "sorted(os.listdir('.'))", "get('x')", "os.listdir('tmp')") == [
        ["b", "e", "tmp", "x"],
        "lock",
        [],
    ]


async def test_each_node_has_its_own_and_only_who_serves_writes(pair: ProcessPair) -> None:
    await fine(pair.paris, "os.mkdir('tmp')", "put('tmp/who', 'paris')", "put('f.lock', 'paris')")
    refused = ["put('tmp/who', 'x')", "put('g.lock', 'x')", "os.mkdir('tmp/d')"]
    assert await tried(pair.lyon, *refused) == ["EROFS"] * 3
    await pair.mirror("lyon", epoch=2, round_=2)
    assert await tried(pair.lyon, "os.listdir('tmp')") == [[]]
    await fine(pair.lyon, "put('tmp/who', 'lyon')", "put('tmp/more', 'lyon')")
    # Visible and readable where nobody writes, and no change of mirrored files disturbs it.
    await fine(pair.lyon, "put('tmp.lock', 'lyon')", "put('f', 'f')")
    assert await tried(
        pair.paris, "get('tmp/who')", "get('f.lock')", "os.listdir('tmp')", "get('f')"
    ) == ["paris", "paris", ["who"], "f"]
    refused.append("os.unlink('f.lock')")
    assert await tried(pair.paris, *refused) == ["EROFS"] * 4


async def test_a_directory_that_is_removed_there_is_removed_here(pair: ProcessPair) -> None:
    await fine(pair.paris, "os.makedirs('d/e')", "put('d/e/x.lock', 'paris')")
    assert await tried(pair.paris, "os.rmdir('d/e')") == ["ENOTEMPTY"]
    await pair.mirror("lyon", epoch=2, round_=2)
    await fine(pair.lyon, "os.rmdir('d/e')", "os.mkdir('d/g')", "os.rename('d/g', 'd/e')")
    assert await tried(pair.paris, "os.listdir('d')", "os.listdir('.')", "os.listdir('d/e')") == [
        ["e"],
        ["d"],
        [],
    ]
    await pair.stop("paris")
    assert (pair.paris.root / KEPT_NAME / "1/x.lock").read_text() == "paris"


async def test_what_stays_here_goes_on_while_changes_are_held(pair: ProcessPair) -> None:
    await fine(pair.paris, "os.mkdir('tmp')", "put('f', 'f')")
    pair.paris.engine.order(Freeze(1))
    await pair.paris.wait_report(Frozen)
    with pair.paris.running(TRY, "os.truncate('f', 0)") as waiting:
        with trio.fail_after(10):
            await fine(pair.paris, "put('tmp/x', 'x')", "sync('tmp/x')", "put('x.lock', 'x')")
        await trio.sleep(0.2)  # else it may only not have come to it yet
        assert waiting.poll() is None
        pair.paris.engine.order(Close(why="over", primary="lyon"))
        with trio.fail_after(10):
            assert await tried(pair.paris, "put('tmp/x', 'y')", "get('tmp/x')") == ["EROFS", "x"]


async def test_an_open_file_outlives_its_name(pair: ProcessPair) -> None:
    await fine(
        pair.paris,
        "put('x.lock', 'x')",
        "globals().update(fd=os.open('x.lock', os.O_RDWR))",
        "os.unlink('x.lock')",
        "os.write(fd, b'after')",
        "os.fsync(fd)",
        "os.pread(fd, 9, 0).decode()",
        "put('x.lock', 'another')",
        "os.ftruncate(fd, 2)",
    )
    assert await tried(pair.paris, "get('x.lock')") == ["another"]


async def test_what_was_excluded_survives_a_restart(pair: ProcessPair) -> None:
    await fine(pair.paris, "os.makedirs('tmp/in')", "put('tmp/in/f', 'f')", "put('f', 'mirrored')")
    await pair.stop("paris")
    await pair.start("paris", exclude=EXCLUDE)
    assert await tried(pair.paris, "get('tmp/in/f')", "get('f')") == ["f", "mirrored"]
