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
from mirrorha.testing.memory_disk import Seen
from mirrorha.volume.disk import (
    LIMBO_FID,
    Applied,
    Apply,
    ApplyAll,
    Attributes,
    ClearLimbo,
    ConfirmCheckpoint,
    Entry,
    HashBlocks,
    Kind,
    ListDirectory,
    LoadTouched,
    Many,
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
    SyncFile,
    SyncTree,
)
from mirrorha.volume.names import LIMBO_NAME, MARKER_NAME
from mirrorha.volume.ops import (
    ROOT_FID,
    Create,
    Link,
    Mkdir,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
    make_fid,
)
from mirrorha.volume.touched import TouchedState
from mirrorha.wire.limits import BLOCK_BYTES, NAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest, Disk
    from mirrorha.volume.ops import AnyOp

_T0: Final = 1_700_000_000_000_000_000
_T1: Final = _T0 + 1_234_567_891
_SEED: Final = 0xFEED_FACE_CAFE_BEEF


def check_disk(make: Callable[[], Disk]) -> None:
    """Run every case, each on a new disk."""
    for case in DISK_CASES:
        case(make())


def take_snapshot(disk: Disk) -> dict[str, Seen]:
    """Everything in a disk's tree, by path; "" is the root."""
    found: dict[str, Seen] = {}
    todo = [("", ROOT_FID)]
    while todo:
        path, fid = todo.pop()
        attributes = _attributes(disk, fid)
        content = disk.perform(ReadBytes(fid, 0, attributes.size_bytes))
        held = content if isinstance(content, bytes) else b""
        found[path] = Seen(fid, attributes.kind, held, attributes)
        if attributes.kind is Kind.DIRECTORY:
            prefix = f"{path}/" if path else ""
            todo += [(prefix + entry.name, entry.fid) for entry in _entries(disk, fid)]
    return found


def fid_of(number: int) -> int:
    """The fid of the `number`th file of a test."""
    return make_fid(epoch=1, counter=number)


def _entries(disk: Disk, fid: int) -> list[Entry]:
    entries = disk.perform(ListDirectory(fid))
    ensure(isinstance(entries, list), f"{fid} can be listed")
    return list(entries) if isinstance(entries, list) else []


def _attributes(disk: Disk, fid: int) -> Attributes:
    attributes = disk.perform(ReadAttributes(fid))
    if not isinstance(attributes, Attributes):
        raise TypeError(f"no attributes of {fid}: {attributes!r}")
    return attributes


def _expect(disk: Disk, op: AnyOp, done: AnyOp | None, number: int = 0) -> None:
    outcome = disk.perform(Apply(op))
    ensure(outcome == Outcome(done, number), f"{op} gave {outcome}, not {done} with {number}")


def _do(disk: Disk, *ops: AnyOp) -> None:
    for op in ops:
        _expect(disk, op, op)


def _refused(disk: Disk, op: AnyOp, number: int) -> None:
    before = take_snapshot(disk)
    _expect(disk, op, None, number)
    ensure(take_snapshot(disk) == before, f"the refused {op} changes nothing")


def _create(number: int, name: str, parent: int = ROOT_FID, mode: int = 0o640) -> Create:
    # Owned by the node's own user, which every node may do. What comes back differs by node.
    return Create(fid_of(number), parent, name, mode, -1, -1, _T0)


def _mkdir(number: int, name: str, parent: int = ROOT_FID) -> Mkdir:
    return Mkdir(fid_of(number), parent, name, 0o750, -1, -1, _T0)


def _make(disk: Disk, *ops: Create | Mkdir | Symlink) -> None:
    for op in ops:
        outcome = disk.perform(Apply(op))
        ensure(isinstance(outcome, Outcome) and not outcome.errno, f"{op} gave {outcome}")


def _same(found: object, expected: object, claim: str) -> None:
    ensure(found == expected, f"{claim}: {found!r}, not {expected!r}")


