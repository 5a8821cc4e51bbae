"""What the cases of `check_disk` are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mirrorha.errors import ensure
from mirrorha.testing.memory_disk import Seen
from mirrorha.volume.disk import (
    Apply,
    Attributes,
    Entry,
    Kind,
    ListDirectory,
    Outcome,
    ReadAttributes,
    ReadBytes,
)
from mirrorha.volume.ops import ROOT_FID, Create, Mkdir, make_fid

if TYPE_CHECKING:
    from mirrorha.volume.disk import Disk
    from mirrorha.volume.ops import AnyOp, Birth

T0: Final = 1_700_000_000_000_000_000
T1: Final = T0 + 1_234_567_891


def take_snapshot(disk: Disk) -> dict[str, Seen]:
    """Everything in a disk's tree, by path; "" is the root."""
    found: dict[str, Seen] = {}
    todo = [("", ROOT_FID)]
    while todo:
        path, fid = todo.pop()
        attributes = attributes_of(disk, fid)
        content = disk.perform(ReadBytes(fid, 0, attributes.size_bytes))
        held = content if isinstance(content, bytes) else b""
        found[path] = Seen(fid, attributes.kind, held, attributes)
        if attributes.kind is Kind.DIRECTORY:
            prefix = f"{path}/" if path else ""
            todo += [(prefix + entry.name, entry.fid) for entry in entries_of(disk, fid)]
    return found


def fid_of(number: int) -> int:
    """The fid of the `number`th file of a test."""
    return make_fid(epoch=1, counter=number)


def entries_of(disk: Disk, fid: int) -> list[Entry]:
    """What a directory holds."""
    entries = disk.perform(ListDirectory(fid))
    ensure(isinstance(entries, list), f"{fid} can be listed")
    return list(entries) if isinstance(entries, list) else []


def attributes_of(disk: Disk, fid: int) -> Attributes:
    """The attributes of a file that is there."""
    attributes = disk.perform(ReadAttributes(fid))
    if not isinstance(attributes, Attributes):
        raise TypeError(f"no attributes of {fid}: {attributes!r}")
    return attributes


def expect(disk: Disk, op: AnyOp, done: AnyOp | None, number: int = 0) -> None:
    """Apply an op, and see that it did what it should."""
    outcome = disk.perform(Apply(op))
    ensure(outcome == Outcome(done, number), f"{op} gave {outcome}, not {done} with {number}")


def do(disk: Disk, *ops: AnyOp) -> None:
    """Apply ops that are done as they say."""
    for op in ops:
        expect(disk, op, op)


def refused(disk: Disk, op: AnyOp, number: int) -> None:
    """Apply an op that is refused, and see that nothing changed."""
    before = take_snapshot(disk)
    expect(disk, op, None, number)
    ensure(take_snapshot(disk) == before, f"the refused {op} changes nothing")


def create(number: int, name: str, parent: int = ROOT_FID, mode: int = 0o640) -> Create:
    """A file."""
    # Owned by the node's own user, which every node may do. What comes back differs by node.
    return Create(fid_of(number), parent, name, mode, -1, -1, T0)


def mkdir(number: int, name: str, parent: int = ROOT_FID) -> Mkdir:
    """A directory."""
    return Mkdir(fid_of(number), parent, name, 0o750, -1, -1, T0)


def make_all(disk: Disk, *ops: Birth) -> None:
    """Make files, whoever owns them then."""
    for op in ops:
        outcome = disk.perform(Apply(op))
        ensure(isinstance(outcome, Outcome) and not outcome.errno, f"{op} gave {outcome}")


def same(found: object, expected: object, claim: str) -> None:
    """See that something is what it should be."""
    ensure(found == expected, f"{claim}: {found!r}, not {expected!r}")
