"""The file API over a disk alone, in memory and in a directory."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest
import trio

from mirrorha.errors import LocalUsageError, NotPrimaryError, PathOutsideVolumeError
from mirrorha.testing.check_files import FILE_CASES
from mirrorha.testing.direct_engine import DirectEngine
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import Apply, Kind, Outcome
from mirrorha.volume.files.mounted import MountedFiles
from mirrorha.volume.files.streamed import Files
from mirrorha.volume.ops import Create, Truncate, Unlink, Write
from tests.volume.disk_support import T0, Home

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirrorha.volume.disk import AnyRequest
    from mirrorha.volume.files.api import FileApi
    from mirrorha.volume.files.open_file import MirroredFile, Opening
    from mirrorha.volume.ops import AnyOp


def ticking() -> Callable[[], int]:
    return itertools.count(T0, 1_000_000).__next__


def files_on(engine: DirectEngine, root: Path = Path("/srv/volume")) -> Files:
    return Files(root, engine, clock_ns=ticking())


@pytest.mark.parametrize("case", FILE_CASES, ids=lambda case: case.__name__)
class TestConformance:
    async def test_in_memory(self, case: Callable[[FileApi], Awaitable[None]]) -> None:
        await case(files_on(DirectEngine(MemoryDisk())))

    async def test_by_the_kernel(
        self, case: Callable[[FileApi], Awaitable[None]], tmp_path: Path
    ) -> None:
        await case(MountedFiles(tmp_path))

    async def test_in_a_directory(
        self, case: Callable[[FileApi], Awaitable[None]], home: Home
    ) -> None:
        await case(files_on(DirectEngine(home.open(), in_threads=True), home.root))


class Recording:
    """An engine that keeps what it was asked for, and can be told to fail."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self._direct = DirectEngine(self.disk)
        self.log: list[object] = []
        self.before: Callable[[AnyOp], None] = lambda op: None

    async def change(self, op: AnyOp) -> AnyOp | None:
        self.log.append(op)
        self.before(op)
        return await self._direct.change(op)

    async def flush(self, fid: int, *, data_only: bool = False) -> None:
        self.log.append(("flush of data" if data_only else "flush", fid))
        await self._direct.flush(fid, data_only=data_only)

    async def query(self, request: AnyRequest) -> object:
        return await self._direct.query(request)

    def taken(self) -> list[object]:
        log, self.log = self.log, []
        return log


@pytest.fixture
def engine() -> Recording:
    return Recording()


@pytest.fixture
def files(engine: Recording) -> Files:
    return Files("/srv/volume", engine, clock_ns=ticking())


async def test_data_alone_can_be_made_durable(engine: Recording, files: Files) -> None:
    async with files.open("a", "xb") as file:
        engine.taken()
        await file.fdatasync()
        await file.fsync()
    (data, of), (whole, same_of) = engine.taken()  # type: ignore[misc]
    assert (data, whole) == ("flush of data", "flush")
    assert of == same_of


