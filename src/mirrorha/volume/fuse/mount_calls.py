"""The system calls around mounting, which Python does not offer. Linux only.

Each raises OSError. None of them waits for a FUSE server, except `detach` of a mount whose
connection was not aborted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
_MS_REC: Final = 1 << 14
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_CLONE_NEWNS: Final = 0x00020000
# The same numbers on every architecture; C libraries know them only since 2022.
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_CAP_SYS_ADMIN: Final = 21

_library: Final[Any] = ctypes.CDLL(None, use_errno=True)


def mount_file_system(source: str, target: str, kind: str, *, flags: int, options: str) -> None:
    """mount(2). `target` is followed if it is a symlink."""
    _check(
        _library.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode(),
            ctypes.c_ulong(flags),
            options.encode(),
        )
    )


def detach(target: str) -> None:
    """Take off what is mounted at `target`, at once, though it is in use. Follows no symlink."""
    _check(_library.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW))


def leave_mount_namespace() -> None:
    """Give the calling thread a private copy of all mounts: what it changes there, nobody sees."""
    _check(_library.unshare(_CLONE_NEWNS))
    # Without this, taking a mount off the copy would take it off the original.
    _check(_library.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))


@contextlib.contextmanager
def open_unmounted(kind: str) -> Iterator[int]:
    """The root of a file system that is mounted nowhere, as a descriptor to open others from."""
    context = _call(_SYS_FSOPEN, kind.encode(), ctypes.c_uint(_CLOEXEC))
    try:
        _call(_SYS_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None)
        root = _call(_SYS_FSMOUNT, ctypes.c_int(context), ctypes.c_uint(_CLOEXEC), ctypes.c_uint(0))
    finally:
        os.close(context)
    try:
        yield root
    finally:
        os.close(root)


def may_mount() -> bool:
    """Whether this process may call mount(2): it has CAP_SYS_ADMIN. Being root is not enough."""
    with open("/proc/thread-self/status", "rb") as lines:
        for line in lines:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def _call(number: int, *args: object) -> int:
    return _check(_library.syscall(ctypes.c_long(number), *args, ctypes.c_ulong(0)))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
