"""What is changed in the directory of a node that is stopped, and what becomes of it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mirrorha.core.words import Role
from mirrorha.volume.local_disk.missing import MissingNote
from mirrorha.volume.local_disk.stamp import decode, encode
from mirrorha.volume.offline import Stamp
from mirrorha.volume.ops import ROOT_FID
from mirrorha.volume.touched import NAMES, tail
from tests.cluster.rig import TestNode, open_pair, start_pair, wait_mirrored, wait_until
from tests.cluster.test_mounted import READ, mounts_below, needed, python
from tests.volume.offline_node import hide_the_write

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorha.volume.touched import TouchKey


def data(node: TestNode) -> Path:
    return node.site.data(node.name)


def volume_state(node: TestNode) -> Path:
    (found,) = (node.site.state(node.name) / "volumes").iterdir()
    return found


def touched(node: TestNode) -> set[TouchKey]:
    """What the touched log says, of a node that runs or not."""
    with contextlib.closing(sqlite3.connect(volume_state(node) / "touched.sqlite")) as log:
        return set(log.execute("SELECT fid, part FROM touched"))


def edit(root: Path) -> None:
    (root / "changed").write_bytes(b"edited while the node was stopped")
    (root / "new").write_bytes(b"made while the node was stopped")
    (root / "moved").rename(root / "elsewhere")
    (root / "removed").unlink()


FILES = ("changed", "moved", "removed", "same", "other")
EDITED = {
    "changed": b"edited while the node was stopped",
    "new": b"made while the node was stopped",
    "elsewhere": b"moved",
    "same": b"same",
    "other": b"other",
}


async def filled(pair: tuple[TestNode, TestNode]) -> tuple[TestNode, TestNode]:
    first, second = await start_pair(pair)
    for name in FILES:
        await first.write(name, name.encode())
    return first, second


async def test_edits_on_the_node_that_serves_again_travel(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await filled(pair)
        await second.cluster.stop()
        await first.cluster.wait_role(Role.ALONE)
        await first.cluster.stop()
        edit(data(first))
        await first.cluster.start()
        await first.cluster.wait_role(Role.ALONE)
        assert first.files() == EDITED
        found = touched(first)
        assert (ROOT_FID, NAMES) in found
        assert len({fid for fid, part in found if part == tail(0)}) == 4
        await second.cluster.start()
        assert await wait_mirrored(pair) == (first, second)
        assert second.files() == first.files() == EDITED


async def test_edits_on_the_node_that_is_filled_are_overwritten(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await filled(pair)
        await second.cluster.stop()
        await first.cluster.wait_role(Role.ALONE)
        edit(data(second))
        await second.cluster.start()
        assert await wait_mirrored(pair) == (first, second)
        assert first.files() == second.files() == {name: name.encode() for name in FILES}


async def test_a_node_that_lost_most_of_its_files_waits_for_a_person(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await filled(pair)
        await second.cluster.stop()
        await first.cluster.wait_role(Role.ALONE)
        await first.cluster.stop()
        for name in FILES[1:]:
            (data(first) / name).unlink()
        await first.cluster.start()
        await wait_until(lambda: "accept-missing" in first.cluster.status()["why"])
        assert "4 of 5 files" in first.cluster.status()["why"]
        assert first.cluster.role is Role.WAIT
        await second.cluster.start()
        await second.cluster.wait_role(Role.WAIT)
        assert sorted(second.files()) == sorted(FILES)
        note = MissingNote(volume_state(first))
        asked = note.read()
        assert asked is not None
        note.accept(asked)
        assert await wait_mirrored(pair) == (first, second)
        assert second.files() == first.files() == {"changed": b"changed"}


async def test_files_that_are_put_back_are_no_loss(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await filled(pair)
        await second.cluster.stop()
        away = tmp_path / "away"
        away.mkdir()
        for name in FILES:
            (data(second) / name).rename(away / name)
        await second.cluster.start()
        await wait_until(lambda: "5 of 5 files" in second.cluster.status()["why"])
        for name in FILES:
            shutil.move(away / name, data(second) / name)
        (volume_state(second) / "missing.json").unlink()  # it would look again in half a minute
        assert await wait_mirrored(pair) == (first, second)
        assert first.files() == second.files() == {name: name.encode() for name in FILES}


def is_plain(node: TestNode) -> bool:
    return not mounts_below(data(node))


async def test_a_worker_notices_edits_too_and_asks_when_most_is_gone(tmp_path: Path) -> None:
    needed()
    async with open_pair(tmp_path, mount=True) as pair:
        first, second = await filled(pair)
        await second.cluster.stop()
        await first.cluster.wait_role(Role.ALONE)
        await first.cluster.stop()
        await wait_until(lambda: is_plain(first) and is_plain(second))
        edit(data(first))
        await first.cluster.start()
        await first.cluster.wait_role(Role.ALONE)
        found = touched(first)
        assert (ROOT_FID, NAMES) in found
        assert len({fid for fid, part in found if part == tail(0)}) == 4
        assert await python(READ, data(first) / "changed") == EDITED["changed"].decode()
        await second.cluster.start()
        assert await wait_mirrored(pair) == (first, second)
        assert await python(READ, data(second) / "new") == EDITED["new"].decode()
        await second.cluster.stop()
        await wait_until(lambda: is_plain(second))
        assert second.files() == EDITED
        for name in EDITED:
            (data(second) / name).unlink()
        await second.cluster.start()
        await wait_until(lambda: "5 of 5 files" in second.cluster.status()["why"])
        assert second.cluster.role is Role.WAIT
        note = MissingNote(volume_state(second))
        asked = note.read()
        assert asked is not None
        note.accept(asked)
        assert await wait_mirrored(pair) == (first, second)
    assert first.files() == second.files() == EDITED


@pytest.mark.parametrize("mount", [False, True], ids=["unmounted", "mounted"])
async def test_what_is_edited_as_soon_as_stop_has_returned_travels(
    tmp_path: Path, mount: bool
) -> None:
    """However late the volumes are closed: nothing that anybody changes then is the node's own."""
    if mount:
        needed()
    async with open_pair(tmp_path, mount=mount) as pair:
        first, second = await filled(pair)
        await second.cluster.stop()
        await first.cluster.wait_role(Role.ALONE)
        # In the touched log, and so taken for the node's own if the time may be the node's.
        await first.write("changed", b"at the very last moment")
        await first.cluster.stop()
        hide_the_write(data(first) / "changed")
        assert is_plain(first)
        left = decode((volume_state(first) / "stamp").read_bytes())
        assert left is not None
        assert left.is_final
        assert (data(first) / "changed").stat().st_ctime_ns > left.until_ns
        await first.cluster.start()
        await second.cluster.start()
        await wait_mirrored(pair)
    assert first.files()["changed"].startswith(b"CONT")
    assert second.files() == first.files()


