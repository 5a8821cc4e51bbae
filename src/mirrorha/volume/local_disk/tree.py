"""The tree of a real disk as its process knows it: which fid is where. Pure.

Loaded by a walk when the disk is opened, and kept in step by every change. Each name remembers
when it was made, each directory what of it is surely durable: so an fsync of a file knows which
directories must go with it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import ensure
from mirrorha.volume.disk import LIMBO_FID, Kind
from mirrorha.volume.ops import ROOT_FID

if TYPE_CHECKING:
    from collections.abc import Iterator


@final
class Name:
    """One name of a node."""

    __slots__ = ("change", "left", "name", "parent")

    def __init__(self, parent: Node, name: str) -> None:
        self.parent = parent
        self.name = name
        self.change = 0  # when it was made; 0: before this process
        self.left: Node | None = None  # the directory that it was moved from


@final
class Node:
    """A file, directory, symlink or special file."""

    __slots__ = ("children", "fid", "inode", "kind", "names", "synced_through")

    def __init__(self, fid: int, kind: Kind, inode: int) -> None:
        self.fid = fid
        self.kind = kind
        self.inode = inode
        self.names: list[Name] = []
        self.children: dict[str, Node] = {}
        # The latest change of names when all of it was last synced: of a directory, every change up
        # to this one is durable. What has a later name was not synced since it got that.
        self.synced_through = 0

    def name_in(self, parent: Node, name: str) -> Name:
        """This node's name `name` in `parent`, which must exist."""
        found = [one for one in self.names if one.parent is parent and one.name == name]
        ensure(len(found) == 1, "a node has each of its names once")
        return found[0]


@final
class Tree:
    """All nodes of a volume, those in limbo included."""

    def __init__(self, *, root_inode: int) -> None:
        self.root: Final = Node(ROOT_FID, Kind.DIRECTORY, root_inode)
        self.limbo: Final = Node(LIMBO_FID, Kind.DIRECTORY, 0)
        self.nodes: Final[dict[int, Node]] = {ROOT_FID: self.root}
        self.changes = 0  # counts changes of names
        self.has_kept = False  # the root holds KEPT_NAME,
        self.has_rescue = False  # and RESCUE_NAME
        # Excluded names of files that have mirrored ones too: on the disk, and not in the tree.
        self.hidden: Final[dict[Node, set[str]]] = {}

    def directory(self, fid: int) -> Node:
        """The directory `fid`.

        Raises:
            OSError: ENOENT, it is gone; ENOTDIR.
        """
        node = self.nodes.get(fid)
        if node is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if node.kind is not Kind.DIRECTORY:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return node

    def listed(self, fid: int) -> Node | None:
        """The directory `fid`, limbo included, where names can be seen and removed."""
        if fid == LIMBO_FID:
            return self.limbo
        node = self.nodes.get(fid)
        return node if node is not None and node.kind is Kind.DIRECTORY else None

    def find(self, node: Node, parent: Node, name: str) -> None:
        """Take up a name that the disk has durably had before this process."""
        self.nodes[node.fid] = node
        node.names.append(Name(parent, name))
        parent.children[name] = node

    def add(self, node: Node, parent: Node, name: str) -> None:
        """Give `node`, new or not, one more name."""
        ensure(name not in parent.children, "the name is free")
        self.nodes[node.fid] = node
        self._put(node, Name(parent, name))

    def remove(self, parent: Node, name: str) -> bool:
        """Take the name away; True if it was the last, and the node is gone with it."""
        node = parent.children.pop(name)
        self.changes += 1
        node.names.remove(node.name_in(parent, name))
        if node.names:
            return False
        ensure(not node.children, "a directory that goes is empty")
        del self.nodes[node.fid]
        return True

    def move(self, parent: Node, name: str, new_parent: Node, new_name: str) -> None:
        """Move a name to a place that is free."""
        ensure(new_name not in new_parent.children, "the new name is free")
        node = parent.children.pop(name)
        moved = node.name_in(parent, name)
        node.names.remove(moved)
        moved.parent, moved.name, moved.left = new_parent, new_name, parent
        self._put(node, moved)

    def exchange(self, parent: Node, name: str, new_parent: Node, new_name: str) -> None:
        """Let two names of two nodes swap what they stand for."""
        first, second = parent.children.pop(name), new_parent.children.pop(new_name)
        one = first.name_in(parent, name)
        other = second.name_in(new_parent, new_name)
        first.names.remove(one)
        second.names.remove(other)
        one.parent, one.name, one.left = new_parent, new_name, parent
        other.parent, other.name, other.left = parent, name, new_parent
        self._put(first, one)
        self._put(second, other)

    def relabel(self, fid: int, new_fid: int) -> None:
        """Call the node `fid` `new_fid` from now on."""
        ensure(new_fid not in self.nodes, "a new id is not in use")
        node = self.nodes.pop(fid)
        node.fid = new_fid
        self.nodes[new_fid] = node

    def contains(self, node: Node, inner: Node) -> bool:
        """Whether `inner` is `node` or lies below it. `inner` is a directory."""
        while inner is not node and inner.names:
            inner = inner.names[0].parent
        return inner is node

    def path(self, node: Node) -> str:
        """One path to `node`, for people."""
        parts: list[str] = []
        while node.names:
            parts.append(node.names[0].name)
            node = node.names[0].parent
        return "/".join(reversed(parts))

    def resolve(self, path: str) -> tuple[int, str, int] | None:
        """See the request `Resolve`."""
        parent, name, node = self.root, "", self.root
        for part in path.split("/"):
            if not part:
                continue
            if node.kind is not Kind.DIRECTORY:
                return None
            parent, name = node, part
            found = node.children.get(part)
            node = found if found is not None else _NOTHING
        return parent.fid, name, node.fid

    def chain(self, node: Node) -> Iterator[Name]:
        """Every name that leads to `node`: its own, those of its directories, and so on up."""
        seen = {node.fid}
        todo = [node]
        while todo:
            for name in todo.pop().names:
                yield name
                if name.parent.fid not in seen:
                    seen.add(name.parent.fid)
                    todo.append(name.parent)

    def _put(self, node: Node, name: Name) -> None:
        self.changes += 1
        name.change = self.changes
        node.names.append(name)
        name.parent.children[name.name] = node


# What a missing name resolves to: no fid, and nothing can be below it.
_NOTHING: Final = Node(0, Kind.SYMLINK, 0)
