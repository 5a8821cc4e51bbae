"""A pair of real nodes whose volume is mounted: what any program does there is on both."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from mirrorha.cluster.settings import VolumeName, Wish, volume_names
from mirrorha.cluster.workers import choose
from mirrorha.config import ServiceConfig, VolumeConfig
from mirrorha.core.orders import StopReason, Trouble
from mirrorha.core.words import Ack, Role
from mirrorha.errors import CommandRefusedError, StateError
from mirrorha.mount_table import read_mount_table
from mirrorha.testing.check_files import FILE_CASES
from mirrorha.volume.fuse.mount_calls import MS_RDONLY, detach, mount_file_system
from mirrorha.volume.fuse.mounting import source_of
from mirrorha.volume.fuse.obstacles import Machine
from mirrorha.volume.local_disk.identity import MARKER_NAME
from tests.cluster.rig import Site, TestNode, open_pair, start_pair, wait_mirrored, wait_until
from tests.requirements import require_device, require_root

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

#: Stores through a shared mapping, and is gone without msync: the kernel writes it when it likes.
STORE: Final = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
shared = mmap.mmap(fd, 0)
shared[:5] = sys.argv[2].encode()
os._exit(0)
"""

EMPTY: Final = """
import os, shutil, sys
for each in os.scandir(sys.argv[1]):
    shutil.rmtree(each) if each.is_dir(follow_symlinks=False) else os.unlink(each)
"""
TREE: Final = """
import os, sys
for at, directories, files in sorted(os.walk(sys.argv[1])):
    directories.sort()
    for name in sorted([*files, *directories]):
        path = os.path.join(at, name)
        is_file = os.path.isfile(path) and not os.path.islink(path)
        seen = os.lstat(path)
        content = hash(open(path, "rb").read()) if is_file else ""
        print(os.path.relpath(path, sys.argv[1]), seen.st_mode, seen.st_mtime_ns, content)
"""


