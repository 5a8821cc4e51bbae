"""Random operations on files: the same for the same seed.

Few names, few slots, and sizes around the borders of pages, blocks and requests: so that operations
meet each other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from tests.mount.differential.driver import Allowance, Answer, Operation

Choice: TypeAlias = Callable[[random.Random], Any]

NAMES = ("a", "b", "c", "d", "e")
KIB = 1024
NO_REPLACE, EXCHANGE = 1, 2
FALLOCATE, KEEP_SIZE, PUNCH, ZERO_RANGE, COLLAPSE, INSERT = 0, 1, 2, 16, 8, 32
# Owner rwx, user 1000 rw, group r, mask rw, others none.
ACL = "0200000001000700ffffffff02000600e803000004000400ffffffff10000600ffffffff20000000ffffffff"
ACL_BAD = "0200000001000700ffffffff"


def among(*values: Any) -> Choice:
    return lambda rng: rng.choice(values)


def within(first: int, last: int) -> Choice:
    return lambda rng: rng.randint(first, last)


def either(*choices: Choice) -> Choice:
    return lambda rng: rng.choice(choices)(rng)


_INSIDE = [f"{one}/{other}" for one in NAMES[2:4] for other in NAMES[:3]]
#: Long ones, one that is too long, and one that is no text.
_ODD = ("n" * 255, "n" * 256, "\udcff\n", "c/" + "\u00e9" * 127)
path = among(*NAMES * 6, *_INSIDE * 2, *_ODD, ".", "c/d/e", "a/..", "")
slot = within(0, 2)
seed = within(0, 250)
offset = either(
    among(0, 0, 1, 4095, 4096, 4097, 65_535, 65_536, 131_072, 1 << 20),
    within(0, 200 * KIB),
    within(0, 200 * KIB),
)
#: Sometimes beyond what ext4 can hold.
place = either(*[offset] * 9, among(1 << 45, (1 << 63) - 4096))
length = either(among(0, 1, 512, 4096, 65_536, 131_073, 1_100_000), within(0, 20 * KIB))
short = among(0, 1, 512, 4096, 65_536, 131_073)
mode = among(0o644, 0o600, 0o666, 0o755, 0o4755, 0o2755, 0o6777, 0o1777, 0o000, 0o2770, 0o777)
owner = among(-1, -1, 0, 1000, 1001)
instant = either(
    within(0, 1_400_000_000 * 10**9), among(0, 1, 999_999_999, 1_000_000_001, -1, -1_000_000_001)
)
xattr_name = among("user.one", "user.one", "user.two", "user." + "x" * 240)
xattr_value = among("", "00", "ff" * 20, "ab" * 1000, "cd" * 5000)
lock = among(fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)
acl_name = among("system.posix_acl_access", "system.posix_acl_default")


def open_flags(rng: random.Random) -> int:
    extra = [
        *(os.O_CREAT, os.O_CREAT, os.O_TRUNC, os.O_APPEND, os.O_EXCL, os.O_DIRECTORY),
        *(os.O_NOFOLLOW, os.O_DSYNC),
    ]
    flags = rng.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
    for one in rng.sample(extra, rng.choice([0, 1, 1, 2, 3])):
        flags |= one
    return int(flags)


#: Weight, name, arguments. What is called `acl` stands for several with ACLs.
OPERATIONS: tuple[tuple[int, str, tuple[Choice, ...]], ...] = (
    (12, "open", (slot, path, open_flags, mode)),
    (3, "close", (slot,)),
    (4, "pread", (slot, length, offset)),
    (8, "pwrite", (slot, seed, length, place)),
    (2, "read", (slot, length)),
    (5, "write", (slot, seed, length)),
    (3, "lseek", (slot, offset, among(os.SEEK_SET, os.SEEK_CUR, os.SEEK_END))),
    (2, "find", (slot, offset, among(os.SEEK_DATA, os.SEEK_HOLE))),
    (3, "ftruncate", (slot, either(place, place, among(-1)))),
    (2, "truncate", (path, place)),
    (
        4,
        "fallocate",
        (
            slot,
            among(
                *(FALLOCATE, KEEP_SIZE, PUNCH | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE),
                PUNCH,
            ),
            place,
            length,
        ),
    ),
    (1, "shift_range", (slot, among(COLLAPSE, INSERT), offset, length)),
    (2, "copy_range", (slot, offset, slot, offset, short)),
    (1, "sendfile", (slot, offset, slot, length)),
    (1, "fsync", (slot,)),
    (1, "fdatasync", (slot,)),
    (5, "rename", (path, path)),
    (2, "rename2", (path, path, among(NO_REPLACE, EXCHANGE, NO_REPLACE | EXCHANGE, 8))),
    (3, "link", (path, path)),
    (5, "unlink", (path,)),
    (3, "symlink", (among("a", "../b", "c", "nowhere", "/b", "x" * 300), path)),
    (1, "readlink", (path,)),
    (6, "mkdir", (path, mode)),
    (3, "rmdir", (path,)),
    (1, "mkfifo", (path, mode)),
    (
        1,
        "mknod",
        (
            path,
            among(stat.S_IFCHR | 0o600, stat.S_IFBLK | 0o660, stat.S_IFREG | 0o640),
            among(1),
            among(3),
        ),
    ),
    (1, "socket", (path,)),
    (2, "listdir", (path,)),
    (1, "scan", (path,)),
    (3, "stat", (path,)),
    (3, "lstat", (path,)),
    (3, "fstat", (slot,)),
    (1, "access", (path, within(0, 7))),
    (3, "chmod", (path, mode)),
    (1, "fchmod", (slot, mode)),
    (3, "chown", (path, owner, owner)),
    (1, "fchown", (slot, owner, owner)),
    (3, "utime", (path, instant, instant)),
    (1, "touch", (path,)),
    (1, "futime", (slot, instant, instant)),
    (3, "setxattr", (path, xattr_name, xattr_value, within(0, 2))),
    (1, "fsetxattr", (slot, xattr_name, xattr_value, among(0))),
    (2, "getxattr", (path, xattr_name)),
    (1, "listxattr", (path,)),
    (1, "removexattr", (path, xattr_name)),
    (2, "acl", (path, acl_name)),
    (1, "lock", (slot, lock)),
    (1, "lockf", (slot, lock, length, offset)),
    (1, "setfl", (slot, among(0, os.O_APPEND))),
    (2, "map", (slot, length, among(True, False), among(True, False))),
    (3, "store", (slot, seed, offset, length)),
    (2, "load", (slot, offset, length)),
    (2, "msync", (slot,)),
    (1, "unmap", (slot,)),
    (1, "umask", (among(0, 0o022, 0o077),)),
)


def draw_operations(
    rng: random.Random, count: int, *, actors: int, without: Collection[str] = ()
) -> list[Operation]:
    """So many operations for so many processes, after a few to begin with.

    Those named in `without` are left out.
    """
    kinds = [one for one in OPERATIONS if one[1] not in without]
    weights = [one[0] for one in kinds]
    drawn = list(_prelude(actors))
    for _, name, arguments in rng.choices(kinds, weights, k=count):
        values = [choose(rng) for choose in arguments]
        operation = _acl(rng, *values) if name == "acl" else (name, *values)
        drawn.append((rng.randrange(actors), *operation))
    return drawn


def _acl(rng: random.Random, place: str, name: str) -> tuple[Any, ...]:
    what = rng.choice(["setxattr", "setxattr", "getxattr", "removexattr"])
    value = [rng.choice([ACL, ACL, ACL_BAD]), 0] if what == "setxattr" else []
    return what, place, name, *value


def _prelude(actors: int) -> list[Operation]:
    """Something to begin with, for operations on nothing all fail alike."""
    return [
        (0, "mkdir", "c", 0o777),
        *(
            (number, "open", kept, NAMES[kept], os.O_RDWR | os.O_CREAT, 0o666)
            for kept in range(2)
            for number in range(actors)
        ),
        (0, "pwrite", 0, 1, 5000, 0),
        (0, "setxattr", "a", "user.one", "01", 0),
        (0, "symlink", "a", "d"),
        *((number, "map", 0, 4096, True, True) for number in range(2)),
        (0, "chmod", "a", 0o666),
    ]


def refuses(*names: str, errno_is: int = errno.EOPNOTSUPP) -> list[Allowance]:
    """That the subject refuses these, whatever the reference does.

    Of use for what only looks: after a change that only one side made, the trees differ.
    """

    def allow(name: str) -> Allowance:
        def fits(operation: Operation, ours: Answer, theirs: Answer) -> bool:
            del theirs
            return operation[1] == name and ours == ["error", errno.errorcode[errno_is]]

        return Allowance(f"{name} is refused", fits)

    return [allow(name) for name in names]
