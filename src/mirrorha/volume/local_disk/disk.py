"""A directory of this machine as a volume's disk."""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, final

from mirrorha.errors import VolumeError
from mirrorha.volume.disk import (
    LIMBO_FID,
    AnyRequest,
    Applied,
    Apply,
    ApplyAll,
    ApplyHere,
    Attributes,
    ClearLimbo,
    ConfirmCheckpoint,
    DiskError,
    Entry,
    Found,
    HashBlocks,
    Kind,
    ListDirectory,
    LoadTouched,
    Locate,
    Many,
    Mark,
    MeasureSpace,
    Outcome,
    Place,
    PunchHole,
    PutBackError,
    ReadAnew,
    ReadAttributes,
    ReadBytes,
    RecordTouched,
    Relabel,
    Resolve,
    Restate,
    RetireTouched,
    SetAside,
    Space,
    SyncFiles,
    SyncTree,
    WritesLostError,
)
from mirrorha.volume.exclusion import Exclusion
from mirrorha.volume.local_disk.applying import OpApplier
from mirrorha.volume.local_disk.blocks import hash_blocks, read_anew
from mirrorha.volume.local_disk.excluded import Excluded, LocalFids
from mirrorha.volume.local_disk.handles import (
    OPEN_DIRECTORY,
    OPENED_KINDS,
    Handles,
    as_owner,
    open_quietly,
    place_of,
    read_range,
)
from mirrorha.volume.local_disk.identity import mark
from mirrorha.volume.local_disk.limbo import Limbo
from mirrorha.volume.local_disk.naming import NameApplier
from mirrorha.volume.local_disk.offline_changes import NEVER_NS, PUT_BACK
from mirrorha.volume.local_disk.owners import Owners
from mirrorha.volume.local_disk.rescue import Rescue
from mirrorha.volume.local_disk.streaming import LARGE_BYTES_MIN, Streaming
from mirrorha.volume.local_disk.syscalls import (
    CAN_SYNC_FILE_SYSTEM,
    FATAL,
    fallocate,
    sync_data,
    sync_file_system,
)
from mirrorha.volume.local_disk.tree import Tree
from mirrorha.volume.local_disk.view import DiskView
from mirrorha.volume.local_disk.walk import ExcludedHere, load_tree
from mirrorha.volume.names import bytes_of, is_mirrored_xattr, text_of
from mirrorha.volume.op_rules import MAKING
from mirrorha.volume.ops import DEVICE_KINDS, Rmdir, Write, is_local
from mirrorha.volume.restating import restated
from mirrorha.volume.touched import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mirrorha.volume.local_disk.ids import IdTable
    from mirrorha.volume.local_disk.offline_changes import OfflineChanges
    from mirrorha.volume.local_disk.touched_store import TouchedStore
    from mirrorha.volume.local_disk.tree import Node
    from mirrorha.volume.ops import AnyOp
    from mirrorha.volume.touched import TouchedState

_Request = TypeVar("_Request")
# What may be performed in another thread, beside the rest. Of many, each speaks for itself.
_BESIDE: Final = frozenset({SyncFiles, SyncTree, RetireTouched, ConfirmCheckpoint, Many})
# What changes nothing, so that nothing later depends on it.
_LOOKING: Final = frozenset(
    {
        ReadBytes,
        HashBlocks,
        ListDirectory,
        ReadAttributes,
        Resolve,
        LoadTouched,
        MeasureSpace,
        Restate,
        Locate,
        ReadAnew,
    }
)
_DESCRIPTORS_MIN: Final = 16
_DESCRIPTORS_MAX: Final = 4096