def put_back(node: TestNode) -> None:
    """As if the volume's disk were of a day before: by the stamp its marker was later once."""
    path = volume_state(node) / "stamp"
    left = decode(path.read_bytes())
    assert left is not None
    assert left.marker_ns
    path.write_bytes(encode(Stamp(left.noted_ns, left.until_ns, left.marker_ns + 3_600 * 10**9)))


@pytest.mark.parametrize("mount", [False, True], ids=["unmounted", "mounted"])
async def test_a_volume_that_was_put_back_does_not_serve_unasked(
    tmp_path: Path, mount: bool
) -> None:
    if mount:
        needed()
    async with open_pair(tmp_path, mount=mount) as pair:
        first, second = await filled(pair)
        await wait_until(lambda: (volume_state(first) / "stamp").stat().st_size)
        await second.cluster.stop()
        await first.cluster.wait_role(Role.ALONE)
        await first.cluster.stop()
        put_back(first)
        await first.cluster.start()
        await wait_until(lambda: "old disk image" in first.cluster.status()["why"])
        status = first.cluster.status()
        assert (status["role"], status["data"], status["colour"]) == ("WAIT", "outdated", "red")
        await first.cluster.force_primary()
        await first.cluster.wait_role(Role.ALONE)
        await second.cluster.start()
        assert await wait_mirrored(pair) == (first, second)
    assert first.files() == second.files()