async def test_a_write_of_a_mebibyte_is_one_op(engine: Recording, files: Files) -> None:
    mib = 1 << 20
    async with files.open("a", "xb") as file:
        engine.taken()
        await file.write(b"x" * mib)
        await file.write(b"y" * (2 * mib + 1))
        await file.write(b"")
    ops = [op for op in engine.taken() if isinstance(op, Write)]
    places = [(op.offset // mib, len(op.data)) for op in ops]
    assert places == [(0, mib), (1, mib), (2, mib), (3, 1), (3, 0)]


async def test_what_waits_does_not_change(engine: Recording, files: Files) -> None:
    data = bytearray(b"before")

    def meanwhile(op: AnyOp) -> None:
        if isinstance(op, Write):
            data[:] = b"after!"

    engine.before = meanwhile
    for given in (data, memoryview(data)):
        data[:] = b"before"
        await files.write_bytes("a", given)
        assert await files.read_bytes("a") == b"before"


async def test_every_change_has_its_time(engine: Recording, files: Files) -> None:
    await files.write_bytes("a", b"x")
    await files.write_bytes("a", b"y")
    times = [op.mtime_ns for op in engine.taken()]  # type: ignore[attr-defined]
    assert times == sorted(set(times))
    assert (await files.stat("a")).mtime_ns == times[-1]


async def test_a_replacement_is_durable_before_it_has_the_name(
    engine: Recording, files: Files
) -> None:
    await files.mkdir("d")
    directory = (await files.stat("d")).fid
    engine.taken()
    await files.replace_atomically("d/a", b"x")
    create, write, flushed, rename, directory_flushed = engine.taken()
    assert isinstance(create, Create)
    fid = (await files.stat("d/a")).fid
    assert create.name.startswith(".mirrorha-")
    assert (write.fid, flushed, rename.new_name) == (fid, ("flush", fid), "a")  # type: ignore[attr-defined]
    assert directory_flushed == ("flush", directory)


@pytest.mark.parametrize("kind", [Write, Truncate, Create])
async def test_a_replacement_that_fails_leaves_nothing(
    engine: Recording, files: Files, kind: type[AnyOp]
) -> None:
    await files.write_bytes("a", b"old")

    def fail(op: AnyOp) -> None:
        if isinstance(op, kind):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    engine.before = fail
    if kind is Truncate:
        await files.replace_atomically("a", b"new")  # truncates nothing
        return
    with pytest.raises(OSError, match="No space") as caught:
        await files.replace_atomically("a", b"new")
    assert caught.value.filename == "a"
    assert await files.listdir() == ["a"]
    assert await files.read_bytes("a") == b"old"


async def test_a_replacement_that_is_cancelled_leaves_nothing(
    engine: Recording, files: Files
) -> None:
    with trio.CancelScope() as scope:

        def cancel(op: AnyOp) -> None:
            if isinstance(op, Write):
                scope.cancel()

        engine.before = cancel
        await files.replace_atomically("a", b"new")
    assert scope.cancelled_caught
    assert await files.listdir() == []


async def test_a_write_that_finds_little_room_goes_on_to_the_error(
    engine: Recording, files: Files
) -> None:
    async with files.open("a", "x+b") as file:
        engine.disk.fill(3)
        with pytest.raises(OSError, match="No space") as caught:
            await file.write(b"abcdef")
        assert caught.value.filename == "a"
        assert file.tell() == 3
        assert await file.pread(9, 0) == b"abc"


async def test_a_node_that_may_not_write_says_so() -> None:
    engine = DirectEngine(MemoryDisk())
    files = files_on(engine)
    await files.write_bytes("a", b"x")
    async with files.open("a", "r+b") as file:
        engine.refuses = True
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: file.write(b"y"),
            lambda: file.truncate(0),
            file.fsync,
            lambda: _opened(files.open("b", "xb")),
            lambda: files.mkdir("d"),
            lambda: files.unlink("a", missing_ok=True),
            lambda: files.rename("a", "b"),
            lambda: files.replace_atomically("a", b"y"),
        ]
        for call in calls:
            with pytest.raises(NotPrimaryError):
                await call()
        assert await file.read() == b"x", "reading goes on"


async def _opened(opening: Opening) -> MirroredFile:
    return await opening


async def test_a_file_that_was_removed_is_stale(files: Files) -> None:
    async with files.open("a", "x+b") as file, files.open("a", "ab") as appending:
        await files.unlink("a")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: file.write(b"y"),
            file.read,
            file.truncate,
            lambda: file.seek(0, os.SEEK_END),
            lambda: appending.write(b"z"),
        ]
        for call in calls:
            with pytest.raises(OSError, match="Stale"):
                await call()


@pytest.mark.parametrize("mode", ["wb", "ab", "xb"])
async def test_a_name_may_come_or_go_while_it_is_opened(
    engine: Recording, files: Files, mode: str
) -> None:
    steps = iter(["come", "go", "come"])

    def interfere(op: AnyOp) -> None:
        step = next(steps, None)
        engine.before = lambda op: None
        if step == "come" and isinstance(op, Create):
            other = Create(99 << 40 | 1, 1, "a", 0o644, -1, -1, T0)
            assert engine.disk.perform(Apply(other)) == Outcome(
                Create(99 << 40 | 1, 1, "a", 0o644, 0, 0, T0)
            )
            engine.before = interfere
        elif step == "go" and isinstance(op, Truncate):
            engine.disk.perform(Apply(Unlink(0, 1, "a", T0)))

    engine.before = interfere
    if mode == "xb":
        with pytest.raises(FileExistsError):
            await files.open("a", mode)
        return
    async with files.open("a", mode) as file:
        await file.write(b"x")
    assert await files.read_bytes("a") == b"x"


