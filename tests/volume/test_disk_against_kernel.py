"""What the real disk makes of ops is what plain system calls make of the same wishes: errno, and
everything that a program can see. On ext4, as root."""

from __future__ import annotations

import errno
import os
import random
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from mirrorha.testing.check_disk_surface import acl
from mirrorha.volume.access_lists import ACL_ACCESS, ACL_DEFAULT
from mirrorha.volume.disk import Apply, Kind, Outcome
from mirrorha.volume.ops import (
    ROOT_FID,
    AnyOp,
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
from tests.requirements import lacking_of_files, require_root
from tests.volume.disk_support import T0, Home, fid
from tests.volume.kernel_twin import Kernel, kernel_name, look, look_at_all, paths_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPS = 250
NAMES = ("a", "b", "c", "d", "é", "n" * 255)
# A name that is too long is an error of its own, unless another one comes first.
ODD_NAME = "n" * 256
LISTS = (
    acl((1, 7), (4, 5), (32, 1)),
    acl((1, 7), (2, 6, 7), (4, 5), (16, 3), (32, 4)),
    acl((1, 6), (2, 6, 7), (2, 1, 8), (4, 5), (8, 7, 9), (16, 5), (32, 0)),
    acl((1, 6), (4, 7), (16, 2), (32, 7)),
    acl((1, 7), (2, 6, 7), (4, 5), (32, 4)),
    acl((1, 9), (4, 5), (32, 1)),
    b"",
    b"\2\0\0\0",
    b"\1\0\0\0",
    b"x",
)
CAPABILITY = struct.pack("<5I", 0x0200_0001, 1 << 10, 0, 0, 0)


class Wishes:
    """Draws what a program may want, in a tree of few names."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.counter = 0
        self.fids = [ROOT_FID]
        self.draws: list[tuple[Callable[[], AnyOp], int]] = [
            (self.birth, 26),
            (self.write, 8),
            (self.truncate, 5),
            (self.fallocate, 10),
            (self.link, 8),
            (self.unlink, 6),
            (self.rmdir, 4),
            (self.rename, 22),
            (self.chmod, 6),
            (self.chown, 6),
            (self.xattr, 20),
        ]

    def __call__(self) -> AnyOp:
        draws, weights = zip(*self.draws, strict=True)
        draw: Callable[[], AnyOp] = self.rng.choices(draws, weights)[0]
        return draw()

    def fid(self) -> int:
        return self.rng.choice(self.fids[-30:]) if self.rng.random() < 0.7 else ROOT_FID

    def name(self) -> str:
        return ODD_NAME if self.rng.random() < 0.02 else self.rng.choice(NAMES)

    def birth(self) -> AnyOp:
        rng, parent, name = self.rng, self.fid(), self.name()
        self.counter += 1
        new = fid(self.counter)
        self.fids.append(new)
        mode, umask = rng.choice((0o666, 0o777, 0o4755, 0o1700)), rng.choice((0, 0o22, 0o77))
        kind = rng.choice((Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.DIRECTORY, *Kind))
        match kind:
            case Kind.FILE:
                return Create(new, parent, name, mode, 0, 0, T0, umask)
            case Kind.DIRECTORY:
                # mkdir(2) takes no more of a mode; a parent adds its setgid bit.
                return Mkdir(new, parent, name, mode & 0o1777, 0, 0, T0, umask)
            case Kind.SYMLINK:
                target = rng.choice(("a", "", "t" * 4095, "t" * 4096))
                return Symlink(new, parent, name, target, 0, 0, T0, umask)
            case _:
                rdev = 259 if kind in {Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE} else 0
                return Mknod(new, parent, name, kind, mode, rdev, 0, 0, T0, umask)

    def write(self) -> AnyOp:
        offset = self.rng.choice((0, 5, 70_000, 1 << 44))
        return Write(self.fid(), offset, self.rng.choice((b"x", b"y" * 5000)), T0)

    def truncate(self) -> AnyOp:
        size = self.rng.choice((0, 3, 9000, -1, (1 << 44) + 4096))
        return Truncate(self.fid(), size, T0)

    def fallocate(self) -> AnyOp:
        rng = self.rng
        mode = rng.choice((0, 1, 2, 3, 3, 3, 16, 16, 17, 17, 18, 19))
        # Nothing that would really reserve much.
        offset = rng.choice((0, 100, 4096, 5000, -1, 1 << 44, (1 << 63) - 1))
        return Fallocate(self.fid(), mode, offset, rng.choice((1, 4096, 9999, 0, -1)), T0)

    def link(self) -> AnyOp:
        return Link(self.fid(), self.fid(), self.name(), T0)

    def unlink(self) -> AnyOp:
        return Unlink(0, self.fid(), self.name(), T0)

    def rmdir(self) -> AnyOp:
        return Rmdir(0, self.fid(), self.name(), T0)

    def rename(self) -> AnyOp:
        flags = self.rng.choices((0, 1, 2, 3, 6, 16), (10, 4, 8, 1, 1, 1))[0]
        return Rename(0, self.fid(), self.name(), self.fid(), self.name(), 0, T0, flags)

    def chmod(self) -> AnyOp:
        return SetAttributes(self.fid(), self.rng.choice((0o640, 0o6755, 0o2770)), None, None, None)

    def chown(self) -> AnyOp:
        owners = self.rng.choice(((5, None), (None, 6), (7, 8)))
        return SetAttributes(self.fid(), None, *owners, None)

    def xattr(self) -> AnyOp:
        rng = self.rng
        flags = rng.choice((0, 0, 0, 1, 2, 3))
        name = rng.choice(("user.a", "trusted.b", "system.c", "x", "user." + "n" * 251))
        value = rng.choice((None, b"", b"1", bytes(3000), bytes(9000), bytes(65_537)))
        chance = rng.random()
        if chance < 0.5:
            name, value = rng.choice((ACL_ACCESS, ACL_DEFAULT)), rng.choice((None, *LISTS))
        elif chance < 0.6:
            name, value = "security.capability", rng.choice((None, CAPABILITY, b"x"))
        return SetXattr(self.fid(), name, value, flags if value is not None else 0)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Home, Path]]:
    require_root()
    if file_system_of(tmp_path) != "ext4":
        lacking_of_files("is on ext4")
    home, other = Home(tmp_path), tmp_path / "kernel"
    other.mkdir()
    for root in (home.root, other):
        root.chmod(0o2775)
        os.chown(root, 0, 12)
        root.chmod(0o2775)
    yield home, other
    home.close()


def file_system_of(path: Path) -> str:
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return next((line[line.index("-") + 1] for line in lines if line[2] == wanted), "")


def as_a_caller_sees(op: AnyOp, number: int, kernel: Kernel) -> AnyOp:
    """The op with what the mount's front adds: the mode that a new owner leaves."""
    is_chown = isinstance(op, SetAttributes) and op.mode is None
    if not is_chown or number:
        return op
    status = kernel.at(op.fid).lstat()
    if stat.S_ISLNK(status.st_mode):
        return op
    return msgspec.structs.replace(op, mode=stat.S_IMODE(status.st_mode))


@pytest.mark.parametrize("seed", range(12))
def test_ops_do_what_system_calls_do(seed: int, places: tuple[Home, Path]) -> None:
    home, other = places
    disk = home.open()
    kernel = Kernel(other, paths_of(disk))
    wish = Wishes(random.Random(seed))
    seen: set[tuple[type, int]] = set()
    for number in range(OPS):
        op = wish()
        if not kernel.names_what_is_there(op) or is_out_of_reach(op, kernel):
            continue
        expected = kernel.perform(op)
        outcome = disk.perform(Apply(as_a_caller_sees(op, expected, kernel)))
        assert isinstance(outcome, Outcome)
        seen.add((type(op), outcome.errno))
        text = f"{number}: {op}".replace("n" * 200, "n..").replace("\\x00" * 200, "")[:300]
        found = kernel_name(outcome.errno), kernel_name(expected)
        assert found[0] == found[1], text
        fids = {op.fid, getattr(op, "parent", ROOT_FID), getattr(op, "new_parent", ROOT_FID)}
        for path in filter(None, map(paths_of(disk), fids)):
            own, others = look(home.root / path), look(other / path)
            assert own == others, f"{text} made of {path} {str(own)[:300]}, not {str(others)[:300]}"
    assert look_at_all(home.root) == look_at_all(other)
    assert len(seen) > 20


def is_out_of_reach(op: AnyOp, kernel: Kernel) -> bool:
    """A fifo or device would be opened, a symlink followed: no op comes of that."""
    if not isinstance(op, Write | Truncate | Fallocate):
        return False
    mode = kernel.at(op.fid).lstat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def test_a_file_has_no_more_names_than_ext4_can_count(places: tuple[Home, Path]) -> None:
    home, _ = places
    disk = home.open()
    disk.perform(Apply(Create(fid(1), ROOT_FID, "f", 0o600, 0, 0, T0)))
    for number in range(65_000 - 1):
        assert disk.perform(Apply(Link(fid(1), ROOT_FID, f"l{number}", T0))) is not None
    outcome = disk.perform(Apply(Link(fid(1), ROOT_FID, "more", T0)))
    assert outcome == Outcome(None, errno.EMLINK)
