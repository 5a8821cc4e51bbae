"""A node that begins with a copy that came by other means: only what differs is sent to it."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from mirrorha.core.words import Role
from mirrorha.volume.names import MARKER_NAME
from mirrorha.wire.limits import BLOCK_BYTES
from tests.cluster.rig import TestNode, open_pair, wait_mirrored, wait_until

if TYPE_CHECKING:
    from pathlib import Path

LARGE = b"".join(number.to_bytes(8, "big") for number in range(1 << 19))  # 4 MiB
FILES = 30


async def begin_alone(node: TestNode) -> None:
    """A cluster of which only this node is there yet, and its service's files."""
    await node.start()
    await node.cluster.init()
    await node.cluster.wait_role(Role.ALONE)
    await node.write("large", LARGE)
    for number in range(FILES):
        await node.write(f"small-{number}", b"%d" % number * 1000)


def copy(source: Path, target: Path) -> None:
    """As a backup does that is made while the service goes on."""
    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)


async def sent_to(first: TestNode, second: TestNode) -> tuple[int, int]:
    """Have the second node filled. Returns how much was sent, and compared."""
    await second.cluster.accept()
    await wait_mirrored((first, second))
    events = await first.cluster.history()
    text = next(each.text for each in events if each.rule == "resynchronised")
    sent, compared = re.findall(r"\d+", text)[:2]
    return int(sent), int(compared)


@pytest.mark.parametrize("is_old", [False, True])
async def test_what_a_copy_holds_is_not_sent(tmp_path: Path, is_old: bool) -> None:
    async with open_pair(tmp_path) as (first, second):
        await begin_alone(first)
        here, there = first.site.data(first.name), second.site.data(second.name)
        copy(here, there)
        (there / MARKER_NAME).unlink()
        if is_old:  # the service goes on while the disk is on its way
            async with first.data.open("large", "r+b") as file:
                await file.seek(5 * BLOCK_BYTES + 17)
                await file.write(b"changed")
            await first.write("new", b"n" * 700)
            await first.data.unlink("small-1")
            await first.write("small-2", b"another")
        before = {path.name for path in there.iterdir()}
        await second.start()
        await wait_until(lambda: "holds files" in second.cluster.status()["why"])
        assert {path.name for path in there.iterdir()} == before, "nobody has said that it may"
        sent, compared = await sent_to(first, second)
        assert first.files() == second.files()
        assert compared >= len(LARGE)
        assert sent == (BLOCK_BYTES + 700 + len(b"another") if is_old else 0)


async def test_a_copy_that_carries_the_volumes_id_says_what_to_remove(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (first, second):
        await begin_alone(first)
        copy(first.site.data(first.name), second.site.data(second.name))
        await second.start()
        await wait_until(lambda: f"remove {MARKER_NAME}" in second.cluster.status()["why"])
        (second.site.data(second.name) / MARKER_NAME).unlink()
        await wait_until(lambda: "holds files" in second.cluster.status()["why"])
        assert (await sent_to(first, second))[0] == 0