async def test_paths_may_be_absolute_and_of_any_kind(tmp_path: Path) -> None:
    files = Files(tmp_path, DirectEngine(MemoryDisk()), clock_ns=ticking())
    await files.mkdir(tmp_path / "d")
    await files.write_bytes(str(tmp_path / "d" / "a"), b"x")
    assert await files.read_bytes(PurePosixPath("d/a")) == b"x"
    assert await files.listdir(tmp_path) == ["d"]
    assert await files.exists(f"{tmp_path}//d/./a")
    with pytest.raises(PathOutsideVolumeError):
        await files.stat(f"{tmp_path}-other/a")
    with pytest.raises(LocalUsageError):
        await files.stat(b"d/a")  # type: ignore[arg-type]


async def test_a_symlink_does_not_lead_out(files: Files) -> None:
    await files.mkdir("d")
    await files.write_bytes("f", b"x")
    targets = {"/etc/passwd": 0, "../../x": 0, "..": 0, "/srv/volume/../x": 0, "/srv/volume/f": 1}
    for number, (target, is_inside) in enumerate(targets.items()):
        await files.symlink(target, f"l{number}")
        if is_inside:
            assert await files.read_bytes(f"l{number}") == b"x"
        else:
            for call in (files.read_bytes, files.stat, files.listdir, files.exists):
                with pytest.raises(PathOutsideVolumeError):
                    await call(f"l{number}")
        assert await files.readlink(f"l{number}") == target
    await files.symlink("../f", "d/inside")
    assert await files.read_bytes("d/inside") == b"x"


async def test_names_that_are_no_text_are_reached(home: Home) -> None:
    directory_fd = os.open(home.root, os.O_RDONLY)
    os.close(os.open(b"\xff", os.O_CREAT | os.O_WRONLY, dir_fd=directory_fd))
    os.close(directory_fd)
    files = files_on(DirectEngine(home.open(), in_threads=True), home.root)
    await files.write_bytes(os.fsdecode(b"\xff"), b"x")
    assert await files.listdir() == os.listdir(home.root) == [os.fsdecode(b"\xff")]
    await files.write_bytes("\U0010ffff", b"y")
    assert await files.read_bytes(os.fsdecode(b"\xff")) == b"x"
    assert sorted(await files.listdir()) == sorted(os.listdir(home.root))
    assert (home.root / os.fsdecode(b"\xff")).read_bytes() == b"x"
    await files.symlink(os.fsdecode(b"\xff"), "l")
    assert await files.readlink("l") == os.readlink(home.root / "l") == os.fsdecode(b"\xff")
    assert await files.read_bytes("l") == b"x"
    with pytest.raises(OSError, match="Invalid or incomplete"):
        await files.read_bytes("\ud800")


async def test_our_own_names_are_nobodys(files: Files) -> None:
    for name in (".mirrorha-volume", ".mirrorha-limbo"):
        with pytest.raises(PermissionError):
            await files.write_bytes(name, b"x")
        with pytest.raises(PermissionError):
            await files.mkdir(name)
        assert not await files.exists(name)
    assert await files.listdir() == []


async def test_what_is_no_file_is_told_and_not_opened(home: Home) -> None:
    os.mkfifo(home.root / "fifo", 0o640)
    files = files_on(DirectEngine(home.open(), in_threads=True), home.root)
    for mode in ("rb", "r+b", "wb", "ab"):
        with trio.fail_after(10), pytest.raises(OSError, match="Invalid argument"):
            await files.open("fifo", mode)
    with pytest.raises(OSError, match="Invalid argument"):
        await files.truncate("fifo", 0)
    await files.chmod("fifo", 0o604)
    attributes = await files.stat("fifo")
    assert (attributes.kind, attributes.mode) == (Kind.FIFO, 0o604)
    await files.link("fifo", "other")
    await files.unlink("fifo")
    assert await files.listdir() == ["other"]
