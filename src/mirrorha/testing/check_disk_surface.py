"""The part of `check_disk` that is about all that a file can be besides its content."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from mirrorha.testing.check_disk_steps import (
    T0,
    T1,
    attributes_of,
    create,
    do,
    entries_of,
    expect,
    fid_of,
    make_all,
    mkdir,
    refused,
    same,
    take_snapshot,
)
from mirrorha.volume.access_lists import ACL_ACCESS, ACL_DEFAULT, packed_list
from mirrorha.volume.disk import (
    Apply,
    Entry,
    HashBlocks,
    Kind,
    ListDirectory,
    Outcome,
    PunchHole,
    ReadBytes,
    Relabel,
    SyncFiles,
)
from mirrorha.volume.names import CAPABILITY
from mirrorha.volume.ops import (
    FALLOCATE_KEEP_SIZE,
    FALLOCATE_PUNCH_HOLE,
    FALLOCATE_ZERO_RANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    ROOT_FID,
    XATTR_CREATE,
    XATTR_REPLACE,
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
    from mirrorha.volume.disk import Disk
    from mirrorha.volume.ops import AnyOp, Birth

_T2: Final = T1 + 987_654_321
_PUNCH: Final = FALLOCATE_PUNCH_HOLE | FALLOCATE_KEEP_SIZE
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 1, 2, 4, 16, 32
_CAPABILITY: Final = struct.pack("<5I", 0x0200_0001, 1 << 10, 0, 0, 0)


def acl(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """An access list: (tag, permissions), with an owner where it names one."""
    return packed_list(*((*entry, 0) if len(entry) == 2 else entry for entry in entries))


def _mknod(number: int, name: str, kind: Kind, rdev: int = 0, parent: int = ROOT_FID) -> Mknod:
    return Mknod(fid_of(number), parent, name, kind, 0o640, rdev, -1, -1, T0)


def _is_root(disk: Disk) -> bool:
    """Whether the disk keeps owners, as one that root uses does."""
    return attributes_of(disk, ROOT_FID).uid != -1


def special_files_are_names_and_attributes(disk: Disk) -> None:
    kinds = [(Kind.FIFO, 0), (Kind.SOCKET, 0)]
    if _is_root(disk):
        kinds += [(Kind.CHARACTER_DEVICE, os.makedev(1, 3)), (Kind.BLOCK_DEVICE, (1 << 32) - 1)]
    make_all(disk, mkdir(20, "d"))
    for number, (kind, rdev) in enumerate(kinds, 1):
        name, fid = f"s{number}", fid_of(number)
        make_all(disk, _mknod(number, name, kind, rdev))
        attributes = attributes_of(disk, fid)
        same((attributes.kind, attributes.rdev, attributes.mode), (kind, rdev, 0o640), "a node")
        same((attributes.size_bytes, attributes.mtime_ns), (0, T0), "its size and time")
        same(disk.perform(ReadBytes(fid, 0, 1)), None, "no content")
        same(disk.perform(HashBlocks(fid, 0, 1, 7)), None, "no blocks")
        same(disk.perform(ListDirectory(fid)), None, "no names")
        same(disk.perform(SyncFiles([fid])), None, "it can be synced")
        same(disk.perform(PunchHole(fid, 0, 1)), Outcome(None, errno.ESTALE), "no holes")
        for op in Write(fid, 0, b"x", T1), Truncate(fid, 0, T1), Fallocate(fid, 0, 0, 1, T1):
            refused(disk, op, errno.EINVAL)
        refused(disk, create(30, "x", fid), errno.ENOTDIR)
        refused(disk, Rmdir(0, ROOT_FID, name, T1), errno.ENOTDIR)
        refused(disk, _mknod(31, name, Kind.FIFO), errno.EEXIST)
        do(disk, SetAttributes(fid, 0o604, None, None, T1), Link(fid, fid_of(20), name, T1))
        do(disk, Rename(fid, ROOT_FID, name, fid_of(20), f"r{number}", 0, T1))
        do(disk, SetAttributes(fid, None, None, None, _T2, T1))
        attributes = attributes_of(disk, fid)
        same((attributes.mode, attributes.mtime_ns, attributes.links), (0o604, _T2, 2), "changed")
        same((attributes.kind, attributes.rdev), (kind, rdev), "still what it was")
        refused(disk, SetXattr(fid, "user.a", b"1"), errno.EPERM)
        do(disk, Unlink(fid, fid_of(20), name, T1))
        disk.perform(Relabel(fid, fid_of(40 + number)))
    found = [Entry(f"r{n}", fid_of(40 + n), kind) for n, (kind, _) in enumerate(kinds, 1)]
    same(sorted(entries_of(disk, fid_of(20)), key=lambda one: one.name), found, "what is left")


def special_files_that_are_none_are_refused(disk: Disk) -> None:
    for kind in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK):
        refused(disk, _mknod(1, "a", kind), errno.EINVAL)
    refused(disk, _mknod(1, "a", Kind.FIFO, 1), errno.EINVAL)
    refused(disk, _mknod(1, "a", Kind.SOCKET, -1), errno.EINVAL)
    if _is_root(disk):
        refused(disk, _mknod(1, "a", Kind.BLOCK_DEVICE, 1 << 32), errno.EINVAL)
        refused(disk, _mknod(1, "a", Kind.BLOCK_DEVICE, -1), errno.EINVAL)
    else:
        for kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
            refused(disk, _mknod(1, "a", kind, 259), errno.EPERM)


def ranges_are_reserved_and_made_zeros(disk: Disk) -> None:
    fid = fid_of(1)
    make_all(disk, create(1, "a"), mkdir(2, "d"))
    do(disk, Write(fid, 0, b"x" * 100, T0))
    content = bytearray(b"x" * 100)

    def check(op: Fallocate, size_bytes: int) -> None:
        do(disk, op)
        content.extend(bytes(size_bytes - len(content)))
        if op.mode & (FALLOCATE_PUNCH_HOLE | FALLOCATE_ZERO_RANGE):
            end = min(op.offset + op.length, len(content))
            content[op.offset : end] = bytes(max(0, end - op.offset))
        same(disk.perform(ReadBytes(fid, 0, 99_999)), bytes(content), f"after {op}")
        attributes = attributes_of(disk, fid)
        same((attributes.size_bytes, attributes.mtime_ns), (size_bytes, op.mtime_ns), "size, time")

    check(Fallocate(fid, 0, 10, 20, T1), 100)
    check(Fallocate(fid, 0, 90, 9000, T1 + 1), 9090)
    check(Fallocate(fid, FALLOCATE_KEEP_SIZE, 9000, 9000, T1 + 2), 9090)
    do(disk, Write(fid, 0, b"y" * 9090, T1))
    content[:] = b"y" * 9090
    check(Fallocate(fid, _PUNCH, 5, 50, T1 + 3), 9090)
    check(Fallocate(fid, _PUNCH, 4096, 99_999, T1 + 4), 9090)
    check(Fallocate(fid, _PUNCH, 20_000, 10, T1 + 5), 9090)
    check(Fallocate(fid, FALLOCATE_ZERO_RANGE | FALLOCATE_KEEP_SIZE, 60, 99_999, T1 + 6), 9090)
    check(Fallocate(fid, FALLOCATE_ZERO_RANGE, 56, 9999, T1 + 7), 10_055)
    check(Fallocate(fid, FALLOCATE_ZERO_RANGE, 20_000, 10, T1 + 8), 20_010)


def ranges_that_are_none_are_refused(disk: Disk) -> None:
    fid = fid_of(1)
    make_all(
        disk, create(1, "a"), mkdir(2, "d"), Symlink(fid_of(3), ROOT_FID, "s", "a", -1, -1, T0)
    )
    do(disk, Write(fid, 0, b"x", T0))
    for mode in (FALLOCATE_PUNCH_HOLE, 8, 32, 64, 128, FALLOCATE_ZERO_RANGE | _PUNCH, -1):
        refused(disk, Fallocate(fid, mode, 0, 1, T1), errno.EOPNOTSUPP)
    for offset, length in (-1, 1), (0, 0), (0, -1):
        refused(disk, Fallocate(fid, 0, offset, length, T1), errno.EINVAL)
    refused(disk, Fallocate(fid, 0, 1, (1 << 63) - 1, T1), errno.EFBIG)
    refused(disk, Fallocate(fid, 0, 0, 1 << 60, T1), errno.EFBIG)
    refused(disk, Fallocate(fid_of(2), 0, 0, 1, T1), errno.EISDIR)
    refused(disk, Fallocate(fid_of(3), 0, 0, 1, T1), errno.EINVAL)
    refused(disk, Fallocate(fid_of(9), 0, 0, 1, T1), errno.ESTALE)


def names_are_exchanged(disk: Disk) -> None:
    root, one, directory, inner = ROOT_FID, fid_of(1), fid_of(2), fid_of(3)
    make_all(disk, create(1, "a"), mkdir(2, "d"), mkdir(3, "e", directory), create(4, "f", inner))
    do(disk, Write(one, 0, b"one", T0))
    wanted = Rename(0, root, "a", directory, "e", 0, T1, RENAME_EXCHANGE)
    expect(disk, wanted, msgspec.structs.replace(wanted, fid=one, replaced=inner))
    paths = {path: seen.fid for path, seen in take_snapshot(disk).items() if path}
    same(paths, {"a": inner, "a/f": fid_of(4), "d": directory, "d/e": one}, "the tree")
    same(disk.perform(ReadBytes(one, 0, 9)), b"one", "the content went along")
    for fid in (root, directory):
        same(attributes_of(disk, fid).mtime_ns, T1, "the directories' time")
    same(attributes_of(disk, inner).mtime_ns, T0, "what is moved keeps its own")
    do(disk, Write(one, 3, b"!", T1))
    make_all(disk, create(5, "g", inner))
    refused(disk, Rename(0, root, "a", root, "x", 0, T1, RENAME_EXCHANGE), errno.ENOENT)
    refused(disk, Rename(0, root, "x", root, "a", 0, T1, RENAME_EXCHANGE), errno.ENOENT)
    refused(disk, Rename(one, root, "a", root, "d", 0, T1, RENAME_EXCHANGE), errno.ESTALE)
    refused(disk, Rename(0, root, "a", root, "d", one, T1, RENAME_EXCHANGE), errno.ESTALE)
    refused(disk, Rename(0, root, "d", directory, "e", 0, T1, RENAME_EXCHANGE), errno.EINVAL)
    refused(disk, Rename(0, directory, "e", root, "d", 0, T1, RENAME_EXCHANGE), errno.EINVAL)
    do(disk, Link(one, root, "l", T1))
    expect(disk, Rename(0, root, "l", directory, "e", 0, T1, RENAME_EXCHANGE), None)
    do(disk, SetAttributes(one, 0o600, None, None, None))
    do(disk, Rename(inner, root, "a", root, "d", directory, _T2, RENAME_EXCHANGE))
    paths = {path: seen.fid for path, seen in take_snapshot(disk).items() if path}
    same(paths["d"], inner, "two directories in one")
    same((paths["a"], paths["a/e"], paths["l"]), (directory, one, one), "and what they hold")


def renaming_replaces_only_what_it_may(disk: Disk) -> None:
    root, one = ROOT_FID, fid_of(1)
    make_all(disk, create(1, "a"), create(2, "b"))
    do(disk, Link(one, root, "l", T1))
    refused(disk, Rename(one, root, "a", root, "b", 0, T1, RENAME_NOREPLACE), errno.EEXIST)
    refused(disk, Rename(one, root, "a", root, "l", 0, T1, RENAME_NOREPLACE), errno.EEXIST)
    refused(disk, Rename(0, root, "x", root, "b", 0, T1, RENAME_NOREPLACE), errno.ENOENT)
    do(disk, Rename(one, root, "a", root, "c", 0, T1, RENAME_NOREPLACE))
    for flags in (4, 3, 8, -1, 1 << 40):
        refused(disk, Rename(one, root, "c", root, "d", 0, T1, flags), errno.EINVAL)
    same(sorted(entry.name for entry in entries_of(disk, root)), ["b", "c", "l"], "the names")


def times_are_set_one_by_one(disk: Disk) -> None:
    link = Symlink(fid_of(3), ROOT_FID, "s", "a", -1, -1, T0)
    make_all(disk, create(1, "a"), mkdir(2, "d"), link, _mknod(4, "p", Kind.FIFO))

    def times(number: int) -> tuple[int, int | None]:
        attributes = attributes_of(disk, fid_of(number))
        return attributes.mtime_ns, attributes.atime_ns

    for number in (1, 2, 4):
        fid = fid_of(number)
        same(times(number), (T0, T0), "at first")
        do(disk, SetAttributes(fid, None, None, None, None, T1 + 1))
        same(times(number), (T0, T1 + 1), "the access alone")
        do(disk, SetAttributes(fid, None, None, None, T1 + 2))
        same(times(number), (T1 + 2, T1 + 1), "the change alone")
        do(disk, SetAttributes(fid, None, None, None, T0 + 1, -1_000_000_007))
        same(times(number), (T0 + 1, -1_000_000_007), "both")
        refused(disk, SetAttributes(fid, None, None, None, None, 1 << 70), errno.EINVAL)
    do(disk, SetAttributes(fid_of(3), None, None, None, T1, _T2))
    same(attributes_of(disk, fid_of(3)).mtime_ns, T1, "a symlink's own")
    # Only an op that says so changes the time of access.
    do(disk, Write(fid_of(1), 0, b"x" * 5000, T1))
    same(times(1), (T1, -1_000_000_007), "of a file that was written")
    do(disk, Truncate(fid_of(1), 1, _T2))
    disk.perform(ReadBytes(fid_of(1), 0, 1))
    disk.perform(HashBlocks(fid_of(1), 0, 1, 7))
    same(times(1), (_T2, -1_000_000_007), "of a file that was written and read")
    make_all(disk, create(5, "x", fid_of(2)))
    do(disk, Unlink(fid_of(5), fid_of(2), "x", _T2))
    same(times(2), (_T2, -1_000_000_007), "of a directory that changed")


def new_files_inherit(disk: Disk) -> None:
    is_root = _is_root(disk)
    make_all(disk, mkdir(1, "d"), mkdir(2, "plain"))
    group = 1234 if is_root else -1
    do(disk, SetAttributes(fid_of(1), 0o2775, None, group, None))
    link = Symlink(fid_of(13), fid_of(1), "s", "a", -1, -1, T0, 0o22)
    births: list[Birth] = [
        Create(fid_of(10), fid_of(1), "f", 0o666, -1, -1, T0, 0o22),
        Mkdir(fid_of(11), fid_of(1), "d", 0o777, -1, -1, T0, 0o27),
        Mknod(fid_of(12), fid_of(1), "p", Kind.FIFO, 0o666, 0, -1, -1, T0, 0o77),
        link,
        Create(fid_of(14), fid_of(2), "f", 0o4666, -1, -1, T0, 0o22),
        Mkdir(fid_of(15), fid_of(2), "d", 0o1777, -1, -1, T0, 0),
    ]
    modes = [0o644, 0o2750, 0o600, 0o777, 0o4644, 0o1777]
    for op, mode in zip(births, modes, strict=True):
        outcome = disk.perform(Apply(op))
        done = outcome.done if isinstance(outcome, Outcome) else None
        if not isinstance(done, Create | Mkdir | Mknod | Symlink):
            raise TypeError(f"{op} gave {outcome}")
        attributes = attributes_of(disk, op.fid)
        same(attributes.mode, mode, f"the mode after {op}")
        same((attributes.uid, attributes.gid), (done.uid, done.gid), "the owners done")
        own_gid = attributes_of(disk, fid_of(2)).gid
        same(attributes.gid, group if op.parent == fid_of(1) else own_gid, "the group")
        same(done.umask, None, "nothing is left open")
        if not isinstance(done, Symlink):
            same((done.mode, done.xattrs), (mode, {}), "what was done")
    for umask in (-1, 0o1000):
        refused(disk, Create(fid_of(30), ROOT_FID, "n", 0o6, -1, -1, T0, umask), errno.EINVAL)


def access_lists_are_inherited(disk: Disk) -> None:
    default = acl((_USER_OBJ, 7), (_USER, 6, 7), (_GROUP_OBJ, 5), (_MASK, 7), (_OTHER, 1))
    make_all(disk, mkdir(1, "d"))
    do(disk, SetXattr(fid_of(1), ACL_DEFAULT, default))
    names = acl((_USER_OBJ, 6), (_USER, 6, 7), (_GROUP_OBJ, 5), (_MASK, 4), (_OTHER, 0))
    inner = acl((_USER_OBJ, 7), (_USER, 6, 7), (_GROUP_OBJ, 5), (_MASK, 5), (_OTHER, 1))
    births: list[tuple[Create | Mkdir, int, dict[str, bytes]]] = [
        (Create(fid_of(10), fid_of(1), "f", 0o640, -1, -1, T0, 0o77), 0o640, {ACL_ACCESS: names}),
        (
            Mkdir(fid_of(11), fid_of(1), "d", 0o757, -1, -1, T0, 0o77),
            0o751,
            {ACL_ACCESS: inner, ACL_DEFAULT: default},
        ),
    ]
    for op, mode, xattrs in births:
        outcome = disk.perform(Apply(op))
        done = outcome.done if isinstance(outcome, Outcome) else None
        if not isinstance(done, Create | Mkdir):
            raise TypeError(f"{op} gave {outcome}")
        same((done.mode, done.xattrs), (mode, xattrs), "what was done")
        attributes = attributes_of(disk, op.fid)
        same((attributes.mode, attributes.xattrs), (mode, xattrs), "what is there")
        # As it travels: with a name of its own, to a disk that inherits nothing by itself.
        again = msgspec.structs.replace(done, fid=op.fid + 100, name=f"{op.name}2")
        do(disk, again)
        attributes = attributes_of(disk, again.fid)
        same((attributes.mode, attributes.xattrs), (mode, xattrs), "the same again")
    # And what says that it inherits nothing does not.
    make_all(disk, create(20, "n", fid_of(1), mode=0o646), _mknod(21, "p", Kind.FIFO, 0, fid_of(1)))
    for number, mode in (20, 0o646), (21, 0o640):
        attributes = attributes_of(disk, fid_of(number))
        same((attributes.mode, attributes.xattrs), (mode, {}), "nothing inherited")
    do(disk, SetXattr(fid_of(1), ACL_DEFAULT, None))
    same(attributes_of(disk, fid_of(1)).xattrs, {}, "no list any more")


def access_lists_and_modes_change_together(disk: Disk) -> None:
    make_all(disk, create(1, "a", mode=0o4640), mkdir(2, "d"))
    plain = acl((_USER_OBJ, 6), (_GROUP_OBJ, 4), (_OTHER, 1))
    access = acl((_USER_OBJ, 7), (_USER, 6, 7), (_GROUP_OBJ, 1), (_MASK, 3), (_OTHER, 2))
    for fid, high in (fid_of(1), 0o4000), (fid_of(2), 0):
        wanted = SetXattr(fid, ACL_ACCESS, access, XATTR_CREATE)
        mode = high | 0o732
        expect(disk, wanted, msgspec.structs.replace(wanted, flags=0, mode=mode))
        _has(disk, fid, mode, access)
        do(disk, SetAttributes(fid, high | 0o564, None, None, None))
        changed = acl((_USER_OBJ, 5), (_USER, 6, 7), (_GROUP_OBJ, 1), (_MASK, 6), (_OTHER, 4))
        _has(disk, fid, high | 0o564, changed)
        # A list that says no more than a mode is one.
        do(disk, SetXattr(fid, ACL_ACCESS, plain, 0, high | 0o641))
        _has(disk, fid, high | 0o641, None)
        do(disk, SetXattr(fid, ACL_ACCESS, None, 0, high | 0o641))
        do(disk, SetXattr(fid, ACL_ACCESS, access, 0, high | 0o732))
        do(disk, SetXattr(fid, ACL_ACCESS, None, 0, high | 0o732))
        _has(disk, fid, high | 0o732, None)
        for flawed in (b"\2", b"\2\0\0\0\0", acl((_USER_OBJ, 7)), acl((_OTHER, 7)), access + b"1"):
            refused(disk, SetXattr(fid, ACL_ACCESS, flawed), errno.EINVAL)
        refused(disk, SetXattr(fid, ACL_ACCESS, b"\3" + access[1:]), errno.EOPNOTSUPP)
    refused(disk, SetXattr(fid_of(1), ACL_DEFAULT, access), errno.EACCES)
    do(disk, SetXattr(fid_of(2), ACL_DEFAULT, plain))
    _same_xattrs(disk, fid_of(2), {ACL_DEFAULT: plain})


def _has(disk: Disk, fid: int, mode: int, access: bytes | None) -> None:
    attributes = attributes_of(disk, fid)
    same(attributes.mode, mode, "the mode")
    same(attributes.xattrs, {} if access is None else {ACL_ACCESS: access}, "the access list")


def _same_xattrs(disk: Disk, fid: int, xattrs: dict[str, bytes]) -> None:
    same(attributes_of(disk, fid).xattrs, xattrs, "the extended attributes")


def xattrs_are_set_on_conditions(disk: Disk) -> None:
    fid = fid_of(1)
    make_all(disk, create(1, "a"))

    def conditional(name: str, flags: int) -> SetXattr:
        return SetXattr(fid, name, b"v", flags)

    refused(disk, conditional("user.a", XATTR_REPLACE), errno.ENODATA)
    expect(disk, conditional("user.a", XATTR_CREATE), SetXattr(fid, "user.a", b"v"))
    refused(disk, conditional("user.a", XATTR_CREATE), errno.EEXIST)
    expect(disk, conditional("user.a", XATTR_REPLACE), SetXattr(fid, "user.a", b"v"))
    refused(disk, conditional("user.a", 3), errno.EEXIST)
    refused(disk, conditional("user.b", 3), errno.ENODATA)
    refused(disk, conditional("user.b", 4), errno.EINVAL)
    refused(disk, SetXattr(fid, "user.a", None, XATTR_REPLACE), errno.EINVAL)


def what_only_root_sets(disk: Disk) -> None:
    link = Symlink(fid_of(2), ROOT_FID, "s", "a", -1, -1, T0)
    make_all(disk, create(1, "a"), link, _mknod(3, "p", Kind.FIFO))
    for number in (1, 2, 3):
        trusted = SetXattr(fid_of(number), "trusted.a", b"1")
        if not _is_root(disk):
            refused(disk, trusted, errno.EPERM)
            refused(disk, SetXattr(fid_of(number), CAPABILITY, _CAPABILITY), errno.EPERM)
            continue
        do(disk, trusted)
        do(disk, SetXattr(fid_of(number), CAPABILITY, _CAPABILITY))
        _same_xattrs(disk, fid_of(number), {"trusted.a": b"1", CAPABILITY: _CAPABILITY})
        # A new owner takes it away, a new mode does not.
        do(disk, SetAttributes(fid_of(number), None, None, None, T1))
        _same_xattrs(disk, fid_of(number), {"trusted.a": b"1", CAPABILITY: _CAPABILITY})
        do(disk, SetAttributes(fid_of(number), None, 5, 6, None))
        _same_xattrs(disk, fid_of(number), {"trusted.a": b"1"})
        refused(disk, SetXattr(fid_of(number), CAPABILITY, b"x"), errno.EINVAL)
        do(disk, SetXattr(fid_of(number), "trusted.a", None))
        refused(disk, SetXattr(fid_of(number), "trusted.a", None), errno.ENODATA)
    refused(disk, SetXattr(fid_of(2), ACL_ACCESS, acl((1, 7), (4, 7), (32, 7))), errno.EOPNOTSUPP)
    if _is_root(disk):
        _writing_takes_capabilities_away(disk, fid_of(1))


def _writing_takes_capabilities_away(disk: Disk, fid: int) -> None:
    ops: list[AnyOp] = [
        Write(fid, 0, b"x", T1),
        Truncate(fid, 5, T1),
        Fallocate(fid, 0, 0, 9, T1),
        Fallocate(fid, _PUNCH, 0, 1, T1),
    ]
    for op in ops:
        do(disk, SetXattr(fid, CAPABILITY, _CAPABILITY), SetAttributes(fid, 0o6755, None, None, T1))
        do(disk, op)
        _same_xattrs(disk, fid, {})
        same(attributes_of(disk, fid).mode, 0o6755, "of the mode an op of its own tells")


def new_files_come_with_xattrs(disk: Disk) -> None:
    access = acl((_USER_OBJ, 7), (_USER, 6, 7), (_GROUP_OBJ, 1), (_MASK, 3), (_OTHER, 2))
    xattrs = {"user.a": b"1", ACL_ACCESS: access}
    own = attributes_of(disk, ROOT_FID)

    def made(number: int, held: dict[str, bytes]) -> Create:
        return Create(
            fid_of(number), ROOT_FID, f"f{number}", 0o732, own.uid, own.gid, T0, None, held
        )

    do(disk, made(1, xattrs))
    attributes = attributes_of(disk, fid_of(1))
    same((attributes.mode, attributes.xattrs), (0o732, xattrs), "what is there")
    refused(disk, made(2, {ACL_ACCESS: b"x"}), errno.EINVAL)
    refused(disk, made(2, {ACL_DEFAULT: access}), errno.EACCES)
    refused(disk, made(2, {"security.x": b""}), errno.EOPNOTSUPP)
    refused(disk, made(2, {"user.a": bytes(65_536), "user.b": b"1"}), errno.E2BIG)
    many = {f"user.{number}": b"" for number in range(17)}
    refused(disk, made(2, many), errno.E2BIG)
    fifo = Mknod(fid_of(3), ROOT_FID, "p", Kind.FIFO, 0o6, 0, own.uid, own.gid, T0, None, xattrs)
    refused(disk, fifo, errno.EPERM)


SURFACE_CASES: Final = (
    special_files_are_names_and_attributes,
    special_files_that_are_none_are_refused,
    ranges_are_reserved_and_made_zeros,
    ranges_that_are_none_are_refused,
    names_are_exchanged,
    renaming_replaces_only_what_it_may,
    times_are_set_one_by_one,
    new_files_inherit,
    access_lists_are_inherited,
    access_lists_and_modes_change_together,
    xattrs_are_set_on_conditions,
    what_only_root_sets,
    new_files_come_with_xattrs,
)
