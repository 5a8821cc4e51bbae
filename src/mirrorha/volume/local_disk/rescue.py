"""Keeps what one side of a split acknowledged, before the other side's data replaces it.

Which files were there when the rescue began is known by their inodes and times of birth, whatever
the resync calls them since. What was kept is known by the manifest. So a rescue that a crash
interrupts goes on where it was.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Final, final

import xxhash

from mirrorha.errors import ensure
from mirrorha.volume.disk import (
    Attributes,
    BeginRescue,
    KeepAttributes,
    KeepFiles,
    KeepNames,
    Kind,
    NoteRenamed,
    NoteReplaced,
    ReadAttributes,
    RescueSum,
    SumRescue,
)
from mirrorha.volume.local_disk.handles import (
    OPENED_KINDS,
    as_owner,
    move_as_owner,
    read_range,
)
from mirrorha.volume.local_disk.limbo import keeping_times
from mirrorha.volume.local_disk.rescue_room import FILES, Line, RescueRoom, Was, time_text
from mirrorha.volume.local_disk.syscalls import identify
from mirrorha.volume.names import LIMBO_NAME, bytes_of
from mirrorha.volume.ops import is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorha.volume.local_disk.handles import Handles
    from mirrorha.volume.local_disk.ids import IdTable
    from mirrorha.volume.local_disk.tree import Name, Node, Tree

# One request takes about so long, and writes no more, before it is synced.
_SLICE_S: Final = 0.5
_SLICE_BYTES: Final = 32 << 20
_CHUNK_BYTES: Final = 1 << 20
_KEEPING: Final = frozenset({"changed", "deleted"})
# How paths of what is in limbo begin.
_ASIDE: Final = f"{LIMBO_NAME}/"


@final
class _Slice:
    """How much one request may still do: at least something, whatever time that takes."""

    def __init__(self) -> None:
        self._until_s: Final = time.monotonic() + _SLICE_S
        self._bytes = _SLICE_BYTES
        self._has_done = False

    def take(self, count: int = 0) -> None:
        """Something was done, with so many bytes."""
        self._bytes -= count
        self._has_done = True

    @property
    def is_over(self) -> bool:
        return self._has_done and (self._bytes <= 0 or time.monotonic() >= self._until_s)


@final
class _Reading:
    """A file that is hashed, and perhaps copied, in slices."""

    def __init__(self, fd: int, copy_fd: int = -1) -> None:
        self.fd: Final = fd
        self.copy_fd: Final = copy_fd
        self._at = 0
        self._digest: Final = xxhash.xxh3_128()
        self.size_bytes: Final = os.fstat(fd).st_size

    @property
    def hash(self) -> str:
        return f"xxh3-128:{self._digest.hexdigest()}"

    def go_on(self, some: _Slice) -> bool:
        """Whether its end was reached."""
        while self._at < self.size_bytes and not some.is_over:
            data = read_range(self.fd, self._at, min(_CHUNK_BYTES, self.size_bytes - self._at))
            if not data:
                break
            self._digest.update(data)
            if self.copy_fd >= 0 and data.count(0) < len(data):
                self._copy(data)
            self._at += len(data)
            some.take(len(data))
        is_over = self._at >= self.size_bytes or not some.is_over
        if is_over and self.copy_fd >= 0:
            os.ftruncate(self.copy_fd, self.size_bytes)  # holes stay holes
        return is_over

    def _copy(self, data: bytes) -> None:
        """Where the file system can, both share the blocks: then a copy takes no room."""
        done = 0
        with contextlib.suppress(OSError, AttributeError):
            while done < len(data):
                left, at = len(data) - done, self._at + done
                count = os.copy_file_range(self.fd, self.copy_fd, left, at, at)
                if not count:
                    break
                done += count
        while done < len(data):
            done += os.pwrite(self.copy_fd, data[done:], self._at + done)

    def close(self) -> None:
        os.close(self.fd)
        if self.copy_fd >= 0:
            os.close(self.copy_fd)


@final
class Rescue:
    """The rescue of one disk, in the thread that changes the tree. All methods block.

    Raise OSError for what failed: then nothing more is kept than before, and it goes on if it is
    asked again.

    Args:
        look: Carries out this request.
        fsync: As of `RescueRoom`.
    """

    def __init__(
        self,
        tree: Tree,
        handles: Handles,
        ids: IdTable,
        look: Callable[[ReadAttributes], Attributes | None],
        fsync: Callable[[int], None],
    ) -> None:
        self._tree: Final = tree
        self._handles: Final = handles
        self._ids: Final = ids
        self._look: Final = look
        self._make: Final = partial(RescueRoom, handles.root, fsync=fsync)
        self._room: RescueRoom | None = None
        self._to_list: Iterator[tuple[Node, list[Name]]] = iter(())
        self._to_read: Iterator[tuple[int, Was]] = iter(())
        self._is_read = False
        self._left = 0
        self._places: dict[int, int] = {}  # inode -> where it is in the list of what was
        self._kept: dict[int, Line] = {}  # by inode
        self._noted: set[int] = set()  # inodes whose attributes were noted
        self._replaced: set[str] = set()  # paths
        self._readings: dict[tuple[str, int], _Reading] = {}
        self._renamed: Iterator[tuple[int, Was]] | None = None
        self._now: dict[int, Node] = {}

    def performers(self) -> dict[type, Callable[..., object]]:
        """What carries out each request."""
        return {
            BeginRescue: self.begin,
            KeepFiles: self.keep_files,
            KeepAttributes: self.keep_attributes,
            KeepNames: self.keep_names,
            NoteReplaced: self.note_replaced,
            NoteRenamed: self.note_renamed,
            SumRescue: self.sum,
        }

    def close(self) -> None:
        """Close every descriptor. Idempotent."""
        self._drop_readings()
        if self._room is not None:
            self._room.close()
        self._room = None

    # ---- the beginning -------------------------------------------------------------------------

    def begin(self, request: BeginRescue) -> int:
        """See the request."""
        room = self._room if request.again else None
        if room is None:
            room = self._open(request)
        if not room.is_complete:
            room.add_before(self._list_some())
            if self._left:
                return self._left
            room.end_before()
            self._to_read = room.all_before()
        self._read_some()
        return self._left

    def _list_some(self) -> Iterator[Was]:
        some = _Slice()
        for node, names in self._to_list:
            self._left -= 1
            some.take()
            was = self._was(node, names)
            if was is not None:
                yield was
            if some.is_over and self._left:
                return

    def _open(self, request: BeginRescue) -> RescueRoom:
        """Open it anew: what another session left under way is void."""
        self.close()
        room = self._room = self._make(request.generation, request.peer_generation)
        self._tree.has_rescue = True
        self._handles.mark_dirty(self._handles.root)
        self._renamed, self._is_read = None, False
        self._places, self._kept, self._noted, self._replaced = {}, {}, set(), set()
        for line in room.lines:
            self._take_in(line)
        if room.is_complete:
            self._to_read = room.all_before()
        else:
            names = _names_of_all(self._tree)
            self._left, self._to_list = len(names), iter(names.items())
        return room

    def _was(self, node: Node, names: list[Name]) -> Was | None:
        attributes = self._look(ReadAttributes(node.fid))
        if attributes is None:
            return None
        return Was(
            inode=node.inode,
            birth_ns=self._birth_ns(node),
            kind=node.kind.name.lower(),
            names=[_path(self._tree, name) for name in names],
            parents=[name.parent.inode for name in names],
            mode=attributes.mode,
            uid=attributes.uid,
            gid=attributes.gid,
            size_bytes=attributes.size_bytes,
            mtime_ns=attributes.mtime_ns,
            target=attributes.target,
            rdev=attributes.rdev,
            xattrs=attributes.xattrs,
        )

    def _read_some(self) -> None:
        """Take in where everything is in the list of what was."""
        some, self._left = _Slice(), 0
        for at, was in self._to_read:
            self._places[was.inode] = at
            some.take()
            if some.is_over:
                self._left = 1  # or more
                return
        self._is_read = True

    def _take_in(self, line: Line) -> None:
        if line.operation in _KEEPING:
            self._kept[line.inode] = line
        elif line.operation == "attributes":
            self._noted.add(line.inode)
        elif line.operation == "replaced":
            self._replaced.add(line.path)

    def _note(self, lines: list[Line]) -> None:
        self._begun.note(lines)
        for line in lines:
            self._take_in(line)

    @property
    def _begun(self) -> RescueRoom:
        room = self._room
        ensure(room is not None and self._is_read, "a rescue is begun before anything changes")
        return room  # type: ignore[return-value]

    # ---- before something changes --------------------------------------------------------------

    def _as_it_was(self, node: Node | None) -> Was | None:
        """None: it was not there when the rescue began."""
        at = self._places.get(node.inode) if node is not None else None
        if node is None or at is None:
            return None
        was = self._begun.before_at(at)
        # Of what was equal, and removed since, the inode may be another one's by now.
        is_it = was.kind == node.kind.name.lower() and was.birth_ns == self._birth_ns(node)
        return was if is_it else None

    def _birth_ns(self, node: Node) -> int:
        if node.kind in OPENED_KINDS:
            return identify(self._handles.get(node).fd).birth_ns
        with self._handles.pinned(node) as place_fd:
            return identify(place_fd).birth_ns

    def keep_files(self, request: KeepFiles) -> list[int]:
        """See the request."""
        left = list(request.fids)
        lines: list[Line] = []
        copies: list[_Reading] = []
        try:
            self._copy_some(left, lines, copies)
            self._begun.sync([copy.copy_fd for copy in copies], [line.path for line in lines])
            self._note(lines)
        except OSError:
            self._take_back(lines)
            raise
        finally:
            for copy in copies:
                copy.close()
        return left

    def _copy_some(self, left: list[int], lines: list[Line], copies: list[_Reading]) -> None:
        some = _Slice()
        while left and not some.is_over:
            node = self._tree.nodes.get(left[0])
            was = self._as_it_was(node)
            if node is not None and was is not None and self._is_to_keep(node):
                reading = self._reading("copy", node, was)
                if not reading.go_on(some):
                    return
                self._give_attributes(reading, node)
                copies.append(self._readings.pop(("copy", node.inode)))
                lines.append(_line("changed", was, hash=reading.hash))
            some.take()
            left.pop(0)

    def _is_to_keep(self, node: Node) -> bool:
        return node.kind is Kind.FILE and node.inode not in self._kept

    def _reading(self, what: str, node: Node, was: Was) -> _Reading:
        reading = self._readings.get((what, node.inode))
        if reading is None:
            fd = os.dup(self._handles.get(node).fd)
            try:
                copy_fd = self._begun.create(was.names[0]) if what == "copy" else -1
            except BaseException:
                os.close(fd)
                raise
            reading = self._readings[what, node.inode] = _Reading(fd, copy_fd)
        return reading

    def _drop_readings(self) -> None:
        for reading in self._readings.values():
            reading.close()
        self._readings.clear()

    def _take_back(self, lines: list[Line]) -> None:
        """What is not kept after all makes room again."""
        paths = [line.path for line in lines]
        paths += [
            self._begun.before_at(self._places[inode]).names[0]
            for what, inode in self._readings
            if what == "copy"
        ]
        self._drop_readings()
        for path in paths:
            with contextlib.suppress(OSError):
                self._begun.remove(path)

    def _give_attributes(self, reading: _Reading, node: Node) -> None:
        """Owner, extended attributes, mode and times, as far as this process may give them."""
        fd, own, status = (
            reading.copy_fd,
            self._look(ReadAttributes(node.fid)),
            os.fstat(reading.fd),
        )
        with contextlib.suppress(PermissionError):
            os.fchown(fd, status.st_uid, status.st_gid)
        for name, value in own.xattrs.items() if own is not None else ():
            with contextlib.suppress(PermissionError):
                os.setxattr(fd, bytes_of(name), value)
        os.fchmod(fd, stat.S_IMODE(status.st_mode))
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))

    def keep_attributes(self, request: KeepAttributes) -> list[int]:
        """See the request."""
        lines: dict[int, Line] = {}
        for fid in request.fids:
            node = self._tree.nodes.get(fid)
            was = self._as_it_was(node)
            if was is not None and was.inode not in self._noted and was.inode not in self._kept:
                lines[was.inode] = _line("attributes", was)
        self._note([*lines.values()])
        return []

    def keep_names(self, request: KeepNames) -> list[str]:
        """See the request."""
        some, left = _Slice(), list(request.names)
        lines: list[Line] = []
        gone: dict[Node, None] = {}  # perhaps by several of its names
        while left and not some.is_over:
            node = self._tree.limbo.children.get(left[0])
            was = self._as_it_was(node)
            if node is not None and was is not None and self._is_doomed(node):
                if node.inode not in self._kept and node not in gone:
                    text = self._hash_of("leave", node, was, some)
                    if text is None:
                        break
                    lines.append(_line("deleted", was, hash=text))
                gone[node] = None
            some.take()
            left.pop(0)
        self._note(lines)
        for node in gone:
            self._move(node)
        self._begun.sync([], [self._kept[node.inode].path for node in gone])
        return left

    def _is_doomed(self, node: Node) -> bool:
        """Whether it goes with what limbo holds of its names."""
        if is_local(node.fid):
            return False
        return all(name.parent is self._tree.limbo for name in node.names)

    def _hash_of(self, what: str, node: Node, was: Was, some: _Slice) -> str | None:
        """None: there is more to read. What is no file has none."""
        if node.kind is not Kind.FILE:
            return ""
        reading = self._reading(what, node, was)
        if not reading.go_on(some):
            return None
        self._readings.pop((what, node.inode)).close()
        return reading.hash

    def _move(self, node: Node) -> None:
        """Move what was noted as deleted out of limbo; what a crash has left there as well."""
        line = self._kept[node.inode]
        if line.operation != "deleted" or node.kind is Kind.DIRECTORY:
            if node.kind is Kind.DIRECTORY:
                self._begun.make_directory(line.path)
            return
        limbo = self._handles.get(self._tree.limbo)
        first, *others = [name.name for name in node.names]
        with self._begun.place(line.path) as place, keeping_times(limbo):
            move_as_owner(limbo.fd, bytes_of(first), place, bytes_of(line.path.split("/")[-1]))
            for name in others:
                as_owner(limbo.fd, partial(os.unlink, bytes_of(name), dir_fd=limbo.fd))
        fid = node.fid
        with self._handles.lock:
            for name in (first, *others):
                if self._tree.remove(self._tree.limbo, name):
                    self._handles.forget_locked(fid)
            self._handles.mark_dirty_locked(limbo)
        self._ids.remove(fid)

    # ---- afterwards ----------------------------------------------------------------------------

    def note_replaced(self, request: NoteReplaced) -> list[int]:
        """See the request."""
        some, left = _Slice(), list(request.fids)
        lines: list[Line] = []
        while left and not some.is_over:
            node = self._tree.nodes.get(left[0])
            line = self._replaced_by(node)
            if node is not None and line is not None and line.was is not None:
                text = self._hash_of("now", node, line.was, some)
                if text is None:
                    break
                size_bytes = os.fstat(self._handles.get(node).fd).st_size
                lines.append(_replaced(line.path, size_bytes, text))
            some.take()
            left.pop(0)
        self._note(lines)
        return left

    def _replaced_by(self, node: Node | None) -> Line | None:
        """What was kept of this file, if its place was not described yet."""
        if node is None or node.kind is not Kind.FILE:
            return None
        line = self._kept.get(node.inode)
        if line is None or line.operation != "changed" or line.path in self._replaced:
            return None
        return line if self._as_it_was(node) is not None else None

    def note_renamed(self, _request: NoteRenamed) -> int:
        """See the request."""
        room, some = self._begun, _Slice()
        if self._renamed is None:
            self._renamed = room.all_before()
            self._left = len(self._places)
            self._now = {node.inode: node for node in self._tree.nodes.values()}
        lines = []
        for _, was in self._renamed:
            self._left -= 1
            some.take()
            line = self._renaming(was)
            if line is not None:
                lines.append(line)
            if some.is_over and self._left:
                break
        else:
            self._left = 0
            self._renamed, self._now = None, {}
        self._note(lines)
        return self._left

    def _renaming(self, was: Was) -> Line | None:
        node = self._now.get(was.inode)
        if node is None or node.kind.name.lower() != was.kind or was.inode not in self._places:
            return None
        before = {
            (parent, path.rpartition("/")[2])
            for parent, path in zip(was.parents, was.names, strict=True)
            if not path.startswith(_ASIDE)
        }
        names = [name for name in node.names if _is_shown(self._tree, name)]
        if not names or not before or before == {(name.parent.inode, name.name) for name in names}:
            return None
        now = [_path(self._tree, name) for name in names]
        return Line("renamed", was.names[0], time_text(), names=now, was=was, inode=was.inode)

    def sum(self, _request: SumRescue) -> RescueSum:
        """See the request."""
        kept = [line.was for line in self._kept.values() if line.was is not None]
        files = [was for was in kept if was.kind != "directory"]
        return RescueSum(
            directory=self._begun.directory,
            files=len(files),
            content_bytes=sum(was.size_bytes for was in files),
        )


def _line(operation: str, was: Was, *, hash: str = "") -> Line:
    is_kept = operation in _KEEPING
    return Line(
        operation,
        was.names[0],
        time_text(),
        kept=f"{FILES}/{was.names[0]}" if is_kept else "",
        hash=hash,
        was=was,
        inode=was.inode,
    )


def _replaced(path: str, size_bytes: int, text: str) -> Line:
    return Line("replaced", path, time_text(), peer_size_bytes=size_bytes, peer_hash=text)


def _is_shown(tree: Tree, name: Name) -> bool:
    """Whether a name is in the tree, not in limbo."""
    return _top(name) is tree.root


def _top(name: Name) -> Node:
    node = name.parent
    while node.names:
        node = node.names[0].parent
    return node


def _path(tree: Tree, name: Name) -> str:
    above = tree.path(name.parent)
    path = f"{above}/{name.name}" if above else name.name
    return path if _is_shown(tree, name) else _ASIDE + path


def _names_of_all(tree: Tree) -> dict[Node, list[Name]]:
    """Everything that is mirrored, but for the root, with its names.

    That of limbo as well, after the others: what an earlier rescue was interrupted with is owed.
    """
    found: dict[Node, list[Name]] = {}
    todo: list[Node] = [tree.limbo, tree.root]
    while todo:
        directory = todo.pop()
        for text, node in directory.children.items():
            if is_local(node.fid):
                continue
            found.setdefault(node, []).append(node.name_in(directory, text))
            if node.kind is Kind.DIRECTORY:
                todo.append(node)
    return found
