"""The suite that every disk passes, the real one and the one in memory.

    @pytest.mark.parametrize("case", DISK_CASES, ids=lambda case: case.__name__)
    def test_my_disk(case): case(make_my_disk())

A case gets a new, empty disk, and raises InvariantViolation if the disk does not keep to what
`mirrorha.volume.disk` says.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import xxhash

from mirrorha.errors import ensure
from mirrorha.testing.check_disk_compare import COMPARE_CASES
from mirrorha.testing.check_disk_rescue import RESCUE_CASES
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
from mirrorha.testing.check_disk_surface import SURFACE_CASES
from mirrorha.volume.disk import (
    LIMBO_FID,
    Applied,
    Apply,
    ApplyAll,
    ClearLimbo,
    ConfirmCheckpoint,
    Entry,
    HashBlocks,
    Kind,
    ListDirectory,
    LoadTouched,
    Many,
    Mark,
    Outcome,
    Place,
    PunchHole,
    ReadAttributes,
    ReadBytes,
    RecordTouched,
    Relabel,
    Resolve,
    RetireTouched,
    SetAside,
    SyncFiles,
    SyncTree,
)
from mirrorha.volume.names import LIMBO_NAME, MARKER_NAME
from mirrorha.volume.ops import (
    ROOT_FID,
    Create,
    Link,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.volume.touched import TouchedState
from mirrorha.wire.limits import BLOCK_BYTES, NAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest, Disk

_SEED: Final = 0xFEED_FACE_CAFE_BEEF


def check_disk(make: Callable[[], Disk]) -> None:
    """Run every case, each on a new disk."""
    for case in DISK_CASES:
        case(make())


def a_new_disk_is_empty(disk: Disk) -> None:
    same(entries_of(disk, ROOT_FID), [], "an empty root")
    same(attributes_of(disk, ROOT_FID).kind, Kind.DIRECTORY, "the root's kind")
    same(disk.found.limbo, 0, "nothing in limbo")
    same(disk.found.unknown, (), "nothing unknown")


def a_created_file_is_there(disk: Disk) -> None:
    outcome = disk.perform(Apply(create(1, "a", mode=0o6751)))
    done = outcome.done if isinstance(outcome, Outcome) else None
    ensure(isinstance(done, Create), f"creating gave {outcome}")
    same(entries_of(disk, ROOT_FID), [Entry("a", fid_of(1), Kind.FILE)], "the root")
    attributes = attributes_of(disk, fid_of(1))
    same((attributes.mode, attributes.size_bytes), (0o6751, 0), "mode and size")
    same(attributes.mtime_ns, T0, "the file's time")
    same(attributes_of(disk, ROOT_FID).mtime_ns, T0, "its directory's time")
    if isinstance(done, Create):
        same((attributes.uid, attributes.gid), (done.uid, done.gid), "the owners done")
    refused(disk, create(2, "a"), errno.EEXIST)
    refused(disk, create(1, "b"), errno.EEXIST)


def names_that_are_none_are_refused(disk: Disk) -> None:
    odd = {
        "": errno.EINVAL,
        ".": errno.EINVAL,
        "..": errno.EINVAL,
        "a/b": errno.EINVAL,
        "a\0": errno.EINVAL,
        LIMBO_NAME: errno.EPERM,
        MARKER_NAME: errno.EPERM,
        "n" * (NAME_BYTES_MAX + 1): errno.ENAMETOOLONG,
        "é" * (NAME_BYTES_MAX // 2 + 1): errno.ENAMETOOLONG,
        "\udc80": errno.EILSEQ,
        "\U0010ffc3\U0010ffa9": errno.EILSEQ,
    }
    make_all(disk, create(1, "a"), mkdir(2, "d"))
    for name, number in odd.items():
        refused(disk, create(3, name), number)
        refused(disk, Link(fid_of(1), ROOT_FID, name, T1), number)
        refused(disk, Rename(0, ROOT_FID, "a", ROOT_FID, name, 0, T1), number)


def every_other_name_is_kept(disk: Disk) -> None:
    names = ["é", "日本", "\U0010ff80", "x\U0010ffff.", " ", "-rf", "a\nb", "n" * NAME_BYTES_MAX]
    make_all(disk, *(create(number, name) for number, name in enumerate(names, 1)))
    found = {entry.name: entry.fid for entry in entries_of(disk, ROOT_FID)}
    same(found, {name: fid_of(number) for number, name in enumerate(names, 1)}, "the names")


def writes_land_where_they_say(disk: Disk) -> None:
    fid = fid_of(1)
    make_all(disk, create(1, "a"))
    do(disk, Write(fid, 0, b"hello", T1), Write(fid, 8, b"world", T1 + 1))
    same(disk.perform(ReadBytes(fid, 0, 100)), b"hello\0\0\0world", "what was written")
    do(disk, Write(fid, 3, b"LO", T1 + 2))
    same(disk.perform(ReadBytes(fid, 2, 3)), b"lLO", "a part")
    same(disk.perform(ReadBytes(fid, 50, 3)), b"", "after the end")
    same(attributes_of(disk, fid).mtime_ns, T1 + 2, "the last write's time")
    expect(disk, Write(fid, 0, b"", T1 + 3), None)
    refused(disk, Write(fid, -1, b"x", T1), errno.EINVAL)
    refused(disk, Write(fid, 1 << 63, b"x", T1), errno.EFBIG)
    refused(disk, Write(fid, 0, b"x", 1 << 70), errno.EINVAL)


def truncation_cuts_and_extends(disk: Disk) -> None:
    fid = fid_of(1)
    make_all(disk, create(1, "a"))
    do(disk, Write(fid, 0, b"abcdef", T0), Truncate(fid, 3, T1))
    same(disk.perform(ReadBytes(fid, 0, 9)), b"abc", "cut")
    do(disk, Truncate(fid, 5, T1 + 1))
    same(disk.perform(ReadBytes(fid, 0, 9)), b"abc\0\0", "extended")
    same(attributes_of(disk, fid).mtime_ns, T1 + 1, "its time")
    refused(disk, Truncate(fid, -1, T1), errno.EINVAL)
    refused(disk, Truncate(fid, 1 << 63, T1), errno.EFBIG)


def the_wrong_kind_is_refused(disk: Disk) -> None:
    target = Symlink(fid_of(3), ROOT_FID, "s", "a", -1, -1, T0)
    make_all(disk, create(1, "a"), mkdir(2, "d"), target)
    refused(disk, Write(fid_of(2), 0, b"x", T1), errno.EISDIR)
    refused(disk, Write(fid_of(3), 0, b"x", T1), errno.EINVAL)
    refused(disk, Truncate(fid_of(2), 0, T1), errno.EISDIR)
    refused(disk, Write(fid_of(9), 0, b"x", T1), errno.ESTALE)
    refused(disk, SetAttributes(fid_of(9), 0o600, None, None, None), errno.ESTALE)
    refused(disk, create(4, "x", parent=fid_of(1)), errno.ENOTDIR)
    refused(disk, create(4, "x", parent=fid_of(9)), errno.ENOENT)
    refused(disk, Unlink(0, ROOT_FID, "d", T1), errno.EISDIR)
    refused(disk, Rmdir(0, ROOT_FID, "a", T1), errno.ENOTDIR)
    refused(disk, Link(fid_of(2), ROOT_FID, "e", T1), errno.EPERM)
    refused(disk, Link(fid_of(9), ROOT_FID, "e", T1), errno.ESTALE)
    for fid in (fid_of(2), fid_of(3), fid_of(9)):
        same(disk.perform(ReadBytes(fid, 0, 1)), None, "no content")
        same(disk.perform(HashBlocks(fid, 0, 1, _SEED)), None, "no blocks")
    for fid in (fid_of(1), fid_of(3), fid_of(9)):
        same(disk.perform(ListDirectory(fid)), None, "no names")
    same(disk.perform(ReadAttributes(fid_of(9))), None, "no attributes")
    # Hidden files of a disk's own have fids of their own, which nobody may use.
    for hidden in (0, 2, 15):
        same(disk.perform(ReadAttributes(hidden)), None, "nothing to see")
        refused(disk, Create(hidden, ROOT_FID, "h", 0o600, -1, -1, T0), errno.EINVAL)
        refused(disk, create(4, "x", parent=hidden), errno.ENOENT)


def removing_says_what_was_removed(disk: Disk) -> None:
    make_all(disk, create(1, "a"), create(2, "b"), mkdir(3, "d"), create(4, "e", fid_of(3)))
    refused(disk, Unlink(0, ROOT_FID, "x", T1), errno.ENOENT)
    refused(disk, Unlink(fid_of(2), ROOT_FID, "a", T1), errno.ESTALE)
    refused(disk, Rmdir(0, ROOT_FID, "d", T1), errno.ENOTEMPTY)
    expect(disk, Unlink(0, ROOT_FID, "a", T1), Unlink(fid_of(1), ROOT_FID, "a", T1))
    do(disk, Unlink(fid_of(4), fid_of(3), "e", T1 + 1))
    same(attributes_of(disk, fid_of(3)).mtime_ns, T1 + 1, "the directory's time")
    expect(disk, Rmdir(0, ROOT_FID, "d", T1 + 2), Rmdir(fid_of(3), ROOT_FID, "d", T1 + 2))
    same(entries_of(disk, ROOT_FID), [Entry("b", fid_of(2), Kind.FILE)], "what is left")
    same(attributes_of(disk, ROOT_FID).mtime_ns, T1 + 2, "the root's time")
    refused(disk, Write(fid_of(1), 0, b"x", T1), errno.ESTALE)


def renaming_moves_and_replaces(disk: Disk) -> None:
    root, one, two, directory = ROOT_FID, fid_of(1), fid_of(2), fid_of(3)
    make_all(disk, create(1, "a"), create(2, "b"), mkdir(3, "d"), mkdir(4, "e", directory))
    do(disk, Write(one, 0, b"one", T0))
    do(disk, Rename(one, root, "a", directory, "c", 0, T1))
    same(attributes_of(disk, directory).mtime_ns, T1, "the new directory's time")
    same(attributes_of(disk, root).mtime_ns, T1, "the old directory's time")
    same(attributes_of(disk, one).mtime_ns, T0, "the file's time")
    refused(disk, Rename(one, directory, "c", root, "b", fid_of(9), T1), errno.ESTALE)
    refused(disk, Rename(one, directory, "c", root, "n", two, T1), errno.ESTALE)
    refused(disk, Rename(two, directory, "c", root, "n", 0, T1), errno.ESTALE)
    refused(disk, Rename(0, root, "x", root, "y", 0, T1), errno.ENOENT)
    refused(disk, Rename(0, root, "d", root, "b", 0, T1), errno.ENOTDIR)
    refused(disk, Rename(0, root, "b", root, "d", 0, T1), errno.EISDIR)
    refused(disk, Rename(0, root, "d", fid_of(4), "x", 0, T1), errno.EINVAL)
    refused(disk, Rename(0, directory, "c", root, "d", 0, T1), errno.ENOTEMPTY)
    wanted = Rename(0, directory, "c", root, "b", 0, T1)
    expect(disk, wanted, Rename(one, directory, "c", root, "b", two, T1))
    same(disk.perform(ReadBytes(one, 0, 9)), b"one", "the content went along")
    same(disk.perform(ReadAttributes(two)), None, "what was replaced is gone")
    expect(disk, Rename(0, root, "b", root, "b", 0, T1), None)


def links_are_names_of_one_file(disk: Disk) -> None:
    root, one = ROOT_FID, fid_of(1)
    make_all(disk, create(1, "a"), mkdir(2, "d"))
    do(disk, Link(one, fid_of(2), "b", T1), Write(one, 0, b"x", T1))
    same(attributes_of(disk, one).links, 2, "links")
    refused(disk, Link(one, fid_of(2), "b", T1), errno.EEXIST)
    expect(disk, Rename(0, root, "a", fid_of(2), "b", 0, T1), None)
    same(attributes_of(disk, one).links, 2, "renaming onto itself does nothing")
    do(disk, Unlink(one, root, "a", T1))
    same(disk.perform(ReadBytes(one, 0, 9)), b"x", "by the other name")
    same(disk.perform(Resolve("d/b")), (fid_of(2), "b", one), "where it is")


def symlinks_are_not_followed(disk: Disk) -> None:
    one = fid_of(1)
    targets = ["/etc/passwd", "d", "..", "t" * 4095, "é\U0010ff80"]
    make_all(disk, mkdir(9, "d"))
    for number, target in enumerate(targets, 1):
        make_all(disk, Symlink(fid_of(number), ROOT_FID, f"s{number}", target, -1, -1, T0))
        attributes = attributes_of(disk, fid_of(number))
        same((attributes.kind, attributes.target), (Kind.SYMLINK, target), "a symlink")
        same((attributes.size_bytes, attributes.mtime_ns), (0, T0), "its size and time")
    same(disk.perform(Resolve("s2/x")), None, "nothing is below a symlink")
    refused(disk, create(8, "x", parent=fid_of(2)), errno.ENOTDIR)
    do(disk, SetAttributes(one, None, None, None, T1))
    same(attributes_of(disk, one).mtime_ns, T1, "its own time")
    refused(disk, SetAttributes(one, 0o600, None, None, None), errno.EOPNOTSUPP)
    refused(disk, SetXattr(one, "user.a", b"1"), errno.EPERM)
    for target, number in ("", errno.ENOENT), ("a\0", errno.EINVAL), ("t" * 4096, 36):
        refused(disk, Symlink(fid_of(7), ROOT_FID, "n", target, -1, -1, T0), number)


def attributes_are_set_one_by_one(disk: Disk) -> None:
    for fid in (ROOT_FID, fid_of(1), fid_of(2)):
        if fid == fid_of(1):
            make_all(disk, create(1, "a"), mkdir(2, "d"))
        do(disk, SetAttributes(fid, 0o7701, None, None, None))
        do(disk, SetAttributes(fid, None, None, None, T1))
        attributes = attributes_of(disk, fid)
        same((attributes.mode, attributes.mtime_ns), (0o7701, T1), "mode and time")
        refused(disk, SetAttributes(fid, 0o10000, None, None, None), errno.EINVAL)
        refused(disk, SetAttributes(fid, None, -2, None, None), errno.EINVAL)
        refused(disk, SetAttributes(fid, None, None, None, 1 << 70), errno.EINVAL)
        do(disk, SetAttributes(fid, 0o755, None, None, -1_000_000_007))
        same(attributes_of(disk, fid).mtime_ns, -1_000_000_007, "a time before 1970")


def xattrs_are_kept(disk: Disk) -> None:
    make_all(disk, create(1, "a"), mkdir(2, "d"))
    for fid in (fid_of(1), fid_of(2)):
        do(disk, SetXattr(fid, "user.a", b"1"), SetXattr(fid, "user.é", b"\0\xff"))
        do(disk, SetXattr(fid, "user.a", b"2"))
        same(attributes_of(disk, fid).xattrs, {"user.a": b"2", "user.é": b"\0\xff"}, "xattrs")
        do(disk, SetXattr(fid, "user.a", None))
        same(attributes_of(disk, fid).xattrs, {"user.é": b"\0\xff"}, "what is left")
        refused(disk, SetXattr(fid, "user.a", None), errno.ENODATA)
        refused(disk, SetXattr(fid, "security.a", b""), errno.EOPNOTSUPP)
        refused(disk, SetXattr(fid, "system.a", b""), errno.EOPNOTSUPP)
        refused(disk, SetXattr(fid, "user.", b""), errno.EINVAL)
        refused(disk, SetXattr(fid, "user." + "n" * 251, b""), errno.ERANGE)
        refused(disk, SetXattr(fid, "user.b", bytes(65537)), errno.E2BIG)


def paths_are_resolved(disk: Disk) -> None:
    make_all(disk, mkdir(1, "d"), create(2, "a", fid_of(1)))
    expected = {
        "": (ROOT_FID, "", ROOT_FID),
        "d": (ROOT_FID, "d", fid_of(1)),
        "d/a": (fid_of(1), "a", fid_of(2)),
        "d//a/": (fid_of(1), "a", fid_of(2)),
        "d/n": (fid_of(1), "n", 0),
        "n": (ROOT_FID, "n", 0),
        "n/a": None,
        "d/a/x": None,
        "d/..": (fid_of(1), "..", 0),
        LIMBO_NAME: (ROOT_FID, LIMBO_NAME, 0),
        MARKER_NAME: (ROOT_FID, MARKER_NAME, 0),
    }
    for path, result in expected.items():
        same(disk.perform(Resolve(path)), result, f"resolving {path!r}")


def blocks_are_hashed(disk: Disk) -> None:
    fid, some = fid_of(1), bytes(range(256))
    tail = 3 * BLOCK_BYTES
    make_all(disk, create(1, "a"))
    same(disk.perform(HashBlocks(fid, 0, 9, _SEED)), [], "an empty file")
    do(disk, Write(fid, BLOCK_BYTES, some, T0), Write(fid, tail, bytes(99) + b"!", T0))
    second = xxhash.xxh3_128_digest(some + bytes(BLOCK_BYTES - len(some)), _SEED)
    last = xxhash.xxh3_128_digest(bytes(99) + b"!", _SEED)
    digests = [b"", second, b"", last]
    same(disk.perform(HashBlocks(fid, 0, 99, _SEED)), digests, "all blocks")
    same(disk.perform(HashBlocks(fid, 1, 2, _SEED)), digests[1:3], "some blocks")
    same(disk.perform(HashBlocks(fid, 3, 1, _SEED)), digests[3:], "the last block")
    same(disk.perform(HashBlocks(fid, 4, 1, _SEED)), [], "after the end")
    ensure(disk.perform(HashBlocks(fid, 1, 1, 1)) != [second], "the seed counts")
    do(disk, Truncate(fid, tail + BLOCK_BYTES * 40, T0))
    do(disk, Write(fid, tail + BLOCK_BYTES * 30, b"z", T0))
    found = disk.perform(HashBlocks(fid, 0, 99, _SEED))
    ensure(isinstance(found, list), "hashes are a list")
    if isinstance(found, list):
        same([bool(digest) for digest in found].count(True), 3, "blocks that are not zero")
        same(len(found), 43, "blocks in all")
        ensure(bool(found[33]), "the block far in the hole")


def syncing_changes_nothing(disk: Disk) -> None:
    make_all(disk, mkdir(1, "d"), create(2, "a", fid_of(1)))
    do(disk, Write(fid_of(2), 0, b"x", T1))
    before = take_snapshot(disk)
    for fid in (fid_of(2), fid_of(1), ROOT_FID, fid_of(9)):
        same(disk.perform(SyncFiles([fid])), None, "syncing gives nothing")
    do(disk, Write(fid_of(2), 0, b"x", T1))
    several = [fid_of(9), fid_of(2), ROOT_FID, fid_of(1), fid_of(2)]
    same(disk.perform(SyncFiles(several)), None, "syncing several gives nothing")
    same(disk.perform(SyncFiles([])), None, "syncing none gives nothing")
    data_of = SyncFiles(several, [fid_of(2), fid_of(1), fid_of(9)])
    same(disk.perform(data_of), None, "syncing data gives nothing")
    same(disk.perform(SyncTree()), None, "syncing gives nothing")
    same(take_snapshot(disk), before, "the tree after syncing")


def a_resync_moves_names(disk: Disk) -> None:
    one, two, directory, inner = (fid_of(number) for number in (1, 2, 3, 4))
    make_all(disk, create(1, "a"), create(2, "b"), mkdir(3, "d"), mkdir(4, "e", directory))
    do(disk, Write(one, 0, b"one", T0), SetAttributes(ROOT_FID, None, None, None, T1))
    disk.perform(SetAside(ROOT_FID, "d"))
    disk.perform(SetAside(ROOT_FID, "a"))
    disk.perform(SetAside(ROOT_FID, "nothing"))
    disk.perform(SetAside(fid_of(9), "nothing"))
    same([entry.name for entry in entries_of(disk, ROOT_FID)], ["b"], "what is not set aside")
    same(disk.perform(ReadBytes(one, 0, 9)), b"one", "limbo can be read")
    same(disk.perform(Place(ROOT_FID, "e", inner)), True, "a directory out of limbo")
    same(disk.perform(Place(inner, "d", directory)), True, "the directories swapped")
    same(disk.perform(Place(directory, "x", inner)), False, "never into itself")
    same(disk.perform(Place(directory, "x", fid_of(9))), False, "an unknown fid")
    same(disk.perform(Place(fid_of(9), "x", one)), False, "an unknown parent")
    same(disk.perform(Place(two, "x", one)), False, "a parent that is none")
    # Something else has the name: it is set aside.
    same(disk.perform(Place(ROOT_FID, "b", one)), True, "a file out of limbo")
    same(disk.perform(Place(ROOT_FID, "b", one)), True, "where it is already")
    same(disk.perform(Place(directory, "c", one)), True, "a further name")
    same(disk.perform(Place(directory, "g", two)), True, "the one that was in the way")
    paths = {path: seen.fid for path, seen in take_snapshot(disk).items() if path}
    expected = {"e": inner, "e/d": directory, "b": one, "e/d/c": one, "e/d/g": two}
    same(paths, expected, "the tree")
    for fid, mtime_ns in (ROOT_FID, T1), (directory, T0), (inner, T0):
        same(attributes_of(disk, fid).mtime_ns, mtime_ns, "no directory's time changes")
    same(disk.perform(ClearLimbo()), 0, "nothing is left in limbo")


def limbo_is_cleared_for_good(disk: Disk) -> None:
    one, directory, inner = (fid_of(number) for number in (1, 3, 4))
    make_all(disk, create(1, "a"), create(2, "b"), mkdir(3, "d"), mkdir(4, "e", directory))
    make_all(disk, create(5, "f", inner), create(6, "g", directory))
    do(disk, Link(one, inner, "h", T0), SetAttributes(ROOT_FID, None, None, None, T1))
    disk.perform(SetAside(ROOT_FID, "d"))
    disk.perform(SetAside(ROOT_FID, "b"))
    same(disk.perform(ClearLimbo()), 6, "what was deleted: d, d/e, d/e/f, d/e/h, d/g, b")
    for number in (2, 3, 4, 5, 6):
        same(disk.perform(ReadAttributes(fid_of(number))), None, "gone")
    same(attributes_of(disk, one).links, 1, "the file with a name elsewhere stays")
    same(attributes_of(disk, ROOT_FID).mtime_ns, T1, "the root's time")
    same(disk.perform(ClearLimbo()), 0, "nothing is left")
    disk.perform(SetAside(ROOT_FID, "a"))
    same(disk.perform(ClearLimbo()), 1, "limbo can be used again")


def files_are_relabelled(disk: Disk) -> None:
    make_all(disk, create(1, "a"), mkdir(2, "d"), create(3, "x", fid_of(2)))
    do(disk, Write(fid_of(1), 0, b"one", T1))
    disk.perform(Relabel(fid_of(1), fid_of(11)))
    disk.perform(Relabel(fid_of(2), fid_of(12)))
    disk.perform(Relabel(fid_of(9), fid_of(19)))
    same(disk.perform(ReadAttributes(fid_of(1))), None, "the old id is gone")
    do(disk, Write(fid_of(11), 3, b"!", T1))
    same(disk.perform(ReadBytes(fid_of(11), 0, 9)), b"one!", "by the new id")
    same(disk.perform(Resolve("d/x")), (fid_of(12), "x", fid_of(3)), "below the new id")
    disk.perform(SyncFiles([fid_of(11)]))
    make_all(disk, create(1, "b"))
    paths = {path: seen.fid for path, seen in take_snapshot(disk).items() if path}
    expected = {"a": fid_of(11), "b": fid_of(1), "d": fid_of(12), "d/x": fid_of(3)}
    same(paths, expected, "the tree")


def a_follower_holds_a_prefix(disk: Disk) -> None:
    make_all(disk, create(1, "a"), create(2, "b"))
    first, second = Write(fid_of(1), 0, b"one", T0), Write(fid_of(1), 3, b"two", T1)
    last = Truncate(fid_of(1), 1, T1)
    same(disk.perform(ApplyAll([])), Applied(0), "nothing")
    same(disk.perform(ApplyAll([first, second])), Applied(2), "all of it")
    stale = Write(fid_of(9), 0, b"x", T1)
    expected = Applied(1, errno.ESTALE)
    same(disk.perform(ApplyAll([second, stale, last])), expected, "up to the first that fails")
    # Done, but not as it says: the trees differ.
    vague = Unlink(0, ROOT_FID, "b", T1)
    same(disk.perform(ApplyAll([second, vague, last])), Applied(1, 0), "up to the first that lies")
    same(disk.perform(ReadBytes(fid_of(1), 0, 9)), b"onetwo", "nothing after it is applied")


def many_requests_are_one(disk: Disk) -> None:
    same(disk.perform(Many([])), [], "nothing")
    first, second = Apply(create(1, "a")), Apply(create(2, "a"))
    created, second_try, listed = _results(disk, [first, second, ListDirectory(ROOT_FID)])
    ensure(isinstance(created, Outcome) and not created.errno, "the first is done")
    same(second_try, Outcome(None, errno.EEXIST), "the second is refused")
    same(listed, [Entry("a", fid_of(1), Kind.FILE)], "the third sees the first")
    same(_results(disk, [Many([SyncTree()]), SyncFiles([fid_of(1)])]), [[None], None], "syncs")


def _results(disk: Disk, requests: list[AnyRequest]) -> list[object]:
    results = disk.perform(Many(requests))
    ensure(isinstance(results, list) and len(results) == len(requests), "as many results")
    return list(results) if isinstance(results, list) else []


def holes_are_punched(disk: Disk) -> None:
    fid = fid_of(1)
    make_all(disk, create(1, "a"), mkdir(2, "d"))
    do(disk, Write(fid, 0, b"x" * (3 * BLOCK_BYTES), T1))
    ranges = (BLOCK_BYTES, BLOCK_BYTES), (10, 5), (3 * BLOCK_BYTES - 1, 99), (4 * BLOCK_BYTES, 1)
    content = bytearray(b"x" * (3 * BLOCK_BYTES))
    for offset, length in ranges:
        same(disk.perform(PunchHole(fid, offset, length)), Outcome(None), "a hole")
        end = min(offset + length, len(content))
        if offset < end:
            content[offset:end] = bytes(end - offset)
        held = disk.perform(ReadBytes(fid, 0, 4 * BLOCK_BYTES))
        ensure(held == bytes(content), f"a hole at {offset} of {length}")
    same(attributes_of(disk, fid).mtime_ns, T1, "the time stays")
    for other in (fid_of(2), fid_of(9)):
        found = disk.perform(PunchHole(other, 0, 1))
        same(found, Outcome(None, errno.ESTALE), "no file")


def limbo_is_emptied_step_by_step(disk: Disk) -> None:
    make_all(disk, create(1, "a"), mkdir(2, "d"), create(3, "e", fid_of(2)))
    same(entries_of(disk, LIMBO_FID), [], "limbo is empty at first")
    disk.perform(SetAside(ROOT_FID, "a"))
    disk.perform(SetAside(ROOT_FID, "d"))
    found = {entry.fid: entry for entry in entries_of(disk, LIMBO_FID)}
    same(found.keys(), {fid_of(1), fid_of(2)}, "what is in limbo")
    same(entries_of(disk, fid_of(2)), [Entry("e", fid_of(3), Kind.FILE)], "a directory there")
    file, directory = found[fid_of(1)], found[fid_of(2)]
    do(disk, Unlink(fid_of(3), fid_of(2), "e", T1))
    do(disk, Unlink(fid_of(1), LIMBO_FID, file.name, T1))
    do(disk, Rmdir(fid_of(2), LIMBO_FID, directory.name, T1))
    same(entries_of(disk, LIMBO_FID), [], "limbo is empty again")
    same(disk.perform(ReadAttributes(fid_of(1))), None, "what was there is gone")
    same(disk.perform(ClearLimbo()), 0, "nothing is left to clear")


def the_touched_log_is_kept(disk: Disk) -> None:
    def load() -> TouchedState:
        state = disk.perform(LoadTouched())
        ensure(isinstance(state, TouchedState), "a touched log is loaded")
        return state if isinstance(state, TouchedState) else TouchedState()

    same(load(), TouchedState(), "a new volume's log")
    keys = [(ROOT_FID, -2), (fid_of(1), -1), (fid_of(1), 1 << 43), (fid_of(1), -(1 << 43))]
    same(disk.perform(RecordTouched(keys)), None, "recording gives nothing")
    disk.perform(RecordTouched(keys[:2]))
    same(sorted(load().keys), sorted(keys), "what was recorded")
    disk.perform(ConfirmCheckpoint(3, 20))
    disk.perform(ConfirmCheckpoint(2, 99))
    same((load().confirmed, load().retired), ((3, 20), (0, 0)), "the latest is confirmed")
    disk.perform(RetireTouched([*keys[:2], (fid_of(9), 0)], 3, 10))
    same((load().confirmed, load().retired), ((3, 20), (3, 10)), "retired only")
    disk.perform(RetireTouched([], 4, 1))
    same((load().confirmed, load().retired), ((4, 1), (4, 1)), "retired and confirmed")
    same(sorted(load().keys), sorted(keys[2:]), "what is left")
    same(load().filled, (0, 0), "no resync has filled it")
    disk.perform(ConfirmCheckpoint(5, 2, is_filled=True))
    disk.perform(ConfirmCheckpoint(5, 3))
    same((load().confirmed, load().filled), ((5, 3), (5, 2)), "filled, and followed since")
    disk.perform(ConfirmCheckpoint(4, 9, is_filled=True))
    same((load().confirmed, load().filled), ((5, 3), (4, 9)), "filled by a lower epoch")


def the_root_is_marked(disk: Disk) -> None:
    make_all(disk, create(1, "a"))
    before = attributes_of(disk, ROOT_FID)
    for _ in range(2):
        same(disk.perform(Mark("7f3a-volume")), "", "nothing is in the way")
    same(attributes_of(disk, ROOT_FID).mtime_ns, before.mtime_ns, "the root's time")
    same([entry.name for entry in entries_of(disk, ROOT_FID)], ["a"], "its names")


DISK_CASES: Final = (
    a_new_disk_is_empty,
    a_created_file_is_there,
    names_that_are_none_are_refused,
    every_other_name_is_kept,
    writes_land_where_they_say,
    truncation_cuts_and_extends,
    the_wrong_kind_is_refused,
    removing_says_what_was_removed,
    renaming_moves_and_replaces,
    links_are_names_of_one_file,
    symlinks_are_not_followed,
    attributes_are_set_one_by_one,
    xattrs_are_kept,
    paths_are_resolved,
    blocks_are_hashed,
    syncing_changes_nothing,
    a_resync_moves_names,
    limbo_is_cleared_for_good,
    files_are_relabelled,
    a_follower_holds_a_prefix,
    many_requests_are_one,
    holes_are_punched,
    limbo_is_emptied_step_by_step,
    the_touched_log_is_kept,
    the_root_is_marked,
    *RESCUE_CASES,
    *SURFACE_CASES,
    *COMPARE_CASES,
)
