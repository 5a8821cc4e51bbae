"""Open descriptors of a real disk, and which of them hold what is not durable yet.

Only files and directories are opened: to open a symlink fails, and to open a fifo or a device does
something. Those are reached by descriptors that only stand for a place (`pinned`).

A descriptor with unsynced changes stays open until they are synced: closed earlier, it would take
a writeback error with it. Idle ones are kept for the next use, up to a limit.

One thread changes and opens; another may sync at the same time. What both touch (the tree's
names, the sets of descriptors) is changed under `lock` only, which is never held during a system
call that can take long. The sync works on duplicates of descriptors: they share the original's
error state, and the original may be closed meanwhile.

One sync is under way at a time, though it syncs several files at once. It marks them clean before
it begins, so the next one waits for its end, and fails with it: else that would take for durable
what is not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, final

from mirrorha.errors import ensure
from mirrorha.volume.disk import DiskError, Kind
from mirrorha.volume.local_disk.sync_threads import SyncThreads
from mirrorha.volume.names import LIMBO_NAME, bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from mirrorha.volume.local_disk.tree import Node, Tree

T = TypeVar("T")

_COMMON: Final = os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE: Final = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | _COMMON
OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | _COMMON
OPEN_PLACE: Final = os.O_PATH | _COMMON
OPENED_KINDS: Final = frozenset({Kind.FILE, Kind.DIRECTORY})
# What we read for ourselves, to compare it with the peer, is no access of the application's.
_NOATIME: Final = getattr(os, "O_NOATIME", 0)
# From here on one syncfs is cheaper than that many journal commits.
MANY: Final = 64


@final
class Handle:
    """An open file or directory. The times are a file's, as they were last seen or set.

    To read by `fd` changes neither (`open_quietly`). `default_list` is what new files in a
    directory inherit, None as long as nobody has looked.
    """

    __slots__ = (
        "atime_ns",
        "default_list",
        "dirty",
        "fd",
        "fragile_mode",
        "is_owner",
        "mtime_ns",
        "node",
    )

    def __init__(
        self, node: Node, fd: int, *, mode: int, mtime_ns: int, atime_ns: int, is_owner: bool
    ) -> None:
        self.node = node
        self.fd = fd
        self.mtime_ns = mtime_ns
        self.atime_ns = atime_ns
        self.default_list: bytes | None = None
        self.is_owner = is_owner  # its times can be set
        self.dirty = False
        self.note_mode(mode)

    def note_mode(self, mode: int) -> None:
        """Note the mode. `fragile_mode` is what to set again after each write, or 0.

        The kernel takes set-user-id bits away when somebody else than root writes. Whether they go
        stands in an op of its own, or they would go on one node and stay on the other.
        """
        is_fragile = mode & (stat.S_ISUID | stat.S_ISGID) and os.geteuid() != 0
        self.fragile_mode = stat.S_IMODE(mode) if is_fragile else 0


class _Job(NamedTuple):
    """One file or directory to sync, by a descriptor of its own; of a file perhaps its data."""

    node: Node
    fd: int
    whole: bool


@final
class Handles:
    """The descriptors of one disk.

    Args:
        root_fd: The volume's root. Taken over: `close` closes it.
        tree: Where every fid is.
        idle_max: Descriptors kept open though everything in them is durable.
        dirty_max: As many may hold unsynced changes; then all are synced.
        fsync: Makes a descriptor's file durable. Several threads call it at the same time. Tests
            watch and fail it, as the next two.
        fdatasync: The same with a file's content and size.
        syncfs: The same with a whole file system, or None if that cannot be had.
    """

    def __init__(
        self,
        root_fd: int,
        tree: Tree,
        *,
        idle_max: int,
        dirty_max: int,
        fsync: Callable[[int], None],
        fdatasync: Callable[[int], None],
        syncfs: Callable[[int], None] | None,
    ) -> None:
        self.lock: Final = threading.Lock()
        self.open: Final[dict[int, Handle]] = {}
        self._tree: Final = tree
        self._idle: Final[OrderedDict[int, Handle]] = OrderedDict()
        self._dirty: Final[dict[int, Handle]] = {}
        self._idle_max: Final = idle_max
        self._dirty_max: Final = dirty_max
        # So many descriptors are duplicated for a sync of the tree: where few may be open, fewer.
        self._at_once: Final = max(1, min(MANY, dirty_max // 4))
        self._fsync: Final = fsync
        self._fdatasync: Final = fdatasync
        self._syncfs: Final = syncfs
        self._syncing: Final = threading.Lock()
        self._why_not = ""  # nothing can be made durable any more, and why
        self._threads: Final = SyncThreads()
        self._user: Final = os.geteuid()
        self.device: Final = os.fstat(root_fd).st_dev
        self.root: Final = Handle(tree.root, root_fd, mode=0, mtime_ns=0, atime_ns=0, is_owner=True)
        # Not among the idle ones, so never closed: everything else is reached through it.
        self.open[tree.root.fid] = self.root

    def get(self, node: Node) -> Handle:
        """An open descriptor for a file or directory, valid until the next `trim`.

        Raises:
            OSError: ESTALE, something else is in its place: changed behind our back; or what
                opening says.
        """
        handle = self.open.get(node.fid)
        if handle is not None:
            self._touch(handle)
            return handle
        ensure(node.kind in OPENED_KINDS, f"a {node.kind.name} is not opened")
        above = []
        while node.fid not in self.open:
            above.append(node)
            node = self._tree.root if node is self._tree.limbo else node.names[0].parent
        handle = self.open[node.fid]
        while above:
            outer = handle
            try:
                handle = self._open_in(outer, above.pop())
            finally:
                if outer.node.fid not in self.open:
                    os.close(outer.fd)
        self.adopt(handle)
        return handle

    @contextlib.contextmanager
    def pinned(self, node: Node) -> Iterator[int]:
        """A descriptor that stands for what is not opened, for as long as the block lasts.

        fstat takes it as it is, other calls as `place_of`.

        Raises:
            OSError: as `get`.
        """
        name = node.names[0]
        directory = self.get(name.parent)
        fd = os.open(bytes_of(name.name), OPEN_PLACE, dir_fd=directory.fd)
        try:
            self._check_place(fd, node)
            yield fd
        finally:
            os.close(fd)

    def mark_beside(self, node: Node) -> None:
        """Note a change of what is not opened: it becomes durable with its directory."""
        directory = self.get(node.names[0].parent)
        status = os.fstat(directory.fd)
        # A change of the directory that changes nothing: what came before it is in the same
        # transaction of the file system's journal, or in an earlier one.
        os.utime(directory.fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.mark_dirty(directory)

    def adopt(self, handle: Handle) -> None:
        """Keep a descriptor that was just opened."""
        with self.lock:
            self.open[handle.node.fid] = handle
            self._idle[handle.node.fid] = handle

    def trim(self) -> None:
        """Close what is too much. Between two requests, when no descriptor is in use.

        Not when one is opened: a sync beside us can make any number of others idle, and the one
        that the request opened first the oldest of them.

        Raises:
            DiskError: too much was not durable, and could not be made so.
        """
        if len(self._dirty) >= self._dirty_max:
            self.sync_tree()
        if len(self._idle) > self._idle_max:
            self.close_idle()

    def close_idle(self) -> None:
        """Close what is too much and durable. Between two uses, as `trim`."""
        if len(self._idle) > self._idle_max:
            with self.lock:
                while len(self._idle) > self._idle_max:
                    fid, oldest = self._idle.popitem(last=False)
                    del self.open[fid]
                    os.close(oldest.fd)

    def mark_dirty(self, handle: Handle) -> None:
        """Note a change that was made through `handle`. After the change, never before.

        A sync that began in between has then covered the change, or the mark survives it.
        """
        with self.lock:
            self.mark_dirty_locked(handle)

    def mark_dirty_locked(self, handle: Handle) -> None:
        """`mark_dirty` for who holds `lock` already."""
        handle.dirty = True
        self._idle.pop(handle.node.fid, None)
        self._dirty[handle.node.fid] = handle

    def forget_locked(self, fid: int) -> None:
        """Close what has no name any more: nothing of it needs to become durable."""
        handle = self.open.pop(fid, None)
        if handle is not None:
            self._idle.pop(fid, None)
            self._dirty.pop(fid, None)
            handle.dirty = False
            os.close(handle.fd)

    def relabel_locked(self, fid: int, new_fid: int) -> None:
        """Follow a node's new id."""
        for table in (self.open, self._idle, self._dirty):
            handle = table.pop(fid, None)
            if handle is not None:
                table[new_fid] = handle

    def sync_files(self, fids: Iterable[int], *, data_only: Container[int] = ()) -> None:
        """Make files and directories durable, with the names that lead to them. Blocks.

        Args:
            fids: What to sync.
            data_only: Files whose content and size suffice. They stay dirty: the next sync that
                wants all of them, or of the tree, has them to do.

        Raises:
            DiskError: it could not be done; what is durable is unknown, and no later sync succeeds.
        """
        with self._one_sync():
            with self.lock:
                through = self._tree.changes
                jobs = self._jobs(self._dirty_with(fids, data_only))
            self._perform(jobs, through)

    def sync_tree(self) -> None:
        """Make all changes durable. Blocks.

        Raises:
            DiskError: as `sync_files`.
        """
        with self._one_sync():
            with self.lock:
                through = self._tree.changes
                left = list(self._dirty.values())
            if len(left) >= MANY and self._syncfs is not None:
                self._sync_file_system(self._syncfs, through)
                return
            while left:
                with self.lock:
                    some, left = left[: self._at_once], left[self._at_once :]
                    jobs = self._jobs([(handle, True) for handle in some if handle.dirty])
                self._perform(jobs, through)

    def close(self) -> None:
        """Close every descriptor. Syncs nothing; no later sync succeeds. Idempotent."""
        with self._syncing, self.lock:
            self._why_not = self._why_not or "it is closed"
            self._threads.stop()
            for handle in self.open.values():
                os.close(handle.fd)
            self.open.clear()
            self._idle.clear()
            self._dirty.clear()

    def _touch(self, handle: Handle) -> None:
        if not handle.dirty:
            with self.lock:
                if handle.node.fid in self._idle:
                    self._idle.move_to_end(handle.node.fid)

    @contextlib.contextmanager
    def _one_sync(self) -> Iterator[None]:
        with self._syncing:
            if self._why_not:
                raise DiskError(self._why_not)
            try:
                yield
            except OSError as error:
                self._why_not = f"fsync failed: {error.strerror}"
                raise DiskError(self._why_not) from error
            except BaseException as error:
                self._why_not = str(error) or "a sync was cut off"
                raise

    def _dirty_with(
        self, fids: Iterable[int], data_only: Container[int]
    ) -> list[tuple[Handle, bool]]:
        """What must be synced for `fids` to be durable, each with whether all of it."""
        needed: dict[int, bool] = {}
        for fid in fids:
            node = self._tree.nodes.get(fid)
            if node is None:
                continue
            # What is not opened is changed together with its directory.
            one = fid if node.kind in OPENED_KINDS else node.names[0].parent.fid
            needed[one] = needed.get(one, False) or fid not in data_only or _is_new(node)
            for name in self._tree.chain(node):
                for directory in (name.parent, name.left):
                    if directory is not None and name.change > directory.synced_through:
                        needed[directory.fid] = True
        dirty = self._dirty
        return [(dirty[one], needed[one]) for one in sorted(needed) if one in dirty]

    def _jobs(self, wanted: Iterable[tuple[Handle, bool]]) -> list[_Job]:
        jobs: list[_Job] = []
        try:
            for handle, whole in wanted:
                jobs.append(_Job(handle.node, os.dup(handle.fd), whole))
                if whole:
                    self._clean_locked(handle)
        except OSError:
            _close(jobs)
            raise
        return jobs

    def _clean_locked(self, handle: Handle) -> None:
        handle.dirty = False
        del self._dirty[handle.node.fid]
        if handle is not self.root:
            self._idle[handle.node.fid] = handle

    def _perform(self, jobs: list[_Job], through: int) -> None:
        """Sync them, at the same time: the journal's commits and the disk's barriers are shared.

        So a name may be durable before the content is. Nothing was promised of either yet.
        """
        try:
            self._threads.perform(
                [partial(self._fsync if job.whole else self._fdatasync, job.fd) for job in jobs]
            )
        finally:
            _close(jobs)
        for job in jobs:
            if job.whole:
                job.node.synced_through = max(job.node.synced_through, through)

    def _sync_file_system(self, syncfs: Callable[[int], None], through: int) -> None:
        with self.lock:
            handles = list(self._dirty.values())
            for handle in handles:
                self._clean_locked(handle)
        try:
            syncfs(self.root.fd)
        except OSError as error:
            raise DiskError(f"syncfs failed: {error.strerror}") from error
        for handle in handles:
            handle.node.synced_through = max(handle.node.synced_through, through)

    def _open_in(self, directory: Handle, node: Node) -> Handle:
        name = LIMBO_NAME.encode() if node is self._tree.limbo else bytes_of(node.names[0].name)
        flags = OPEN_DIRECTORY if node.kind is Kind.DIRECTORY else OPEN_FILE
        fd = _open_as_owner(name, flags, directory.fd)
        try:
            status = self._check_place(fd, node)
        except OSError:
            os.close(fd)
            raise
        is_owner = self._user in (0, status.st_uid)
        return Handle(
            node,
            fd,
            mode=status.st_mode,
            mtime_ns=status.st_mtime_ns,
            atime_ns=status.st_atime_ns,
            is_owner=is_owner,
        )

    def _check_place(self, fd: int, node: Node) -> os.stat_result:
        status = os.fstat(fd)
        if (status.st_ino, status.st_dev) != (node.inode, self.device):
            raise OSError(errno.ESTALE, "the file was replaced behind the volume's back")
        return status


