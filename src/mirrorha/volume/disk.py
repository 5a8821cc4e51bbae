"""The small interface between a volume's machines and a disk.

The machines are pure: they emit requests, a driver has a `Disk` perform them and returns what came
back as an event. The real disk blocks (it lives in a thread), the simulated one does not.
`mirrorha.testing.check_disk` is the suite that both pass.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from mirrorha.errors import MirrorHAError
from mirrorha.volume.ops import AnyOp, SetAttributes, Truncate, Write
from mirrorha.volume.ops import Kind as Kind  # noqa: PLC0414  # ops name it, disks tell it
from mirrorha.volume.touched import TouchKey

LIMBO_FID: Final = 2  # the hidden directory of what a resync set aside; drawn fids are larger


class DiskError(MirrorHAError):
    """The local disk failed (EIO, a writeback error, a failed fsync). Final: never retried.

    Every later request fails as well: requests are emitted ahead, and what was to become durable
    before something else must not be left out while that goes on.
    """


class WritesLostError(DiskError):
    """What a process before this one left in the page cache could not be written back.

    It is said once: whoever opens the directory after that finds a disk that answers.
    """


class PutBackError(DiskError):
    """The directory was put back to an older day: what was made durable since is not there.

    It is said until whoever opens the directory says that it is known.
    """


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One name in a directory, with what it stands for."""

    name: str
    fid: int
    kind: Kind


class Attributes(msgspec.Struct, frozen=True, array_like=True):
    """What is compared and restored besides content.

    `atime_ns` is the time of access, which reads of an application may change on one node only:
    None where it is not known.
    """

    fid: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    target: str = ""  # of a symlink
    xattrs: dict[str, bytes] = {}
    links: int = 1  # names inside the volume; 1 for a directory
    rdev: int = 0  # of a device node
    atime_ns: int | None = None


class Found(msgspec.Struct, frozen=True):
    """What a disk found when it was opened, before anything was done to it.

    `unknown` are the fids drawn for what the table of ids did not know: all of it if `rebuilt`.
    Their contents may differ from the peer's, whatever the touched log says.
    """

    rebuilt: bool = False  # the table was missing, damaged, or of another tree
    unknown: tuple[int, ...] = ()
    limbo: int = 0  # names that an unfinished resync left in limbo; kept for the next one
    # Paths that are not mirrored: mount points, and devices if this node does not run as root.
    skipped: tuple[str, ...] = ()
    # Paths of files that a crash left half made; they were removed, nobody was told of them.
    half_made: tuple[str, ...] = ()
    # Known files that somebody changed or removed while nobody of ours ran, or may have.
    changed: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """What applying an op did.

    `done` is the op as it really happened: None if nothing changed, a shorter `Write` if the disk
    took only a part. `errno` is what the caller gets, 0 for success. Failures that say nothing
    about the disk's health (ENOENT, ENOSPC, EEXIST, …) come back here; DiskError is raised else.

    An unknown fid is ESTALE, as the file or directory to change; as the directory that should
    hold a name it is ENOENT. `done` None with errno 0: there was nothing to do.
    """

    done: AnyOp | None
    errno: int = 0


class Request(msgspec.Struct, frozen=True):
    """Base of all requests to a disk."""


class Apply(Request, frozen=True):
    """Apply one op. Result: Outcome. Atomic towards other requests, in order."""

    op: AnyOp


class ApplyHere(Request, frozen=True):
    """Apply one op on this node alone, if it is about what stays here (`exclude`). Result: Outcome.

    None: it is not, and is to be mirrored. EXDEV: it would move something from one side to the
    other. In what is made, the fid is drawn.
    """

    op: AnyOp


class ApplyAll(Request, frozen=True):
    """A follower's: apply `ops` in order, and stop at the first that does not turn out exactly as
    it says (its Outcome has an errno, or another `done`). Result: Applied.

    Nothing after such an op is applied: a follower holds an exact prefix of the stream.
    """

    ops: list[AnyOp]


class Applied(msgspec.Struct, frozen=True):
    """How many of the ops were applied exactly; if not all, why the next one was not."""

    count: int
    errno: int = 0


class SyncFiles(Request, frozen=True):
    """Make files and directories durable: content, metadata, names, and the ids of themselves and
    of what their names stand for. Result: None.

    And their names, with the directories that lead to them: a new file that was synced survives a
    loss of power. A fid that no longer exists is nothing to sync. In which order they become
    durable is open until all of them are.

    Of the files that `data_only` names as well, content, size and what leads to them suffice:
    times, owner, mode and extended attributes become durable with the next request, `SyncTree`
    included, that wants all of them. Of what is no file all is synced.
    """

    fids: list[int]
    data_only: list[int] = []


