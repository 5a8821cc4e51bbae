"""A file is replaced as a whole and durably, or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from mirrorha.state.atomic import (
    ReplacementUnknownError,
    make_directory,
    read_bytes_or_none,
    remove_leftovers,
    write_atomically,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta.json"


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def path_of(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def failing(when: Callable[[int], bool]) -> Callable[[int], None]:
    """An fsync that fails on the descriptors that `when` picks."""

    def fsync(descriptor: int) -> None:
        if when(descriptor):
            raise OSError(errno.EIO, "Input/output error")
        os.fsync(descriptor)

    return fsync


def is_directory(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def test_writes_and_reads_back(path: Path) -> None:
    assert read_bytes_or_none(path) is None
    for data in (b"one", b"", b"three" * 100_000):
        write_atomically(path, data)
        assert read_bytes_or_none(path) == data
        assert names(path.parent) == ["meta.json"]


def test_is_durable_in_this_order_file_then_rename_then_directory(path: Path) -> None:
    write_atomically(path, b"old")
    seen: list[tuple[str, int, bytes | None]] = []

    def fsync(descriptor: int) -> None:
        synced = path_of(descriptor)
        kind = "directory" if synced == path.parent else "temporary"
        size = 0 if kind == "directory" else os.fstat(descriptor).st_size
        seen.append((kind, size, read_bytes_or_none(path)))

    write_atomically(path, b"longer", fsync=fsync)
    assert seen == [("temporary", 6, b"old"), ("directory", 0, b"longer")]


def test_is_private_unless_told_otherwise(path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(path, b"secret")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        write_atomically(path, b"public", mode=0o666)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, "the umask has its say"
        write_atomically(path, b"secret")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, "the old file's mode is not kept"
    finally:
        os.umask(before)


def test_temporary_is_private_before_the_rename(path: Path) -> None:
    modes: list[int] = []
    write_atomically(path, b"x", fsync=lambda fd: modes.append(os.fstat(fd).st_mode & 0o777))
    assert modes[0] == 0o600


def test_failed_fsync_of_the_file_leaves_the_old_one(path: Path) -> None:
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="Input/output") as caught:
        write_atomically(path, b"new", fsync=failing(lambda fd: not is_directory(fd)))
    assert not isinstance(caught.value, ReplacementUnknownError)
    assert read_bytes_or_none(path) == b"old"
    assert names(path.parent) == ["meta.json"]


def test_failed_fsync_of_the_directory_is_unknown(path: Path) -> None:
    write_atomically(path, b"old")
    with pytest.raises(ReplacementUnknownError) as caught:
        write_atomically(path, b"new", fsync=failing(is_directory))
    assert caught.value.errno == errno.EIO
    assert read_bytes_or_none(path) in (b"old", b"new")
    assert names(path.parent) == ["meta.json"]


def test_failed_rename_is_unknown_and_leaves_no_temporary(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ReplacementUnknownError):
        write_atomically(path, b"new")
    assert names(path.parent) == ["meta.json"]


def test_missing_directory_is_an_ordinary_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "gone" / "file", b"x")
    assert names(tmp_path) == []


def test_interrupt_leaves_no_temporary(path: Path) -> None:
    def fsync(_descriptor: int) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"x", fsync=fsync)
    assert names(path.parent) == []


def test_symbolic_link_is_replaced_not_followed(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"not ours")
    path.symlink_to(other)
    write_atomically(path, b"ours")
    assert other.read_bytes() == b"not ours"
    assert not path.is_symlink()


def test_concurrent_writers_never_mix(path: Path) -> None:
    values = [bytes([value]) * 200_000 for value in range(4)]
    write_atomically(path, values[0])
    done = threading.Event()
    torn: list[int] = []

    def watch() -> None:
        while not done.is_set():
            seen = read_bytes_or_none(path)
            if seen not in values:
                torn.append(-1 if seen is None else len(seen))

    watcher = threading.Thread(target=watch)
    watcher.start()

    def write_often(value: bytes) -> None:
        for _ in range(5):
            write_atomically(path, value)

    writers = [threading.Thread(target=write_often, args=[value]) for value in values]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    watcher.join()
    assert torn == []
    assert names(path.parent) == ["meta.json"]


def test_reads_no_more_than_allowed(path: Path) -> None:
    path.write_bytes(b"12345")
    assert read_bytes_or_none(path, bytes_max=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes") as caught:
        read_bytes_or_none(path, bytes_max=4)
    assert caught.value.errno == errno.EFBIG


def test_reading_a_directory_is_an_error_not_absence(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_bytes_or_none(tmp_path)


KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from mirrorha.state.atomic import write_atomically
write_atomically(Path(sys.argv[1]), b"new", fsync=lambda fd: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_leftover_of_a_killed_writer_is_harmless_and_removable(path: Path) -> None:
    write_atomically(path, b"old")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_MIDDLE, path], check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(names(path.parent)) == 2, "the kill left a temporary file"
    assert read_bytes_or_none(path) == b"old"
    write_atomically(path, b"newer")
    assert read_bytes_or_none(path) == b"newer"
    assert remove_leftovers(path) == 1
    assert names(path.parent) == ["meta.json"]


def test_only_leftovers_of_this_file_are_removed(path: Path) -> None:
    others = [
        ".meta.json.tmp",
        ".meta.json.0123456789abcdef.tmp.bak",
        ".meta.json.x.0123456789abcdef.tmp",
        ".other.0123456789abcdef.tmp",
        "meta.json.0123456789abcdef.tmp",
        "meta.json",
    ]
    for name in [*others, ".meta.json.0123456789abcdef.tmp"]:
        path.with_name(name).touch()
    assert remove_leftovers(path) == 1
    assert names(path.parent) == sorted(others)


def test_new_directories_are_private_and_durable(tmp_path: Path) -> None:
    synced: list[Path] = []
    path = tmp_path / "a" / "b" / "c"
    make_directory(path, fsync=lambda fd: synced.append(path_of(fd)))
    assert path.is_dir()
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    synced.clear()
    path.chmod(0o755)
    make_directory(path, fsync=lambda fd: synced.append(path_of(fd)))
    assert synced == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o755, "what was there is left as it is"


def test_relative_directories_work_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_directory(Path("x/y"))
    make_directory(Path("."))
    assert (tmp_path / "x" / "y").is_dir()


def test_a_file_in_the_way_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/below", "dangling"):
        with pytest.raises(NotADirectoryError):
            make_directory(tmp_path / name)
    assert names(tmp_path) == ["dangling", "file"]