def a_new_disk_is_empty(disk: Disk) -> None:
    _same(_entries(disk, ROOT_FID), [], "an empty root")
    _same(_attributes(disk, ROOT_FID).kind, Kind.DIRECTORY, "the root's kind")
    _same(disk.found.limbo, 0, "nothing in limbo")
    _same(disk.found.unknown, (), "nothing unknown")


def a_created_file_is_there(disk: Disk) -> None:
    outcome = disk.perform(Apply(_create(1, "a", mode=0o6751)))
    done = outcome.done if isinstance(outcome, Outcome) else None
    ensure(isinstance(done, Create), f"creating gave {outcome}")
    _same(_entries(disk, ROOT_FID), [Entry("a", fid_of(1), Kind.FILE)], "the root")
    attributes = _attributes(disk, fid_of(1))
    _same((attributes.mode, attributes.size_bytes), (0o6751, 0), "mode and size")
    _same(attributes.mtime_ns, _T0, "the file's time")
    _same(_attributes(disk, ROOT_FID).mtime_ns, _T0, "its directory's time")
    if isinstance(done, Create):
        _same((attributes.uid, attributes.gid), (done.uid, done.gid), "the owners done")
    _refused(disk, _create(2, "a"), errno.EEXIST)
    _refused(disk, _create(1, "b"), errno.EEXIST)


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
    _make(disk, _create(1, "a"), _mkdir(2, "d"))
    for name, number in odd.items():
        _refused(disk, _create(3, name), number)
        _refused(disk, Link(fid_of(1), ROOT_FID, name, _T1), number)
        _refused(disk, Rename(0, ROOT_FID, "a", ROOT_FID, name, 0, _T1), number)


def every_other_name_is_kept(disk: Disk) -> None:
    names = ["é", "日本", "\U0010ff80", "x\U0010ffff.", " ", "-rf", "a\nb", "n" * NAME_BYTES_MAX]
    _make(disk, *(_create(number, name) for number, name in enumerate(names, 1)))
    found = {entry.name: entry.fid for entry in _entries(disk, ROOT_FID)}
    _same(found, {name: fid_of(number) for number, name in enumerate(names, 1)}, "the names")


def writes_land_where_they_say(disk: Disk) -> None:
    fid = fid_of(1)
    _make(disk, _create(1, "a"))
    _do(disk, Write(fid, 0, b"hello", _T1), Write(fid, 8, b"world", _T1 + 1))
    _same(disk.perform(ReadBytes(fid, 0, 100)), b"hello\0\0\0world", "what was written")
    _do(disk, Write(fid, 3, b"LO", _T1 + 2))
    _same(disk.perform(ReadBytes(fid, 2, 3)), b"lLO", "a part")
    _same(disk.perform(ReadBytes(fid, 50, 3)), b"", "after the end")
    _same(_attributes(disk, fid).mtime_ns, _T1 + 2, "the last write's time")
    _expect(disk, Write(fid, 0, b"", _T1 + 3), None)
    _refused(disk, Write(fid, -1, b"x", _T1), errno.EINVAL)
    _refused(disk, Write(fid, 1 << 63, b"x", _T1), errno.EFBIG)
    _refused(disk, Write(fid, 0, b"x", 1 << 70), errno.EINVAL)


def truncation_cuts_and_extends(disk: Disk) -> None:
    fid = fid_of(1)
    _make(disk, _create(1, "a"))
    _do(disk, Write(fid, 0, b"abcdef", _T0), Truncate(fid, 3, _T1))
    _same(disk.perform(ReadBytes(fid, 0, 9)), b"abc", "cut")
    _do(disk, Truncate(fid, 5, _T1 + 1))
    _same(disk.perform(ReadBytes(fid, 0, 9)), b"abc\0\0", "extended")
    _same(_attributes(disk, fid).mtime_ns, _T1 + 1, "its time")
    _refused(disk, Truncate(fid, -1, _T1), errno.EINVAL)
    _refused(disk, Truncate(fid, 1 << 63, _T1), errno.EFBIG)