class SyncTree(Request, frozen=True):
    """Make everything applied so far durable, the table of ids included. Result: None."""


class ReadBytes(Request, frozen=True):
    """Result: bytes, shorter at the end of the file; None if the fid is gone or no file."""

    fid: int
    offset: int
    length: int


class HashBlocks(Request, frozen=True):
    """XXH3-128 of blocks of `wire.limits.BLOCK_BYTES` from `first`, at most `count`.

    Result: a list of 16-byte digests, one for each block up to the end of the file; b"" for a block
    that is all zeros (a hole stays a hole); None if the fid is gone or no file.
    """

    fid: int
    first: int
    count: int
    seed: int


class ListDirectory(Request, frozen=True):
    """Result: list[Entry], in no order; None if the fid is gone or no directory.

    What stays on this node is left out, unless `with_local`.
    """

    fid: int
    with_local: bool = False


class ReadAttributes(Request, frozen=True):
    """Result: Attributes, or None if the fid is gone."""

    fid: int


class Resolve(Request, frozen=True):
    """Follow names from the root. Result: (parent fid, last name, fid or 0), or None.

    None: a directory on the way does not exist. Symlinks are not followed, `.` and `..` are no
    names. The root itself (an empty path) is (ROOT_FID, "", ROOT_FID).
    """

    path: str


class SetAside(Request, frozen=True):
    """Resync only: move `name` of `parent` into the volume's hidden limbo. Result: None.
    Where the file system refuses it (it is full, or a right is missing): an Outcome that says why,
    and so of `Place` and `ClearLimbo`. What it has done of it is whole.

    What is not there need not be moved. The times of the directory stay as they are. The disk
    picks a free name in limbo. What is in limbo, and what a directory there holds, is known by its
    fid as ever. Limbo can be listed as `LIMBO_FID`, and `Unlink` and `Rmdir` remove single names
    from that parent: a resync empties it step by step long before `ClearLimbo` does what is left.
    """

    parent: int
    name: str


class Place(Request, frozen=True):
    """Resync only: give `fid`, in limbo or elsewhere in the tree, the name `name` in `parent`.

    A directory moves; a file in limbo moves; a file elsewhere gets a further name (hard link).
    What has the name now, and is something else, is set aside first. The times of directories
    stay as they are.
    Result: bool, False if the fid or the parent is unknown, the place lies inside of what should
    go there, or the name is none (then create it and copy it whole).
    """

    parent: int
    name: str
    fid: int


class PunchHole(Request, frozen=True):
    """Resync only: make `length` bytes from `offset` zeros, as a hole where that can be had.

    The size and the time stay as they are; a range beyond the size is nothing to punch.
    Result: Outcome with `done` None; ESTALE if the fid is gone or no file.
    """

    fid: int
    offset: int
    length: int


class Relabel(Request, frozen=True):
    """Resync only: the file that `fid` stands for is called `new_fid` from now on. Result: None.

    An unknown `fid` is nothing to relabel. `new_fid` must not be in use.
    """

    fid: int
    new_fid: int


class ClearLimbo(Request, frozen=True):
    """Resync only: delete what is still in limbo, for good. Result: int, how many names."""


class BeginRescue(Request, frozen=True):
    """Resync only: from now on keep what this side alone acknowledged. Result: int, how many files
    are still to be noted: asked again until it is 0. Before that nothing may be changed.

    Then every file, directory and symlink, with its names, attributes and size, stands durably in
    the rescue directory. That of `generation` is gone on with, if it was begun before.

    What is asked of a rescue may be refused, as by a full disk: an Outcome that says why. So may
    the others below, but for `SumRescue`. They are asked again for what they answer is left: what
    is large takes several requests, for one must not pass for a disk that hangs.
    """

    generation: str
    peer_generation: str  # the other side's
    again: bool = False  # asked before, by the same session


class KeepFiles(Request, frozen=True):
    """Resync only: before the contents of `fids` are changed. Result: list[int], those left.

    Of each that was there when the rescue began and is not kept yet, the content and attributes
    are durable in the rescue directory, and in its manifest. Others are nothing to keep.
    """

    fids: list[int]


class KeepAttributes(Request, frozen=True):
    """Resync only: before attributes of `fids` are changed. Result: list[int], those left.

    Of each that was there when the rescue began its attributes stand in the manifest, durably.
    """

    fids: list[int]


