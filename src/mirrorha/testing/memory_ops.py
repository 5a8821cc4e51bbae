"""How the disk in memory applies ops. Written apart from the real disk's way, to check it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, TypeVar, final

import msgspec

from mirrorha.testing.memory_inode import Inode, Metadata
from mirrorha.testing.memory_names import MemoryNames, NameStep
from mirrorha.testing.memory_xattrs import (
    of_new_file,
    with_new_mode,
    with_xattr,
    without_capability,
)
from mirrorha.volume.access_lists import ACL_ACCESS, ACL_DEFAULT
from mirrorha.volume.births import settled
from mirrorha.volume.disk import Kind, Outcome
from mirrorha.volume.names import CAPABILITY, checked_name, checked_target
from mirrorha.volume.op_checks import (
    MTIME_NS_MAX,
    MTIME_NS_MIN,
    OWN_USER,
    check_attributes,
    check_birth,
    check_fallocate,
    check_mtime,
    check_rename,
    check_truncate,
    check_write,
    check_xattr,
    missing,
    refusal,
)
from mirrorha.volume.ops import (
    DEVICE_KINDS,
    FALLOCATE_KEEP_SIZE,
    FALLOCATE_PUNCH_HOLE,
    FALLOCATE_ZERO_RANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    AnyOp,
    Birth,
    Create,
    Fallocate,
    Link,
    Mkdir,
    Mknod,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from mirrorha.volume.disk import PunchHole

# A file is kept whole in memory: a simulation has no use for larger ones.
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
_SYMLINK_MODE: Final = 0o777
_OWNERS: Final = frozenset({"uid", "gid"})
# As ext4's.
LINKS_MAX: Final = 65_000
OwnedOp = TypeVar("OwnedOp", bound=Birth | SetAttributes)
BirthOp = TypeVar("BirthOp", bound=Birth)


@final
class MemoryOps:
    """Applies ops to what `names` holds."""

    def __init__(self, names: MemoryNames, *, keeps_owners: bool) -> None:
        self.free_bytes: int | None = None
        self._names: Final = names
        self._keeps_owners: Final = keeps_owners
        self._changed: dict[Inode, None] = {}
        self._table: Final[dict[type, Callable[..., Outcome]]] = {
            Write: self._write,
            Truncate: self._truncate,
            Create: self._create,
            Mkdir: self._mkdir,
            Symlink: self._symlink,
            Link: self._link,
            Unlink: self._unlink,
            Rmdir: self._rmdir,
            Rename: self._rename,
            SetAttributes: self._set_attributes,
            SetXattr: self._set_xattr,
            Mknod: self._mknod,
            Fallocate: self._fallocate,
        }

    def apply(self, op: AnyOp) -> Outcome:
        """Apply one op, or raise OSError with nothing changed."""
        return self._table[type(op)](op)

    def sync(self, inode: Inode) -> None:
        """Make what is in one inode durable."""
        inode.sync()
        self._changed.pop(inode, None)

    def sync_all(self) -> None:
        """Make what is in every inode durable."""
        for inode in self._changed:
            inode.sync()
        self._changed.clear()

    def tear(self, rng: random.Random) -> None:
        """Become what a power loss leaves of contents and metadata."""
        for inode in self._changed:
            inode.tear(rng)
        self._changed.clear()

    def _write(self, op: Write) -> Outcome:
        inode = self._names.by_fid.get(op.fid)
        if inode is None or inode.kind is not Kind.FILE:
            inode = self._file(op.fid)
        data, offset, content = op.data, op.offset, inode.content
        if offset < 0 or not data or not MTIME_NS_MIN <= op.mtime_ns <= MTIME_NS_MAX:
            check_write(op)
            return Outcome(None)
        number = 0
        if offset + len(data) > len(content):
            data, number = self._fitting(op, len(content))
        if inode.durable is None:
            self._begin(inode)
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        inode.mtime_ns = op.mtime_ns
        if CAPABILITY in inode.metadata.xattrs:
            inode.metadata = without_capability(inode.metadata)
        inode.end_change(offset, data)
        return (
            Outcome(op) if not number else Outcome(msgspec.structs.replace(op, data=data), number)
        )

    def _fitting(self, op: Write, size_bytes: int) -> tuple[bytes, int]:
        """What of a write that makes the file grow there is room for."""
        check_write(op)
        end = op.offset + len(op.data)
        if end > FILE_BYTES_MAX:
            raise refusal(errno.EFBIG)
        if self.free_bytes is None:
            return op.data, 0
        growth = end - size_bytes
        if growth <= self.free_bytes:
            self.free_bytes -= growth
            return op.data, 0
        taken = size_bytes + self.free_bytes - op.offset
        if taken <= 0:
            raise refusal(errno.ENOSPC)
        self.free_bytes = 0
        return op.data[:taken], errno.ENOSPC

    def _truncate(self, op: Truncate) -> Outcome:
        check_truncate(op)
        inode = self._file(op.fid)
        if op.size_bytes > FILE_BYTES_MAX:
            raise refusal(errno.EFBIG)
        self._begin(inode)
        size_bytes = len(inode.content)
        if op.size_bytes < size_bytes:
            del inode.content[op.size_bytes :]
            if self.free_bytes is not None:
                self.free_bytes += size_bytes - op.size_bytes
        else:
            inode.content.extend(bytes(op.size_bytes - size_bytes))
        inode.mtime_ns = op.mtime_ns
        inode.metadata = without_capability(inode.metadata)
        inode.end_change()
        return Outcome(op)

    def punch_hole(self, request: PunchHole) -> None:
        """Make a range of a file zeros."""
        inode = self._file(request.fid)
        end = min(request.offset + request.length, len(inode.content))
        if 0 <= request.offset < end:
            self._begin(inode)
            zeros = bytes(end - request.offset)
            inode.content[request.offset : end] = zeros
            inode.metadata = without_capability(inode.metadata)
            inode.end_change(request.offset, zeros)

    def _fallocate(self, op: Fallocate) -> Outcome:
        inode = self._file(op.fid)
        check_fallocate(op)
        before_bytes, end = len(inode.content), op.offset + op.length
        size_bytes = before_bytes if op.mode & FALLOCATE_KEEP_SIZE else max(before_bytes, end)
        growth = size_bytes - before_bytes
        if growth and size_bytes > FILE_BYTES_MAX:
            raise refusal(errno.EFBIG)
        if self.free_bytes is not None:
            if growth > self.free_bytes:
                raise refusal(errno.ENOSPC)
            self.free_bytes -= growth
        self._begin(inode)
        inode.content.extend(bytes(growth))
        inode.mtime_ns = op.mtime_ns
        inode.metadata = without_capability(inode.metadata)
        inode.end_change()
        zeroed = min(end, before_bytes) - op.offset
        if op.mode & (FALLOCATE_PUNCH_HOLE | FALLOCATE_ZERO_RANGE) and zeroed > 0:
            inode.content[op.offset : op.offset + zeroed] = bytes(zeroed)
            inode.end_change(op.offset, bytes(zeroed))
        return Outcome(op)

    def _create(self, op: Create) -> Outcome:
        return self._make(op, Kind.FILE, op.mode)

    def _mkdir(self, op: Mkdir) -> Outcome:
        return self._make(op, Kind.DIRECTORY, op.mode)

    def _symlink(self, op: Symlink) -> Outcome:
        checked_target(op.target)
        return self._make(op, Kind.SYMLINK, _SYMLINK_MODE)

    def _mknod(self, op: Mknod) -> Outcome:
        if op.kind in DEVICE_KINDS and not self._keeps_owners:
            raise refusal(errno.EPERM)
        return self._make(op, op.kind, op.mode)

    def _make(self, op: Birth, kind: Kind, mode: int) -> Outcome:
        check_birth(op)
        parent = self._directory(op.parent)
        checked_name(op.name)
        if op.name in parent.children or op.fid in self._names.by_fid:
            raise refusal(errno.EEXIST)
        done = self._owned(self._settled(op, parent))
        metadata = Metadata(mode, done.uid, done.gid, {}, op.mtime_ns)
        metadata = of_new_file(metadata, kind, done, is_root=self._keeps_owners)
        inode = Inode(op.fid, kind, metadata, op.mtime_ns)
        if isinstance(op, Symlink):
            inode.target = op.target
        if isinstance(op, Mknod):
            inode.rdev = op.rdev
        self._names.change(NameStep(True, parent, op.name, inode))
        self._set_mtime(parent, op.mtime_ns)
        return Outcome(done)

    def _settled(self, op: BirthOp, parent: Inode) -> BirthOp:
        now = parent.metadata
        default_list = now.xattrs.get(ACL_DEFAULT, b"")
        return settled(op, mode=now.mode, gid=now.gid, default_list=default_list)

    def _link(self, op: Link) -> Outcome:
        check_mtime(op.mtime_ns)
        inode = self._any(op.fid)
        parent = self._directory(op.parent)
        checked_name(op.name)
        if op.name in parent.children:
            raise refusal(errno.EEXIST)
        if inode.kind is Kind.DIRECTORY:
            raise refusal(errno.EPERM)
        if len(inode.names) == LINKS_MAX:
            raise refusal(errno.EMLINK)
        self._names.change(NameStep(True, parent, op.name, inode))
        self._set_mtime(parent, op.mtime_ns)
        return Outcome(op)

    def _unlink(self, op: Unlink) -> Outcome:
        parent, inode = self._named(op)
        if inode.kind is Kind.DIRECTORY:
            raise refusal(errno.EISDIR)
        return self._remove(op, parent, inode)

    def _rmdir(self, op: Rmdir) -> Outcome:
        parent, inode = self._named(op)
        if inode.kind is not Kind.DIRECTORY:
            raise refusal(errno.ENOTDIR)
        if inode.children:
            raise refusal(errno.ENOTEMPTY)
        return self._remove(op, parent, inode)

    def _rename(self, op: Rename) -> Outcome:
        check_rename(op)
        parent = self._directory(op.parent)
        new_parent = self._directory(op.new_parent)
        inode = parent.children.get(op.name)
        if inode is None:
            raise missing(op.name)
        checked_name(op.new_name)
        there = new_parent.children.get(op.new_name)
        if op.flags == RENAME_EXCHANGE and there is None:
            raise refusal(errno.ENOENT)
        if op.flags == RENAME_NOREPLACE and there is not None:
            raise refusal(errno.EEXIST)
        replaced = 0 if there is None else there.fid
        if (op.fid and op.fid != inode.fid) or (op.replaced and op.replaced != replaced):
            raise refusal(errno.ESTALE)
        if there is inode:
            return Outcome(None)
        self._check_rename(inode, there, parent, new_parent, exchanges=op.flags == RENAME_EXCHANGE)
        steps = [NameStep(False, parent, op.name, inode)]
        if there is not None:
            steps.append(NameStep(False, new_parent, op.new_name, there))
        steps.append(NameStep(True, new_parent, op.new_name, inode))
        if there is not None:
            if op.flags == RENAME_EXCHANGE:
                steps.append(NameStep(True, parent, op.name, there))
            else:
                self._give_back(there)
        self._names.change(*steps)
        self._set_mtime(parent, op.mtime_ns)
        self._set_mtime(new_parent, op.mtime_ns)
        return Outcome(msgspec.structs.replace(op, fid=inode.fid, replaced=replaced))

    def _check_rename(
        self,
        inode: Inode,
        there: Inode | None,
        parent: Inode,
        new_parent: Inode,
        *,
        exchanges: bool,
    ) -> None:
        is_directory = inode.kind is Kind.DIRECTORY
        if is_directory and self._names.contains(inode, new_parent):
            raise refusal(errno.EINVAL)
        if there is None:
            return
        if there.kind is Kind.DIRECTORY and self._names.contains(there, parent):
            raise refusal(errno.EINVAL if exchanges else errno.ENOTEMPTY)
        if exchanges:
            return
        if is_directory and there.kind is not Kind.DIRECTORY:
            raise refusal(errno.ENOTDIR)
        if not is_directory and there.kind is Kind.DIRECTORY:
            raise refusal(errno.EISDIR)
        if there.children:
            raise refusal(errno.ENOTEMPTY)

    def _set_attributes(self, op: SetAttributes) -> Outcome:
        inode = self._any(op.fid)
        check_attributes(op)
        if op.mode is not None and inode.kind is Kind.SYMLINK:
            raise refusal(errno.EOPNOTSUPP)
        done = self._owned(op)
        now = inode.metadata
        changes: dict[str, int | None] = {"uid": done.uid, "gid": done.gid, "atime_ns": op.atime_ns}
        wanted = {name: value for name, value in changes.items() if value is not None}
        self._begin(inode)
        metadata = msgspec.structs.replace(now, **wanted)
        if self._keeps_owners and inode.kind is not Kind.DIRECTORY and wanted.keys() & _OWNERS:
            metadata = without_capability(metadata)
        inode.metadata = metadata if op.mode is None else with_new_mode(metadata, op.mode)
        if op.mtime_ns is not None:
            inode.mtime_ns = op.mtime_ns
        inode.end_change()
        return Outcome(done)

    def _set_xattr(self, op: SetXattr) -> Outcome:
        inode = self._any(op.fid)
        check_xattr(op)
        metadata = with_xattr(inode.metadata, inode.kind, op, is_root=self._keeps_owners)
        self._begin(inode)
        inode.metadata = metadata
        inode.end_change()
        mode = metadata.mode if op.name == ACL_ACCESS else None
        return Outcome(msgspec.structs.replace(op, flags=0, mode=mode))

    def _remove(self, op: Unlink | Rmdir, parent: Inode, inode: Inode) -> Outcome:
        self._give_back(inode)
        self._names.change(NameStep(False, parent, op.name, inode))
        self._set_mtime(parent, op.mtime_ns)
        return Outcome(op if op.fid == inode.fid else msgspec.structs.replace(op, fid=inode.fid))

    def _give_back(self, inode: Inode) -> None:
        if self.free_bytes is not None and len(inode.names) == 1:
            self.free_bytes += len(inode.content)

    def _named(self, op: Unlink | Rmdir) -> tuple[Inode, Inode]:
        check_mtime(op.mtime_ns)
        parent = self._names.listed(op.parent) or self._directory(op.parent)
        inode = parent.children.get(op.name)
        if inode is None:
            raise missing(op.name)
        if op.fid and op.fid != inode.fid:
            raise refusal(errno.ESTALE)
        return parent, inode

    def _directory(self, fid: int) -> Inode:
        inode = self._names.by_fid.get(fid)
        if inode is None:
            raise refusal(errno.ENOENT)
        if inode.kind is not Kind.DIRECTORY:
            raise refusal(errno.ENOTDIR)
        return inode

    def _any(self, fid: int) -> Inode:
        inode = self._names.by_fid.get(fid)
        if inode is None:
            raise refusal(errno.ESTALE)
        return inode

    def _file(self, fid: int) -> Inode:
        inode = self._any(fid)
        if inode.kind is not Kind.FILE:
            raise refusal(errno.EISDIR if inode.kind is Kind.DIRECTORY else errno.EINVAL)
        return inode

    def _owned(self, op: OwnedOp) -> OwnedOp:
        """The op with the owners that files really get."""
        if self._keeps_owners and OWN_USER not in {op.uid, op.gid}:
            return op
        own = 0 if self._keeps_owners else OWN_USER
        return msgspec.structs.replace(
            op, uid=self._owner(op.uid, own), gid=self._owner(op.gid, own)
        )

    def _owner(self, owner: int | None, own: int) -> int | None:
        if owner is None or (self._keeps_owners and owner != OWN_USER):
            return owner
        return own

    def _set_mtime(self, inode: Inode, mtime_ns: int) -> None:
        self._begin(inode)
        inode.mtime_ns = mtime_ns
        inode.end_change()

    def _begin(self, inode: Inode) -> None:
        if inode.durable is None:
            inode.begin_change()
            self._changed[inode] = None
