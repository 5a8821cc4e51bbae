"""What the mount's front needs of the rest of a volume: somebody who changes, and a view to read.

Everything here is called in one thread, the loop's. Nothing here waits for the peer: what needs it
is answered later, through `then`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from mirrorha.volume.events import Reply
    from mirrorha.volume.ops import AnyOp

    Then: TypeAlias = Callable[[Reply], None]


class Changes(Protocol):
    """Makes changes: both nodes have them once `then` says so.

    Changes come into force in the order in which they were asked for. Each `then` is called exactly
    once, at once (before the method returns) or later; it may ask for further changes, and does not
    raise. Several changes that are asked for between two turns of the loop may go together.
    """

    def change(self, op: AnyOp, then: Then) -> int:
        """Ask for `op`. A token, never 0; it means nothing any more once `then` was called."""
        ...

    def flush(self, fid: int, then: Then, *, data_only: bool = False) -> int:
        """Ask for `fid` to be durable, or of a file content and size. A token, as above."""
        ...

    def withdraw(self, token: int) -> bool:
        """Take a change or flush back that waits for its turn.

        True: it was not applied, never will be, and its `then` is not called. False: too late.
        """
        ...


class Listed(NamedTuple):
    """One name in a directory."""

    name: str
    fid: int
    type: int  # as `d_type` has it: the type bits of a mode, shifted down by 12


class Known(NamedTuple):
    """What the kernel may have cached."""

    fids: list[int]
    entries: list[tuple[int, str]]  # the directory's fid, and the name in it


class Front(Protocol):
    """A mounted volume's front, as its loop drives it (`mirrorha.volume.fuse.server.Server`)."""

    #: Whether this node makes changes. If not, nothing is cached, and nothing is opened to write.
    serving: bool

    def fileno(self) -> int:
        """The device, non-blocking: readable when the kernel asks for something."""
        ...

    def serve(self, requests_max: int = 32) -> bool:
        """Handle what the kernel asks for, at most so many requests. Never blocks on the kernel.

        False: the connection ended (unmounted, aborted), and never comes back.
        """
        ...

    def fail_pending(self, number: int) -> None:
        """Answer everything that waits with errno `number`; what its `then` says no more counts."""
        ...

    def known(self) -> Known:
        """What the kernel may have cached, to be handed to `invalidate` in another thread."""
        ...

    def invalidate(self, known: Known) -> None:
        """Tell the kernel to forget what it has cached. From a thread that serves no requests.

        Blocks while a change is under way to what is to be forgotten: `serve` must go on meanwhile.
        """
        ...


class View(Protocol):
    """A volume's tree as this node has it, to look at. What is hidden in it is not shown.

    A file that is open here (`open` without its `release`) and loses its last name lives on as an
    *orphan*: it can be read and changed by those who have it open, on this node only.

    All methods block on the local disk at most, and raise OSError: ESTALE for what is no more.
    """

    def lookup(self, parent: int, name: str) -> int:
        """The fid of a name, 0 if there is none.

        Raises:
            OSError: ENOTDIR, ESTALE (the directory is no more).
        """
        ...

    def parent(self, fid: int) -> int:
        """The directory that a directory is in; the root is in itself."""
        ...

    def names(self, fid: int) -> list[tuple[int, str]]:
        """All names of a file: directory and name. None for an orphan, and for what is no more."""
        ...

    def status(self, fid: int) -> tuple[os.stat_result, int]:
        """What stat() says of it, and its names in the volume (`st_nlink`); for orphans too.

        `st_ino` and `st_dev` are those of the disk below, and of no use on a mount.
        """
        ...

    def list_directory(self, fid: int) -> list[Listed]:
        """The names in a directory, as they are now; nothing in one that was removed."""
        ...

    def open(self, fid: int) -> None:
        """Keep a file or directory at hand until `release`, whatever becomes of its names. Counted.

        Raises:
            OSError: ENFILE, too many are open already; or what the disk says.
        """
        ...

    def release(self, fid: int) -> None:
        """Undo one `open`. The last one ends an orphan. What is not open is nothing to release."""
        ...

    def is_open(self, fid: int) -> bool:
        """Whether it was opened more often than it was released."""
        ...

    def read_at_hand(self, fid: int, offset: int, into: memoryview) -> int:
        """Fill `into`, less of it at the end of the file, without waiting for the disk.

        How many bytes; less than 0 if some would have to come from the disk.
        """
        ...

    def pin(self, fid: int) -> int:
        """A descriptor of the file as it is now, whatever becomes of it: for `read_pinned`."""
        ...

    def read_pinned(self, fd: int, offset: int, length: int) -> bytes:
        """Bytes of it, fewer at its end; closes `fd`. In any thread."""
        ...

    def seek(self, fid: int, offset: int, whence: int) -> int:
        """Where the next data (SEEK_DATA) or hole (SEEK_HOLE) begins. ENXIO: nowhere."""
        ...

    def readlink(self, fid: int) -> bytes:
        """Where a symlink points to."""
        ...

    def xattr(self, fid: int, name: str) -> bytes:
        """The value of a mirrored extended attribute.

        Raises:
            OSError: ENODATA, it has none of that name; EOPNOTSUPP.
        """
        ...

    def xattrs(self, fid: int) -> list[str]:
        """The names of its mirrored extended attributes."""
        ...

    def statfs(self) -> os.statvfs_result:
        """What statvfs() says of the file system that the volume is on."""
        ...

    def is_orphan(self, fid: int) -> bool:
        """Whether it is open here and has no name any more."""
        ...

    def change_orphan(self, op: AnyOp) -> AnyOp:
        """Carry out a change of content or attributes on an orphan, at once; as it was done.

        Raises:
            OSError: why not; nothing has changed.
        """
        ...