def the_wrong_kind_is_refused(disk: Disk) -> None:
    target = Symlink(fid_of(3), ROOT_FID, "s", "a", -1, -1, _T0)
    _make(disk, _create(1, "a"), _mkdir(2, "d"), target)
    _refused(disk, Write(fid_of(2), 0, b"x", _T1), errno.EISDIR)
    _refused(disk, Write(fid_of(3), 0, b"x", _T1), errno.EINVAL)
    _refused(disk, Truncate(fid_of(2), 0, _T1), errno.EISDIR)
    _refused(disk, Write(fid_of(9), 0, b"x", _T1), errno.ESTALE)
    _refused(disk, SetAttributes(fid_of(9), 0o600, None, None, None), errno.ESTALE)
    _refused(disk, _create(4, "x", parent=fid_of(1)), errno.ENOTDIR)
    _refused(disk, _create(4, "x", parent=fid_of(9)), errno.ENOENT)
    _refused(disk, Unlink(0, ROOT_FID, "d", _T1), errno.EISDIR)
    _refused(disk, Rmdir(0, ROOT_FID, "a", _T1), errno.ENOTDIR)
    _refused(disk, Link(fid_of(2), ROOT_FID, "e", _T1), errno.EPERM)
    _refused(disk, Link(fid_of(9), ROOT_FID, "e", _T1), errno.ESTALE)
    for fid in (fid_of(2), fid_of(3), fid_of(9)):
        _same(disk.perform(ReadBytes(fid, 0, 1)), None, "no content")
        _same(disk.perform(HashBlocks(fid, 0, 1, _SEED)), None, "no blocks")
    for fid in (fid_of(1), fid_of(3), fid_of(9)):
        _same(disk.perform(ListDirectory(fid)), None, "no names")
    _same(disk.perform(ReadAttributes(fid_of(9))), None, "no attributes")
    # Hidden files of a disk's own have fids of their own, which nobody may use.
    for hidden in (0, 2, 15):
        _same(disk.perform(ReadAttributes(hidden)), None, "nothing to see")
        _refused(disk, Create(hidden, ROOT_FID, "h", 0o600, -1, -1, _T0), errno.EINVAL)
        _refused(disk, _create(4, "x", parent=hidden), errno.ENOENT)


def removing_says_what_was_removed(disk: Disk) -> None:
    _make(disk, _create(1, "a"), _create(2, "b"), _mkdir(3, "d"), _create(4, "e", fid_of(3)))
    _refused(disk, Unlink(0, ROOT_FID, "x", _T1), errno.ENOENT)
    _refused(disk, Unlink(fid_of(2), ROOT_FID, "a", _T1), errno.ESTALE)
    _refused(disk, Rmdir(0, ROOT_FID, "d", _T1), errno.ENOTEMPTY)
    _expect(disk, Unlink(0, ROOT_FID, "a", _T1), Unlink(fid_of(1), ROOT_FID, "a", _T1))
    _do(disk, Unlink(fid_of(4), fid_of(3), "e", _T1 + 1))
    _same(_attributes(disk, fid_of(3)).mtime_ns, _T1 + 1, "the directory's time")
    _expect(disk, Rmdir(0, ROOT_FID, "d", _T1 + 2), Rmdir(fid_of(3), ROOT_FID, "d", _T1 + 2))
    _same(_entries(disk, ROOT_FID), [Entry("b", fid_of(2), Kind.FILE)], "what is left")
    _same(_attributes(disk, ROOT_FID).mtime_ns, _T1 + 2, "the root's time")
    _refused(disk, Write(fid_of(1), 0, b"x", _T1), errno.ESTALE)


