"""The walk at the opening of a real disk: every file of the directory gets its fid.

Of what is excluded, the table of ids knows nothing. What it does know, and is excluded by now, is
on this node alone from now on, and not gone.

What a crash left half made is removed: it has no id yet, it is in a directory that the touched log
names, and it looks as nothing else does (see `naming`). Of what is excluded no log knows anything,
but what was being made has a name that says so. Nobody was told that it is there.

Blocks for as long as it takes to look at every name once.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.errors import ensure
from mirrorha.volume.disk import Found, Kind
from mirrorha.volume.exclusion import EXCLUDED, Exclusion
from mirrorha.volume.local_disk.ids import Row
from mirrorha.volume.local_disk.offline_changes import Walked
from mirrorha.volume.local_disk.owners import Owners
from mirrorha.volume.local_disk.syscalls import identify, set_mtime
from mirrorha.volume.local_disk.tree import Node, Tree
from mirrorha.volume.names import (
    HALF_MADE_PREFIX,
    HIDDEN_NAMES,
    KEPT_NAME,
    LIMBO_NAME,
    MARKER_NAME,
    RESCUE_NAME,
    text_of,
)
from mirrorha.volume.offline import Late
from mirrorha.volume.ops import DEVICE_KINDS, is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrorha.volume.exclusion import Outlook
    from mirrorha.volume.local_disk.handles import Handles
    from mirrorha.volume.local_disk.ids import IdTable
    from mirrorha.volume.local_disk.syscalls import Identity

# Of a file that is being made: sticky, and nobody but its owner may do anything.
_HALF_MADE_BITS: Final = stat.S_ISUID | stat.S_ISVTX | stat.S_IRWXG | stat.S_IRWXO
_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}
_RAW_PREFIX: Final = HALF_MADE_PREFIX.encode()
# Below limbo no path says what a name was: there it is the table of ids.
_IN_LIMBO: Final[Outlook] = frozenset({(-2, -2)})


@final
@attrs.frozen(kw_only=True)
class ExcludedHere:
    """What stays on this node, for the walk.

    Attributes:
        exclusion: the patterns.
        draw: an id for each.
        was_cut_off: something in it may be half made.
    """

    exclusion: Exclusion
    draw: Callable[[], int]
    was_cut_off: bool


def load_tree(
    tree: Tree,
    handles: Handles,
    ids: IdTable,
    *,
    draw: Callable[[], int],
    may_be_half_made: Callable[[int], bool],
    first_late_ns: int,
    settle: Callable[[Walked], int],
    excluded: ExcludedHere | None = None,
) -> Found:
    """Fill `tree` with what the directory holds, and bring the table of ids up to it, durably.

    Args:
        tree: Has its root and nothing else.
        handles: Opens the tree's directories.
        ids: The table of ids of the time before.
        draw: A new fid for each file that the table does not know.
        may_be_half_made: Whether the touched log says that names in this directory were changed.
        first_late_ns: Files with such a ctime, or a later one, are told of.
        settle: Told what was found, before the table forgets what is gone; returns how many known
            files are not what they were. What it raises leaves the table as it was.
        excluded: What is not mirrored; None: everything is.

    Raises:
        OSError: a directory cannot be read.
        DiskError: the table of ids cannot be written.
    """
    root = identify(handles.root.fd)
    rows = ids.load(root)
    if rows is None:
        ids.start_anew()
    # Without the table nobody can tell what is new.
    walk = _Walk(
        tree,
        handles,
        rows or [],
        draw,
        _never if rows is None else may_be_half_made,
        first_late_ns=first_late_ns,
        excluded=excluded,
    )
    walk.run(root)
    stale = [row for row in rows or () if row.fid not in tree.nodes]
    changed = settle(walk.told(rows or [], stale))
    ids.store(root, new=walk.new, stale=[row.fid for row in stale])
    return Found(
        rebuilt=rows is None and bool(walk.new),
        unknown=tuple(row.fid for row in walk.new),
        limbo=len(tree.limbo.children),
        skipped=tuple(walk.skipped),
        half_made=tuple(walk.half_made),
        changed=changed,
    )


def _never(_: int) -> bool:
    return False


@final
class _Walk:
    def __init__(
        self,
        tree: Tree,
        handles: Handles,
        rows: list[Row],
        draw: Callable[[], int],
        may_be_half_made: Callable[[int], bool],
        *,
        first_late_ns: int,
        excluded: ExcludedHere | None,
    ) -> None:
        self.late: Final[list[Late]] = []
        self.now_local: Final[set[int]] = set()
        self._excluded: Final = excluded
        self._exclusion: Final = Exclusion(()) if excluded is None else excluded.exclusion
        self._local_by_inode: Final[dict[int, Node]] = {}
        self.changed_in: Final[set[int]] = set()
        self._first_late_ns: Final = first_late_ns
        self.half_made: Final[list[str]] = []
        self._may_be_half_made: Final = may_be_half_made
        self.new: Final[list[Row]] = []
        self.skipped: Final[list[str]] = []
        self._tree: Final = tree
        self._handles: Final = handles
        self._known: Final = {(row.inode, row.birth_ns, row.kind): row.fid for row in rows}
        self._fids: Final = {row.fid for row in rows}
        self._draw: Final = draw
        self._makes_devices: Final = Owners().are_kept
        self._by_inode: Final[dict[int, Node]] = {}  # all but directories, by their first name

    def run(self, root: Identity) -> None:
        self._note_if_late(self._tree.root, root)
        todo = [(self._tree.root, "", self._exclusion.root)]
        while todo:
            directory, path, outlook = todo.pop()
            self._handles.trim()
            handle = self._handles.get(directory)
            with os.scandir(handle.fd) as entries:
                names = [os.fsencode(entry.name) for entry in entries]
            for raw in names:
                seen = identify(handle.fd, raw)
                below = self._outlook(outlook, raw, seen)
                found = self._visit(directory, raw, path, seen, is_excluded=below is EXCLUDED)
                if found is self._tree.limbo and self._excluded is not None:
                    below = _IN_LIMBO
                if found is not None:
                    todo.append((found, f"{path}{text_of(raw)}/", below))
        self._hide_shared()

    def told(self, rows: Sequence[Row], stale: Sequence[Row]) -> Walked:
        """What was found, beside the `rows` of the time before; the `stale` are in no place now."""
        gone = [row for row in stale if row.fid not in self.now_local]
        return Walked(
            known=len(rows) - len(stale) + len(gone),
            new=self.new,
            changed_in=self.changed_in,
            gone=gone,
            now_local=[row for row in stale if row.fid in self.now_local],
            late=self.late,
        )

    def _outlook(self, outlook: Outlook, raw: bytes, seen: Identity) -> Outlook:
        if not outlook:
            return outlook  # most volumes: a name costs nothing more
        if outlook is not _IN_LIMBO:
            return self._exclusion.below(outlook, text_of(raw))
        kind = _KINDS.get(stat.S_IFMT(seen.mode))
        return _IN_LIMBO if (seen.inode, seen.birth_ns, kind) in self._known else EXCLUDED

    def _visit(
        self, directory: Node, raw: bytes, path: str, seen: Identity, *, is_excluded: bool
    ) -> Node | None:
        name = text_of(raw)
        if directory is self._tree.root and name in HIDDEN_NAMES:
            return self._visit_hidden(name, seen)
        kind = _KINDS.get(stat.S_IFMT(seen.mode))
        foreign = seen.is_mount_root or seen.device != self._handles.device
        is_forbidden = kind in DEVICE_KINDS and not self._makes_devices
        if kind is None or foreign or is_forbidden or name in HIDDEN_NAMES:
            self.skipped.append(path + name)
            return None
        if self._remove_half_made(directory, raw, seen, kind, is_excluded=is_excluded):
            self.half_made.append(path + name)
            return None
        if is_excluded:
            return self._take_up_excluded(directory, name, seen, kind)
        node = None if kind is Kind.DIRECTORY else self._by_inode.get(seen.inode)
        if node is None:
            node = Node(self._fid_of(seen, kind, directory), kind, seen.inode)
            self._by_inode[seen.inode] = node
            self._note_if_late(node, seen)
        self._tree.find(node, directory, name)
        return node if kind is Kind.DIRECTORY else None

    def _take_up_excluded(
        self, directory: Node, name: str, seen: Identity, kind: Kind
    ) -> Node | None:
        known = self._known.get((seen.inode, seen.birth_ns, kind))
        if known is not None:
            self.now_local.add(known)
            if not is_local(directory.fid):
                self.changed_in.add(directory.fid)
        node = None if kind is Kind.DIRECTORY else self._local_by_inode.get(seen.inode)
        if node is None:
            ensure(self._excluded is not None, "what is excluded has a pattern")
            node = Node(self._excluded.draw(), kind, seen.inode)  # type: ignore[union-attr]
            if kind is not Kind.DIRECTORY:
                self._local_by_inode[seen.inode] = node
        self._tree.find(node, directory, name)
        return node if kind is Kind.DIRECTORY else None

    def _hide_shared(self) -> None:
        """Show no excluded name of a file that has mirrored names too.

        Changed through it, the file would change on this node alone. Such links were made while
        nobody of ours ran, or before the name was excluded.
        """
        for inode in self._local_by_inode.keys() & self._by_inode.keys():
            node = self._local_by_inode[inode]
            for name in node.names:
                self.skipped.append(
                    "/".join(filter(None, (self._tree.path(name.parent), name.name)))
                )
                del name.parent.children[name.name]
                self._tree.hidden.setdefault(name.parent, set()).add(name.name)
            del self._tree.nodes[node.fid]

    def _remove_half_made(
        self, directory: Node, raw: bytes, seen: Identity, kind: Kind, *, is_excluded: bool
    ) -> bool:
        if is_excluded or _is_local_half_made(raw):  # it has not got the name that is excluded
            looks_so = _is_local_half_made(raw)
            may_be = self._excluded is not None and self._excluded.was_cut_off
        else:
            looks_so = _looks_half_made(raw, seen, kind)
            may_be = self._may_be_half_made(directory.fid)
        is_known = (seen.inode, seen.birth_ns, kind) in self._known
        if not looks_so or not may_be or is_known:
            return False
        handle = self._handles.get(directory)
        before_ns = os.fstat(handle.fd).st_mtime_ns
        try:
            (os.rmdir if kind is Kind.DIRECTORY else os.unlink)(raw, dir_fd=handle.fd)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                return False  # somebody has used it: it is whole
            raise
        set_mtime(handle.fd, before_ns)
        return True

    def _visit_hidden(self, name: str, seen: Identity) -> Node | None:
        if name == LIMBO_NAME and stat.S_ISDIR(seen.mode):
            self._tree.limbo.inode = seen.inode
            return self._tree.limbo
        if name == KEPT_NAME and stat.S_ISDIR(seen.mode):
            self._tree.has_kept = True
        elif name == RESCUE_NAME and stat.S_ISDIR(seen.mode):
            self._tree.has_rescue = True
        elif name != MARKER_NAME:
            self.skipped.append(name)
        return None

    def _note_if_late(self, node: Node, seen: Identity) -> None:
        if seen.ctime_ns >= self._first_late_ns:
            self.late.append(Late(node.fid, node.kind, seen.ctime_ns, seen.mtime_ns))

    def _fid_of(self, seen: Identity, kind: Kind, directory: Node) -> int:
        known = self._known.get((seen.inode, seen.birth_ns, kind))
        if known is not None:
            return known
        fid = self._draw()
        ensure(fid not in self._fids and fid not in self._tree.nodes, "a drawn id is new")
        self.new.append(Row(fid, seen.inode, seen.birth_ns, kind))
        self.changed_in.add(directory.fid)
        return fid


def _looks_half_made(raw: bytes, seen: Identity, kind: Kind) -> bool:
    if kind is Kind.SYMLINK:
        return raw.startswith(_RAW_PREFIX)
    is_empty = kind is not Kind.FILE or not seen.size_bytes
    return is_empty and seen.mode & _HALF_MADE_BITS == stat.S_ISVTX


def _is_local_half_made(raw: bytes) -> bool:
    """Whether this is what something excluded is called while it is made."""
    if not raw.startswith(_RAW_PREFIX):
        return False
    try:
        return is_local(int(raw.removeprefix(_RAW_PREFIX), 16))
    except ValueError:
        return False