def _is_new(node: Node) -> bool:
    """Whether its data alone would be of no use, for want of what made it.

    A new file has its mode last of all, and one that is found without is taken for half made. And
    of a directory all is data.
    """
    if node.kind is not Kind.FILE:
        return True
    return any(name.change > node.synced_through for name in node.names)


def _close(jobs: list[_Job]) -> None:
    for job in jobs:
        os.close(job.fd)


def place_of(fd: int) -> str:
    """A path to what a descriptor stands for, whatever its name: even to a symlink itself."""
    return f"/proc/self/fd/{fd}"


def open_quietly(name: bytes | str, flags: int, directory_fd: int | None = None) -> int:
    """Open so that reading is no access, where that is allowed.

    Raises:
        OSError: as open().
    """
    try:
        return os.open(name, flags | _NOATIME, dir_fd=directory_fd)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
    return os.open(name, flags, dir_fd=directory_fd)


def _open_as_owner(name: bytes, flags: int, directory_fd: int) -> int:
    try:
        return open_quietly(name, flags, directory_fd)
    except PermissionError:
        path_fd = os.open(name, OPEN_PLACE, dir_fd=directory_fd)
        try:
            place = place_of(path_fd)
            return as_owner(path_fd, lambda: os.open(place, flags & ~os.O_NOFOLLOW))
        finally:
            os.close(path_fd)