def renaming_moves_and_replaces(disk: Disk) -> None:
    root, one, two, directory = ROOT_FID, fid_of(1), fid_of(2), fid_of(3)
    _make(disk, _create(1, "a"), _create(2, "b"), _mkdir(3, "d"), _mkdir(4, "e", directory))
    _do(disk, Write(one, 0, b"one", _T0))
    _do(disk, Rename(one, root, "a", directory, "c", 0, _T1))
    _same(_attributes(disk, directory).mtime_ns, _T1, "the new directory's time")
    _same(_attributes(disk, root).mtime_ns, _T1, "the old directory's time")
    _same(_attributes(disk, one).mtime_ns, _T0, "the file's time")
    _refused(disk, Rename(one, directory, "c", root, "b", fid_of(9), _T1), errno.ESTALE)
    _refused(disk, Rename(one, directory, "c", root, "n", two, _T1), errno.ESTALE)
    _refused(disk, Rename(two, directory, "c", root, "n", 0, _T1), errno.ESTALE)
    _refused(disk, Rename(0, root, "x", root, "y", 0, _T1), errno.ENOENT)
    _refused(disk, Rename(0, root, "d", root, "b", 0, _T1), errno.ENOTDIR)
    _refused(disk, Rename(0, root, "b", root, "d", 0, _T1), errno.EISDIR)
    _refused(disk, Rename(0, root, "d", fid_of(4), "x", 0, _T1), errno.EINVAL)
    _refused(disk, Rename(0, directory, "c", root, "d", 0, _T1), errno.ENOTEMPTY)
    wanted = Rename(0, directory, "c", root, "b", 0, _T1)
    _expect(disk, wanted, Rename(one, directory, "c", root, "b", two, _T1))
    _same(disk.perform(ReadBytes(one, 0, 9)), b"one", "the content went along")
    _same(disk.perform(ReadAttributes(two)), None, "what was replaced is gone")
    _expect(disk, Rename(0, root, "b", root, "b", 0, _T1), None)


def links_are_names_of_one_file(disk: Disk) -> None:
    root, one = ROOT_FID, fid_of(1)
    _make(disk, _create(1, "a"), _mkdir(2, "d"))
    _do(disk, Link(one, fid_of(2), "b", _T1), Write(one, 0, b"x", _T1))
    _same(_attributes(disk, one).links, 2, "links")
    _refused(disk, Link(one, fid_of(2), "b", _T1), errno.EEXIST)
    _expect(disk, Rename(0, root, "a", fid_of(2), "b", 0, _T1), None)
    _same(_attributes(disk, one).links, 2, "renaming onto itself does nothing")
    _do(disk, Unlink(one, root, "a", _T1))
    _same(disk.perform(ReadBytes(one, 0, 9)), b"x", "by the other name")
    _same(disk.perform(Resolve("d/b")), (fid_of(2), "b", one), "where it is")


def symlinks_are_not_followed(disk: Disk) -> None:
    one = fid_of(1)
    targets = ["/etc/passwd", "d", "..", "t" * 4095, "é\U0010ff80"]
    _make(disk, _mkdir(9, "d"))
    for number, target in enumerate(targets, 1):
        _make(disk, Symlink(fid_of(number), ROOT_FID, f"s{number}", target, -1, -1, _T0))
        attributes = _attributes(disk, fid_of(number))
        _same((attributes.kind, attributes.target), (Kind.SYMLINK, target), "a symlink")
        _same((attributes.size_bytes, attributes.mtime_ns), (0, _T0), "its size and time")
    _same(disk.perform(Resolve("s2/x")), None, "nothing is below a symlink")
    _refused(disk, _create(8, "x", parent=fid_of(2)), errno.ENOTDIR)
    _do(disk, SetAttributes(one, None, None, None, _T1))
    _same(_attributes(disk, one).mtime_ns, _T1, "its own time")
    _refused(disk, SetAttributes(one, 0o600, None, None, None), errno.EOPNOTSUPP)
    _refused(disk, SetXattr(one, "user.a", b"1"), errno.EPERM)
    for target, number in ("", errno.ENOENT), ("a\0", errno.EINVAL), ("t" * 4096, 36):
        _refused(disk, Symlink(fid_of(7), ROOT_FID, "n", target, -1, -1, _T0), number)


