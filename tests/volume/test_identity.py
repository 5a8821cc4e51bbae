"""Whether a directory is the volume it should be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorha.errors import VolumeError
from mirrorha.volume.local_disk.identity import (
    Contents,
    Standing,
    count,
    inspect,
    layout_problems,
    mark,
)

if TYPE_CHECKING:
    from pathlib import Path

VOLUME = "0123456789abcdef"


def test_a_path_is_seen_for_what_it_is(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert inspect(root).standing is Standing.MISSING
    assert "mounted" in inspect(root).description
    root.write_bytes(b"")
    assert inspect(root).standing is Standing.NOT_A_DIRECTORY
    assert inspect(root / "below").standing is Standing.NOT_A_DIRECTORY
    root.unlink()
    root.mkdir()
    assert inspect(root).standing is Standing.UNMARKED_EMPTY
    (tmp_path / "link").symlink_to(root)
    assert inspect(tmp_path / "link").standing is Standing.NOT_A_DIRECTORY
    (root / "lost+found").mkdir()
    assert inspect(root).standing is Standing.UNMARKED_EMPTY
    (root / "lost+found/#12").touch()
    assert inspect(root).standing is Standing.UNMARKED_WITH_FILES
    mark(root, VOLUME)
    found = inspect(root)
    assert (found.standing, found.volume_id) == (Standing.MARKED, VOLUME)
    assert VOLUME in found.description


def test_a_volume_keeps_its_id(tmp_path: Path) -> None:
    mark(tmp_path, VOLUME)
    marker = tmp_path / ".mirrorha-volume"
    before = marker.stat()
    mark(tmp_path, VOLUME)
    assert marker.stat().st_ino == before.st_ino, "not written again"
    with pytest.raises(VolumeError, match=VOLUME):
        mark(tmp_path, "another-volume")
    assert inspect(tmp_path).volume_id == VOLUME


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"[]", b"{}", b'{"volume": 7}', b'{"volume": "../x"}', b"\xff"]
)
def test_a_damaged_marker_is_no_marker_and_no_emptiness(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".mirrorha-volume").write_bytes(content)
    found = inspect(tmp_path)
    assert (found.standing, found.volume_id) == (Standing.MARKER_DAMAGED, None)
    with pytest.raises(VolumeError, match="cannot be read"):
        mark(tmp_path, VOLUME)


def test_a_marker_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    mark(tmp_path / "a", VOLUME)
    (tmp_path / "b/.mirrorha-volume").symlink_to(tmp_path / "a/.mirrorha-volume")
    assert inspect(tmp_path / "b").standing is Standing.MARKER_DAMAGED
    (tmp_path / "b/.mirrorha-volume").unlink()
    os.mkfifo(tmp_path / "b/.mirrorha-volume")
    assert inspect(tmp_path / "b").standing is Standing.MARKER_DAMAGED


def test_marking_leaves_no_other_trace(tmp_path: Path) -> None:
    (tmp_path / "..mirrorha-volume.0123456789abcdef.tmp").write_bytes(b"of one that crashed")
    os.utime(tmp_path, ns=(5, 1_000_000_007))
    assert inspect(tmp_path).standing is Standing.UNMARKED_EMPTY
    mark(tmp_path, VOLUME)
    assert os.listdir(tmp_path) == [".mirrorha-volume"]
    assert tmp_path.stat().st_mtime_ns == 1_000_000_007


def test_what_is_excluded_is_no_file_of_a_volume(tmp_path: Path) -> None:
    exclude = ("tmp/**", "*.lock", "a/b/cache")

    def standing() -> Standing:
        return inspect(tmp_path, exclude).standing

    for path in ("tmp/in", "a/b/cache", "c"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("x.lock", "tmp/in/f", "a/b/cache/f", "a/y.lock", "c/z.lock"):
        (tmp_path / path).touch()
    assert standing() is Standing.UNMARKED_EMPTY
    assert inspect(tmp_path).standing is Standing.UNMARKED_WITH_FILES
    for path in ("f", "c/f", "a/b/f"):
        (tmp_path / path).touch()
        assert standing() is Standing.UNMARKED_WITH_FILES
        (tmp_path / path).unlink()
    for path in ("d", "a/b/d"):  # empty, it is mirrored
        (tmp_path / path).mkdir()
        assert standing() is Standing.UNMARKED_WITH_FILES
        (tmp_path / path).rmdir()
    (tmp_path / "link").symlink_to("tmp")
    assert standing() is Standing.UNMARKED_WITH_FILES
    (tmp_path / "link").unlink()
    assert standing() is Standing.UNMARKED_EMPTY


def test_contents_are_counted(tmp_path: Path) -> None:
    assert count(tmp_path) == Contents()
    mark(tmp_path, VOLUME)
    (tmp_path / ".mirrorha-limbo").mkdir()
    (tmp_path / ".mirrorha-limbo/0").write_bytes(b"not counted")
    assert count(tmp_path) == Contents()
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_bytes(bytes(1000))
    os.link(tmp_path / "d/e/f", tmp_path / "g")
    (tmp_path / "h").write_bytes(bytes(24))
    (tmp_path / "s").symlink_to("/etc")
    for path in ("d/e/f", "d/e", "d", "h"):
        os.utime(tmp_path / path, ns=(5, 5_000_000_000))
    os.utime(tmp_path / "s", ns=(5, 6_000_000_000), follow_symlinks=False)
    assert count(tmp_path) == Contents(files=3, content_bytes=1024, newest_ns=6_000_000_000)


def test_directories_must_lie_apart(tmp_path: Path) -> None:
    for name in ("a/b", "c", "state"):
        (tmp_path / name).mkdir(parents=True)
    a, b, c, state = (tmp_path / name for name in ("a", "a/b", "c", "state"))
    assert layout_problems([a, c], state) == []
    assert len(layout_problems([a, b], state)) == 1
    assert len(layout_problems([b, a], state)) == 1
    assert len(layout_problems([a, a], state)) == 1
    assert len(layout_problems([a], a / "state")) == 1
    assert len(layout_problems([state / "volume"], state)) == 1
    assert len(layout_problems([a], a)) == 1
    (tmp_path / "ab").mkdir()
    assert layout_problems([a, tmp_path / "ab"], state) == [], "no part of a name is a directory"
    (tmp_path / "link").symlink_to(a)
    (problem,) = layout_problems([tmp_path / "link", b], state)
    assert str(a) in problem
    (tmp_path / "state-link").symlink_to(b)
    (problem,) = layout_problems([a], tmp_path / "state-link")
    assert "inside of the volume" in problem
    mark(a, VOLUME)
    (problem,) = layout_problems([b], state)
    assert "is a volume too" in problem