class KeepNames(Request, frozen=True):
    """Resync only: before `names` of limbo are removed for good. Result: list[str], those left.

    A file that was there when the rescue began, is not kept yet, and has no name outside of limbo
    is moved to the rescue directory with all its names; a directory is noted. What is still there
    of `names`, and not left, is nothing to keep.
    """

    names: list[str]


class NoteReplaced(Request, frozen=True):
    """Resync only: the contents of `fids` are the other side's now. Result: list[int], those left.

    Of those that were kept the manifest says so, with the hash of what is there now.
    """

    fids: list[int]


class NoteRenamed(Request, frozen=True):
    """Resync only: the names are the other side's now. Result: int, how many files are left.

    The manifest says which files have other names than when the rescue began.
    """


class SumRescue(Request, frozen=True):
    """Resync only: what is in the rescue directory. Result: RescueSum."""


class RescueSum(msgspec.Struct, frozen=True):
    """What was kept of one split: where (below the volume's root), and how much."""

    directory: str
    files: int
    content_bytes: int


class RecordTouched(Request, frozen=True):
    """Add entries to the touched log, durable when it returns. Result: None.

    Always in the TREE lane, before the op that needs them. Adding one twice changes nothing.
    """

    keys: list[TouchKey]


class RetireTouched(Request, frozen=True):
    """Take `keys` out of the touched log and, in the same transaction, note that the checkpoint
    (epoch, seq) was retired and (if that is more) confirmed. Durable when it returns. Result: None.
    """

    keys: list[TouchKey]
    epoch: int
    seq: int


class ConfirmCheckpoint(Request, frozen=True):
    """Note, durably, that this node holds everything up to (epoch, seq). Result: None.

    `is_filled`: a resync has brought it, so that the touched log says nothing of what came before.
    """

    epoch: int
    seq: int
    is_filled: bool = False


class Mark(Request, frozen=True):
    """Have the root carry the volume's id, which no listing shows. Result: str, why not, or "".

    The root's times stay as they are. Marking it again changes nothing.
    """

    volume_id: str


class Restate(Request, frozen=True):
    """Verify only: say, as an op, what there is of what `op` is about. Changes nothing.

    Of a `Write` the range that it names, of a `Truncate` the size, of a `SetAttributes` mode, owner
    and mtime; all with the mtime that there is. What else is in `op` means nothing.
    Result: Outcome; `done` None if the fid is gone, or nothing of that kind is there.
    """

    op: Write | Truncate | SetAttributes


class Locate(Request, frozen=True):
    """Result: str, one path of `fid` from the root; None if it is gone or no name leads to it."""

    fid: int


class ReadAnew(Request, frozen=True):
    """Have blocks from `first`, at most `count`, read from the device when they are read next.

    And begin that. Result: None. A page cache remembers what was written, not what became of it.
    What is not written back yet stays there; what the platform cannot do is not done.
    """

    fid: int
    first: int
    count: int


class LoadTouched(Request, frozen=True):
    """Read the touched log, before a Volume is made of it. Result: TouchedState."""


class Space(msgspec.Struct, frozen=True, array_like=True):
    """How much a file system holds, and has left. Inodes count in `files`; 0: it has no limit."""

    total_bytes: int
    free_bytes: int
    available_bytes: int  # to who is not root
    files: int
    files_free: int


class MeasureSpace(Request, frozen=True):
    """Look how much room the volume's file system has. Result: Space."""


class Many(Request, frozen=True):
    """Perform `requests`, in this order, as one. Result: the list of their results.

    For requests that are small and many: to hand one over costs more than to perform it.
    """

    requests: list[AnyRequest]


AnyRequest = (
    Apply
    | ApplyHere
    | ApplyAll
    | SyncFiles
    | SyncTree
    | ReadBytes
    | HashBlocks
    | ListDirectory
    | ReadAttributes
    | Resolve
    | SetAside
    | Place
    | PunchHole
    | Relabel
    | ClearLimbo
    | BeginRescue
    | KeepFiles
    | KeepAttributes
    | KeepNames
    | NoteReplaced
    | NoteRenamed
    | SumRescue
    | RecordTouched
    | RetireTouched
    | ConfirmCheckpoint
    | Mark
    | Restate
    | Locate
    | ReadAnew
    | LoadTouched
    | MeasureSpace
    | Many
)


class Disk(Protocol):
    """A volume's tree on this node. Not thread-safe; only Sync* may run beside the rest."""

    @property
    def found(self) -> Found:
        """What was found when the disk was opened."""
        ...

    def perform(self, request: AnyRequest) -> object:
        """Carry out one request; its result is described at the request's class. May block.

        Raises:
            DiskError: the disk failed; nothing about its contents is certain any more, and it
                refuses every later request.
        """
        ...