def attributes_are_set_one_by_one(disk: Disk) -> None:
    for fid in (ROOT_FID, fid_of(1), fid_of(2)):
        if fid == fid_of(1):
            _make(disk, _create(1, "a"), _mkdir(2, "d"))
        _do(disk, SetAttributes(fid, 0o7701, None, None, None))
        _do(disk, SetAttributes(fid, None, None, None, _T1))
        attributes = _attributes(disk, fid)
        _same((attributes.mode, attributes.mtime_ns), (0o7701, _T1), "mode and time")
        _refused(disk, SetAttributes(fid, 0o10000, None, None, None), errno.EINVAL)
        _refused(disk, SetAttributes(fid, None, -2, None, None), errno.EINVAL)
        _refused(disk, SetAttributes(fid, None, None, None, 1 << 70), errno.EINVAL)
        _do(disk, SetAttributes(fid, 0o755, None, None, -1_000_000_007))
        _same(_attributes(disk, fid).mtime_ns, -1_000_000_007, "a time before 1970")


def xattrs_are_kept(disk: Disk) -> None:
    _make(disk, _create(1, "a"), _mkdir(2, "d"))
    for fid in (fid_of(1), fid_of(2)):
        _do(disk, SetXattr(fid, "user.a", b"1"), SetXattr(fid, "user.é", b"\0\xff"))
        _do(disk, SetXattr(fid, "user.a", b"2"))
        _same(_attributes(disk, fid).xattrs, {"user.a": b"2", "user.é": b"\0\xff"}, "xattrs")
        _do(disk, SetXattr(fid, "user.a", None))
        _same(_attributes(disk, fid).xattrs, {"user.é": b"\0\xff"}, "what is left")
        _refused(disk, SetXattr(fid, "user.a", None), errno.ENODATA)
        _refused(disk, SetXattr(fid, "trusted.a", b""), errno.EOPNOTSUPP)
        _refused(disk, SetXattr(fid, "user.", b""), errno.EINVAL)
        _refused(disk, SetXattr(fid, "user." + "n" * 251, b""), errno.ERANGE)
        _refused(disk, SetXattr(fid, "user.b", bytes(65537)), errno.E2BIG)


def paths_are_resolved(disk: Disk) -> None:
    _make(disk, _mkdir(1, "d"), _create(2, "a", fid_of(1)))
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
        _same(disk.perform(Resolve(path)), result, f"resolving {path!r}")


def blocks_are_hashed(disk: Disk) -> None:
    fid, some = fid_of(1), bytes(range(256))
    tail = 3 * BLOCK_BYTES
    _make(disk, _create(1, "a"))
    _same(disk.perform(HashBlocks(fid, 0, 9, _SEED)), [], "an empty file")
    _do(disk, Write(fid, BLOCK_BYTES, some, _T0), Write(fid, tail, bytes(99) + b"!", _T0))
    second = xxhash.xxh3_128_digest(some + bytes(BLOCK_BYTES - len(some)), _SEED)
    last = xxhash.xxh3_128_digest(bytes(99) + b"!", _SEED)
    digests = [b"", second, b"", last]
    _same(disk.perform(HashBlocks(fid, 0, 99, _SEED)), digests, "all blocks")
    _same(disk.perform(HashBlocks(fid, 1, 2, _SEED)), digests[1:3], "some blocks")
    _same(disk.perform(HashBlocks(fid, 3, 1, _SEED)), digests[3:], "the last block")
    _same(disk.perform(HashBlocks(fid, 4, 1, _SEED)), [], "after the end")
    ensure(disk.perform(HashBlocks(fid, 1, 1, 1)) != [second], "the seed counts")
    _do(disk, Truncate(fid, tail + BLOCK_BYTES * 40, _T0))
    _do(disk, Write(fid, tail + BLOCK_BYTES * 30, b"z", _T0))
    found = disk.perform(HashBlocks(fid, 0, 99, _SEED))
    ensure(isinstance(found, list), "hashes are a list")
    if isinstance(found, list):
        _same([bool(digest) for digest in found].count(True), 3, "blocks that are not zero")
        _same(len(found), 43, "blocks in all")
        ensure(bool(found[33]), "the block far in the hole")


