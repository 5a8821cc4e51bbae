"""What of a volume stays on this node: which ops are about it, and what becomes of it.

Excluded files are in the tree like all others, under ids of this node (`ops.is_local`), drawn anew
at each opening. Which side a name is on is decided by its path, whatever it stands for. No change
moves anything from one side to the other, also not by moving a directory above it: so a name's side
is known before the changes that are under way are made.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
from typing import TYPE_CHECKING, Final, final

import msgspec

from mirrorha.volume.disk import Kind
from mirrorha.volume.exclusion import EXCLUDED
from mirrorha.volume.local_disk.handles import OPEN_DIRECTORY, move_as_owner
from mirrorha.volume.local_disk.limbo import keeping_times
from mirrorha.volume.names import KEPT_NAME, bytes_of, text_of
from mirrorha.volume.op_checks import refusal
from mirrorha.volume.op_rules import NAMING
from mirrorha.volume.ops import (
    LOCAL_FID_MIN,
    RENAME_EXCHANGE,
    Birth,
    Create,
    Link,
    Mkdir,
    Mknod,
    Rename,
    Rmdir,
    Symlink,
    Unlink,
    is_local,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import Outcome
    from mirrorha.volume.exclusion import Exclusion, Outlook
    from mirrorha.volume.local_disk.handles import Handles
    from mirrorha.volume.local_disk.tree import Node, Tree
    from mirrorha.volume.ops import AnyOp

_log: Final = logging.getLogger(__name__)

_RAW_KEPT: Final = KEPT_NAME.encode()


@final
class LocalFids:
    """Draws the ids of excluded files. They mean nothing after this process."""

    def __init__(self) -> None:
        self._numbers: Final = itertools.count(LOCAL_FID_MIN + 1)

    def __call__(self) -> int:
        return next(self._numbers)


@final
class Excluded:
    """Applies ops to what is excluded, and keeps the border. In the thread that changes the tree.

    Args:
        draw: An id for what is made.
        apply: Applies an op to the tree, whichever side it is about.
    """

    def __init__(
        self,
        exclusion: Exclusion,
        tree: Tree,
        handles: Handles,
        *,
        draw: Callable[[], int],
        apply: Callable[[AnyOp], Outcome],
    ) -> None:
        self._exclusion: Final = exclusion
        self._tree: Final = tree
        self._handles: Final = handles
        self._draw: Final = draw
        self._apply: Final = apply

    def apply(self, op: AnyOp) -> Outcome | None:
        """Apply an op to what is excluded. None: it is about what is mirrored. Blocks.

        Raises:
            OSError: nothing has changed; EXDEV, it would cross the border.
        """
        if not self.is_about_local(op):
            return None
        if isinstance(op, Birth):
            op = msgspec.structs.replace(op, fid=self._draw())
        return self._apply(op)

    def check_mirrored(self, op: AnyOp) -> None:
        """Refuse an op on names that is about what is excluded. Who asked `apply` before is never
        refused.

        Raises:
            OSError: EXDEV.
        """
        if type(op) in NAMING and self.is_about_local(op):
            raise refusal(errno.EXDEV)

    def is_about_local(self, op: AnyOp) -> bool:
        """Whether an op is about what is excluded; if not, about what is mirrored.

        Raises:
            OSError: EXDEV, about both, or it would make the one the other.
        """
        match op:
            case Rename():
                return self._is_local_rename(op)
            case Link():
                here = self._outlook(op.parent, op.name) is EXCLUDED
                if here is not is_local(op.fid):
                    raise refusal(errno.EXDEV)
                return here
            case Create() | Mkdir() | Mknod() | Symlink() | Unlink() | Rmdir():
                return self._outlook(op.parent, op.name) is EXCLUDED
            case _:
                return is_local(op.fid)

    def _is_local_rename(self, op: Rename) -> bool:
        old = self._outlook(op.parent, op.name)
        new = self._outlook(op.new_parent, op.new_name)
        here, there = old is EXCLUDED, new is EXCLUDED
        moved = self._child(op.parent, op.name)
        if moved is None:
            return here  # whoever applies it says what is missing
        other = self._child(op.new_parent, op.new_name)
        if op.flags != RENAME_EXCHANGE:
            other = None
        has_directory = any(
            node is not None and node.kind is Kind.DIRECTORY for node in (moved, other)
        )
        if here is not there or (has_directory and old != new):
            raise refusal(errno.EXDEV)
        return here

    def _child(self, parent: int, name: str) -> Node | None:
        directory = self._tree.listed(parent)
        return None if directory is None else directory.children.get(name)

    def _outlook(self, parent: int, name: str) -> Outlook | None:
        """That of a name; None if no path says it: in limbo, or in what is no more."""
        if is_local(parent):
            return EXCLUDED
        node = self._tree.nodes.get(parent)
        names = [name]
        while node is not None and node is not self._tree.root:
            above = node.names[0]
            names.append(above.name)
            node = above.parent if above.parent is not self._tree.limbo else None
        return None if node is None else self._exclusion.of(reversed(names))

    # ---- what is in the way --------------------------------------------------------------------

    def make_way(self, op: AnyOp) -> bool:
        """Empty the directory that a mirrored op removes, if only excluded files are left in it;
        or free the name of what one makes.

        They are kept. Whether the op can be tried again. Blocks.

        Raises:
            OSError: a part of it is still there.
        """
        if isinstance(op, Birth):
            return self._free_name(op)
        match op:
            case Rmdir():
                node = self._child(op.parent, op.name)
            case Rename():
                node = self._child(op.new_parent, op.new_name)
            case _:
                node = None
        if node is None or node.kind is not Kind.DIRECTORY or is_local(node.fid):
            return False
        if any(not is_local(child.fid) for child in node.children.values()):
            return False
        self.set_apart(node)
        return True

    def _free_name(self, op: Birth) -> bool:
        directory = self._tree.listed(op.parent)
        there = self._child(op.parent, op.name)
        if directory is None:
            return False
        if there is None:
            is_there = op.name in self._tree.hidden.get(directory, ())
        else:
            is_there = is_local(there.fid)
        if not is_there:
            return False
        self._keep(directory, [bytes_of(op.name)])
        return True

    def set_apart(self, directory: Node) -> None:
        """Move everything out of a directory that is not mirrored, to where it is kept. Blocks.

        Raises:
            OSError: a part of it is still there.
        """
        mirrored = {name for name, child in directory.children.items() if not is_local(child.fid)}
        found = os.listdir(self._handles.get(directory).fd)
        raws = [os.fsencode(name) for name in found]
        self._keep(directory, [raw for raw in raws if text_of(raw) not in mirrored])

    def settle(self, directory: Node) -> None:
        """After a resync has moved a directory: what is in it and not excluded there is kept.

        It comes to that only if somebody moved the directory while its node was stopped: it takes
        what is mirrored along, and on the other node something else may have been below it.

        Raises:
            OSError: a part of it is still there.
        """
        name = directory.names[0]
        todo = [(directory, self._outlook(name.parent.fid, name.name))]
        while todo:
            node, outlook = todo.pop()
            if outlook is None:
                return
            self._handles.trim()  # there may be more of them than descriptors
            local = {name for name, child in node.children.items() if is_local(child.fid)}
            local |= self._tree.hidden.get(node, set())
            below = {
                name: self._exclusion.below(outlook, name) for name in {*node.children} | local
            }
            self._keep(node, [bytes_of(name) for name in local if below[name] is not EXCLUDED])
            todo += [
                (child, below[name])
                for name, child in node.children.items()
                if child.kind is Kind.DIRECTORY and not is_local(child.fid)
            ]

    def free_hidden(self, directory: Node, name: str) -> None:
        """Free a name that the tree does not show, and that something mirrored is to have. Blocks.

        Raises:
            OSError: it is still there.
        """
        if name in self._tree.hidden.get(directory, ()):
            self._keep(directory, [bytes_of(name)])

    def _keep(self, directory: Node, raws: list[bytes]) -> None:
        if not raws:
            return
        path = self._tree.path(directory)
        try:
            place = self._move_to_kept(directory, raws)
        except OSError as error:
            text = "%s: what is excluded there stays, for it cannot be moved to %s: %s"
            _log.error(text, path, KEPT_NAME, error)
            raise
        _log.warning(
            "%s was removed or moved by the other node; %d excluded names in it are in %s now",
            path,
            len(raws),
            place,
        )

    def _move_to_kept(self, directory: Node, raws: list[bytes]) -> str:
        """Where they are now, as a path in the volume."""
        source = self._handles.get(directory)
        place, kept_fd = self._make_place()
        try:
            with keeping_times(source):
                for raw in raws:
                    move_as_owner(source.fd, raw, kept_fd, raw)
                    name = text_of(raw)
                    self._tree.hidden.get(directory, set()).discard(name)
                    if name in directory.children:
                        self._forget(directory, name)
            os.fsync(kept_fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(place, dir_fd=self._handles.root.fd)  # if nothing has come into it
            raise
        finally:
            os.close(kept_fd)
            self._handles.mark_dirty(source)
        return place

    def _make_place(self) -> tuple[str, int]:
        """A new directory among what is kept: its path in the volume, and a descriptor."""
        root = self._handles.root
        with keeping_times(root), contextlib.suppress(FileExistsError):
            os.mkdir(_RAW_KEPT, 0o700, dir_fd=root.fd)
        self._tree.has_kept = True
        self._handles.mark_dirty(root)
        above = os.open(_RAW_KEPT, OPEN_DIRECTORY, dir_fd=root.fd)
        try:
            taken = set(os.listdir(above))
            name = next(text for text in map(str, itertools.count(1)) if text not in taken)
            os.mkdir(name, 0o700, dir_fd=above)
            os.fsync(above)
            return f"{KEPT_NAME}/{name}", os.open(name, OPEN_DIRECTORY, dir_fd=above)
        finally:
            os.close(above)

    def _forget(self, parent: Node, name: str) -> None:
        """Take an excluded name out of the tree, with all below."""
        node = parent.children[name]
        for inner in list(node.children):
            self._forget(node, inner)
        fid = node.fid
        with self._handles.lock:
            if self._tree.remove(parent, name):
                self._handles.forget_locked(fid)
