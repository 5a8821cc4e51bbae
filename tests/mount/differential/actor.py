"""A process that does what it is told to files, one operation at a time, and says what came of it.

    python actor.py ROOT USER

ROOT becomes its root directory: no symlink leads out of it. So it is begun as root.

A line of JSON in, `[name, arguments…]`, a line of JSON out: `["done", value]`, or the errno's name
as `["error", "ENOENT"]`. Files are kept open by the number of a slot, and so are mappings. Whatever
is the file system's own business (inode numbers, sizes of directories) is not told; times of
today are told as `now`.
"""

from __future__ import annotations

import ctypes
import encodings.ascii
import encodings.latin_1
import errno
import fcntl
import hashlib
import json
import mmap
import os
import socket
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

_ = (encodings.ascii, encodings.latin_1)  # not to be looked for any more as another user

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
#: What the tests set is older; whatever is younger, the clock has set.
SET_BEFORE_NS = 1_500_000_000 * 10**9
#: The clock of file systems stands still for so long at most.
CLOCK_S = 0.011

files: dict[int, int] = {}
mappings: dict[int, mmap.mmap] = {}


def fd_of(slot: int) -> int:
    return files.get(slot, 999_999)


def keep(slot: int, fd: int) -> str:
    if slot in files:
        os.close(files.pop(slot))
    files[slot] = fd
    return "opened"


