"""Ops: changes to a volume, as they travel and as they are applied.

An op names files by persistent id (`fid`), never by path, and says what *resulted*, not what was
asked: explicit offsets, absolute times. Applying an op to a tree that holds exactly the ops
before it gives the same tree on both nodes. Fields are only ever appended.

A fid is 64 bits: the epoch in which it was made (24 bits) above a counter (40 bits). One primary
an epoch, and a new epoch for every incarnation that creates: so no fid is ever used twice, and
none needs a durable counter. `ROOT_FID` is the volume's root.

What a caller may leave open is filled in by the disk that applies the op first, and travels as it
was done:

- the `fid` of a name to remove or rename, or the one that a rename replaces: 0 means "whatever
  is there".
  Given and not what the name stands for, the op fails with ESTALE: the two trees differ;
- an owner: -1 means the user that the node runs as. A node that may not give files away (it does
  not run as root) keeps no owners: there it stays -1, in ops done and in attributes;
- what a new file inherits: with a `umask` the file is made as the kernel makes one in that
  directory, for a caller with this umask (`mirrorha.volume.births`). Done, it is None, and mode,
  group and access control lists are those that resulted;
- the `flags` of a `SetXattr`, which only say when to refuse, and the `mode` that it leads to.

Names and targets of symlinks are text; `mirrorha.volume.names` says how bytes that are no UTF-8
travel in it.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from mirrorha.errors import ensure

ROOT_FID: Final = 1
#: From here on: files that are on one node alone. No message, log or table can hold such a number.
LOCAL_FID_MIN: Final = 1 << 63
FID_COUNTER_BITS: Final = 40
EPOCH_MAX: Final = (1 << 23) - 1  # a fid stays a positive signed 64-bit integer


def make_fid(*, epoch: int, counter: int) -> int:
    """The id of the `counter`th file made in `epoch` (both from 1)."""
    ensure(0 < epoch <= EPOCH_MAX, "the epoch fits in a file id")
    ensure(0 < counter < 1 << FID_COUNTER_BITS, "the counter fits in a file id")
    return epoch << FID_COUNTER_BITS | counter


def is_local(fid: int) -> bool:
    """Whether it is the id of a file that stays on this node (`mirrorha.volume.exclusion`)."""
    return fid >= LOCAL_FID_MIN


class Kind(enum.IntEnum):
    """What a fid is."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7


#: What `Mknod` makes: it has no content, and is never opened.
SPECIAL_KINDS: Final = frozenset({Kind.FIFO, Kind.SOCKET, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE})
DEVICE_KINDS: Final = frozenset({Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE})

# Of renameat2(2), setxattr(2) and fallocate(2); the wire has the kernel's numbers.
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
FALLOCATE_KEEP_SIZE: Final = 1
FALLOCATE_PUNCH_HOLE: Final = 2
FALLOCATE_ZERO_RANGE: Final = 16


class Op(msgspec.Struct, frozen=True, array_like=True):
    """Base of all ops."""


class Write(Op, frozen=True, tag=1):
    """Takes `security.capability` away, as `Truncate` and `Fallocate` do, whoever writes."""

    fid: int
    offset: int
    data: bytes
    mtime_ns: int


class Truncate(Op, frozen=True, tag=2):
    fid: int
    size_bytes: int
    mtime_ns: int


class Create(Op, frozen=True, tag=3):
    """A regular file that did not exist. `xattrs` come with it."""

    fid: int
    parent: int
    name: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    umask: int | None = None
    xattrs: dict[str, bytes] = {}


class Mkdir(Op, frozen=True, tag=4):
    fid: int
    parent: int
    name: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    umask: int | None = None
    xattrs: dict[str, bytes] = {}


class Symlink(Op, frozen=True, tag=5):
    """With a `umask` only the group is inherited: a symlink has no mode of its own."""

    fid: int
    parent: int
    name: str
    target: str
    uid: int
    gid: int
    mtime_ns: int
    umask: int | None = None


class Link(Op, frozen=True, tag=6):
    """One more name for `fid`."""

    fid: int
    parent: int
    name: str
    mtime_ns: int


class Unlink(Op, frozen=True, tag=7):
    """Remove a name of a file that is not a directory. `fid` is what the name stood for, or 0."""

    fid: int
    parent: int
    name: str
    mtime_ns: int


class Rmdir(Op, frozen=True, tag=8):
    fid: int
    parent: int
    name: str
    mtime_ns: int


class Rename(Op, frozen=True, tag=9):
    """Move a name; `replaced` is the fid that `new_name` stood for before, or 0.

    Two names of one file: nothing happens, as in POSIX. With RENAME_EXCHANGE the two names swap
    what they stand for; with RENAME_NOREPLACE there must be nothing to replace.
    """

    fid: int
    parent: int
    name: str
    new_parent: int
    new_name: str
    replaced: int
    mtime_ns: int
    flags: int = 0


class SetAttributes(Op, frozen=True, tag=10):
    """Mode, owner or times; None leaves as it is.

    A new owner takes `security.capability` away from what is no directory; of set-user-id bits
    `mode` tells. A new mode changes an access control list along with it.
    """

    fid: int
    mode: int | None
    uid: int | None
    gid: int | None
    mtime_ns: int | None
    atime_ns: int | None = None


class SetXattr(Op, frozen=True, tag=11):
    """Set an extended attribute; `value` None removes it.

    Mirrored are `user.*`, `trusted.*`, POSIX ACLs and `security.capability`; others belong to the
    node. `flags`: XATTR_CREATE or XATTR_REPLACE. An access control list sets the `mode` too.
    """

    fid: int
    name: str
    value: bytes | None
    flags: int = 0
    mode: int | None = None


class Mknod(Op, frozen=True, tag=12):
    """A fifo, socket or device node (`rdev`, as os.makedev makes it; 0 for the others)."""

    fid: int
    parent: int
    name: str
    kind: Kind
    mode: int
    rdev: int
    uid: int
    gid: int
    mtime_ns: int
    umask: int | None = None
    xattrs: dict[str, bytes] = {}


class Fallocate(Op, frozen=True, tag=13):
    """Reserve room, or make a range zeros; `mode` as of fallocate(2).

    The file grows to the end of the range, unless FALLOCATE_KEEP_SIZE. What is reserved is each
    node's own business, what can be read is the same.
    """

    fid: int
    mode: int
    offset: int
    length: int
    mtime_ns: int


AnyOp = (
    Write
    | Truncate
    | Create
    | Mkdir
    | Symlink
    | Link
    | Unlink
    | Rmdir
    | Rename
    | SetAttributes
    | SetXattr
    | Mknod
    | Fallocate
)

#: What makes a new file, of whatever kind.
Birth = Create | Mkdir | Symlink | Mknod
