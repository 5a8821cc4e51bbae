"""The directory in which one side of a split is kept, and its two lists. All of it blocks.

    .mirrorha-rescue/<time>-<generation>/
        before.jsonl    every file of this side as it was when the rescue began
        manifest.jsonl  what the other side's data has replaced since, and how
        files/          what was kept of it, by its path of that time

A line is a JSON object; see `Was`, `Header` and `Line`. Nothing of ours ever deletes any of it.
What a crash left of a line that was not durable is cut off when the directory is opened again.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
from functools import partial
from typing import TYPE_CHECKING, Final, final

import msgspec
import xxhash

from mirrorha.volume.disk import DiskError
from mirrorha.volume.local_disk.handles import OPEN_DIRECTORY
from mirrorha.volume.local_disk.limbo import keeping_times
from mirrorha.volume.local_disk.sync_threads import SyncThreads
from mirrorha.volume.names import RESCUE_NAME, bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mirrorha.volume.local_disk.handles import Handle

FORMAT: Final = 1
FILES: Final = "files"
_BEFORE: Final = b"before.jsonl"
_BEFORE_PART: Final = b"before.jsonl.part"
_MANIFEST: Final = b"manifest.jsonl"
_APPEND: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ_BYTES: Final = 1 << 20
_LINE_BYTES: Final = 4096  # most are shorter
_PLAIN: Final = re.compile(r"[0-9A-Za-z]{1,64}")


class Was(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file, directory or symlink of this side, as it was when the rescue began.

    `names` are its paths below the volume's root, a byte that is no UTF-8 as one character from
    U+10FF80 on; `parents` the inodes of the directories that these are in. Values of extended
    attributes are base64. `birth_ns` is 0 where the file system keeps none.
    """

    inode: int
    birth_ns: int
    kind: str
    names: list[str]
    parents: list[int]
    mode: int
    uid: int  # -1: the node keeps no owners
    gid: int
    size_bytes: int
    mtime_ns: int
    target: str = ""
    rdev: int = 0
    xattrs: dict[str, bytes] = {}