def syncing_changes_nothing(disk: Disk) -> None:
    _make(disk, _mkdir(1, "d"), _create(2, "a", fid_of(1)))
    _do(disk, Write(fid_of(2), 0, b"x", _T1))
    before = take_snapshot(disk)
    for fid in (fid_of(2), fid_of(1), ROOT_FID, fid_of(9)):
        _same(disk.perform(SyncFile(fid)), None, "syncing gives nothing")
    _same(disk.perform(SyncTree()), None, "syncing gives nothing")
    _same(take_snapshot(disk), before, "the tree after syncing")


def a_resync_moves_names(disk: Disk) -> None:
    one, two, directory, inner = (fid_of(number) for number in (1, 2, 3, 4))
    _make(disk, _create(1, "a"), _create(2, "b"), _mkdir(3, "d"), _mkdir(4, "e", directory))
    _do(disk, Write(one, 0, b"one", _T0), SetAttributes(ROOT_FID, None, None, None, _T1))
    disk.perform(SetAside(ROOT_FID, "d"))
    disk.perform(SetAside(ROOT_FID, "a"))
    disk.perform(SetAside(ROOT_FID, "nothing"))
    disk.perform(SetAside(fid_of(9), "nothing"))
    _same([entry.name for entry in _entries(disk, ROOT_FID)], ["b"], "what is not set aside")
    _same(disk.perform(ReadBytes(one, 0, 9)), b"one", "limbo can be read")
    _same(disk.perform(Place(ROOT_FID, "e", inner)), True, "a directory out of limbo")
    _same(disk.perform(Place(inner, "d", directory)), True, "the directories swapped")
    _same(disk.perform(Place(directory, "x", inner)), False, "never into itself")
    _same(disk.perform(Place(directory, "x", fid_of(9))), False, "an unknown fid")
    _same(disk.perform(Place(fid_of(9), "x", one)), False, "an unknown parent")
    _same(disk.perform(Place(two, "x", one)), False, "a parent that is none")
    # Something else has the name: it is set aside.
    _same(disk.perform(Place(ROOT_FID, "b", one)), True, "a file out of limbo")
    _same(disk.perform(Place(ROOT_FID, "b", one)), True, "where it is already")
    _same(disk.perform(Place(directory, "c", one)), True, "a further name")
    _same(disk.perform(Place(directory, "g", two)), True, "the one that was in the way")
    paths = {path: seen.fid for path, seen in take_snapshot(disk).items() if path}
    expected = {"e": inner, "e/d": directory, "b": one, "e/d/c": one, "e/d/g": two}
    _same(paths, expected, "the tree")
    for fid, mtime_ns in (ROOT_FID, _T1), (directory, _T0), (inner, _T0):
        _same(_attributes(disk, fid).mtime_ns, mtime_ns, "no directory's time changes")
    _same(disk.perform(ClearLimbo()), 0, "nothing is left in limbo")