@final
class RealDisk:
    """The directory `root`. Everything blocks: it lives in a thread.

    One thread performs requests; syncs and checkpoints may run beside it in another. Nobody else
    may change the directory meanwhile. Opened once, never by a path again: it goes on to
    work when something is mounted over it.

    A request that only looks, and fails for another reason than the device (no descriptor is free),
    raises DiskError too, but the disk goes on. Every other DiskError is final.

    Args:
        root: The volume's directory.
        ids: Its table of ids, in the state directory. Not closed by `close`.
        touched: Its touched log, in the state directory. Not closed by `close`.
        draw: A fid that was never used, for each file that the table does not know.
        idle_max: Descriptors kept open for the next use.
        dirty_max: Descriptors kept open for what is not synced; one more, and all is synced. By
            default both depend on how many this process may open: half of them, together, at most.
        fsync: Makes a descriptor's file durable. Several threads call it at the same time. Tests
            watch and fail it, `fdatasync`, `syncfs`, `pwrite` and `fallocate`.
        raw: A descriptor of the directory, where `root` leads to what is mounted over it; not
            closed by `close`. By default `root` is opened. What is mounted keeps what callers
            read and write in memory: large writes are not kept here as well.
        offline: Finds what was changed while nobody of ours ran. By default nobody looks.
        exclude: Patterns of what stays on this node (`mirrorha.volume.exclusion`).
        streaming: Writes out early what streams in, as a follower's or beneath a mount. Closed by
            `close`.

    Raises:
        VolumeError: the directory cannot be opened or read.
        WritesLostError: what a process before us wrote is not on the disk.
        PutBackError: the directory is of an older day, and `offline` does not say that it is known.
        DiskError: the table of ids cannot be written.
    """

    def __init__(
        self,
        root: Path,
        ids: IdTable,
        touched: TouchedStore,
        *,
        draw: Callable[[], int],
        idle_max: int | None = None,
        dirty_max: int | None = None,
        fsync: Callable[[int], None] = os.fsync,
        fdatasync: Callable[[int], None] = sync_data,
        syncfs: Callable[[int], None] | None = sync_file_system if CAN_SYNC_FILE_SYSTEM else None,
        pwrite: Callable[[int, bytes, int], int] = os.pwrite,
        fallocate: Callable[[int, int, int, int], None] = fallocate,
        raw: int | None = None,
        offline: OfflineChanges | None = None,
        exclude: Sequence[str] = (),
        streaming: Streaming | None = None,
    ) -> None:
        self._root: Final = root
        self._ids: Final = ids
        self._touched: Final = touched
        self._failure: str | None = None
        self._offline: Final = offline
        self._streaming: Final = streaming or Streaming()
        self._is_mounted: Final = raw is not None
        root_fd = _open_root(root) if raw is None else os.dup(raw)
        self._tree: Final = Tree(root_inode=os.fstat(root_fd).st_ino)
        self._handles: Final = Handles(
            root_fd,
            self._tree,
            idle_max=_share(8) if idle_max is None else idle_max,
            dirty_max=_share(4) if dirty_max is None else dirty_max,
            fsync=fsync,
            fdatasync=fdatasync,
            syncfs=syncfs,
        )
        exclusion = Exclusion(exclude)
        local_fids = LocalFids()
        try:
            self._found: Final = self._load(draw, exclusion, local_fids)
        except OSError as error:
            self._let_go(in_order=False)
            raise VolumeError(f"{root}: cannot be read: {error}") from error
        except BaseException:
            self._let_go(in_order=False)
            raise
        self._stamp: Final = offline.stamp if offline is not None else None
        self._owners: Final = Owners()
        names = NameApplier(self._tree, self._handles, ids, self._owners)
        self._ops: Final = OpApplier(
            self._tree, self._handles, names, self._owners, pwrite=pwrite, fallocate=fallocate
        )
        apply = self._ops.apply
        excluded = Excluded(exclusion, self._tree, self._handles, draw=local_fids, apply=apply)
        #: None where everything is mirrored.
        self._excluded: Final = excluded if exclusion else None
        self._limbo: Final = Limbo(self._tree, self._handles, ids, excluded=self._excluded)
        self._rescue: Final = Rescue(self._tree, self._handles, ids, self._read_attributes, fsync)
        self._table: Final = self._performers()

    @property
    def found(self) -> Found:
        """What was found when the disk was opened."""
        return self._found

    def view(self) -> DiskView:
        """The tree, to look at. In the thread that performs requests; until `close`."""
        # Beside what is kept for the next use, and for what is not synced: see `_share`.
        return DiskView(self._tree, self._handles, held_max=os.sysconf("SC_OPEN_MAX") // 2)

    def perform(self, request: AnyRequest) -> object:
        """Carry out one request. See `mirrorha.volume.disk`."""
        if self._failure is not None:
            raise DiskError(self._failure)
        try:
            return self._perform(request)
        except DiskError as error:
            self._failure = f"{self._root}: {error}"
            raise DiskError(self._failure) from error
        except OSError as error:
            text = f"{self._root}: {type(request).__name__}: {error}"
            if error.errno in FATAL or type(request) not in _LOOKING:
                self._failure = text
            raise DiskError(text) from error

    def _perform(self, request: AnyRequest) -> object:
        kind = type(request)
        perform = self._table[kind]
        if kind in _BESIDE:
            return perform(request)
        self._handles.trim()
        stamp = self._stamp
        if kind in _LOOKING or stamp is None:
            return perform(request)
        stamp.renew()
        try:
            return perform(request)
        finally:
            stamp.changed()

    def _perform_many(self, request: Many) -> list[object]:
        return [self._perform(one) for one in request.requests]

    def close(self) -> None:
        """Close every descriptor. Syncs nothing of the directory. Idempotent."""
        was_well = self._failure is None
        self._rescue.close()
        self._failure = self._failure or f"{self._root}: the disk is closed"
        self._let_go(in_order=was_well)

    def _let_go(self, *, in_order: bool) -> None:
        self._streaming.close()
        self._handles.close()
        if self._offline is not None:
            self._offline.close(in_order=in_order)

    def _load(
        self, draw: Callable[[], int], exclusion: Exclusion, local_fids: Callable[[], int]
    ) -> Found:
        # A process before us may have left changes in the page cache only, and they would look
        # clean to us.
        try:
            sync_file_system(self._handles.root.fd)
        except OSError as error:
            text = f"{self._root}: what was written before could not be written back: {error}"
            raise WritesLostError(text) from error
        was_known = self._ids.is_known
        offline = self._offline
        if offline is not None:
            offline.load(self._handles.root.fd)
        touched = self._touched.load()
        changed = {fid for fid, part in touched.keys if part == NAMES}
        found = load_tree(
            self._tree,
            self._handles,
            self._ids,
            draw=draw,
            may_be_half_made=lambda fid: fid in changed and not touched.damaged,
            first_late_ns=offline.first_late_ns if offline is not None else NEVER_NS,
            settle=lambda walked: (
                offline.settle(self._root, walked, touched.keys) if offline is not None else 0
            ),
            excluded=ExcludedHere(
                exclusion=exclusion,
                draw=local_fids,
                was_cut_off=offline is not None and offline.was_cut_off,
            )
            if exclusion
            else None,
        )
        if not was_known and len(self._tree.nodes) == 1:
            # Else a log that is new was lost: the directory was a volume before.
            self._touched.begin()
        if offline is not None:
            if offline.is_put_back and not offline.is_put_back_known:
                # The log is distrusted, durably. The stamp stays as it is: so this is said again.
                raise PutBackError(f"{self._root}: {PUT_BACK}")
            offline.begin()
        return found

    def _performers(self) -> dict[type, Callable[..., object]]:
        return {
            Many: self._perform_many,
            Apply: self._apply,
            ApplyAll: self._apply_all,
            ApplyHere: self._apply_here,
            PunchHole: self._punch_hole,
            RecordTouched: self._record_touched,
            RetireTouched: self._retire_touched,
            ConfirmCheckpoint: self._confirm_checkpoint,
            LoadTouched: self._load_touched,
            MeasureSpace: self._measure_space,
            Mark: self._mark,
            SyncFiles: self._sync_files,
            SyncTree: self._sync_tree,
            ReadBytes: self._read_bytes,
            HashBlocks: self._hash_blocks,
            ListDirectory: self._list_directory,
            ReadAttributes: self._read_attributes,
            Resolve: self._resolve,
            Restate: self._restate,
            Locate: self._locate,
            ReadAnew: self._read_anew,
            SetAside: partial(_moved, self._limbo.set_aside),
            Place: partial(_moved, self._limbo.place),
            Relabel: self._limbo.relabel,
            ClearLimbo: partial(_moved, self._clear_limbo),
            **{kind: partial(_moved, keep) for kind, keep in self._rescue.performers().items()},
        }

    def _apply(self, request: Apply) -> Outcome:
        op = request.op
        outcome = self._apply_op(op) if self._excluded is None else self._apply_mirrored(op)
        if self._is_mounted and type(op) is Write and len(op.data) >= LARGE_BYTES_MIN:
            self._note_large(op)
        return outcome

    def _apply_op(self, op: AnyOp) -> Outcome:
        try:
            return self._ops.apply(op)
        except OSError as error:
            return _refused(error)

    def _apply_here(self, request: ApplyHere) -> Outcome | None:
        if self._excluded is None:
            return None
        try:
            return self._excluded.apply(request.op)
        except OSError as error:
            return _refused(error)

    def _apply_mirrored(self, op: AnyOp) -> Outcome:
        """Apply an op where something is excluded. What a resync deletes may hold some of it.

        A resync also makes files in directories that have not come to their place yet, where the
        patterns may say something else than there.
        """
        is_birth = type(op) in MAKING
        is_deletion = type(op) is Rmdir and op.parent == LIMBO_FID
        return self._apply_bordered(op, makes_way=is_birth or is_deletion, anywhere=is_birth)

    def _apply_bordered(self, op: AnyOp, *, makes_way: bool, anywhere: bool = False) -> Outcome:
        excluded = self._excluded
        if excluded is None:
            return self._apply_op(op)
        try:
            if not anywhere:
                excluded.check_mirrored(op)
        except OSError as error:
            return Outcome(None, error.errno or errno.EXDEV)
        outcome = self._apply_op(op)
        in_the_way = errno.EEXIST if type(op) in MAKING else errno.ENOTEMPTY
        try:
            if makes_way and outcome.errno == in_the_way and excluded.make_way(op):
                return self._apply_op(op)
        except OSError as error:
            return _refused(error)
        return outcome

    def _apply_all(self, request: ApplyAll) -> Applied:
        is_plain = self._excluded is None
        for count, op in enumerate(request.ops):
            if count:
                self._handles.trim()
            outcome = self._apply_op(op) if is_plain else self._apply_bordered(op, makes_way=True)
            if outcome.errno or outcome.done != op:
                return Applied(count, outcome.errno)
            if type(op) is Write and len(op.data) >= LARGE_BYTES_MIN:
                self._note_large(op)
        return Applied(len(request.ops))

    def _note_large(self, op: Write) -> None:
        handle = self._handles.open.get(op.fid)
        if handle is not None:
            self._streaming.wrote(handle.fd, op.offset, op.offset + len(op.data))

    def _punch_hole(self, request: PunchHole) -> Outcome:
        try:
            self._ops.punch_hole(request)
        except OSError as error:
            return _refused(error)
        return Outcome(None)

    def _record_touched(self, request: RecordTouched) -> None:
        self._touched.record(request.keys)

    def _retire_touched(self, request: RetireTouched) -> None:
        self._touched.retire(request.keys, epoch=request.epoch, seq=request.seq)

    def _confirm_checkpoint(self, request: ConfirmCheckpoint) -> None:
        self._touched.confirm(epoch=request.epoch, seq=request.seq, is_filled=request.is_filled)

    def _mark(self, request: Mark) -> str:
        try:
            mark(self._root, request.volume_id)
        except VolumeError as error:
            return str(error)
        return ""

    def _measure_space(self, _: MeasureSpace) -> Space:
        seen = os.fstatvfs(self._handles.root.fd)
        unit_bytes = seen.f_frsize
        return Space(
            total_bytes=seen.f_blocks * unit_bytes,
            free_bytes=seen.f_bfree * unit_bytes,
            available_bytes=seen.f_bavail * unit_bytes,
            files=seen.f_files,
            files_free=seen.f_ffree,
        )

    def _load_touched(self, _: LoadTouched) -> TouchedState:
        return self._touched.load()

    def _sync_files(self, request: SyncFiles) -> None:
        self._handles.sync_files(request.fids, data_only=request.data_only)
        self._ids.flush()
        self._sync_stamp()

    def _sync_tree(self, _: SyncTree) -> None:
        self._handles.sync_tree()
        self._ids.flush()
        if self._offline is not None:
            self._offline.note()  # before a checkpoint has the log forget it
        self._sync_stamp()

    def _sync_stamp(self) -> None:
        if self._offline is not None:
            self._offline.sync()

    def _clear_limbo(self, _: ClearLimbo) -> int:
        return self._limbo.clear()

    def _resolve(self, request: Resolve) -> tuple[int, str, int] | None:
        return self._tree.resolve(request.path)

    def _list_directory(self, request: ListDirectory) -> list[Entry] | None:
        node = self._tree.listed(request.fid)
        if node is None:
            return None
        return [
            Entry(name, child.fid, child.kind)
            for name, child in node.children.items()
            if request.with_local or not is_local(child.fid)
        ]

    def _file(self, fid: int) -> Node | None:
        node = self._tree.nodes.get(fid)
        return node if node is not None and node.kind is Kind.FILE else None

    def _read_bytes(self, request: ReadBytes) -> bytes | None:
        node = self._file(request.fid)
        if node is None:
            return None
        fd = self._handles.get(node).fd
        return read_range(fd, request.offset, request.length)

    def _hash_blocks(self, request: HashBlocks) -> list[bytes] | None:
        node = self._file(request.fid)
        if node is None:
            return None
        fd = self._handles.get(node).fd
        return hash_blocks(fd, request.first, request.count, request.seed)

    def _restate(self, request: Restate) -> Outcome:
        fid = request.op.fid
        return restated(
            request,
            self._read_attributes(ReadAttributes(fid)),
            lambda offset, length: self._read_bytes(ReadBytes(fid, offset, length)),
        )

    def _locate(self, request: Locate) -> str | None:
        node = self._tree.nodes.get(request.fid)
        return None if node is None else self._tree.path(node)

    def _read_anew(self, request: ReadAnew) -> None:
        node = self._file(request.fid)
        if node is not None:
            fd = self._handles.get(node).fd
            read_anew(fd, request.first, request.count)

    def _read_attributes(self, request: ReadAttributes) -> Attributes | None:
        node = self._tree.nodes.get(request.fid)
        if node is None:
            return None
        target, atime_ns = "", None
        if node.kind in OPENED_KINDS:
            handle = self._handles.get(node)
            fd = handle.fd
            status = os.fstat(fd)
            # Else whatever we read is an access.
            atime_ns = status.st_atime_ns if handle.is_owner else None
            xattrs = as_owner(fd, lambda: _xattrs(fd))
        else:
            with self._handles.pinned(node) as place_fd:
                status = os.fstat(place_fd)
                xattrs = _xattrs(place_of(place_fd))
                if node.kind is Kind.SYMLINK:
                    target = text_of(os.readlink(b"", dir_fd=place_fd))
                else:
                    atime_ns = status.st_atime_ns
        uid, gid = self._owners.seen(status.st_uid, status.st_gid)
        return Attributes(
            fid=node.fid,
            kind=node.kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=uid,
            gid=gid,
            size_bytes=status.st_size if node.kind is Kind.FILE else 0,
            mtime_ns=status.st_mtime_ns,
            target=target,
            xattrs=xattrs,
            links=1 if node.kind is Kind.DIRECTORY else len(node.names),
            rdev=status.st_rdev if node.kind in DEVICE_KINDS else 0,
            # Of a symlink it changes whenever its target is read.
            atime_ns=atime_ns,
        )


def _refused(error: OSError) -> Outcome:
    """What the caller of an op is told, if the error says nothing about the disk's health."""
    if error.errno is None or error.errno in FATAL:
        raise error
    return Outcome(None, error.errno)


def _moved(move: Callable[[_Request], object], request: _Request) -> object:
    """What came of moving names, be it that the file system refused it."""
    try:
        return move(request)
    except OSError as error:
        return _refused(error)


def _share(part: int) -> int:
    """A part of the descriptors that this process may open."""
    return min(max(os.sysconf("SC_OPEN_MAX") // part, _DESCRIPTORS_MIN), _DESCRIPTORS_MAX)


def _open_root(root: Path) -> int:
    try:
        # What leads to the directory may be a symlink; it may not be one itself.
        path = os.path.join(os.path.realpath(root.parent), root.name)
        return open_quietly(path, OPEN_DIRECTORY)
    except OSError as error:
        raise VolumeError(f"{root}: {error.strerror}") from error


def _xattrs(target: int | str) -> dict[str, bytes]:
    try:
        names = [text_of(os.fsencode(name)) for name in os.listxattr(target)]
        mirrored = [name for name in names if is_mirrored_xattr(name)]
        return {name: os.getxattr(target, bytes_of(name)) for name in mirrored}
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