class Header(msgspec.Struct, frozen=True):
    """The first line of a manifest."""

    format: int
    generation: str  # of this side, whose files are kept
    peer_generation: str  # of the side whose data stands
    begun: str


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened to a file of this side.

    `operation`: "changed", its content was about to be replaced; "deleted", it was about to be
    removed; "attributes", those were about to be changed; "replaced", after "changed", what stands
    in its place; "renamed", it has other names now.
    """

    operation: str
    path: str
    time: str
    kept: str = ""  # where, below this directory
    hash: str = ""  # of all of the content
    was: Was | None = None
    peer_size_bytes: int | None = None
    peer_hash: str = ""
    names: list[str] | None = None
    inode: int = 0


_encode: Final = msgspec.json.Encoder().encode
_decode_was: Final = msgspec.json.Decoder(Was).decode
_decode_line: Final = msgspec.json.Decoder(Line).decode


def time_text() -> str:
    """Now, RFC 3339 in UTC."""
    now = datetime.datetime.now(tz=datetime.UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@final
class RescueRoom:
    """The rescue directory of one generation, opened or made.

    Args:
        root: The volume's root.
        fsync: Makes a descriptor's file durable. Several threads call it at the same time.

    Methods raise OSError for what failed, and DiskError if something could not be made durable:
    then nothing more can be, as of any disk.

    Raises:
        OSError: it cannot be opened or made.
    """

    def __init__(
        self,
        root: Handle,
        generation: str,
        peer_generation: str,
        *,
        fsync: Callable[[int], None],
    ) -> None:
        self.generation: Final = generation
        self._root: Final = root
        self._fsync: Final = fsync
        self._threads: Final = SyncThreads()
        self._stack: Final = contextlib.ExitStack()
        self._stack.callback(self._threads.stop)
        try:
            self._open(peer_generation)
        except BaseException:
            self.close()
            raise

    @property
    def directory(self) -> str:
        """Where it is, below the volume's root."""
        return f"{RESCUE_NAME}/{self._name}"

    def close(self) -> None:
        """Close every descriptor. Idempotent."""
        self._stack.close()

    def _own(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd

    def _open(self, peer_generation: str) -> None:
        root_fd = self._root.fd
        with keeping_times(self._root), contextlib.suppress(FileExistsError):
            os.mkdir(RESCUE_NAME, 0o700, dir_fd=root_fd)
        self._above = self._own(os.open(RESCUE_NAME, OPEN_DIRECTORY, dir_fd=root_fd))
        begun, tag = time_text(), _tag(self.generation)
        names = [name for name in os.listdir(self._above) if name.endswith(f"-{tag}")]
        name = f"{begun[:19].replace(':', '-')}Z-{tag}"
        self._name = min(names, default=name)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._name, 0o700, dir_fd=self._above)
        self.fd = self._own(os.open(self._name, OPEN_DIRECTORY, dir_fd=self._above))
        with contextlib.suppress(FileExistsError):
            os.mkdir(FILES, 0o700, dir_fd=self.fd)
        self._files = self._own(os.open(FILES, OPEN_DIRECTORY, dir_fd=self.fd))
        self._manifest = self._own(os.open(_MANIFEST, _APPEND, 0o600, dir_fd=self.fd))
        self._before = self._open_before()
        self.lines = list(self._read_manifest())
        if not os.fstat(self._manifest).st_size:
            header = Header(FORMAT, self.generation, peer_generation, begun)
            self._write_manifest(_encode(header) + b"\n")

    # ---- how this side was ---------------------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        """Whether the list of what this side was stands durably."""
        return self._before is not None

    def _open_before(self) -> int | None:
        try:
            return self._own(os.open(_BEFORE, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd))
        except FileNotFoundError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_BEFORE_PART, dir_fd=self.fd)
            return None

    def add_before(self, some: Iterable[Was]) -> None:
        """Add to the list of what this side was. Not durable before `end_before`."""
        fd = os.open(_BEFORE_PART, _APPEND, 0o600, dir_fd=self.fd)
        try:
            _write_all(fd, b"".join(_encode(was) + b"\n" for was in some))
        finally:
            os.close(fd)

    def end_before(self) -> None:
        """The list is whole: make it durable, with all that leads to it."""
        fd = self._own(os.open(_BEFORE_PART, _APPEND, 0o600, dir_fd=self.fd))
        self._sync_all([fd, self._manifest])
        os.rename(_BEFORE_PART, _BEFORE, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        self._sync_all([self.fd, self._above, self._root.fd])
        self._before = fd

    def all_before(self) -> Iterator[tuple[int, Was]]:
        """What this side was, each with its place in the list. Damage ends it: OSError."""
        at = 0
        for raw in _lines_in(self._list()):
            yield at, _decoded(raw)
            at += len(raw)

    def before_at(self, at: int) -> Was:
        """One of the list, by its place."""
        length = _LINE_BYTES
        data = os.pread(self._list(), length, at)
        while b"\n" not in data and len(data) == length:
            length *= 8
            data = os.pread(self._list(), length, at)
        return _decoded(data.partition(b"\n")[0])

    def _list(self) -> int:
        if self._before is None:
            raise OSError(errno.EIO, "the list of what this side was is not whole")
        return self._before

    # ---- the manifest --------------------------------------------------------------------------

    def _read_manifest(self) -> Iterator[Line]:
        """What it holds. What a crash left of a last line is cut off."""
        at = 0
        for number, raw in enumerate(_lines_in(self._manifest)):
            try:
                line = _decode_line(raw) if number and raw.endswith(b"\n") else None
            except msgspec.MsgspecError:
                break
            if not raw.endswith(b"\n"):
                break
            at += len(raw)
            if line is not None:
                yield line
        os.ftruncate(self._manifest, at)

    def note(self, lines: Iterable[Line]) -> None:
        """Add to the manifest, durably.

        Raises:
            OSError: nothing was added.
        """
        raw = b"".join(_encode(line) + b"\n" for line in lines)
        if raw:
            self._write_manifest(raw)
            self._sync_all([self._manifest])

    def _write_manifest(self, raw: bytes) -> None:
        before_bytes = os.fstat(self._manifest).st_size
        try:
            _write_all(self._manifest, raw)
        except OSError:
            os.ftruncate(self._manifest, before_bytes)
            raise

    # ---- what is kept --------------------------------------------------------------------------

    def create(self, path: str) -> int:
        """A new file at this path; what an earlier attempt left there is gone."""
        *above, name = _parts(path)
        with self._in(above) as directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            return os.open(name, _NEW, 0o600, dir_fd=directory)

    def remove(self, path: str) -> None:
        """Take back what was created."""
        *above, name = _parts(path)
        with self._in(above) as directory, contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)

    def make_directory(self, path: str) -> None:
        """A directory at this path, if there is none."""
        with self._in(_parts(path)):
            pass

    def place(self, path: str) -> contextlib.AbstractContextManager[int]:
        """A descriptor of the directory that this path is in."""
        return self._in(_parts(path)[:-1])

    @contextlib.contextmanager
    def _in(self, parts: list[bytes]) -> Iterator[int]:
        fd = os.dup(self._files)
        try:
            for part in parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=fd)
                inner = os.open(part, OPEN_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def sync(self, fds: list[int], paths: Iterable[str]) -> None:
        """Make new files durable, and the names that lead to them."""
        above = {tuple(_parts(path)[:-1]) for path in paths}
        above = {parts[:count] for parts in above for count in range(len(parts) + 1)}
        with contextlib.ExitStack() as stack:
            directories = [stack.enter_context(self._in(list(parts))) for parts in above]
            self._sync_all([*fds, *directories])

    def _sync_all(self, fds: list[int]) -> None:
        try:
            self._threads.perform([partial(self._fsync, fd) for fd in fds])
        except OSError as error:
            raise DiskError(f"fsync failed in {self.directory}: {error.strerror}") from error


def _tag(generation: str) -> str:
    """A generation as a part of a name. The other node may have drawn it."""
    is_plain = _PLAIN.fullmatch(generation) is not None
    return generation if is_plain else xxhash.xxh3_128_hexdigest(generation.encode())


def _parts(path: str) -> list[bytes]:
    return [bytes_of(part) for part in path.split("/")]


def _decoded(raw: bytes) -> Was:
    try:
        return _decode_was(raw)
    except msgspec.MsgspecError as error:
        raise OSError(errno.EIO, f"the list of what this side was is damaged: {error}") from error


def _write_all(fd: int, raw: bytes) -> None:
    rest = memoryview(raw)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _lines_in(fd: int, at: int = 0) -> Iterator[bytes]:
    """Lines from a place on, each with its end; the last one perhaps without."""
    rest = b""
    while data := os.pread(fd, _READ_BYTES, at):
        at += len(data)
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
