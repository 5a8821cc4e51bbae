"""The suite that the file API passes, whatever carries it: an unmounted volume, or a mounted one.

    @pytest.mark.parametrize("case", FILE_CASES, ids=lambda case: case.__name__)
    async def test_my_files(case):
        await case(my_files)

A case gets a volume that is empty, and raises InvariantViolation if it behaves otherwise than the
kernel's files do.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from mirrorha.errors import LocalUsageError, PathOutsideVolumeError, ensure
from mirrorha.volume.disk import Kind
from mirrorha.volume.files.api import FileApi

_MIB: Final = 1 << 20


async def check_files(make: Callable[[], AbstractAsyncContextManager[FileApi]]) -> None:
    """Run every case, each on a new volume."""
    for case in FILE_CASES:
        async with make() as files:
            await case(files)


def _same(found: object, expected: object, claim: str) -> None:
    if found != expected:
        ensure(False, f"{claim}: {found!r:.200}, not {expected!r:.200}")


@contextlib.contextmanager
def _refused(number: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _same(error.errno, number, "the errno")
        return
    ensure(False, f"{os.strerror(number)} was expected")


@contextlib.contextmanager
def _raises(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    ensure(False, f"{kind.__name__} was expected")


async def a_file_is_written_and_read(files: FileApi) -> None:
    async with files.open("a", "w+b") as file:
        _same(await file.write(b"hello"), 5, "what was written")
        _same(await file.write(memoryview(b" world")), 6, "what was written")
        _same(file.tell(), 11, "the position")
        _same(await file.read(), b"", "at the end")
        _same(await file.seek(6), 6, "the new position")
        _same(await file.read(3), b"wor", "a part")
        _same(await file.read(99), b"ld", "the rest")
        _same(await file.seek(-2, os.SEEK_END), 9, "from the end")
        _same(await file.seek(-4, os.SEEK_CUR), 5, "from here")
        _same(await file.read(), b" world", "to the end")
        _same(await file.read(0), b"", "nothing")
    _same(await files.read_bytes("a"), b"hello world", "all of it")


async def an_open_can_be_awaited(files: FileApi) -> None:
    file = await files.open("a", "xb")
    await file.write(b"x")
    await file.aclose()
    await file.aclose()
    async with await files.open("a") as again:
        _same(await again.read(), b"x", "what was written")


async def a_closed_file_is_refused(files: FileApi) -> None:
    file = await files.open("a", "w+b")
    await file.aclose()
    calls: list[Callable[[], Awaitable[object]]] = [
        file.read,
        lambda: file.write(b"x"),
        lambda: file.pread(1, 0),
        lambda: file.pwrite(b"x", 0),
        lambda: file.seek(0),
        file.truncate,
        file.fsync,
        file.fdatasync,
        file.__aenter__,
    ]
    for call in calls:
        with _raises(trio.ClosedResourceError):
            await call()
    with _raises(trio.ClosedResourceError):
        file.tell()


async def modes_mean_what_they_mean(files: FileApi) -> None:
    with _refused(errno.ENOENT):
        await files.open("a", "rb")
    with _refused(errno.ENOENT):
        await files.open("a", "r+b")
    await files.write_bytes("a", b"abc")
    with _refused(errno.EEXIST):
        await files.open("a", "xb")
    async with files.open("a", "r+b") as file:
        await file.write(b"X")
        _same(await file.read(), b"bc", "after the write")
    async with files.open("a", "ab") as file:
        await file.write(b"d")
        with _raises(io.UnsupportedOperation):
            await file.read()
    async with files.open("a", "a+b") as file:
        _same(await file.read(), b"Xbcd", "from the start")
        await file.seek(1)
        await file.write(b"e")
        _same(file.tell(), 5, "behind what was appended")
        _same(await file.pread(9, 0), b"Xbcde", "appended in spite of the position")
        await file.pwrite(b"b", 1)
        await file.truncate(4)
    async with files.open("a", "rb") as file:
        _same(await file.read(), b"Xbcd", "changed and appended")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: file.write(b"x"),
            lambda: file.pwrite(b"x", 0),
            file.truncate,
        ]
        for call in calls:
            with _raises(io.UnsupportedOperation):
                await call()
    async with files.open("a", "wb"):
        _same((await files.stat("a")).size_bytes, 0, "truncated")
    for mode in ("r", "w+", "rt", "wt"):
        with _raises(LocalUsageError):
            files.open("a", mode)
    for mode in ("", "b", "rwb", "rbb", "q", "r+b+"):
        with _raises(LocalUsageError):
            files.open("a", mode)


async def a_write_at_an_offset_moves_no_position(files: FileApi) -> None:
    async with files.open("a", "w+b") as file:
        await file.write(b"abc")
        _same(await file.pwrite(b"xy", 5), 2, "what was written")
        _same(file.tell(), 3, "the position")
        _same(await file.pread(99, 1), b"bc\0\0xy", "with the hole")
        _same(await file.pread(2, 6), b"y", "at the end")
        _same(await file.pread(2, 50), b"", "after the end")
        _same(file.tell(), 3, "the position")
        for offset in (-1, -(1 << 40)):
            with _refused(errno.EINVAL):
                await file.pread(1, offset)
            with _refused(errno.EINVAL):
                await file.pwrite(b"x", offset)
            with _refused(errno.EINVAL):
                await file.seek(offset)


async def a_file_is_truncated(files: FileApi) -> None:
    async with files.open("a", "w+b") as file:
        await file.write(b"abcdef")
        await file.seek(4)
        _same(await file.truncate(), 4, "to the position")
        _same(await file.truncate(6), 6, "longer")
        _same(file.tell(), 4, "the position")
        _same(await file.pread(9, 0), b"abcd\0\0", "cut and extended")
        with _refused(errno.EINVAL):
            await file.truncate(-1)


async def large_writes_arrive_whole(files: FileApi) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(700_000))
    async with files.open("a", "w+b") as file:
        _same(await file.write(data), len(data), "what was written")
        _same(file.tell(), len(data), "the position")
        held = await file.pread(len(data) + 1, 0)
        ensure(held == data, "it reads as it was written")
        _same(await file.pwrite(data[: 2 * _MIB], 5), 2 * _MIB, "at an offset")
        held = await file.pread(2 * _MIB, 5)
        ensure(held == data[: 2 * _MIB], "it reads as it was written")


async def what_is_written_is_a_copy(files: FileApi) -> None:
    data = bytearray(b"before")
    async with files.open("a", "w+b") as file:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.write, data)
            await trio.lowlevel.checkpoint()
        data[:] = b"after!"
        _same(await file.pread(9, 0), b"before", "what was given")


async def appenders_do_not_overwrite_each_other(files: FileApi) -> None:
    async def append(letter: bytes) -> None:
        async with files.open("log", "ab") as file:
            for _ in range(20):
                await file.write(letter * 7)

    async with trio.open_nursery() as nursery:
        for letter in (b"a", b"b", b"c"):
            nursery.start_soon(append, letter)
    held = await files.read_bytes("log")
    records = [held[start : start + 7] for start in range(0, len(held), 7)]
    _same(sorted(records), sorted(letter * 7 for letter in (b"a", b"b", b"c") * 20), "all records")


async def tasks_share_a_position(files: FileApi) -> None:
    async with files.open("a", "w+b") as file, trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(file.write, bytes([number]) * 100)
    held = await files.read_bytes("a")
    _same(len(held), 1000, "nothing was overwritten")
    found = sorted(held[start : start + 100] for start in range(0, 1000, 100))
    _same(found, [bytes([number]) * 100 for number in range(10)], "each write is whole")


async def directories_are_made_and_listed(files: FileApi) -> None:
    await files.mkdir("d")
    with _refused(errno.EEXIST):
        await files.mkdir("d")
    await files.mkdir("d", exist_ok=True)
    with _refused(errno.ENOENT):
        await files.mkdir("e/f/g")
    await files.mkdir("e/f/g", parents=True)
    await files.mkdir("e/f/h", parents=True, exist_ok=True)
    with _refused(errno.EEXIST):
        await files.mkdir("e/f", parents=True)
    await files.write_bytes("é", b"")
    with _refused(errno.EEXIST):
        await files.mkdir("é", exist_ok=True)
    with _refused(errno.ENOTDIR):
        await files.mkdir("é/d")
    _same(await files.listdir(), ["d", "e", "é"], "the root")
    _same(await files.listdir("e/f"), ["g", "h"], "a directory")
    for mode in ("rb", "r+b", "wb", "ab"):
        with _refused(errno.EISDIR):
            await files.open("d", mode)
    with _refused(errno.ENOTDIR):
        await files.listdir("é")
    with _refused(errno.ENOENT):
        await files.listdir("x")
    attributes = await files.stat("d")
    _same((attributes.kind, attributes.mode), (Kind.DIRECTORY, 0o755), "a directory")
    await files.mkdir("p", permissions=0o2710)
    _same((await files.stat("p")).mode, 0o2710, "its permissions")


async def names_are_removed(files: FileApi) -> None:
    await files.mkdir("d")
    await files.write_bytes("d/f", b"x")
    with _refused(errno.ENOTEMPTY):
        await files.rmdir("d")
    with _refused(errno.EISDIR):
        await files.unlink("d")
    with _refused(errno.ENOTDIR):
        await files.rmdir("d/f")
    await files.unlink("d/f")
    with _refused(errno.ENOENT):
        await files.unlink("d/f")
    await files.unlink("d/f", missing_ok=True)
    await files.unlink("x/y", missing_ok=True)
    await files.rmdir("d")
    with _refused(errno.ENOENT):
        await files.rmdir("d")
    _same(await files.listdir(), [], "nothing is left")


async def names_are_moved(files: FileApi) -> None:
    await files.mkdir("d")
    await files.write_bytes("a", b"a")
    await files.write_bytes("b", b"b")
    await files.rename("a", "d/c")
    await files.rename("d/c", "b")
    _same(await files.read_bytes("b"), b"a", "moved and replaced")
    await files.rename("b", "b")
    await files.rename("d", "e")
    _same(await files.listdir(), ["b", "e"], "what is left")
    with _refused(errno.ENOENT):
        await files.rename("x", "y")
    with _refused(errno.EISDIR):
        await files.rename("b", "e")
    with _refused(errno.ENOTDIR):
        await files.rename("e", "b")
    with _refused(errno.EINVAL):
        await files.rename("e", "e/f")


async def symlinks_are_followed_inside(files: FileApi) -> None:
    await files.mkdir("d/e", parents=True)
    await files.write_bytes("d/f", b"x")
    await files.symlink("d", "l")
    await files.symlink("../f", "d/e/up")
    await files.symlink("loop", "loop")
    await files.symlink("missing", "dangling")
    _same(await files.read_bytes("l/f"), b"x", "by a link to the directory")
    _same(await files.read_bytes("l/e/up"), b"x", "by two links")
    _same(await files.listdir("l"), ["e", "f"], "listed by a link")
    _same(await files.readlink("l"), "d", "where it leads to")
    with _refused(errno.EINVAL):
        await files.readlink("d")
    _same((await files.stat("l")).kind, Kind.DIRECTORY, "followed")
    _same((await files.stat("l", follow_symlinks=False)).kind, Kind.SYMLINK, "not followed")
    for path in ("loop", "loop/x"):
        with _refused(errno.ELOOP):
            await files.read_bytes(path)
    _same(await files.exists("dangling"), False, "a dangling link")
    with _refused(errno.EEXIST):
        await files.mkdir("dangling", exist_ok=True)
    with _refused(errno.EEXIST):
        await files.open("dangling", "xb")
    with _refused(errno.EEXIST):
        await files.symlink("x", "dangling")
    await files.write_bytes("dangling", b"made")
    _same(await files.read_bytes("missing"), b"made", "made where it leads to")
    await files.mkdir("l", exist_ok=True)
    await files.write_bytes("l/g", b"g")
    _same(await files.read_bytes("d/g"), b"g", "made in the directory")
    await files.unlink("l")
    _same(await files.listdir("d"), ["e", "f", "g"], "the link alone is removed")


async def what_is_there_is_told(files: FileApi) -> None:
    async with files.open("a", "xb", permissions=0o640) as file:
        await file.write(b"abc")
    attributes = await files.stat("a")
    found = (attributes.kind, attributes.mode, attributes.size_bytes, attributes.links)
    _same(found, (Kind.FILE, 0o640, 3, 1), "a file")
    before_ns = attributes.mtime_ns
    async with files.open("a", "r+b") as file:
        await file.write(b"x")
    attributes = await files.stat("a")
    ensure(attributes.mtime_ns >= before_ns, "time goes on")
    _same(attributes.mode, 0o640, "the permissions stay")
    for path, is_there in {"a": True, "b": False, "a/b": False, "b/c": False, ".": True}.items():
        _same(await files.exists(path), is_there, f"whether {path} is there")
    with _refused(errno.ENOENT):
        await files.stat("b")
    with _refused(errno.ENOTDIR):
        await files.stat("a/b")
    await files.mkdir("d")
    for mode in ("rb", "r+b", "wb", "ab"):
        if mode != "rb":
            with _refused(errno.EISDIR):
                await files.open("d", mode)
    with _refused(errno.EEXIST):
        await files.open("d", "xb")


async def nothing_outside_is_reached(files: FileApi) -> None:
    await files.mkdir("d")
    outside = ["..", "../x", "d/../..", "d/../d", "/", "/etc/passwd", "/etc", "a\0b", "d/\0"]
    for path in outside:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda path=path: files.read_bytes(path),  # type: ignore[misc]
            lambda path=path: files.write_bytes(path, b"x"),  # type: ignore[misc]
            lambda path=path: files.mkdir(path),  # type: ignore[misc]
            lambda path=path: files.mkdir(path, parents=True),  # type: ignore[misc]
            lambda path=path: files.unlink(path),  # type: ignore[misc]
            lambda path=path: files.rmdir(path),  # type: ignore[misc]
            lambda path=path: files.rename("d", path),  # type: ignore[misc]
            lambda path=path: files.rename(path, "d"),  # type: ignore[misc]
            lambda path=path: files.listdir(path),  # type: ignore[misc]
            lambda path=path: files.stat(path),  # type: ignore[misc]
            lambda path=path: files.exists(path),  # type: ignore[misc]
            lambda path=path: files.symlink("d", path),  # type: ignore[misc]
            lambda path=path: files.replace_atomically(path, b"x"),  # type: ignore[misc]
            lambda path=path: files.link("d", path),  # type: ignore[misc]
            lambda path=path: files.link(path, "e"),  # type: ignore[misc]
            lambda path=path: files.truncate(path, 0),  # type: ignore[misc]
            lambda path=path: files.setxattr(path, "user.a", b""),  # type: ignore[misc]
        ]
        for call in calls:
            with _raises(PathOutsideVolumeError):
                await call()
    _same(await files.listdir(), ["d"], "what is inside")


async def a_file_is_replaced_at_once(files: FileApi) -> None:
    await files.replace_atomically("a", b"first")
    _same(await files.read_bytes("a"), b"first", "made")
    async with files.open("b", "xb", permissions=0o600):
        pass
    await files.replace_atomically("b", b"x" * (3 * _MIB))
    attributes = await files.stat("b")
    _same((attributes.size_bytes, attributes.mode), (3 * _MIB, 0o600), "replaced")
    await files.symlink("b", "l")
    await files.replace_atomically("l", b"by a link")
    _same((await files.stat("l", follow_symlinks=False)).kind, Kind.SYMLINK, "the link stays")
    _same(await files.read_bytes("b"), b"by a link", "replaced")
    await files.mkdir("d")
    with _refused(errno.EISDIR):
        await files.replace_atomically("d", b"x")
    with _refused(errno.ENOENT):
        await files.replace_atomically("x/a", b"x")
    _same(await files.listdir(), ["a", "b", "d", "l"], "nothing is left beside it")


async def a_file_has_several_names(files: FileApi) -> None:
    await files.mkdir("d")
    await files.write_bytes("a", b"x")
    await files.symlink("a", "l")
    await files.link("a", "d/b")
    await files.link("l", "d/l")
    _same((await files.stat("a")).links, 2, "names")
    await files.write_bytes("d/b", b"y")
    _same(await files.read_bytes("a"), b"y", "by the other name")
    _same(await files.readlink("d/l"), "a", "a symlink's second name")
    await files.unlink("a")
    _same((await files.stat("d/b")).links, 1, "what is left")
    with _refused(errno.ENOENT):
        await files.link("a", "c")
    with _refused(errno.ENOENT):
        await files.link("d/b", "x/c")
    with _refused(errno.EEXIST):
        await files.link("d/b", "l")
    with _refused(errno.EPERM):
        await files.link("d", "e")


async def sizes_modes_and_times_are_changed_by_path(files: FileApi) -> None:
    await files.mkdir("d")
    await files.write_bytes("a", b"abcdef")
    await files.symlink("a", "l")
    await files.truncate("l", 3)
    _same(await files.read_bytes("a"), b"abc", "cut")
    await files.truncate("a", 70_000)
    _same((await files.stat("a")).size_bytes, 70_000, "longer")
    for path, number in {"x": errno.ENOENT, "d": errno.EISDIR}.items():
        with _refused(number):
            await files.truncate(path, 0)
    with _refused(errno.EINVAL):
        await files.truncate("a", -1)
    for path in ("l", "d"):
        await files.chmod(path, 0o2751)
        _same((await files.stat(path)).mode, 0o2751, "the permissions")
    await files.utime("l", atime_ns=1_000_000_007, mtime_ns=-1_000_000_009)
    attributes = await files.stat("a")
    found = (attributes.atime_ns, attributes.mtime_ns)
    _same(found, (1_000_000_007, -1_000_000_009), "the times, to the nanosecond")
    await files.utime("l", atime_ns=5, mtime_ns=6, follow_symlinks=False)
    _same((await files.stat("l", follow_symlinks=False)).mtime_ns, 6, "the symlink's own")
    _same((await files.stat("a")).mtime_ns, -1_000_000_009, "not the file's")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: files.chmod("x", 0o600),
        lambda: files.utime("x", atime_ns=0, mtime_ns=0),
        lambda: files.listxattr("x"),
    ]
    for call in calls:
        with _refused(errno.ENOENT):
            await call()


async def extended_attributes_are_kept(files: FileApi) -> None:
    await files.write_bytes("a", b"")
    await files.mkdir("d")
    await files.symlink("a", "l")
    for path in ("l", "d"):
        _same(await files.listxattr(path), [], "none at first")
        await files.setxattr(path, "user.b", b"1")
        await files.setxattr(path, "user.a", memoryview(b""))
        await files.setxattr(path, "user.b", b"2")
        _same(await files.listxattr(path), ["user.a", "user.b"], "their names")
        _same(await files.getxattr(path, "user.b"), b"2", "the last value")
        _same(await files.getxattr(path, "user.a"), b"", "an empty one")
        await files.removexattr(path, "user.b")
        with _refused(errno.ENODATA):
            await files.getxattr(path, "user.b")
        with _refused(errno.ENODATA):
            await files.removexattr(path, "user.b")
        with _refused(errno.EOPNOTSUPP):
            await files.setxattr(path, "nonsense", b"1")
    _same(await files.listxattr("a"), ["user.a"], "what the link leads to has them")


async def everything_can_be_synced(files: FileApi) -> None:
    await files.mkdir("d")
    async with files.open("d/a", "xb") as file:
        await file.write(b"x")
        await file.fsync()
        await file.write(b"y")
        await file.fdatasync()
    await files.sync("d/a")
    await files.sync("d")
    await files.sync(".")
    with _refused(errno.ENOENT):
        await files.sync("x")


FILE_CASES: Final = (
    a_file_is_written_and_read,
    an_open_can_be_awaited,
    a_closed_file_is_refused,
    modes_mean_what_they_mean,
    a_write_at_an_offset_moves_no_position,
    a_file_is_truncated,
    large_writes_arrive_whole,
    what_is_written_is_a_copy,
    appenders_do_not_overwrite_each_other,
    tasks_share_a_position,
    directories_are_made_and_listed,
    names_are_removed,
    names_are_moved,
    symlinks_are_followed_inside,
    what_is_there_is_told,
    nothing_outside_is_reached,
    a_file_is_replaced_at_once,
    everything_can_be_synced,
    a_file_has_several_names,
    sizes_modes_and_times_are_changed_by_path,
    extended_attributes_are_kept,
)
