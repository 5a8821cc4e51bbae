"""The directory's disk is put back to an older day, and the state directory is not."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash

from mirrorha.volume.disk import Apply, PutBackError, SyncTree
from mirrorha.volume.local_disk.identity import mark
from mirrorha.volume.local_disk.stamp import decode, encode
from mirrorha.volume.local_disk.watermark import is_older
from mirrorha.volume.names import MARKER_NAME
from mirrorha.volume.offline import Stamp
from mirrorha.volume.opening import OpenVolume
from mirrorha.volume.ops import ROOT_FID, Create, Write
from tests.requirements import lacking, require_program, require_root
from tests.volume.offline_node import Node, keys

FID = 1 << 40
HOUR_NS = 3_600_000_000_000


def work(opened: OpenVolume, content: bytes, *, is_new: bool = False) -> None:
    """Something is written, and both nodes hold it: the log forgets it."""
    disk = opened.disk
    if is_new:
        disk.perform(Apply(Create(FID, ROOT_FID, "file", 0o644, 0, 0, 1)))
    disk.perform(Apply(Write(FID, 0, content, 2)))
    disk.perform(SyncTree())


def noted(node: Node) -> Stamp:
    stamp = decode((node.state / "stamp").read_bytes())
    assert stamp is not None
    return stamp


def assert_told_until_known(node: Node) -> None:
    for _ in range(2):  # a node that ends before it has noted that is told again
        with pytest.raises(PutBackError, match="put back to an older day"):
            node.open()
    assert node.open(is_put_back_known=True).touched.damaged
    assert node.open().touched.damaged  # nothing but a checkpoint makes the log whole again


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path)
    mark(node.root, "volume-1")
    return node


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_marker_that_is_older_than_was_noted_is_told_until_it_is_known(
    node: Node, is_killed: bool
) -> None:
    work(node.open(), b"content", is_new=True)
    (node.kill if is_killed else node.stop)()
    before = noted(node)
    assert before.marker_ns == (node.root / MARKER_NAME).stat().st_ctime_ns
    later = Stamp(before.noted_ns, before.until_ns, before.marker_ns + HOUR_NS)
    (node.state / "stamp").write_bytes(encode(later))
    assert_told_until_known(node)


def test_a_marker_that_was_not_synced_since_is_no_older(node: Node) -> None:
    """Nothing has risen but in checkpoints: whatever loses power now has what was noted."""
    opened = node.open()
    work(opened, b"content", is_new=True)
    node.stop()
    assert not node.open().touched.damaged
    node.kill()
    assert noted(node).marker_ns
    assert not node.open().touched.damaged


def test_a_volume_without_a_marker_notes_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    work(node.open(), b"content", is_new=True)
    node.stop()
    assert not noted(node).marker_ns
    assert not node.open().touched.damaged


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_one_checkpoint_covers_is_told_from_the_one_before(
    node: Node, is_killed: bool
) -> None:
    """However soon it came: of what it covers the log forgets, an image from before has nothing."""
    opened = node.open()
    work(opened, b"yesterday", is_new=True)
    image = (node.root / MARKER_NAME).stat().st_ctime_ns
    work(opened, b"today")
    (node.kill if is_killed else node.stop)()
    assert noted(node).marker_ns > image


SECOND_NS = 1_000_000_000


@pytest.mark.parametrize(
    ("there_ns", "noted_ns", "is_behind"),
    [
        (7 * SECOND_NS + 5, 7 * SECOND_NS + 5, False),
        (7 * SECOND_NS + 5, 7 * SECOND_NS + 6, True),
        # Whole seconds: of a file system that keeps no more of a ctime.
        (7 * SECOND_NS, 7 * SECOND_NS + 6, False),
        (6 * SECOND_NS, 7 * SECOND_NS + 6, False),
        (5 * SECOND_NS, 7 * SECOND_NS + 6, True),
    ],
)
def test_a_marker_is_behind_by_as_little_as_its_file_system_tells(
    there_ns: int, noted_ns: int, is_behind: bool
) -> None:
    assert is_older(there_ns, noted_ns=noted_ns) is is_behind


def test_a_stamp_of_an_older_node_is_read() -> None:
    times = struct.pack("<8sqq", b"mhstamp1", 5, 7)
    assert decode(times + struct.pack("<Q", xxhash.xxh3_64_intdigest(times))) == Stamp(5, 7)
    assert decode(times + bytes(8)) is None


@contextlib.contextmanager
def mounted(image: Path, node: Node) -> Iterator[None]:
    command = ["mount", "-o", "loop", image, node.root]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        lacking("a loop device", "give the container /dev/loop-control and its devices")
    try:
        yield
    finally:
        node.stop()
        subprocess.run(["umount", node.root], check=True)


def test_an_image_of_the_volumes_disk_alone(tmp_path: Path) -> None:
    require_root()
    require_program("mkfs.ext4")
    require_program("debugfs")
    node, image, old = Node(tmp_path), tmp_path / "image", tmp_path / "old"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with mounted(image, node):
        mark(node.root, "volume-1")
        work(node.open(), b"yesterday", is_new=True)
    shutil.copyfile(image, old)
    for name in ("file", MARKER_NAME):
        change = f"set_inode_field /{name} ctime 20200102030405"
        subprocess.run(["debugfs", "-w", "-R", change, old], check=True, capture_output=True)
    with mounted(image, node):
        opened = node.open()
        work(opened, b"today")
        assert FID not in {fid for fid, _ in keys(opened)}  # nothing names what is written
    with mounted(old, node):
        assert (node.root / "file").read_bytes() == b"yesterday"
        assert_told_until_known(node)