def content(seed: int, length: int) -> bytes:
    """Bytes that tell from which operation they are."""
    piece = bytes((seed * 31 + index * 7) % 251 + 1 for index in range(251))
    return (piece * (length // len(piece) + 1))[:length]


def digest(data: bytes) -> str:
    return f"{len(data)}:{hashlib.blake2b(data, digest_size=8).hexdigest()}"


def when(nanoseconds: int) -> int | str:
    return nanoseconds if nanoseconds < SET_BEFORE_NS else "now"


def told(status: os.stat_result) -> list[Any]:
    is_directory = stat.S_ISDIR(status.st_mode)
    # What goes through a fifo changes its times, or not.
    is_fifo = stat.S_ISFIFO(status.st_mode)
    return [
        oct(status.st_mode),
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        0 if is_directory else status.st_size,
        status.st_rdev,
        "any" if is_fifo else when(status.st_mtime_ns),
    ]


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def do_reset(base: str) -> None:
    for mapping in mappings.values():
        mapping.close()
    for fd in files.values():
        os.close(fd)
    mappings.clear()
    files.clear()
    os.umask(0o022)
    os.chdir(base)


def do_umask(mask: int) -> None:
    os.umask(mask)


def do_open(slot: int, path: str, flags: int, mode: int) -> str:
    return keep(slot, os.open(path, flags | os.O_NONBLOCK, mode))


def do_close(slot: int) -> None:
    fd = fd_of(slot)
    files.pop(slot, None)
    os.close(fd)


def do_pread(slot: int, length: int, offset: int) -> str:
    return digest(os.pread(fd_of(slot), length, offset))


def do_pwrite(slot: int, seed: int, length: int, offset: int) -> int:
    return os.pwrite(fd_of(slot), content(seed, length), offset)


def do_read(slot: int, length: int) -> str:
    return digest(os.read(fd_of(slot), length))


def do_write(slot: int, seed: int, length: int) -> int:
    return os.write(fd_of(slot), content(seed, length))


def is_directory(slot: int) -> bool:
    """In those, each file system counts places in its own way."""
    return stat.S_ISDIR(os.fstat(fd_of(slot)).st_mode)


def do_lseek(slot: int, offset: int, whence: int) -> int:
    return -1 if is_directory(slot) else os.lseek(fd_of(slot), offset, whence)


def do_find(slot: int, offset: int, whence: int) -> int:
    """Where data or a hole begins. The file's position stays."""
    if is_directory(slot):
        return -1
    before = os.lseek(fd_of(slot), 0, os.SEEK_CUR)
    try:
        return os.lseek(fd_of(slot), offset, whence)
    finally:
        os.lseek(fd_of(slot), before, os.SEEK_SET)


def do_ftruncate(slot: int, length: int) -> None:
    os.ftruncate(fd_of(slot), length)


def do_truncate(path: str, length: int) -> None:
    os.truncate(path, length)


def do_fallocate(slot: int, mode: int, offset: int, length: int) -> None:
    call = libc.fallocate64
    checked(call(fd_of(slot), mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


do_shift_range = do_fallocate  # to be left out where nobody can move what is in a file


def do_copy_range(slot: int, offset: int, target: int, at: int, length: int) -> int:
    return os.copy_file_range(fd_of(slot), fd_of(target), length, offset, at)


def do_sendfile(slot: int, offset: int, target: int, length: int) -> int:
    return os.sendfile(fd_of(target), fd_of(slot), offset, length)


def do_fsync(slot: int) -> None:
    os.fsync(fd_of(slot))


def do_fdatasync(slot: int) -> None:
    os.fdatasync(fd_of(slot))


def do_rename(path: str, target: str) -> None:
    os.rename(path, target)


def do_rename2(path: str, target: str, flags: int) -> None:
    call = libc.renameat2
    checked(call(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(target), flags))


def do_link(path: str, target: str) -> None:
    os.link(path, target, follow_symlinks=False)


def do_unlink(path: str) -> None:
    os.unlink(path)


def do_symlink(text: str, path: str) -> None:
    os.symlink(text, path)


def do_readlink(path: str) -> str:
    return os.readlink(path)


def do_mkdir(path: str, mode: int) -> None:
    os.mkdir(path, mode)


def do_rmdir(path: str) -> None:
    os.rmdir(path)


def do_mkfifo(path: str, mode: int) -> None:
    os.mkfifo(path, mode)


def do_mknod(path: str, mode: int, major: int, minor: int) -> None:
    os.mknod(path, mode, os.makedev(major, minor))


def do_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)


def do_listdir(path: str) -> list[str]:
    return sorted(os.listdir(path))


def do_scan(path: str) -> list[list[Any]]:
    with os.scandir(path) as entries:
        return sorted([one.name, one.is_dir(follow_symlinks=False)] for one in entries)


def do_stat(path: str) -> list[Any]:
    return told(os.stat(path))


def do_lstat(path: str) -> list[Any]:
    return told(os.lstat(path))


def do_fstat(slot: int) -> list[Any]:
    return told(os.fstat(fd_of(slot)))


def do_access(path: str, mode: int) -> bool:
    return os.access(path, mode)


def do_chmod(path: str, mode: int) -> None:
    os.chmod(path, mode)


def do_fchmod(slot: int, mode: int) -> None:
    os.fchmod(fd_of(slot), mode)


def do_chown(path: str, uid: int, gid: int) -> bool:
    def look() -> os.stat_result:
        return os.lstat(path)

    return is_change(look, lambda: os.chown(path, uid, gid, follow_symlinks=False))


def do_fchown(slot: int, uid: int, gid: int) -> bool:
    fd = fd_of(slot)
    return is_change(lambda: os.fstat(fd), lambda: os.fchown(fd, uid, gid))


def is_change(look: Callable[[], os.stat_result], act: Callable[[], None]) -> bool:
    """Whether what was done counts as a change of the file, also if it has changed nothing."""
    before_ns = look().st_ctime_ns
    time.sleep(CLOCK_S)
    act()
    return look().st_ctime_ns != before_ns


def do_utime(path: str, atime_ns: int, mtime_ns: int) -> None:
    os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=False)


def do_touch(path: str) -> None:
    os.utime(path)


def do_futime(slot: int, atime_ns: int, mtime_ns: int) -> None:
    os.utime(fd_of(slot), ns=(atime_ns, mtime_ns))


def do_setxattr(path: str, name: str, value: str, flags: int) -> None:
    os.setxattr(path, name, bytes.fromhex(value), flags, follow_symlinks=False)


def do_fsetxattr(slot: int, name: str, value: str, flags: int) -> None:
    os.setxattr(fd_of(slot), name, bytes.fromhex(value), flags)


def do_getxattr(path: str, name: str) -> str:
    return os.getxattr(path, name, follow_symlinks=False).hex()


def do_listxattr(path: str) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def do_removexattr(path: str, name: str) -> None:
    os.removexattr(path, name, follow_symlinks=False)


def do_lock(slot: int, kind: int) -> None:
    fcntl.flock(fd_of(slot), kind | fcntl.LOCK_NB)


def do_lockf(slot: int, kind: int, length: int, start: int) -> None:
    fcntl.lockf(fd_of(slot), kind | fcntl.LOCK_NB, length, start)


def do_setfl(slot: int, flags: int) -> None:
    fcntl.fcntl(fd_of(slot), fcntl.F_SETFL, flags | os.O_NONBLOCK)


def do_map(slot: int, length: int, is_shared: bool, is_writable: bool) -> str:
    flags = mmap.MAP_SHARED if is_shared else mmap.MAP_PRIVATE
    rights = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
    # What lies beyond the end of the file would kill us when touched.
    size = os.fstat(fd_of(slot)).st_size
    made = mmap.mmap(fd_of(slot), min(length, size) or length, flags, rights)
    do_unmap(slot)
    mappings[slot] = made
    return "mapped"


def do_unmap(slot: int) -> None:
    mapping = mappings.pop(slot, None)
    if mapping is not None:
        mapping.close()


def mapped(slot: int) -> tuple[mmap.mmap, int]:
    """A mapping, and how much of it is in the file still. Ours keeps a descriptor of its own."""
    if slot not in mappings:
        raise OSError(errno.EBADF, "no mapping")
    return mappings[slot], min(mappings[slot].size(), len(mappings[slot]))


def do_store(slot: int, seed: int, offset: int, length: int) -> int:
    mapping, size = mapped(slot)
    data = content(seed, max(0, min(length, size - offset)))
    try:
        mapping[offset : offset + len(data)] = data
    except TypeError:
        return -1  # it is read-only
    # When a store that is not synced counts as a change is everybody's own choice.
    mapping.flush()
    return len(data)


def do_load(slot: int, offset: int, length: int) -> str:
    mapping, size = mapped(slot)
    return digest(mapping[offset : min(offset + length, size)])


def do_msync(slot: int) -> None:
    mapping, _ = mapped(slot)
    mapping.flush()


OPERATIONS: dict[str, Callable[..., Any]] = {
    name.removeprefix("do_"): function
    for name, function in list(globals().items())
    if name.startswith("do_")
}


def act(line: str) -> list[Any]:
    name, *arguments = json.loads(line)
    try:
        return ["done", OPERATIONS[name](*arguments)]
    except OSError as error:
        return ["error", errno.errorcode.get(error.errno or 0, str(error))]
    except (ValueError, OverflowError) as error:
        return ["error", f"{type(error).__name__}: {error}"]


def main(root: str, user: int) -> None:
    os.chroot(root)
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    for line in sys.stdin:
        print(json.dumps(act(line)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
