"""A pair of real nodes, and what stays on each of them: mounted, and by the file API alone."""

from __future__ import annotations

import errno
from collections.abc import Awaitable
from pathlib import Path
from typing import Final

import pytest

from mirrorha.errors import NotPrimaryError
from mirrorha.testing.check_files import FILE_CASES
from mirrorha.volume.disk import Kind
from tests.cluster.rig import TestNode, open_pair, start_pair, wait_mirrored, wait_until
from tests.cluster.test_mounted import mounts_below
from tests.requirements import require_device, require_root

EXCLUDE: Final = ("tmp/**", "*.lock")
#: Every name there is. A volume of nothing else is refused by its configuration where that is plain
#: to see; here it lets the suite run on what is excluded.
EVERYTHING: Final = ("?*",)


def needed(*, mount: bool) -> None:
    if mount:
        require_root()
        require_device("/dev/fuse")


BOTH: Final = pytest.mark.parametrize("mount", [False, True], ids=["by the API", "mounted"])


async def crosses(call: Awaitable[None]) -> None:
    with pytest.raises(OSError, match="cross-device") as caught:
        await call
    assert caught.value.errno == errno.EXDEV


@BOTH
async def test_what_is_excluded_does_not_say_which_node_begins(tmp_path: Path, mount: bool) -> None:
    needed(mount=mount)
    async with open_pair(tmp_path, mount=mount, exclude=EXCLUDE) as pair:
        for node in pair:
            data = node.site.data(node.name)
            (data / "tmp").mkdir(parents=True)
            (data / "tmp/f").write_text(node.name)
            (data / "x.lock").write_text(node.name)
        first, second = await start_pair(pair)
        assert first.name == "lyon", "nobody has files: the first [[node]] begins"
        await first.write("x", b"mirrored")
        for node in (first, second):
            assert await node.data.read_bytes("x") == b"mirrored"
            assert await node.data.read_bytes("tmp/f") == node.name.encode()
            assert await node.data.read_bytes("x.lock") == node.name.encode()


@BOTH
async def test_what_is_excluded_stays_on_the_node_that_made_it(tmp_path: Path, mount: bool) -> None:
    needed(mount=mount)
    async with open_pair(tmp_path, mount=mount, exclude=EXCLUDE) as pair:
        first, second = await start_pair(pair)
        await first.data.mkdir("tmp/in", parents=True)
        await first.write("tmp/in/f", b"scratch")
        await first.write("x.lock", b"first")
        await first.write("x", b"mirrored")
        await first.data.link("x.lock", "tmp/y")
        async with first.data.open("tmp/in/f", "r+b") as file:
            await file.write(b"SCRATCH")
            await file.fsync()
            await file.truncate(3)
        await first.data.sync("tmp")
        assert await first.data.read_bytes("tmp/in/f") == b"SCR"
        assert await first.data.listdir("tmp") == ["in", "y"]
        assert await first.data.listdir() == ["tmp", "x", "x.lock"]
        await crosses(first.data.rename("x.lock", "y"))
        await crosses(first.data.rename("x", "tmp/x"))
        await crosses(first.data.link("x", "y.lock"))
        await crosses(first.data.rename("tmp", "other"))
        assert await second.data.listdir() == ["tmp", "x"]
        assert await second.data.listdir("tmp") == []
        for name in ("tmp/f", "x.lock"):
            with pytest.raises(NotPrimaryError):
                await second.write(name, b"no")

        await first.cluster.swap()
        assert await wait_mirrored(pair) == (second, first)
        await second.write("x.lock", b"second")
        assert await first.data.read_bytes("x.lock") == b"first"
        with pytest.raises(NotPrimaryError):
            await first.data.unlink("x.lock")
        # A resync neither, whatever both have there.
        await first.cluster.stop()
        raw = first.site.data(first.name)
        await wait_until(lambda: not mounts_below(raw))
        (raw / "tmp/offline").write_bytes(b"offline")
        (raw / "offline").write_bytes(b"mirrored, and lost")
        await second.data.unlink("x")
        await first.cluster.start()
        assert await wait_mirrored(pair) == (second, first)
        assert await first.data.listdir("tmp") == ["in", "offline", "y"]
        assert await first.data.read_bytes("tmp/offline") == b"offline"
        assert await first.data.listdir() == ["tmp", "x.lock"]
        assert await second.data.listdir("tmp") == []


@BOTH
async def test_a_replacement_is_on_the_side_of_what_it_replaces(
    tmp_path: Path, mount: bool
) -> None:
    """Whatever the patterns say of the name that it has until then."""
    needed(mount=mount)
    async with open_pair(tmp_path, mount=mount, exclude=("*.tmp", "*.lock", ".*")) as pair:
        first, second = await start_pair(pair)
        for name in ("a", "a.b", "x.lock"):
            await first.data.replace_atomically(name, name.encode())
            assert await first.data.read_bytes(name) == name.encode()
        assert await first.data.listdir() == ["a", "a.b", "x.lock"]
        assert await second.data.listdir() == ["a", "a.b"]


@BOTH
async def test_excluded_files_are_like_all_others_to_who_uses_them(
    tmp_path: Path, mount: bool
) -> None:
    needed(mount=mount)
    async with open_pair(tmp_path, mount=mount, exclude=EVERYTHING) as pair:
        first, second = await start_pair(pair)
        for case in FILE_CASES:
            await case(first.data)
            assert await first.data.exists("."), case.__name__
            assert await second.data.listdir() == [], case.__name__
            for name in await first.data.listdir():
                await remove(first, name)


async def remove(node: TestNode, path: str) -> None:
    if (await node.data.stat(path, follow_symlinks=False)).kind is not Kind.DIRECTORY:
        await node.data.unlink(path)
        return
    for name in await node.data.listdir(path):
        await remove(node, f"{path}/{name}")
    await node.data.rmdir(path)


async def test_patterns_that_differ_keep_the_nodes_apart(tmp_path: Path) -> None:
    async with open_pair(tmp_path, exclude=EXCLUDE) as pair:
        paris = pair[1]
        paris.exclude = ("tmp/**",)
        paris.make()
        for node in pair:
            await node.start()
        await wait_until(lambda: "exclude" in str(paris.cluster.status()))
        assert '"*.lock", "tmp/**" in' in str(paris.cluster.status())


async def test_a_changed_pattern_is_carried_out_from_the_next_start_on(tmp_path: Path) -> None:
    async with open_pair(tmp_path, exclude=("*.lock",)) as pair:
        first, second = await start_pair(pair)
        await first.data.mkdir("tmp")
        for name in ("tmp/a", "tmp/b"):
            await first.write(name, b"mirrored")
        await first.write("x.lock", b"first")

        async def change(*patterns: str) -> None:
            for node in (second, first):
                await node.cluster.stop()
                await node.end()
                node.exclude = patterns
                node.make()
            for node in (first, second):
                await node.start()
            await wait_mirrored(pair)

        await change("*.lock", "tmp/**")
        primary, other = await wait_mirrored(pair)
        await primary.write("tmp/a", b"here only")
        await primary.data.unlink("tmp/b")
        assert await other.data.listdir("tmp") == ["a", "b"]
        assert await other.data.read_bytes("tmp/a") == b"mirrored"
        await change("*.pid")
        primary, other = await wait_mirrored(pair)
        assert primary.files() == other.files()
        assert "tmp/a" in primary.files()