async def python(code: str, *arguments: object, limit_s: float = 10) -> str:
    """Run some Python in a process of its own: what touches a mount can hang."""
    with trio.fail_after(limit_s):
        done = await trio.run_process(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": "0"},
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


async def test_the_file_api_of_a_mounted_volume_is_that_of_every_volume(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        for case in FILE_CASES:
            await case(first.data)
            assert await python(TREE, first.site.data(first.name)) == await python(
                TREE, second.site.data(second.name)
            ), case.__name__
            await python(EMPTY, first.site.data(first.name))


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


async def test_a_worker_that_says_it_is_of_no_use_is_replaced(tmp_path: Path) -> None:
    """It held its callers for too long, say, while this process was stopped."""
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        before = worker_pid(first)
        volumes = first.cluster._runtime.parts.volumes
        volumes._report(volumes.names[0].name, Trouble(StopReason.NOT_DRIVEN, "held for too long"))
        await wait_until(lambda: second.is_serving)
        assert await wait_mirrored(pair) == (second, first)
        assert worker_pid(first) != before


async def test_the_only_copy_serves_again_once_its_worker_is_replaced(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        await second.cluster.stop()
        await first.cluster.wait_role(Role.ALONE)
        await python(WRITE, at(first, "a"), "one")
        os.kill(worker_pid(first), signal.SIGKILL)
        await first.cluster.wait_role(Role.WAIT)
        await first.cluster.wait_role(Role.ALONE)
        await wait_until(lambda: first.is_serving)
        await python(WRITE, at(first, "a"), " two")
        assert await python(READ, at(first, "a")) == "one two"


async def test_a_node_that_is_stopped_after_its_worker_ended_starts_well(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        os.kill(worker_pid(second), signal.SIGKILL)
        await second.cluster.wait_role(Role.WAIT)
        await second.cluster.stop()
        await second.cluster.start()
        assert await wait_mirrored(pair) == (first, second)


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


async def test_a_cover_over_what_cannot_be_opened_is_told_of(tmp_path: Path) -> None:
    """As a crash leaves it; and here, somebody put another disk beneath it."""
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        for node in pair:
            data = node.site.data(node.name)
            marker = data / MARKER_NAME
            marker.write_text('{"schema": 1, "volume": "somebody-elses"}')
            source = source_of(str(node.site.data("lyon")))
            mount_file_system(source, str(data), "tmpfs", flags=MS_RDONLY, options="size=4k")
        try:
            for node in pair:
                await node.start()
                await wait_until(
                    lambda node=node: (
                        f"umount '{node.site.data(node.name)}'" in node.cluster.status()["why"]
                    )
                )
                why = node.cluster.status()["why"]
                assert "carries the id of a volume" in why
                assert "EROFS" in why
                assert mounts_below(tmp_path / node.name) == ["tmpfs"]
        finally:
            for node in pair:
                data = node.site.data(node.name)
                detach(str(data))
                (data / MARKER_NAME).unlink()
        await wait_mirrored(pair)


@pytest.mark.parametrize("how", ["swap", "stop"])
async def test_what_a_service_stored_in_a_mapping_is_on_both_when_it_was_stopped(
    tmp_path: Path, how: str
) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        await python(WRITE, at(first, "a"), "." * 10_000)
        await python(STORE, at(first, "a"), "first")
        if how == "swap":
            await first.cluster.swap()
            await wait_mirrored(pair)
        else:
            await first.cluster.stop()
            await second.cluster.wait_role(Role.ALONE)
        assert (await python(READ, at(second, "a")))[:5] == "first"


async def test_a_node_that_stops_alone_keeps_what_was_stored_in_a_mapping(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        await second.cluster.stop()
        await first.cluster.wait_role(Role.ALONE)
        await python(WRITE, at(first, "a"), "." * 10_000)
        await python(STORE, at(first, "a"), "alone")
        await first.cluster.stop()
        await wait_until(lambda: not mounts_below(first.site.data(first.name)))
        assert first.files()["a"][:5] == b"alone"


async def test_several_volumes_mounted_or_not_move_together(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path) as pair:
        mounted = {node.name: tmp_path / node.name / "mounted" for node in pair}
        for node in pair:
            mounted[node.name].mkdir(parents=True)
            node.cluster.replicate(
                str(mounted[node.name]), peer_path=str(mounted[node.other]), mount=True
            )
        first, second = await start_pair(pair)
        assert [v["mounted"] for v in first.cluster.status()["volumes"]] == [False, True]
        await first.write("a", b"1")
        await python(WRITE, mounted[first.name] / "b", "2")
        pid = first.cluster.status()["volumes"][1]["worker_pid"]
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: second.cluster.role in (Role.ALONE, Role.PRIM))
        await wait_until(lambda: second.is_serving)
        await second.write("a2", b"3")
        await python(WRITE, mounted[second.name] / "b", "4")
        await wait_mirrored(pair)
        assert first.files() == second.files() == {"a": b"1", "a2": b"3"}
        assert await python(READ, mounted[first.name] / "b") == "24"
    assert not mounts_below(tmp_path)


async def test_a_node_that_must_not_go_on_leaves_no_worker_and_no_mount(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await start_pair(pair)
        worker = worker_pid(first)

        def full(path: Path, raw: bytes) -> None:
            raise OSError(errno.EIO, "I/O error")

        first.cluster._runtime._store._write = full
        with pytest.raises(CommandRefusedError):
            await first.cluster.pause()  # has to be written down
        await first.ended.wait()
        assert isinstance(first.error, StateError)
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
        assert not mounts_below(first.site.data(first.name))
        await wait_until(lambda: second.is_serving)
        await python(WRITE, at(second, "a"), "1")


def test_what_is_mounted_is_chosen_by_what_was_said_and_what_this_machine_can(
    tmp_path: Path,
) -> None:
    lacking = Machine(device=tmp_path / "no-fuse")
    name = VolumeName(name="v", path="/srv/v", ack=Ack.APPLIED)
    for wish, is_mounted in ((Wish.NEVER, False), (Wish.IF_POSSIBLE, False), (Wish.ALWAYS, True)):
        found = choose(attrs.evolve(name, mount=wish), machine=lacking)
        assert found[0] is is_mounted, wish
        assert ("NOT mirrored" in found[1]) is (wish is Wish.IF_POSSIBLE)
    config = Site(tmp_path).config(
        "lyon", volumes=[VolumeConfig(path="/srv/v", peer_path="/srv/w")]
    )
    assert volume_names(config)[0].mount is Wish.IF_POSSIBLE
    commands = ServiceConfig(start=["/bin/true"], stop=["/bin/true"])
    assert volume_names(attrs.evolve(config, service=commands))[0].mount is Wish.ALWAYS
    for said, wish in ((True, Wish.ALWAYS), (False, Wish.NEVER)):
        volumes = [VolumeConfig(path="/srv/v", peer_path="/srv/w", mount=said)]
        assert volume_names(attrs.evolve(config, volumes=volumes))[0].mount is wish