def limbo_is_cleared_for_good(disk: Disk) -> None:
    one, directory, inner = (fid_of(number) for number in (1, 3, 4))
    _make(disk, _create(1, "a"), _create(2, "b"), _mkdir(3, "d"), _mkdir(4, "e", directory))
    _make(disk, _create(5, "f", inner), _create(6, "g", directory))
    _do(disk, Link(one, inner, "h", _T0), SetAttributes(ROOT_FID, None, None, None, _T1))
    disk.perform(SetAside(ROOT_FID, "d"))
    disk.perform(SetAside(ROOT_FID, "b"))
    _same(disk.perform(ClearLimbo()), 6, "what was deleted: d, d/e, d/e/f, d/e/h, d/g, b")
    for number in (2, 3, 4, 5, 6):
        _same(disk.perform(ReadAttributes(fid_of(number))), None, "gone")
    _same(_attributes(disk, one).links, 1, "the file with a name elsewhere stays")
    _same(_attributes(disk, ROOT_FID).mtime_ns, _T1, "the root's time")
    _same(disk.perform(ClearLimbo()), 0, "nothing is left")
    disk.perform(SetAside(ROOT_FID, "a"))
    _same(disk.perform(ClearLimbo()), 1, "limbo can be used again")


def files_are_relabelled(disk: Disk) -> None:
    _make(disk, _create(1, "a"), _mkdir(2, "d"), _create(3, "x", fid_of(2)))
    _do(disk, Write(fid_of(1), 0, b"one", _T1))
    disk.perform(Relabel(fid_of(1), fid_of(11)))
    disk.perform(Relabel(fid_of(2), fid_of(12)))
    disk.perform(Relabel(fid_of(9), fid_of(19)))
    _same(disk.perform(ReadAttributes(fid_of(1))), None, "the old id is gone")
    _do(disk, Write(fid_of(11), 3, b"!", _T1))
    _same(disk.perform(ReadBytes(fid_of(11), 0, 9)), b"one!", "by the new id")
    _same(disk.perform(Resolve("d/x")), (fid_of(12), "x", fid_of(3)), "below the new id")
    disk.perform(SyncFile(fid_of(11)))
    _make(disk, _create(1, "b"))
    paths = {path: seen.fid for path, seen in take_snapshot(disk).items() if path}
    expected = {"a": fid_of(11), "b": fid_of(1), "d": fid_of(12), "d/x": fid_of(3)}
    _same(paths, expected, "the tree")


def a_follower_holds_a_prefix(disk: Disk) -> None:
    _make(disk, _create(1, "a"), _create(2, "b"))
    first, second = Write(fid_of(1), 0, b"one", _T0), Write(fid_of(1), 3, b"two", _T1)
    last = Truncate(fid_of(1), 1, _T1)
    _same(disk.perform(ApplyAll([])), Applied(0), "nothing")
    _same(disk.perform(ApplyAll([first, second])), Applied(2), "all of it")
    stale = Write(fid_of(9), 0, b"x", _T1)
    expected = Applied(1, errno.ESTALE)
    _same(disk.perform(ApplyAll([second, stale, last])), expected, "up to the first that fails")
    # Done, but not as it says: the trees differ.
    vague = Unlink(0, ROOT_FID, "b", _T1)
    _same(disk.perform(ApplyAll([second, vague, last])), Applied(1, 0), "up to the first that lies")
    _same(disk.perform(ReadBytes(fid_of(1), 0, 9)), b"onetwo", "nothing after it is applied")


def many_requests_are_one(disk: Disk) -> None:
    _same(disk.perform(Many([])), [], "nothing")
    first, second = Apply(_create(1, "a")), Apply(_create(2, "a"))
    created, refused, listed = _results(disk, [first, second, ListDirectory(ROOT_FID)])
    ensure(isinstance(created, Outcome) and not created.errno, "the first is done")
    _same(refused, Outcome(None, errno.EEXIST), "the second is refused")
    _same(listed, [Entry("a", fid_of(1), Kind.FILE)], "the third sees the first")
    _same(_results(disk, [Many([SyncTree()]), SyncFile(fid_of(1))]), [[None], None], "syncs")


def _results(disk: Disk, requests: list[AnyRequest]) -> list[object]:
    results = disk.perform(Many(requests))
    ensure(isinstance(results, list) and len(results) == len(requests), "as many results")
    return list(results) if isinstance(results, list) else []


