"""The kernel's table of mounts: read completely, walked as the kernel walks."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.errors import VolumeError
from mirrorha.mount_table import parse_mount_table, read_mount_table, real_path

ROOT = "21 1 8:1 / / rw - ext4 /dev/sda rw"


def table(*lines: str) -> str:
    return "\n".join([ROOT, *lines]) + "\n"


def test_every_field_is_read() -> None:
    line = (
        "36 21 0:40 /of\\040it /srv/a\\040b\\011c\\012d\\134e rw,nosuid shared:7 master:2 -"
        " fuse.mirrorha mirrorha:or\\043ders ro,user_id=1000,allow_other"
    )
    entry = parse_mount_table(table(line).encode()).entries[36]
    assert (entry.mount_id, entry.parent_id, entry.device, entry.connection) == (36, 21, "0:40", 40)
    assert (entry.root, entry.mount_point) == ("/of it", "/srv/a b\tc\nd\\e")
    assert (entry.kind, entry.source, entry.is_fuse) == ("fuse.mirrorha", "mirrorha:or#ders", True)
    assert entry.options == {"rw", "nosuid", "ro", "user_id=1000", "allow_other"}
    assert entry.is_shared
    assert entry.owner == (1000, 0)


def test_a_mount_without_optional_fields_and_with_an_empty_source() -> None:
    entry = parse_mount_table(table("36 21 0:40 / /a ro - tmpfs  rw").encode()).entries[36]
    assert (entry.source, entry.is_shared, entry.owner) == ("", False, (0, 0))


def test_a_name_that_is_no_text_survives() -> None:
    content = ROOT.encode() + b"\n36 21 0:40 / /\xff\xfe rw - tmpfs x rw\n"
    assert parse_mount_table(content).entries[36].mount_point == "/\udcff\udcfe"


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "36 21 0:40 / /a rw",
        "a 21 0:40 / /a rw - t s o",
        "1 1 0 / / rw - t s",
        "1 1 0:1 / / - t s",
    ],
)
def test_a_line_that_is_not_understood_is_no_guess(line: str) -> None:
    with pytest.raises(VolumeError, match="not understood"):
        parse_mount_table(line.encode())


@given(st.binary(max_size=200))
def test_the_parser_raises_nothing_else(content: bytes) -> None:
    with contextlib.suppress(VolumeError):
        parse_mount_table(content).spot("/srv/a")


def test_a_walk_meets_what_is_stacked() -> None:
    spot = parse_mount_table(
        table(
            "30 21 8:2 / /srv rw - ext4 /dev/sdb rw",
            "31 30 0:41 / /srv/a ro - tmpfs mirrorha:orders rw",
            "32 31 0:42 / /srv/a rw - fuse.mirrorha mirrorha:orders rw",
        ).encode()
    ).spot("/srv/a")
    assert (spot.path, spot.holder.mount_id) == ("/srv/a", 30)
    assert [one.mount_id for one in spot.stack] == [31, 32]
    assert spot.seen.mount_id == 32


def test_what_a_later_mount_hides_is_not_met() -> None:
    lines = (
        "30 21 0:41 / /srv/a ro - fuse.mirrorha mirrorha:orders rw",
        "31 21 8:2 / /srv rw - ext4 /dev/sdb rw",
    )
    spot = parse_mount_table(table(*lines).encode()).spot("/srv/a")
    assert (spot.holder.mount_id, spot.stack) == (31, ())


def test_a_name_that_begins_alike_is_another() -> None:
    found = parse_mount_table(
        table(
            "30 21 0:41 / /srv/orders2 rw - tmpfs a rw",
            "31 21 0:42 / /srv/orders/x rw - tmpfs b rw",
        ).encode()
    )
    assert found.spot("/srv/orders").stack == ()
    assert [one.source for one in found.below("/srv/orders")] == ["b"]


def test_a_table_without_a_root_is_refused() -> None:
    with pytest.raises(VolumeError, match="no root directory"):
        parse_mount_table(b"31 30 8:2 / /srv rw - ext4 /dev/sdb rw\n").spot("/srv")


def test_our_own_table_is_understood() -> None:
    found = read_mount_table()
    assert found.spot("/proc").seen.kind == "proc"
    assert found.spot("/").seen.mount_point == "/"
    with pytest.raises(VolumeError, match="is /proc mounted"):
        read_mount_table(proc="/nowhere")


def test_symlinks_on_the_way_are_resolved_and_the_last_is_not(tmp_path: Path) -> None:
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "last").symlink_to("a")
    base = str(tmp_path.resolve() / "real")
    assert real_path(tmp_path / "link" / "a") == f"{base}/a"
    assert real_path(tmp_path / "link" / "last") == f"{base}/last"
    assert real_path(tmp_path / "link" / "a" / "..") == base
    with pytest.raises(VolumeError, match="mkdir -p"):
        real_path(tmp_path / "none" / "a")


def test_a_path_from_the_root_needs_no_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker works in what was opened beneath its mounts, to which no path leads."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert real_path(tmp_path / "a") == f"{tmp_path.resolve()}/a"