def as_owner(fd: int, action: Callable[[], T]) -> T:
    """Do something with a file, or in a directory, that its mode may forbid even its owner.

    The owner may write to a read-only file that it opened before it made it so, and a follower has
    no such descriptor any more. And a resync changes directories that are read-only on both nodes
    by now. So it takes the right for a moment.

    Raises:
        OSError: as `action`, and whoever is not the owner is refused.
    """
    try:
        return action()
    except PermissionError:
        place = place_of(fd)
        status = os.fstat(fd)
        mode = stat.S_IMODE(status.st_mode)
        wanted = stat.S_IRWXU if stat.S_ISDIR(status.st_mode) else stat.S_IRUSR | stat.S_IWUSR
        os.chmod(place, mode | wanted)
        try:
            return action()
        finally:
            os.chmod(place, mode)


def move_as_owner(source_fd: int, name: bytes, target_fd: int, new_name: bytes) -> None:
    """Rename as rename(2) does, though modes of directories may forbid it even to their owner.

    Raises:
        OSError: nothing has changed.
    """

    def move() -> None:
        os.rename(name, new_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)

    def move_whatever() -> None:
        try:
            move()
        except PermissionError:
            fd = os.open(name, OPEN_PLACE, dir_fd=source_fd)
            try:
                if not stat.S_ISDIR(os.fstat(fd).st_mode):
                    raise
                as_owner(fd, move)  # what is above a directory stands in it
            finally:
                os.close(fd)

    as_owner(source_fd, lambda: as_owner(target_fd, move_whatever))


def read_range(fd: int, offset: int, length: int) -> bytes:
    """Read so many bytes, or up to the end of the file. Blocks."""
    data = os.pread(fd, length, offset)
    if len(data) in {0, length}:
        return data
    # Short before the end of the file: the kernel reads no more than 2 GiB at once.
    parts = [data]
    while data:
        offset, length = offset + len(data), length - len(data)
        data = os.pread(fd, length, offset)
        parts.append(data)
    return b"".join(parts)