def holes_are_punched(disk: Disk) -> None:
    fid = fid_of(1)
    _make(disk, _create(1, "a"), _mkdir(2, "d"))
    _do(disk, Write(fid, 0, b"x" * (3 * BLOCK_BYTES), _T1))
    ranges = (BLOCK_BYTES, BLOCK_BYTES), (10, 5), (3 * BLOCK_BYTES - 1, 99), (4 * BLOCK_BYTES, 1)
    content = bytearray(b"x" * (3 * BLOCK_BYTES))
    for offset, length in ranges:
        _same(disk.perform(PunchHole(fid, offset, length)), Outcome(None), "a hole")
        end = min(offset + length, len(content))
        if offset < end:
            content[offset:end] = bytes(end - offset)
        held = disk.perform(ReadBytes(fid, 0, 4 * BLOCK_BYTES))
        ensure(held == bytes(content), f"a hole at {offset} of {length}")
    _same(_attributes(disk, fid).mtime_ns, _T1, "the time stays")
    for other in (fid_of(2), fid_of(9)):
        found = disk.perform(PunchHole(other, 0, 1))
        _same(found, Outcome(None, errno.ESTALE), "no file")


def limbo_is_emptied_step_by_step(disk: Disk) -> None:
    _make(disk, _create(1, "a"), _mkdir(2, "d"), _create(3, "e", fid_of(2)))
    _same(_entries(disk, LIMBO_FID), [], "limbo is empty at first")
    disk.perform(SetAside(ROOT_FID, "a"))
    disk.perform(SetAside(ROOT_FID, "d"))
    found = {entry.fid: entry for entry in _entries(disk, LIMBO_FID)}
    _same(found.keys(), {fid_of(1), fid_of(2)}, "what is in limbo")
    _same(_entries(disk, fid_of(2)), [Entry("e", fid_of(3), Kind.FILE)], "a directory there")
    file, directory = found[fid_of(1)], found[fid_of(2)]
    _do(disk, Unlink(fid_of(3), fid_of(2), "e", _T1))
    _do(disk, Unlink(fid_of(1), LIMBO_FID, file.name, _T1))
    _do(disk, Rmdir(fid_of(2), LIMBO_FID, directory.name, _T1))
    _same(_entries(disk, LIMBO_FID), [], "limbo is empty again")
    _same(disk.perform(ReadAttributes(fid_of(1))), None, "what was there is gone")
    _same(disk.perform(ClearLimbo()), 0, "nothing is left to clear")


def the_touched_log_is_kept(disk: Disk) -> None:
    def load() -> TouchedState:
        state = disk.perform(LoadTouched())
        ensure(isinstance(state, TouchedState), "a touched log is loaded")
        return state if isinstance(state, TouchedState) else TouchedState()

    _same(load(), TouchedState(), "a new volume's log")
    keys = [(ROOT_FID, -2), (fid_of(1), -1), (fid_of(1), 1 << 43), (fid_of(1), -(1 << 43))]
    _same(disk.perform(RecordTouched(keys)), None, "recording gives nothing")
    disk.perform(RecordTouched(keys[:2]))
    _same(sorted(load().keys), sorted(keys), "what was recorded")
    disk.perform(ConfirmCheckpoint(3, 20))
    disk.perform(ConfirmCheckpoint(2, 99))
    _same((load().confirmed, load().retired), ((3, 20), (0, 0)), "the latest is confirmed")
    disk.perform(RetireTouched([*keys[:2], (fid_of(9), 0)], 3, 10))
    _same((load().confirmed, load().retired), ((3, 20), (3, 10)), "retired only")
    disk.perform(RetireTouched([], 4, 1))
    _same((load().confirmed, load().retired), ((4, 1), (4, 1)), "retired and confirmed")
    _same(sorted(load().keys), sorted(keys[2:]), "what is left")


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
)
